"""decide() by way of overlays, against a world that counts every write of the guest: none may be lost.

Each file holds a version: the number of the guest's last write in it. An overlay is right only above the very base
that it was put upon. Whenever the VM is started, and at the end, the file that it uses must hold the last write.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.hosts.inventory import JobInfo, PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.decide import decide
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import CopyPlan, DiskPlan, DiskSizes, SourceImage, StartPlan
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.plan import OverlaysPlan
from blockferry.storage_move.overlays.record import ComparedBase, OverlayState
from blockferry.storage_move.plan import DomainPlan, OutagePlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import LatencyContract, Method, OnBreak, SourcePolicy
from blockferry.storage_move.switch.graph_proof import PROVEN
from blockferry.storage_move.switch.record import ConfigurationRecord, GraphRecord, SwitchRecord

SIZE = 100
LIMIT = 900
GONE = -1
BROKEN = -2  # an overlay above a base that is not its own


def a_plan(
    disks: int, method: Method = Method.SNAPSHOT, suspended_start: bool = False, overlay_first: bool = False
) -> Plan:
    return Plan(move="m1", uri="test:///", vm="web01", uuid="u", method=method, method_reason="", disks=tuple(
            DiskPlan(
                f"vd{letter}",
                SourceImage(f"/s/{letter}", "qcow2", "file", "a"),
                DestinationImage(f"/d/{letter}", "qcow2", "b"),
                DiskSizes(SIZE, SIZE),
                release=ReleasePlan((f"/s/{letter}",)),
                copy=CopyPlan(resumable=True),
                start=StartPlan(suspended_start, overlay_suspended=suspended_start),
                overlays=OverlaysPlan(f"/s/{letter}+", f"/d/{letter}+", overlay_first),
            )
            for letter in "abc"[:disks]
        ), home=None, source=SourcePolicy(),
        domain=DomainPlan(persistent=True, was=PowerState.RUNNING),
        outage=OutagePlan(on_break=OnBreak.KEEP))  # fmt: skip


class Refuses(Exception):
    """The engine would not do it: it lacks a proof."""


def with_commit(record: Record, overlay: str, fingerprint: str) -> Record:
    fingerprints = {**record.commits.fingerprints, overlay: fingerprint}
    return replace(record, commits=replace(record.commits, fingerprints=fingerprints))


@dataclass
class World:
    plan: Plan
    record: Record = field(default_factory=Record)
    state: PowerState = PowerState.RUNNING
    incarnation: int = 1
    live: dict[str, str] = field(default_factory=dict)  # target -> path
    config: dict[str, str] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)  # path -> version
    touched: dict[str, int] = field(default_factory=dict)  # path -> how often it was written, its fingerprint
    stands_on: dict[str, set[int]] = field(default_factory=dict)  # overlay -> versions of its base that it is right on
    last: dict[str, int] = field(default_factory=dict)  # target -> the guest's last write
    copies: dict[str, tuple[int, bool]] = field(default_factory=dict)  # target -> (bytes, back to the source)
    commits: dict[str, int] = field(default_factory=dict)
    tainted: set[str] = field(default_factory=set)
    removed: set[str] = field(default_factory=set)
    mark: str | None = None
    suspended_here: bool = False
    owner_paused: bool = False  # after a guard had ended our suspension, as its host knows
    pivot_failures: int = 0
    flushed: bool = False
    refused: int = 0

    def __post_init__(self) -> None:
        for disk in self.plan.disks:
            self.live[disk.target] = self.config[disk.target] = disk.source.path
            self.files[disk.source.path] = self.last[disk.target] = 1

    # ---- looking

    def disk_of(self, path: str) -> DiskPlan:
        return next(
            disk
            for disk in self.plan.disks
            if path in (disk.source.path, disk.overlays.source, disk.dest.path, disk.overlays.dest)
        )

    def used(self) -> tuple[str, ...]:
        return *self.config.values(), *(self.live.values() if self.state.active else ())

    def side(self, path: str) -> DiskSide:
        return DiskSide.SOURCE if path.startswith("/s/") else DiskSide.DESTINATION

    def fingerprint(self, disk: DiskPlan) -> str:
        above = f"|{self.touched.get(disk.overlays.source, 0)}" if disk.overlays.source in self.files else ""
        return f"{self.touched.get(disk.source.path, 0)}{above}"

    def prints(self, disk: DiskPlan, at_source: bool) -> str:
        base, overlay = (disk.source.path, disk.overlays.source) if at_source else (disk.dest.path, disk.overlays.dest)
        return f"{self.touched.get(base, 0)}|{self.touched.get(overlay, 0)}"

    def see(self) -> Observation:
        record = self.record
        if record.switch.suspended and (
            (self.state is PowerState.RUNNING and not self.suspended_here) or self.owner_paused
        ):
            record = record.suspension_over()
        views = []
        for disk in self.plan.disks:
            target = disk.target
            job = DiskJob.OURS if target in self.copies else DiskJob.COMMIT if target in self.commits else DiskJob.NONE
            done = self.copies[target][0] if target in self.copies else self.commits.get(target, 0)
            config = self.config[target]
            views.append(
                DiskView(
                    target,
                    self.side(self.live[target]) if self.state.active else None,
                    self.side(config),
                    job,
                    ready=job is not DiskJob.NONE and done >= SIZE,
                    info=JobInfo(done, SIZE, 0) if job is not DiskJob.NONE and done else None,
                    fingerprint=self.fingerprint(disk) if self.state is PowerState.OFF else "",
                    live_overlay=self.state.active and self.live[target].endswith("+"),
                    config_overlay=config.endswith("+"),
                    overlay_fingerprint=self.prints(disk, config.startswith("/s/")) if config.endswith("+") else "",
                )
            )
        agrees = all(path.startswith("/d/") for path in self.config.values())
        agrees = agrees and (not self.state.active or self.live == self.config)
        return Observation(
            self.state, True, tuple(views), record, self.incarnation, self.mark, config_agrees=agrees,
            pivot_failures=self.pivot_failures, flushed=self.flushed, graph=PROVEN if self.state.active else None,
        )  # fmt: skip

    # ---- acting, in the steps between which a process can die

    def steps(self, action: actions.Action, seen: Observation) -> list[tuple[str, object]]:
        record, plan = seen.record, self.plan
        match action:
            case actions.Mark():
                return [
                    ("mark", "m1"),
                    ("note", replace(record, configuration=replace(record.configuration, marked=True))),
                ]
            case actions.Unmark():
                return [("mark", None)]
            case actions.CopyHome():
                return [("note", replace(record, home=replace(record.home, copied=True)))]
            case actions.TakeOverlays(targets):
                steps: list[tuple[str, object]] = []
                for target in targets:
                    record = record.without_sync(target).with_overlay(target, OverlayState.NAMED, at_source=True)
                    record = replace(record, created=(*record.created, plan.disk(target).overlays.source))
                    steps += [("note", record), ("new overlay", target)]
                steps.append(("take", targets))
                for target in targets:
                    record = record.with_overlay(target, OverlayState.USED, at_source=True)
                return [*steps, ("note", record)]
            case actions.SaveLayer(target, at_source, layer):
                record = record.with_overlay(target, layer, at_source=at_source)
                disk = plan.disk(target)
                if layer is OverlayState.COMMITTED:
                    overlay = disk.overlays.source if at_source else disk.overlays.dest
                    record = with_commit(record, overlay, self.prints(disk, at_source))
                if at_source and layer is not OverlayState.USED:
                    record = record.without_sync(target)
                return [("note", record)]
            case actions.SyncBase(target):
                named = replace(record, created=(*record.created, plan.disk(target).dest.path))
                named = named.with_disk(target, replace(named.disk(target), partial=True))
                done = named.with_disk(target, replace(named.disk(target), synced=ComparedBase("")))
                return [("note", named), ("sync", target), ("note", done)]
            case actions.CreateImage(target):
                disk = plan.disk(target)
                path = disk.overlays.dest if overlays_rules.layered(plan, record, target) else disk.dest.path
                named = replace(record, created=(*record.created, path))
                named = named.without_cold_copy(target)
                made = named.with_copy(target, Copy(Stage.IMAGE, -1, record.copy(target).attempts))
                return [("note", named), ("image", path), ("note", made)]
            case actions.Suspend(switch):
                if not switch:
                    live = {disk_view.target for disk_view in seen.disks if disk_view.job is DiskJob.COMMIT}
                    record = record.with_commits([one for one in record.disks if one not in live], None)
                return [
                    ("note", replace(record, switch=replace(record.switch, suspended=True, begun=switch))),
                    ("suspend", None),
                ]
            case actions.Resume(clean, failed, commits):
                ours = seen.state is PowerState.PAUSED and self.suspended_here and not self.owner_paused
                after = record.started_clean(clean if ours else (), commits if ours else ())
                across = any(view.side is DiskSide.DESTINATION for view in seen.disks)
                after = replace(after,
                    switch=replace(after.switch, suspended=False, begun=record.switch.begun and across,
                        attempts=record.switch.attempts + failed))  # fmt: skip
                return [("resume", None), ("note", after)]
            case actions.StartCopy(target, reverse):
                before = record.copy(target)
                tries = before.attempts + 1 if before.reverse == reverse else 1
                copy = Copy(Stage.STARTING, seen.incarnation, tries, reverse)
                record = record.with_copy(target, copy)
                if reverse and overlays_rules.layered(plan, record, target):
                    disk = plan.disk(target)
                    record = record.with_overlay(target, OverlayState.COMMITTED, at_source=True)
                    record = with_commit(record, disk.overlays.source, self.prints(disk, True))
                started = record.with_copy(target, replace(copy, stage=Stage.STARTED))
                return [("note", record), ("job", (target, reverse)), ("note", started)]
            case actions.SaveClean(targets, commits):
                for target in targets:
                    record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
                return [("note", record.with_commits(commits, Stage.CLEAN))]
            case actions.Await():
                return [("time", None)]
            case actions.Checkpoint(_):
                return [
                    ("note", replace(record, switch=replace(record.switch, suspended=True, begun=False))),
                        ("suspend", None), ("resume", None),
                    ("note", replace(record, switch=replace(record.switch, suspended=False))),
                ]  # fmt: skip
            case actions.FlushDestination():
                return [("flush", None)]
            case actions.Pivot(targets):
                return [("pivot", target) for target in targets]
            case actions.AbortCopy(target):
                copy = record.copy(target)
                record = record.with_commits((target,), None)
                return [
                    ("abort", target),
                    ("note", record.with_copy(target, Copy(Stage.NONE, -1, copy.attempts, copy.reverse))),
                ]
            case actions.ForgetCopy(target):
                record = record.with_disk(target, replace(record.disk(target), partial=True))
                return [("note", record.with_copy(target, Copy(Stage.NONE, -1, record.copy(target).attempts)))]
            case actions.Fail(problem):
                return [("note", replace(record, failure=record.failure or problem))]
            case actions.ColdCopy(target):
                begun = record.without_sync(target).without_cold_copy(target)
                begun = replace(begun, created=(*begun.created, plan.disk(target).dest.path))
                cold = seen.disk(target).fingerprint
                done = begun.with_disk(target, replace(begun.disk(target), cold_copied=cold))
                return [("note", begun), ("cold", target), ("note", done.with_copy(target, Copy()))]
            case actions.StartCommit(target):
                record = replace(record, commits=replace(record.commits, attempts=record.commits.attempts + 1))
                begun = record.with_commits((target,), Stage.STARTING)
                done = record.with_commits((target,), Stage.STARTED)
                return [("note", begun), ("commit", target), ("note", done)]
            case actions.PivotCommit(target, at_source):
                record = record.with_overlay(target, OverlayState.PIVOTING, at_source=at_source)
                record = record.without_sync(target) if at_source else record
                return [
                    ("note", replace(record, commits=replace(record.commits, attempts=0))),
                    ("pivot commit", target),
                ]
            case actions.CommitOff(target, at_source):
                record = record.with_overlay(target, OverlayState.USED, at_source=at_source)
                record = record.without_sync(target) if at_source else record
                above = self.prints(plan.disk(target), at_source).split("|")[1]  # before: it may be used again at once
                return [
                    ("note", record),
                    ("commit off", target),
                    ("note committed", (record, target, at_source, above)),
                ]
            case actions.WriteConfig() | actions.RevertConfig():
                return [("config", self.wanted_config(seen, isinstance(action, actions.RevertConfig)))] + (
                    [("note", replace(record, configuration=replace(record.configuration, written=True)))]
                    if isinstance(action, actions.WriteConfig)
                    else []
                )
            case actions.SaveSwitched():
                return [
                    (
                        "note",
                        replace(
                            record,
                            switch=replace(record.switch, done=True, begun=False),
                            graph=replace(record.graph, proven=self.state.active),
                        ),
                    )
                ]
            case actions.SaveGraph(committed):
                return [("note", replace(record, graph=replace(record.graph, proven=True, committed=committed)))]
            case actions.Settle(target):
                return [
                    ("settle", target),
                    ("note", record.with_disk(target, replace(record.disk(target), settled=True))),
                ]
            case actions.ReleaseSource(path):
                return [("release", path), ("note", replace(record, released=(*record.released, path)))]
            case actions.ReleaseHome():
                return [("note", replace(record, released=(*record.released, "home")))]
            case actions.RemoveDestination():
                begun = record.changed(lambda disk: replace(disk, copy=Copy(), cold_copied=None, synced=None))
                done = begun.changed(lambda disk: replace(disk, source_overlay=None, dest_overlay=None))
                done = replace(done, created=())
                return [("note", begun), ("remove", None), ("note", done)]
            case actions.Finish(outcome):
                return [("note", replace(record, outcome=outcome))]
            case _:
                raise AssertionError(f"{action} is not expected here")

    def wanted_config(self, seen: Observation, at_source: bool) -> dict[str, str]:
        found = {}
        for disk in self.plan.disks:
            view = seen.disk(disk.target)
            base, overlay = (
                (disk.source.path, disk.overlays.source) if at_source else (disk.dest.path, disk.overlays.dest)
            )
            stays = view.side is (DiskSide.SOURCE if at_source else DiskSide.DESTINATION) and view.overlay
            layer = overlays_rules.layer_of(seen.record, disk.target, at_source=at_source)
            found[disk.target] = (
                overlay if stays and (view.live is not None or layer is not OverlayState.COMMITTED) else base
            )
        return found

    def put(self, path: str, version: int) -> None:
        self.files[path] = version
        self.touched[path] = self.touched.get(path, 0) + 1

    def guest_writes(self) -> None:
        if self.state is PowerState.RUNNING:
            for target, path in self.live.items():
                self.last[target] += 1
                self.put(path, self.last[target])
                # A QEMU with defect 3273: what is written before the job's first look is over is never copied.
                looks = (target in self.copies and self.copies[target][0] == 0) or self.commits.get(target) == 0
                if looks and overlays_rules.suspended_start(self.plan, self.record, target):
                    self.tainted.add(target)

    def do(self, step: tuple[str, object]) -> None:
        what, thing = step
        target = str(thing)
        if what == "note":
            assert isinstance(thing, Record)
            self.record = replace(thing, wanted=self.record.wanted)
        elif what == "note committed":
            assert isinstance(thing, tuple)
            record, target, at_source, above = thing
            disk = self.plan.disk(target)
            overlay = disk.overlays.source if at_source else disk.overlays.dest
            record = record.with_overlay(target, OverlayState.COMMITTED, at_source=at_source)
            state = self.prints(disk, at_source).split("|")[0] + "|" + above
            self.do(("note", with_commit(record, overlay, state)))
        elif what == "mark":
            self.mark = None if thing is None else target
        elif what == "suspend" and self.state is PowerState.RUNNING:
            self.state, self.suspended_here = PowerState.PAUSED, True
        elif what == "resume":
            if self.state is PowerState.PAUSED and not self.owner_paused:
                self.state = PowerState.RUNNING
            self.suspended_here, self.flushed, self.pivot_failures = False, False, 0
        elif what == "time":
            for one, (done, back) in self.copies.items():
                self.copies[one] = min(SIZE, done + 50), back
            for one, done in self.commits.items():
                self.commits[one] = min(SIZE, done + 50)
        elif what == "flush":
            self.flushed = True
        elif what == "new overlay":
            self.lose_overlay(self.plan.disk(target))
            self.put(self.plan.disk(target).overlays.source, GONE)
        elif what == "take":
            assert isinstance(thing, tuple)
            self.take(thing)
        elif what == "image":
            assert target not in self.used(), "an image in use was made anew"
            self.put(target, GONE)
        elif what == "sync":
            disk = self.plan.disk(target)
            used = self.live[target] if self.state.active else self.config[target]
            assert used == disk.overlays.source, "a base was copied that is written to"
            self.put(disk.dest.path, self.files[disk.source.path])
        elif what == "cold":
            if self.state is not PowerState.OFF:
                raise Refuses
            disk = self.plan.disk(target)
            assert self.side(self.config[target]) is DiskSide.SOURCE
            self.put(disk.dest.path, self.version(self.config[target]))
        elif what == "job":
            assert isinstance(thing, tuple)
            target, back = thing
            if not self.state.active or target in self.copies or target in self.commits:
                raise Refuses
            self.copies[target] = 0, back
            self.tainted.discard(target)
        elif what == "pivot":
            self.pivot(target)
        elif what == "abort":
            self.copies.pop(target, None)
            self.commits.pop(target, None)
        elif what == "commit":
            if not self.state.active or target in self.copies or not self.live[target].endswith("+"):
                raise Refuses
            self.commits[target] = 0
            self.tainted.discard(target)
        elif what == "pivot commit":
            if not self.state.active or self.commits.get(target, 0) < SIZE:
                raise Refuses
            assert target not in self.tainted, "a commit that has missed a write was switched to"
            del self.commits[target]
            self.commit(self.live[target])
            self.live[target] = self.config[target] = self.live[target].rstrip("+")
        elif what == "commit off":
            if self.state is not PowerState.OFF:
                raise Refuses
            self.commit(self.config[target])
        elif what == "config":
            assert isinstance(thing, dict)
            self.config = dict(thing)
        elif what == "settle":
            overlay = self.plan.disk(target).overlays.dest
            assert overlay not in self.used(), "an overlay in use was removed"
            self.files.pop(overlay, None)
        elif what == "release":
            assert self.record.switch.done
            in_use = self.used()
            assert all(path.startswith("/d/") and not path.endswith("+") for path in in_use)
            self.files.pop(target, None)
            self.removed.add(target)
        elif what == "remove":
            in_use = self.used()
            assert not any(path.startswith("/d/") for path in in_use), "a disk in use was removed"
            assert not self.copies, "the image under a job was removed"
            for disk in self.plan.disks:
                self.lose_overlay(disk)
                self.files.pop(disk.overlays.dest, None)
                self.files.pop(disk.dest.path, None)

    def take(self, targets: tuple[str, ...]) -> None:
        if not self.state.active or any(one in self.copies or one in self.commits for one in targets):
            raise Refuses
        for target in targets:
            disk = self.plan.disk(target)
            if self.live[target] != disk.source.path:
                raise Refuses
            self.put(disk.overlays.source, self.files[disk.source.path])
            self.stands_on[disk.overlays.source] = {self.files[disk.source.path]}
            self.live[target] = self.config[target] = disk.overlays.source

    def lose_overlay(self, disk: DiskPlan) -> None:
        """What overlays/effects.py does before an overlay goes; that it was right is checked at a start."""
        overlay = disk.overlays.source
        if overlay not in self.files:
            return
        proven = self.record.commits.fingerprints.get(overlay, "|-").split("|")[1] == str(self.touched.get(overlay, 0))
        empty = self.files[overlay] == GONE
        if overlay in self.used() or not (proven or empty):
            raise Refuses
        del self.files[overlay]

    def version(self, path: str) -> int:
        """What the guest would read; an overlay above a base that is not its own is a ruin.

        A base into which it was committed before is its own, too: the overlay covers all that came there from it.
        """
        if path.endswith("+") and self.files.get(path[:-1], GONE) not in self.stands_on.get(path, set()):
            return BROKEN
        return self.files.get(path, GONE)

    def commit(self, overlay: str) -> None:
        version = self.version(overlay)
        self.put(overlay[:-1], version)
        self.stands_on[overlay].add(version)

    def pivot(self, target: str) -> None:
        assert self.state is not PowerState.RUNNING, "a pivot without a suspension"
        done, back = self.copies.get(target, (0, False))
        if done < SIZE:
            self.pivot_failures += 1
            return
        assert target not in self.tainted, "a copy that has missed a write was switched to"
        del self.copies[target]
        disk = self.plan.disk(target)
        here = self.version(self.live[target])
        if back:
            new = disk.source.path
        elif overlays_rules.layered(self.plan, self.record, target):
            new = disk.overlays.dest
            assert self.files[disk.dest.path] in self.stands_on[disk.overlays.source], (
                "switched to an overlay on another base"
            )
            self.stands_on[new] = {self.files[disk.dest.path]}
        else:
            new = disk.dest.path
        self.put(new, here)
        self.live[target] = self.config[target] = new

    # ---- what others do

    def happens(self, event: str, pick: int) -> None:
        target = self.plan.disks[pick % len(self.plan.disks)].target
        if event == "guard" and self.state is PowerState.PAUSED:
            self.state, self.owner_paused = PowerState.RUNNING, False
        elif event == "guard, then its owner pauses it" and self.state is PowerState.PAUSED:
            self.state = PowerState.RUNNING
            self.guest_writes()
            self.state, self.owner_paused, self.suspended_here = PowerState.PAUSED, True, False
        elif event == "job lost":
            self.copies.pop(target, None)
            self.commits.pop(target, None)
        elif event == "cancel":
            self.record = replace(self.record, wanted=Wanted.CANCEL)
        elif event == "power off" and self.state.active:
            self.state = PowerState.OFF
            self.copies.clear()
            self.commits.clear()
        elif event == "power on" and self.state is PowerState.OFF:
            for one, path in self.config.items():
                assert self.version(path) == self.last[one], f"{one} is started with writes lost: {path} {self}"
            self.state, self.incarnation, self.owner_paused = PowerState.RUNNING, self.incarnation + 1, False
            self.live = dict(self.config)
            self.guest_writes()


@pytest.mark.parametrize("stage", [OverlayState.USED, OverlayState.COMMITTED])
@pytest.mark.parametrize("at_source", [False, True])
def test_an_overlay_that_a_saved_state_names_stays(stage: OverlayState, at_source: bool) -> None:
    """Saved between the switch and the commit: the overlay was committed and removed, and the VM did not start."""
    side = DiskSide.SOURCE if at_source else DiskSide.DESTINATION
    view = DiskView("vda", None, side, config_overlay=True)
    record = Record().with_overlay("vda", stage, at_source=at_source)
    seen = Observation(PowerState.OFF, True, (view,), record, saved=True)
    action = overlays_rules.commit(a_plan(1), seen, at_source=at_source)
    assert isinstance(action, actions.Park)
    assert "was saved with its state, which names the overlay" in action.problem
    if stage is OverlayState.USED:
        assert overlays_rules.commit(a_plan(1), replace(seen, saved=False), at_source=at_source) == actions.CommitOff(
            "vda", at_source
        )


def drive(world: World, chance: random.Random, events: list[str], deaths: int) -> actions.Action:
    """To the end; somebody interferes between any two steps, and the process dies between any two."""

    def interfere() -> None:
        if events and chance.random() < 0.12:
            world.happens(events.pop(), chance.randrange(3))
        world.guest_writes()

    for _turn in range(LIMIT):
        interfere()
        seen = world.see()
        action = decide(world.plan, seen)
        if isinstance(action, (actions.Done, actions.Park)):
            return action
        if world.owner_paused and chance.random() < 0.1:
            world.happens("guard", 0)
            continue
        for step in world.steps(action, seen):
            if deaths and chance.random() < 0.08:
                deaths -= 1
                world.suspended_here, world.flushed, world.pivot_failures = False, False, 0
                if world.state is PowerState.PAUSED and not world.owner_paused:
                    world.state = PowerState.RUNNING  # the guard
                break
            try:
                world.do(step)
            except Refuses:
                world.refused += 1
                assert world.refused < 50, f"{action} is tried again and again {world}"
                break
            if step[0] not in ("suspend", "pivot", "resume"):
                interfere()
    raise AssertionError(f"no end after {LIMIT} turns: {decide(world.plan, world.see())} {world}")


def check_end(world: World, end: actions.Action) -> None:
    assert world.state is not PowerState.PAUSED or world.owner_paused, "the VM was left suspended"
    used = world.live if world.state.active else world.config
    for target, path in used.items():
        assert world.version(path) == world.last[target], f"{target}: writes are lost ({path}, {end}) {world}"
    if isinstance(end, actions.Park):
        return
    assert isinstance(end, actions.Done)
    assert used == world.config, "live and persistent configuration differ"
    side = "/d/" if end.outcome is Outcome.MOVED else "/s/"
    assert all(path.startswith(side) and not path.endswith("+") for path in used.values()), f"{used} {end}"
    assert set(world.files) == set(used.values()), f"left over: {world.files} {end}"
    assert world.mark is None
    assert not world.copies
    assert not world.commits


EVENTS = st.lists(
    st.sampled_from(
        [
            "guard",
            "guard, then its owner pauses it",
            "job lost",
            "cancel",
            "power off",
            "power on",
            "power on",
        ]
    ),
    max_size=5,
)


@settings(max_examples=examples(600), deadline=None)
@given(
    disks=st.integers(1, 3),
    method=st.sampled_from([Method.SNAPSHOT, Method.CHANGED_BLOCKS]),
    suspended_start=st.booleans(),
    overlay_first=st.booleans(),
    events=EVENTS,
    deaths=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_no_write_is_lost(
    disks: int, method: Method, suspended_start: bool, overlay_first: bool, events: list[str], deaths: int, seed: int
) -> None:
    world = World(a_plan(disks, method, suspended_start, overlay_first))
    end = drive(world, random.Random(seed), list(events), deaths)
    check_end(world, end)


@pytest.mark.parametrize("disks", [1, 3])
def test_a_quiet_move_by_snapshot(disks: int) -> None:
    world = World(a_plan(disks))
    end = drive(world, random.Random(1), [], 0)
    check_end(world, end)
    assert end == actions.Done(Outcome.MOVED)
    assert world.refused == 0


def test_a_cancelled_one_goes_back_to_the_old_base() -> None:
    for turns in range(1, 60):
        world = World(a_plan(2))
        for _turn in range(turns):
            seen = world.see()
            action = decide(world.plan, seen)
            if isinstance(action, actions.Done):
                return
            for step in world.steps(action, seen):
                world.do(step)
                if step[0] not in ("suspend", "pivot"):
                    world.guest_writes()
        world.record = replace(world.record, wanted=Wanted.CANCEL)
        end = drive(world, random.Random(1), [], 0)
        check_end(world, end)
        assert isinstance(end, actions.Done)
    raise AssertionError("the move never ended")


def test_a_copy_that_broke_with_its_qemu_goes_on_by_way_of_overlays() -> None:
    world = World(a_plan(1, Method.CHANGED_BLOCKS))
    while "vda" not in world.copies:
        seen = world.see()
        for step in world.steps(decide(world.plan, seen), seen):
            world.do(step)
    world.happens("power off", 0)
    world.happens("power on", 0)
    taken: list[actions.Action] = []
    while not isinstance(action := decide(world.plan, world.see()), actions.Done):
        taken.append(action)
        for step in world.steps(action, world.see()):
            world.do(step)
            if step[0] not in ("suspend", "pivot"):
                world.guest_writes()
    check_end(world, action)
    names = [type(one).__name__ for one in taken]
    order = [
        "ForgetCopy",
        "TakeOverlays",
        "SyncBase",
        "CreateImage",
        "StartCopy",
        "Pivot",
        "StartCommit",
        "PivotCommit",
    ]
    places = [names.index(name) for name in order]
    assert places == sorted(places), names


def test_a_vm_started_below_its_overlay_is_left_to_people() -> None:
    world = World(a_plan(1))
    while world.record.disk("vda").synced is None:
        seen = world.see()
        for step in world.steps(decide(world.plan, seen), seen):
            world.do(step)
    world.happens("power off", 0)
    world.config["vda"] = "/s/a"  # somebody defines an old XML
    end = decide(world.plan, world.see())
    assert isinstance(end, actions.Park)
    assert "newer writes" in end.problem


def test_an_overlay_used_again_after_it_was_committed_is_committed_again() -> None:
    """The move is taken back while the VM is off; before the configuration is written the VM runs once more."""
    world = World(a_plan(1))
    while world.record.disk("vda").synced is None:
        seen = world.see()
        for step in world.steps(decide(world.plan, seen), seen):
            world.do(step)
    world.happens("power off", 0)
    world.record = replace(world.record, wanted=Wanted.CANCEL)
    seen = world.see()
    action = decide(world.plan, seen)
    assert isinstance(action, actions.CommitOff)
    for step in world.steps(action, seen):
        world.do(step)
    world.happens("power on", 0)
    world.happens("power off", 0)
    end = drive(world, random.Random(1), [], 0)
    check_end(world, end)
    assert end == actions.Done(Outcome.CANCELLED)


@pytest.mark.parametrize(("format", "suspend"), [("qcow2", True), ("raw", False)])
@pytest.mark.parametrize(
    ("on_break", "contract", "unflushed", "since_s", "due"),
    [
        (OnBreak.KEEP, False, 0.05, 0.0, True),
        (OnBreak.KEEP, False, 0.04, 1000.0, False),
        (OnBreak.AUTO, False, 0.05, 29.0, False),
        (OnBreak.AUTO, False, 0.05, 30.0, True),
        (OnBreak.REMOVE, False, 0.9, 1000.0, False),
        (OnBreak.KEEP, True, 0.05, 0.0, True),
        (OnBreak.AUTO, True, 0.05, 30.0, None),  # the guest is not to be held, and for raw it is not
    ],
)
def test_what_was_copied_is_written_out_in_time(
    format: str, suspend: bool, on_break: OnBreak, contract: bool, unflushed: float, since_s: float, due: bool | None
) -> None:
    plan = a_plan(1, Method.CHANGED_BLOCKS)
    plan = replace(
        plan,
        disks=tuple(replace(disk, dest=replace(disk.dest, format=format)) for disk in plan.disks),
        outage=replace(plan.outage, on_break=on_break),
        pace=replace(plan.pace, contract=LatencyContract(latency_s=0.02) if contract else None),
    )
    seen = replace(World(plan).see(), unflushed=unflushed, unflushed_s=since_s)
    assert overlays_rules.checkpoint_due(plan, seen) is (not suspend if due is None else due)
    assert overlays_rules.stops_for_checkpoint(plan) is suspend


def names_of(world: World) -> list[str]:
    """The actions of a quiet move, to its end."""
    names: list[str] = []
    while not isinstance(action := decide(world.plan, world.see()), actions.Done):
        names.append(type(action).__name__)
        for step in world.steps(action, world.see()):
            world.do(step)
            if step[0] not in ("suspend", "pivot"):
                world.guest_writes()
    check_end(world, action)
    assert action == actions.Done(Outcome.MOVED)
    return names


@pytest.mark.parametrize("method", [Method.SNAPSHOT, Method.CHANGED_BLOCKS])
def test_with_the_start_race_the_overlay_is_copied_from_its_first_moment_on(method: Method) -> None:
    """The look at an overlay that was just made is short; after the copy of a large base it may not be."""
    names = names_of(World(a_plan(1, method, suspended_start=True, overlay_first=True)))
    copy = ["TakeOverlays", "CreateImage", "Suspend", "StartCopy", "Await", "Resume", "SyncBase", "FlushDestination"]
    places = [names.index(name) for name in copy]
    assert places == sorted(places), names
    assert names.count("SyncBase") == 1


def test_without_the_start_race_the_base_goes_first() -> None:
    names = names_of(World(a_plan(1)))
    assert names.index("SyncBase") < names.index("StartCopy"), names
    assert names.count("Suspend") == 1  # the switch


def test_with_the_start_race_a_commit_begins_while_the_vm_stands_still() -> None:
    names = names_of(World(a_plan(1, suspended_start=True)))
    commit = names.index("StartCommit")
    assert names[commit - 1] == "Suspend"
    assert names[commit + 1 : commit + 3] == ["Await", "Resume"], names


def commit(state: PowerState, record: Record, job: DiskJob, looked: bool, suspended_s: float = 0.0) -> actions.Action:
    """What is decided after the switch, with the overlay of the only disk in use."""
    info = JobInfo(0, SIZE, 0) if looked else None
    view = DiskView(
        "vda", DiskSide.DESTINATION, DiskSide.DESTINATION, job, info=info, live_overlay=True, config_overlay=True
    )
    seen = Observation(
        state, True, (view,), record, 1, "m1", config_agrees=True, graph=PROVEN, suspended_s=suspended_s
    )  # fmt: skip
    return decide(a_plan(1, suspended_start=True), seen)


SWITCHED = replace(
    Record(
        configuration=ConfigurationRecord(marked=True, written=True),
        home=HomeRecord(copied=True),
        switch=SwitchRecord(done=True),
        graph=GraphRecord(proven=True),
    ),
    disks={"vda": DiskRecord(dest_overlay=OverlayState.USED)},
)
HELD = replace(SWITCHED, switch=replace(SWITCHED.switch, suspended=True), commits=replace(SWITCHED.commits, attempts=1))
RUNS, STANDS = PowerState.RUNNING, PowerState.PAUSED
CLEAN = actions.SaveClean(commits=("vda",))
LOOKS = actions.Await("initialise", 0.002)


@pytest.mark.parametrize(
    ("state", "record", "job", "looked", "suspended_s", "action"),
    [
        (RUNS, SWITCHED, DiskJob.NONE, False, 0.0, actions.Suspend(switch=False)),
        (STANDS, HELD, DiskJob.NONE, False, 0.0, actions.StartCommit("vda")),
        (STANDS, HELD.with_commits(("vda",), Stage.STARTING), DiskJob.NONE, False, 0.0, actions.Resume()),
        (STANDS, HELD.with_commits(("vda",), Stage.STARTED), DiskJob.COMMIT, False, 0.01, LOOKS),
        (STANDS, HELD.with_commits(("vda",), Stage.STARTED), DiskJob.COMMIT, False, 0.09, actions.Resume()),
        (
            STANDS, HELD.with_commits(("vda",), Stage.STARTED), DiskJob.COMMIT, True, 0.01,
            actions.Resume(commits=("vda",)),
        ),
        (
            STANDS, replace(HELD.with_commits(("vda",), Stage.STARTED), commits=replace(HELD.commits, attempts=3)),
                DiskJob.COMMIT, False, 0.9,
            actions.Await("initialise", 0.002),
        ),
        (RUNS, SWITCHED.with_commits(("vda",), Stage.STARTED), DiskJob.COMMIT, True, 0.0, actions.AbortCopy("vda")),
        (RUNS, SWITCHED.with_commits(("vda",), Stage.CLEAN), DiskJob.COMMIT, True, 0.0, actions.Await("commit", 0.1)),
        (STANDS, SWITCHED.with_commits(("vda",), Stage.STARTED), DiskJob.COMMIT, True, 0.0, CLEAN),
        (STANDS, SWITCHED, DiskJob.NONE, False, 0.0, actions.StartCommit("vda")),  # its owner has paused the VM
        (STANDS, SWITCHED, DiskJob.COMMIT, True, 0.0, actions.AbortCopy("vda")),  # nothing noted of it, or given up
    ],
)  # fmt: skip
def test_how_a_commit_begins_with_the_start_race(
    state: PowerState, record: Record, job: DiskJob, looked: bool, suspended_s: float, action: actions.Action
) -> None:
    assert commit(state, record, job, looked, suspended_s) == action
