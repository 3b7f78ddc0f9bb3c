"""decide() against a world on paper: destinations that hang, guests that outrun their copy, trimming, comparisons.

What the simulated host (test_simulated_moves.py) does not have yet, where the real effects run. The world models what
they do, split where a process can die: the intent, the effect, the record after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.hosts.fencing import ANSWERING, DestinationHealth, Fencing
from blockferry.hosts.inventory import JobInfo, PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.decide import decide
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import DiskPlan, DiskSizes, SourceImage, StartPlan
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.overlays.convergence import Divergence
from blockferry.storage_move.pace.plan import PacePlan
from blockferry.storage_move.pace.record import MeasuredRecord, Throttle
from blockferry.storage_move.plan import DomainPlan, HangPlan, OutagePlan, Plan
from blockferry.storage_move.record import MirrorRecord, Record
from blockferry.storage_move.request import IfNotConverging, LatencyContract, Method, SourcePolicy
from blockferry.storage_move.switch.graph_proof import PROVEN
from blockferry.storage_move.switch.record import ConfigurationRecord, SwitchRecord
from blockferry.storage_move.verify.record import BackupExport, ExportRecord

SIZE = 100
LIMIT = 600


def a_plan(disks: int, suspended_start: bool = False, persistent: bool = True, verify: bool = False) -> Plan:
    return Plan(move="m1", uri="test:///", vm="web01", uuid="u", method=Method.MIRROR, method_reason="", disks=tuple(
            DiskPlan(
                f"vd{letter}",
                SourceImage(f"/a/{letter}", "qcow2", "file", "a"),
                DestinationImage(f"/b/{letter}", "qcow2", "b"),
                DiskSizes(SIZE, SIZE),
                release=ReleasePlan((f"/a/{letter}",)),
                start=StartPlan(suspended_start),
            )
            for letter in "abc"[:disks]
        ), home=None, source=SourcePolicy(), verify=verify,
        domain=DomainPlan(persistent=persistent, was=PowerState.RUNNING))  # fmt: skip


@dataclass
class World:
    """The host, and the record as the journal holds it."""

    plan: Plan
    state: PowerState = PowerState.RUNNING
    incarnation: int = 1
    live: dict[str, DiskSide] = field(default_factory=dict)
    config: dict[str, DiskSide] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)  # target -> bytes copied
    mirrors: set[str] = field(default_factory=set)  # of these jobs, the synchronous ones
    foreign: set[str] = field(default_factory=set)
    tainted: set[str] = field(default_factory=set)  # copies that missed a write
    writes: dict[str, int] = field(default_factory=dict)  # writes to the source file while off
    cold_at: dict[str, int] = field(default_factory=dict)  # the writes that a cold copy holds
    mark: str | None = None
    record: Record = field(default_factory=Record)
    removed: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    suspended_here: bool = False  # this process knows of a suspension
    owner_paused: bool = False
    pivot_fails: set[str] = field(default_factory=set)
    pivot_failures: int = 0
    flushed: bool = False
    spoilt: set[str] = field(default_factory=set)  # copies that are wrong without anybody's knowing
    view: str | None = None  # the frozen view that QEMU holds: "switch", or "later" when the guest had written since
    view_tried: bool = False
    view_taken: bool = False
    ran_since_switch: bool = False
    kept: set[str] = field(default_factory=set)
    limits: dict[str, int] = field(default_factory=dict)  # target -> what the guest may write; none: no limit
    own_limits: dict[str, int] = field(default_factory=dict)  # the same, as its owner wants it
    busy: int = 0  # the guest changes so much in a turn
    measured: int = 0
    trimmed: int = 0
    trimmed_again: int = 0
    health: DestinationHealth = ANSWERING

    def __post_init__(self) -> None:
        for disk in self.plan.disks:
            self.live[disk.target] = self.config[disk.target] = DiskSide.SOURCE

    # ---- looking

    def see(self) -> Observation:
        if self.state is PowerState.RUNNING and self.record.switch.suspended and not self.suspended_here:
            record = replace(self.record, switch=replace(self.record.switch, suspended=False))
        else:
            record = self.record
        views = []
        for disk in self.plan.disks:
            target = disk.target
            job = DiskJob.FOREIGN if target in self.foreign else DiskJob.OURS if target in self.jobs else DiskJob.NONE
            copied = self.jobs.get(target, 0)
            views.append(
                DiskView(
                    target,
                    self.live[target] if self.state.active else None,
                    self.config[target] if self.plan.domain.persistent else None,
                    job,
                    ready=job is DiskJob.OURS and copied >= SIZE,
                    info=JobInfo(copied, SIZE, 0) if job is DiskJob.OURS and copied else None,
                    fingerprint=str(self.writes.get(target, 0)),
                )
            )
        outrun = tuple(
            Divergence(view.target, 40.0, 20.0, sure=True)
            for view in views
            if view.job is DiskJob.OURS and self._outruns(view.target)
        )
        agrees = all(side is DiskSide.DESTINATION for side in self.config.values())
        return Observation(
            self.state, self.plan.domain.persistent, tuple(views), record, self.incarnation, self.mark,
            config_agrees=agrees or not self.plan.domain.persistent, pivot_failures=self.pivot_failures,
            flushed=self.flushed, view_tried=self.view_tried,
            diverging=outrun, health=self.health, graph=PROVEN if self.state.active else None,
        )  # fmt: skip

    def _outruns(self, target: str) -> bool:
        """A guest that writes more than is copied in a turn, to a copy in the background."""
        return min(self.busy, self.limits.get(target, self.busy)) >= 40 and target not in self.mirrors

    # ---- acting, in the steps between which a process can die

    def steps(self, action: actions.Action, seen: Observation) -> list[tuple[str, object]]:
        record = seen.record
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
            case actions.MeasureGuest():
                return [("measure", None), ("note", replace(record, measured=MeasuredRecord(done=True)))]
            case actions.TrimGuest():
                return [("trim", None), ("note", replace(record, trim=replace(record.trim, asked=True)))]
            case actions.TrimAgain():
                return [("trim again", None), ("note", replace(record, trim=replace(record.trim, asked_again=True)))]
            case actions.GoSynchronous():
                return [("note", replace(record, mirror=replace(record.mirror, wanted=True)))]
            case actions.LeaveSynchronous():
                return [("note", replace(record, mirror=replace(record.mirror, forbidden=True, wanted=False)))]
            case actions.SaveFenced(directory):
                return [
                    (
                        "note",
                        replace(record, failure="it was fenced", fencing=replace(record.fencing, fenced=directory)),
                    )
                ]
            case actions.ThrottleGuest(target, share):
                noted = record.throttled.get(target)
                if noted and noted.incarnation != seen.incarnation:
                    noted = None
                if noted and self.limits.get(target) != noted.bytes_per_s:
                    return [("limit", (target, noted.bytes_per_s))]
                fresh: dict[str, int | str] = {"write": self.limits.get(target, 0)}
                limit = int((noted.bytes_per_s if noted else self.busy) * share)
                kept = {**record.throttled, target: Throttle(limit, seen.incarnation, noted.before if noted else fresh)}
                return [("note", record.with_throttles(kept)), ("limit", (target, limit))]
            case actions.UnthrottleGuest():
                live = {view.target for view in seen.disks if view.live is not None}
                back = [
                    ("limit", (target, noted.before["write"]))
                    for target, noted in record.throttled.items()
                    if target in live and noted.incarnation == seen.incarnation
                ]
                return [*back, ("note", record.with_throttles({}))]
            case actions.CreateImage(target):
                named = replace(record, created=(*record.created, target)).without_verdict(target)
                stage = Copy(Stage.IMAGE, -1, record.copy(target).attempts)
                return [("note", named), ("image", target), ("note", named.with_copy(target, stage))]
            case actions.Suspend(switch):
                return [
                    ("note", replace(record, switch=replace(record.switch, suspended=True, begun=switch))),
                    ("suspend", None),
                ]
            case actions.Resume(clean, failed):
                after = record
                for target in clean if seen.state is PowerState.PAUSED else ():
                    after = after.with_copy(target, replace(after.copy(target), stage=Stage.CLEAN))
                mixed = len({view.side for view in seen.disks}) > 1
                after = replace(after,
                    switch=replace(after.switch, suspended=False, begun=record.switch.begun and mixed,
                        attempts=record.switch.attempts + failed))  # fmt: skip
                if self.view_taken:
                    after = replace(
                        after, export=replace(after.export, state=BackupExport.READY, incarnation=seen.incarnation)
                    )
                return [("resume", None), ("note", after)]
            case actions.StartCopy(target, reverse):
                before = record.copy(target)
                tries = before.attempts + 1 if before.reverse == reverse else 1
                both = (record.mirror.wanted or self.plan.synchronous) and not record.mirror.forbidden
                synchronous = reverse or both
                copy = Copy(Stage.STARTING, seen.incarnation, tries, reverse, synchronous)
                return [
                    ("note", record.with_copy(target, copy)),
                    ("job", target),
                    ("note", record.with_copy(target, replace(copy, stage=Stage.STARTED))),
                ]
            case actions.SaveClean(targets):
                for target in targets:
                    record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
                return [("note", record)]
            case actions.Await():
                return [("time", None)]
            case actions.FlushDestination():
                return [("flush", None)]
            case actions.Pivot(targets):
                return [("pivot", target) for target in targets]
            case actions.AbortCopy(target):
                copy = record.copy(target)
                gone = Copy(Stage.NONE, -1, copy.attempts, copy.reverse)
                return [("abort", target), ("note", record.with_copy(target, gone))]
            case actions.ForgetCopy(target):
                return [("note", record.with_copy(target, Copy(Stage.NONE, -1, record.copy(target).attempts)))]
            case actions.Fail(problem):
                return [("note", replace(record, failure=record.failure or problem))]
            case actions.ColdCopy(target):
                named = replace(record, created=(*record.created, target)).without_verdict(target)
                done = replace(named.disk(target), cold_copied=seen.disk(target).fingerprint)
                return [
                    ("note", named),
                    ("cold", target),
                    ("note", named.with_disk(target, done).with_copy(target, Copy())),
                ]
            case actions.WriteConfig():
                return [
                    ("config", DiskSide.DESTINATION),
                    ("note", replace(record, configuration=replace(record.configuration, written=True))),
                ]
            case actions.RevertConfig():
                return [("config", DiskSide.SOURCE)]
            case actions.PrepareExport():
                named = replace(record, created=(*record.created, "view"))
                return [
                    ("note", named),
                    (
                        "note",
                        replace(
                            named,
                            export=replace(named.export, state=BackupExport.PREPARED, incarnation=seen.incarnation),
                        ),
                    ),
                ]
            case actions.StartExport():
                return [("take view", None)]
            case actions.Verify(target):
                if self.state.active:
                    assert self.view == "switch", "compared with what the guest has written to since"
                if target in self.spoilt:
                    return [("note", record.with_disk(target, replace(record.disk(target), differences=(0,))))]
                return [("note", record.with_disk(target, replace(record.disk(target), verified=True)))]
            case actions.EndExport(why):
                waiting = [disk.target for disk in self.plan.disks if not record.disk(disk.target).judged]
                left = record.with_unverified(waiting, why)
                return [
                    ("note", left),
                    ("end view", None),
                    ("note", replace(left, export=replace(left.export, state=BackupExport.ENDED))),
                ]
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
                return [("note", record.with_disk(target, replace(record.disk(target), settled=True)))]
            case actions.ReleaseSource(path):
                return [("release", path), ("note", replace(record, released=(*record.released, path)))]
            case actions.ReleaseHome():
                return [("note", replace(record, released=(*record.released, "home")))]
            case actions.RemoveDestination():
                blank = replace(
                    record.without_verdicts().changed(lambda disk: replace(disk, copy=Copy())),
                    created=(),
                    export=replace(record.export, state=BackupExport.NONE),
                )
                return [("remove", None), ("note", blank)]
            case actions.Finish(outcome):
                return [("note", replace(record, outcome=outcome))]
            case _:
                raise AssertionError(f"{action} is not expected here")

    def do(self, step: tuple[str, object]) -> None:
        what, thing = step
        target = str(thing)
        waits = what in ("suspend", "job", "flush", "pivot", "abort", "image", "remove") and self.state.active
        across = all(side is DiskSide.DESTINATION for side in self.live.values())
        assert not (waits and self.health.hanging and not across), f"{what} while the destination hangs: QEMU waits"
        if what == "note":
            assert isinstance(thing, Record)
            self.record = replace(thing, wanted=self.record.wanted)
        elif what == "mark":
            self.mark = None if thing is None else target
        elif what == "suspend" and self.state is PowerState.RUNNING:
            self.state, self.suspended_here = PowerState.PAUSED, True
        elif what == "resume":
            assert not self.owner_paused, "a pause of the owner's was ended"
            if self.state is PowerState.PAUSED:
                self.state = PowerState.RUNNING
            self.suspended_here, self.flushed, self.pivot_failures = False, False, 0
            self.view_tried = self.view_taken = False
        elif what == "take view":
            self.view_tried = True
            self.view = "later" if self.ran_since_switch else "switch"
            self.view_taken = self.state is PowerState.PAUSED
            if self.owner_paused and self.view_taken:
                self.record = replace(
                    self.record,
                    export=replace(self.record.export, state=BackupExport.READY, incarnation=self.incarnation),
                )
        elif what == "end view":
            self.view = None
        elif what == "image":
            self.images.add(target)
            self.spoilt.discard(target)
        elif what == "job":
            if self.state.active and target not in self.jobs and target not in self.foreign:
                self.jobs[target] = 0
                (self.mirrors.add if self.record.copy(target).synchronous else self.mirrors.discard)(target)
                if self.state is PowerState.RUNNING and self.plan.disk(target).start.suspended:
                    self.tainted.add(target)
                else:
                    self.tainted.discard(target)
        elif what == "time":
            for one in () if self.health.hanging else tuple(self.jobs):
                outrun = self.state is PowerState.RUNNING and self._outruns(one)
                self.jobs[one] = min(SIZE - 10 if outrun else SIZE, self.jobs[one] + 50)
            for one, noted in self.record.throttled.items():  # storage_move/pace/throttle.py: see_to_it
                if self.state.active and noted.incarnation == self.incarnation:
                    self.limits[one] = noted.bytes_per_s
        elif what == "limit":
            assert isinstance(thing, tuple)
            target, limit = thing
            if self.state.active:
                assert target in self.record.throttled, "the guest was slowed before that was noted"
                self.limits.pop(target, None)
                self.limits.update({target: limit} if limit else {})
        elif what == "measure":
            assert not self.jobs, "the guest was measured while it was copied"
            self.measured += 1
        elif what == "trim":
            assert not self.jobs, "the guest was trimmed while it was copied"
            assert not self.images, "the guest was trimmed after its image was made"
            self.trimmed += 1
        elif what == "trim again":
            assert self.trimmed, "it was not trimmed the first time"
            assert self.state is PowerState.RUNNING
            assert not self.jobs, "QEMU drops what is discarded under a job"
            assert self.view is None, "a frozen view had to keep what is discarded"
            assert set(self.live.values()) | set(self.config.values()) == {DiskSide.DESTINATION}
            assert "home" in self.record.released, "something waits for the agent"
            self.trimmed_again += 1
        elif what == "flush":
            self.flushed = True
        elif what == "pivot":
            self.pivot(target)
        elif what == "abort":
            assert target not in self.foreign, "a foreign job was aborted"
            self.jobs.pop(target, None)
        elif what == "cold":
            assert self.state is PowerState.OFF
            self.images.add(target)
            self.spoilt.discard(target)
            self.cold_at[target] = self.writes.get(target, 0)
        elif what == "config":
            assert isinstance(thing, DiskSide)
            for one, side in self.config.items():
                if thing is DiskSide.DESTINATION and side is DiskSide.SOURCE and not self.state.active:
                    assert self.cold_at.get(one) == self.writes.get(one, 0), "switched to a copy that is not current"
            for one in self.config:
                self.config[one] = thing
        elif what == "release":
            assert self.record.switch.done
            assert all(side is DiskSide.DESTINATION for side in self.config.values()) or not self.plan.domain.persistent
            assert not self.state.active or all(side is DiskSide.DESTINATION for side in self.live.values())
            disk = next(disk for disk in self.plan.disks if disk.source.path == target)
            if self.plan.verify and not self.record.disk(disk.target).verified:
                self.kept.add(target)
            else:
                assert not (self.plan.verify and disk.target in self.spoilt), "the source of a wrong copy was removed"
                self.removed.add(target)
        elif what == "remove":
            assert not self.record.switch.done, "the destination was removed after the switch"
            used = self.live if self.state.active else self.config
            assert all(side is not DiskSide.DESTINATION for side in used.values()), "a disk in use was removed"
            assert not self.jobs, "the image under a job was removed"
            self.images.clear()
            self.health = ANSWERING  # the watch goes

    def pivot(self, target: str) -> None:
        assert self.state is PowerState.PAUSED, "a pivot without a suspension"
        if target in self.pivot_fails or target not in self.jobs:
            self.pivot_failures += 1
            self.pivot_fails.discard(target)
            return
        assert self.jobs[target] >= SIZE, "a pivot before both sides are in step"
        assert target not in self.tainted, "a copy that missed a write was switched to"
        del self.jobs[target]
        side = DiskSide.SOURCE if self.live[target] is DiskSide.DESTINATION else DiskSide.DESTINATION
        self.live[target] = self.config[target] = side
        self.ran_since_switch = False

    # ---- what others do

    def happens(self, event: str, pick: int) -> None:
        target = self.plan.disks[pick % len(self.plan.disks)].target
        if event == "spoil" and not self.record.disk(target).verified:  # what spoils later, no comparison can find
            self.spoilt.add(target)
        elif event == "guard" and self.state is PowerState.PAUSED and not self.owner_paused:
            self.state = PowerState.RUNNING
        elif event == "job lost":
            self.jobs.pop(target, None)
        elif event == "pivot refused":
            self.pivot_fails.add(target)
        elif event == "hangs" and self.health.fenced is None:
            times = self.health.times + 1
            self.health = replace(self.health, seconds=3.0, longest=3.0, times=times, directory="/b")
        elif event == "answers":
            self.health = replace(self.health, seconds=0.0)
        elif event == "fenced" and self.health.hanging and set(self.live.values()) == {DiskSide.SOURCE}:
            self.health = replace(self.health, seconds=0.0, fenced="/b", fenced_after=5.0)
            self.jobs.clear()
        elif event == "cancel":
            self.record = replace(self.record, wanted=Wanted.CANCEL)
        elif event == "power off" and self.state.active and not self.owner_paused:
            self.state = PowerState.OFF
            self.view = None
            self.jobs.clear()
            self.foreign.clear()
            self.limits = dict(self.own_limits)
        elif event == "power on" and self.state is PowerState.OFF:
            self.state, self.incarnation = PowerState.RUNNING, self.incarnation + 1
            self.live = dict(self.config)
            for one, side in self.live.items():
                if side is DiskSide.SOURCE:
                    self.writes[one] = self.writes.get(one, 0) + 1


def drive(world: World, chance: random.Random, events: list[str], deaths: int) -> actions.Action:
    """Run to the end; now and then somebody interferes, or the process dies between two steps."""
    for _turn in range(LIMIT):
        if events and chance.random() < 0.15:
            world.happens(events.pop(), chance.randrange(3))
        if world.health.hanging and chance.random() < 0.2:
            world.happens(chance.choice(("answers", "fenced")), 0)
        if world.state is PowerState.RUNNING:
            world.ran_since_switch = True
        seen = world.see()
        action = decide(world.plan, seen)
        if isinstance(action, (actions.Done, actions.Park)):
            return action
        for step in world.steps(action, seen):
            if deaths and chance.random() < 0.08:
                deaths -= 1
                world.suspended_here, world.flushed, world.pivot_failures = False, False, 0
                world.view_tried = world.view_taken = False
                world.limits = dict(world.own_limits)  # the guard
                if world.state is PowerState.PAUSED and not world.owner_paused:
                    world.state = PowerState.RUNNING  # the guard
                break
            world.do(step)
    raise AssertionError(f"no end after {LIMIT} turns: {decide(world.plan, world.see())} {world}")


def check_end(world: World, end: actions.Action) -> None:
    assert world.state is not PowerState.PAUSED or world.owner_paused, "the VM was left suspended"
    assert not world.state.active or world.limits == world.own_limits, "the guest was left slowed"
    used = world.live if world.state.active else world.config
    if isinstance(end, actions.Park):
        assert not world.removed, "something was removed although it is parked"
        return
    assert isinstance(end, actions.Done)
    assert len(set(used.values())) == 1, "the VM is on both sides"
    assert world.mark is None
    assert not world.jobs
    if end.outcome is Outcome.MOVED:
        assert set(used.values()) == set(world.config.values()) == {DiskSide.DESTINATION}
        sources = {disk.source.path for disk in world.plan.disks}
        assert world.removed | world.kept == sources
        assert world.removed == sources or world.plan.verify
        assert world.view is None, "a frozen view was left behind"
    else:
        assert set(used.values()) == {DiskSide.SOURCE}
        assert not world.images
        assert not world.removed


EVENTS = st.lists(
    st.sampled_from(["guard", "job lost", "pivot refused", "cancel", "power off", "power on", "spoil"]), max_size=4
)


@settings(max_examples=examples(400), deadline=None)
@given(
    disks=st.integers(1, 3),
    suspended_start=st.booleans(),
    verify=st.booleans(),
    method=st.sampled_from([Method.MIRROR, Method.CHANGED_BLOCKS]),
    events=st.lists(
        st.sampled_from(["hangs", "hangs", "hangs", "answers", "guard", "job lost", "cancel", "power off", "power on"]),
        min_size=1,
        max_size=6,
    ),
    deaths=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_a_destination_that_hangs_is_waited_for_or_given_up(
    disks: int, suspended_start: bool, verify: bool, method: Method, events: list[str], deaths: int, seed: int
) -> None:
    """Nothing is asked of QEMU that would have to wait for it; what was fenced is failed, what answers goes on."""
    plan = replace(
        a_plan(disks, suspended_start, verify=verify), method=method, outage=OutagePlan(hang=HangPlan(Fencing(), ""))
    )
    world = World(plan)
    end = drive(world, random.Random(seed), list(events), deaths)
    check_end(world, end)
    if world.record.fencing.fenced and isinstance(end, actions.Done):
        assert end.outcome is Outcome.FAILED
    if world.record.mirror.forbidden:
        assert not world.mirrors & set(world.jobs)


@settings(max_examples=examples(400), deadline=None)
@given(
    disks=st.integers(1, 3),
    suspended_start=st.booleans(),
    policy=st.sampled_from([IfNotConverging.MIRROR, IfNotConverging.THROTTLE, IfNotConverging.STOP]),
    limited=st.booleans(),
    events=EVENTS,
    deaths=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_a_guest_that_outruns_its_copy_is_dealt_with(
    disks: int,
    suspended_start: bool,
    policy: IfNotConverging,
    limited: bool,
    events: list[str],
    deaths: int,
    seed: int,
) -> None:
    plan = replace(
        a_plan(disks, suspended_start),
        method=Method.CHANGED_BLOCKS,
        pace=PacePlan(if_not_converging=policy, contract=LatencyContract(latency_s=0.02)),
    )
    world = World(plan, busy=200)
    if limited:
        world.own_limits = {"vda": 1000}
        world.limits = dict(world.own_limits)
    end = drive(world, random.Random(seed), list(events), deaths)
    check_end(world, end)
    if not events and not deaths:
        assert end == actions.Done(Outcome.FAILED if policy is IfNotConverging.STOP else Outcome.MOVED)
        assert world.measured == 1
        if policy is IfNotConverging.STOP:
            assert world.record.failure is not None
            assert "does not get in step" in world.record.failure


def test_who_waits_waits_until_the_guest_calms_down() -> None:
    plan = replace(a_plan(1), method=Method.CHANGED_BLOCKS, pace=PacePlan(if_not_converging=IfNotConverging.WAIT))
    world = World(plan, busy=200)
    for _turn in range(200):
        for step in world.steps(decide(plan, world.see()), world.see()):
            world.do(step)
    assert world.jobs == {"vda": 90}
    assert world.record.failure is None
    world.busy = 0
    assert drive(world, random.Random(1), [], 0) == actions.Done(Outcome.MOVED)


def test_a_kept_chain_never_becomes_a_mirror() -> None:
    plan = a_plan(2)
    below = replace(plan.disks[0], chain=replace(plan.disks[0].chain, backing=("/a/base", "qcow2")))
    pace = PacePlan(if_not_converging=IfNotConverging.MIRROR)
    plan = replace(plan, disks=(below, plan.disks[1]), method=Method.CHANGED_BLOCKS, pace=pace)
    world = World(plan, busy=200)
    for _turn in range(200):
        action = decide(plan, world.see())
        assert not isinstance(action, actions.GoSynchronous)
        for step in world.steps(action, world.see()):
            world.do(step)
    assert world.record.failure is None


@pytest.mark.parametrize("state", [PowerState.RUNNING, PowerState.PAUSED, PowerState.OFF])
def test_a_verified_move(state: PowerState) -> None:
    world = World(a_plan(2, verify=True), state=state, owner_paused=state is PowerState.PAUSED)
    assert drive(world, random.Random(1), [], 0) == actions.Done(Outcome.MOVED)
    assert world.removed == {"/a/a", "/a/b"}
    assert {target for target, disk in world.record.disks.items() if disk.verified} == {"vda", "vdb"}


@settings(max_examples=examples(200), deadline=None)
@given(
    disks=st.integers(1, 3),
    suspended_start=st.booleans(),
    events=EVENTS,
    deaths=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_a_guest_is_trimmed_before_its_copy_and_when_all_is_done(
    disks: int, suspended_start: bool, events: list[str], deaths: int, seed: int
) -> None:
    world = World(replace(a_plan(disks, suspended_start), trim=True, verify=bool(seed % 2)))
    end = drive(world, random.Random(seed), list(events), deaths)
    check_end(world, end)
    if not events and not deaths:
        assert world.trimmed == 1
        assert world.trimmed_again == 1
        assert end == actions.Done(Outcome.MOVED)


def test_no_second_trim_takes_the_space_of_a_thick_disk() -> None:
    plan = a_plan(2)
    world = World(
        replace(
            plan,
            trim=True,
            disks=(plan.disks[0], replace(plan.disks[1], dest=replace(plan.disks[1].dest, thick=True))),
        )
    )
    assert drive(world, random.Random(1), [], 0) == actions.Done(Outcome.MOVED)
    assert (world.trimmed, world.trimmed_again) == (1, 0)


def test_a_vm_that_is_off_is_not_trimmed() -> None:
    world = World(replace(a_plan(1), trim=True), state=PowerState.OFF)
    assert drive(world, random.Random(1), [], 0) == actions.Done(Outcome.MOVED)
    assert world.trimmed == world.trimmed_again == 0


def test_the_source_of_a_copy_that_differs_is_kept() -> None:
    world = World(a_plan(2, verify=True))
    for _turn in range(LIMIT):
        seen = world.see()
        action = decide(world.plan, seen)
        if isinstance(action, actions.Suspend):
            world.spoilt.add("vdb")
        if isinstance(action, actions.Done):
            break
        for step in world.steps(action, seen):
            world.do(step)
    assert world.removed == {"/a/a"}
    assert world.kept == {"/a/b"}
    assert world.record.differences == {"vdb": (0,)}


def test_a_view_that_finds_no_room_is_given_up() -> None:
    world = World(a_plan(2, verify=True))
    given_up = False
    for _turn in range(LIMIT):
        seen = world.see()
        action = decide(world.plan, seen)
        if isinstance(action, actions.Verify) and action.target == "vdb":
            action = decide(world.plan, replace(seen, view_trouble="no room"))
            assert action == actions.EndExport("no room")
            given_up = True
        if isinstance(action, actions.Done):
            break
        for step in world.steps(action, seen):
            world.do(step)
    assert given_up
    assert action == actions.Done(Outcome.MOVED)
    assert world.record.unverified == {"vdb": "no room"}
    assert "/a/b" in world.kept


def test_a_cold_copy_that_differs_is_not_switched_to() -> None:
    world = World(a_plan(1, verify=True), state=PowerState.OFF)
    for _turn in range(LIMIT):
        seen = world.see()
        action = decide(world.plan, seen)
        if isinstance(action, actions.Verify):
            world.spoilt.add("vda")
        if isinstance(action, actions.Done):
            break
        for step in world.steps(action, seen):
            world.do(step)
    assert action == actions.Done(Outcome.FAILED)
    assert world.config == {"vda": DiskSide.SOURCE}


def test_a_paused_vm_stays_paused() -> None:
    world = World(a_plan(2), state=PowerState.PAUSED, owner_paused=True)
    end = drive(world, random.Random(1), [], 0)
    check_end(world, end)
    assert end == actions.Done(Outcome.MOVED)
    assert world.state is PowerState.PAUSED


def test_a_foreign_job_is_left_alone() -> None:
    world = World(a_plan(2))
    world.foreign.add("vdb")
    end = drive(world, random.Random(1), [], 0)
    assert end == actions.Done(Outcome.FAILED)
    assert world.foreign == {"vdb"}


@given(st.data())
@settings(max_examples=examples(500), deadline=None)
def test_every_observation_has_an_answer(data: st.DataObject) -> None:
    plan = a_plan(data.draw(st.integers(1, 3)), data.draw(st.booleans()), verify=data.draw(st.booleans()))
    record = Record(
        wanted=data.draw(st.sampled_from(Wanted)),
        created=data.draw(st.sampled_from([(), ("x",)])),
        disks={
            disk.target: DiskRecord(
                copy=Copy(data.draw(st.sampled_from(Stage)), data.draw(st.integers(-1, 1)), 1),
                throttle=data.draw(st.sampled_from([None, Throttle(1, 1)])) if disk.target == "vda" else None,
            )
            for disk in plan.disks
        },
        failure=data.draw(st.sampled_from([None, "it failed"])),
        outcome=data.draw(st.sampled_from([None, *Outcome])),
        configuration=ConfigurationRecord(marked=data.draw(st.booleans()), written=data.draw(st.booleans())),
        home=HomeRecord(copied=data.draw(st.booleans())),
        switch=SwitchRecord(
            suspended=data.draw(st.booleans()), begun=data.draw(st.booleans()), done=data.draw(st.booleans())
        ),
        export=ExportRecord(state=data.draw(st.sampled_from(BackupExport))),
        mirror=MirrorRecord(wanted=data.draw(st.booleans())),
    )
    sides = st.sampled_from([None, *DiskSide])
    views = tuple(
        DiskView(
            disk.target,
            data.draw(sides),
            data.draw(sides),
            data.draw(st.sampled_from(DiskJob)),
            ready=data.draw(st.booleans()),
            ending=data.draw(st.booleans()),
            info=data.draw(st.sampled_from([None, JobInfo(0, 0, 0), JobInfo(1, 2, 0), JobInfo(2, 2, 0)])),
        )
        for disk in plan.disks
    )
    state = data.draw(st.sampled_from(PowerState))
    seen = Observation(
        state, data.draw(st.booleans()), views, record, 1, data.draw(st.sampled_from([None, "m1", "m2"]))
    )
    action = decide(plan, seen)
    if isinstance(action, (actions.Park, actions.Finish)):
        assert not record.throttled, "the guest is left slowed"
    if isinstance(action, actions.Pivot):
        assert state is not PowerState.RUNNING
        assert state.active
        assert all(seen.disk(target).ready and not seen.disk(target).remaining for target in action.targets)
    if isinstance(action, actions.ReleaseSource):
        assert record.switch.done
        assert all(view.side is DiskSide.DESTINATION for view in views)
    if isinstance(action, actions.AbortCopy):
        assert seen.disk(action.target).job in (DiskJob.OURS, DiskJob.COMMIT)
