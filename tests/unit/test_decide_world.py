"""decide() against a small simulated world: any interruption, anybody's interference, always a right end.

The world models what engine/act.py does, split where a process can die: the intent, the effect, the note after.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.model import action as act
from blockferry.model.decide import decide
from blockferry.model.inventory import JobInfo, PowerState
from blockferry.model.observation import DiskView, Job, Observation, Side
from blockferry.model.plan import DiskPlan, Plan
from blockferry.model.record import Copy, Outcome, Record, Stage, Wanted
from blockferry.model.request import Method, SourcePolicy

SIZE = 100
LIMIT = 600


def a_plan(disks: int, suspended_start: bool = False, persistent: bool = True) -> Plan:
    return Plan(
        move="m1",
        uri="test:///",
        vm="web01",
        uuid="u",
        method=Method.MIRROR,
        method_reason="",
        disks=tuple(
            DiskPlan(f"vd{letter}", f"/a/{letter}", "qcow2", "file", f"/b/{letter}", "qcow2", "b", "a", SIZE, SIZE,
                     old_files=(f"/a/{letter}",), suspended_start=suspended_start)
            for letter in "abc"[:disks]
        ),
        home=None,
        persistent=persistent,
        was=PowerState.RUNNING,
        source=SourcePolicy(),
    )  # fmt: skip


@dataclass
class World:
    """The host, and the record as the journal holds it."""

    plan: Plan
    state: PowerState = PowerState.RUNNING
    incarnation: int = 1
    live: dict[str, Side] = field(default_factory=dict)
    config: dict[str, Side] = field(default_factory=dict)
    jobs: dict[str, int] = field(default_factory=dict)  # target -> bytes copied
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

    def __post_init__(self) -> None:
        for disk in self.plan.disks:
            self.live[disk.target] = self.config[disk.target] = Side.SOURCE

    # ---- looking

    def see(self) -> Observation:
        if self.state is PowerState.RUNNING and self.record.suspended and not self.suspended_here:
            record = replace(self.record, suspended=False)
        else:
            record = self.record
        views = []
        for disk in self.plan.disks:
            target = disk.target
            job = Job.FOREIGN if target in self.foreign else Job.OURS if target in self.jobs else Job.NONE
            copied = self.jobs.get(target, 0)
            views.append(
                DiskView(
                    target,
                    self.live[target] if self.state.active else None,
                    self.config[target] if self.plan.persistent else None,
                    job,
                    ready=job is Job.OURS and copied >= SIZE,
                    info=JobInfo(copied, SIZE, 0) if job is Job.OURS and copied else None,
                    fingerprint=str(self.writes.get(target, 0)),
                )
            )
        agrees = all(side is Side.DESTINATION for side in self.config.values())
        return Observation(
            self.state, self.plan.persistent, tuple(views), record, self.incarnation, self.mark,
            config_agrees=agrees or not self.plan.persistent, pivot_failures=self.pivot_failures, flushed=self.flushed,
        )  # fmt: skip

    # ---- acting, in the steps between which a process can die

    def steps(self, action: act.Action, seen: Observation) -> list[tuple[str, object]]:
        record = seen.record
        match action:
            case act.Mark():
                return [("mark", "m1"), ("note", replace(record, marked=True))]
            case act.Unmark():
                return [("mark", None)]
            case act.CopyHome():
                return [("note", replace(record, home_copied=True))]
            case act.CreateImage(target):
                named = replace(record, created=(*record.created, target))
                stage = Copy(Stage.IMAGE, -1, record.copy(target).attempts)
                return [("note", named), ("image", target), ("note", named.with_copy(target, stage))]
            case act.Suspend(switch):
                return [("note", replace(record, suspended=True, switching=switch)), ("suspend", None)]
            case act.Resume(clean, failed):
                after = record
                for target in clean if seen.state is PowerState.PAUSED else ():
                    after = after.with_copy(target, replace(after.copy(target), stage=Stage.CLEAN))
                mixed = len({view.side for view in seen.disks}) > 1
                after = replace(after, suspended=False, switching=record.switching and mixed,
                                switch_attempts=record.switch_attempts + failed)  # fmt: skip
                return [("resume", None), ("note", after)]
            case act.StartCopy(target, reverse):
                before = record.copy(target)
                tries = before.attempts + 1 if before.reverse == reverse else 1
                copy = Copy(Stage.STARTING, seen.incarnation, tries, reverse)
                return [
                    ("note", record.with_copy(target, copy)),
                    ("job", target),
                    ("note", record.with_copy(target, replace(copy, stage=Stage.STARTED))),
                ]
            case act.NoteClean(targets):
                for target in targets:
                    record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
                return [("note", record)]
            case act.Await():
                return [("time", None)]
            case act.FlushDestination():
                return [("flush", None)]
            case act.Pivot(targets):
                return [("pivot", target) for target in targets]
            case act.AbortCopy(target):
                copy = record.copy(target)
                gone = Copy(Stage.NONE, -1, copy.attempts, copy.reverse)
                return [("abort", target), ("note", record.with_copy(target, gone))]
            case act.ForgetCopy(target):
                return [("note", record.with_copy(target, Copy(Stage.NONE, -1, record.copy(target).attempts)))]
            case act.Fail(problem):
                return [("note", replace(record, failure=record.failure or problem))]
            case act.ColdCopy(target):
                named = replace(record, created=(*record.created, target))
                done = {**record.cold_copied, target: seen.disk(target).fingerprint}
                return [
                    ("note", named),
                    ("cold", target),
                    ("note", replace(named, cold_copied=done).with_copy(target, Copy())),
                ]
            case act.WriteConfig():
                return [("config", Side.DESTINATION), ("note", replace(record, config_written=True))]
            case act.RevertConfig():
                return [("config", Side.SOURCE)]
            case act.NoteSwitched():
                return [("note", replace(record, switched=True, switching=False))]
            case act.Settle(target):
                return [("note", replace(record, settled=(*record.settled, target)))]
            case act.ReleaseSource(path):
                return [("release", path), ("note", replace(record, released=(*record.released, path)))]
            case act.ReleaseHome():
                return [("note", replace(record, released=(*record.released, "home")))]
            case act.RemoveDestination():
                return [("remove", None), ("note", replace(record, created=(), copies={}))]
            case act.Finish(outcome):
                return [("note", replace(record, outcome=outcome))]
            case _:
                raise AssertionError(f"{action} is not expected here")

    def do(self, step: tuple[str, object]) -> None:
        what, thing = step
        target = str(thing)
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
        elif what == "image":
            self.images.add(target)
        elif what == "job":
            if self.state.active and target not in self.jobs and target not in self.foreign:
                self.jobs[target] = 0
                if self.state is PowerState.RUNNING and self.plan.disk(target).suspended_start:
                    self.tainted.add(target)
                else:
                    self.tainted.discard(target)
        elif what == "time":
            for one in self.jobs:
                self.jobs[one] = min(SIZE, self.jobs[one] + 50)
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
            self.cold_at[target] = self.writes.get(target, 0)
        elif what == "config":
            assert isinstance(thing, Side)
            for one, side in self.config.items():
                if thing is Side.DESTINATION and side is Side.SOURCE and not self.state.active:
                    assert self.cold_at.get(one) == self.writes.get(one, 0), "switched to a copy that is not current"
            for one in self.config:
                self.config[one] = thing
        elif what == "release":
            assert self.record.switched
            assert all(side is Side.DESTINATION for side in self.config.values()) or not self.plan.persistent
            assert not self.state.active or all(side is Side.DESTINATION for side in self.live.values())
            self.removed.add(target)
        elif what == "remove":
            assert not self.record.switched, "the destination was removed after the switch"
            used = self.live if self.state.active else self.config
            assert all(side is not Side.DESTINATION for side in used.values()), "a disk in use was removed"
            assert not self.jobs, "the image under a job was removed"
            self.images.clear()

    def pivot(self, target: str) -> None:
        assert self.state is PowerState.PAUSED, "a pivot without a suspension"
        if target in self.pivot_fails or target not in self.jobs:
            self.pivot_failures += 1
            self.pivot_fails.discard(target)
            return
        assert self.jobs[target] >= SIZE, "a pivot before both sides are in step"
        assert target not in self.tainted, "a copy that missed a write was switched to"
        del self.jobs[target]
        side = Side.SOURCE if self.live[target] is Side.DESTINATION else Side.DESTINATION
        self.live[target] = self.config[target] = side

    # ---- what others do

    def happens(self, event: str, pick: int) -> None:
        target = self.plan.disks[pick % len(self.plan.disks)].target
        if event == "guard" and self.state is PowerState.PAUSED and not self.owner_paused:
            self.state = PowerState.RUNNING
        elif event == "job lost":
            self.jobs.pop(target, None)
        elif event == "pivot refused":
            self.pivot_fails.add(target)
        elif event == "cancel":
            self.record = replace(self.record, wanted=Wanted.CANCEL)
        elif event == "power off" and self.state.active and not self.owner_paused:
            self.state = PowerState.OFF
            self.jobs.clear()
            self.foreign.clear()
        elif event == "power on" and self.state is PowerState.OFF:
            self.state, self.incarnation = PowerState.RUNNING, self.incarnation + 1
            self.live = dict(self.config)
            for one, side in self.live.items():
                if side is Side.SOURCE:
                    self.writes[one] = self.writes.get(one, 0) + 1


def drive(world: World, chance: random.Random, events: list[str], deaths: int) -> act.Action:
    """Run to the end; now and then somebody interferes, or the process dies between two steps."""
    for _turn in range(LIMIT):
        if events and chance.random() < 0.15:
            world.happens(events.pop(), chance.randrange(3))
        seen = world.see()
        action = decide(world.plan, seen)
        if isinstance(action, (act.Done, act.Park)):
            return action
        for step in world.steps(action, seen):
            if deaths and chance.random() < 0.08:
                deaths -= 1
                world.suspended_here, world.flushed, world.pivot_failures = False, False, 0
                if world.state is PowerState.PAUSED and not world.owner_paused:
                    world.state = PowerState.RUNNING  # the guard
                break
            world.do(step)
    raise AssertionError(f"no end after {LIMIT} turns: {decide(world.plan, world.see())} {world}")


def check_end(world: World, end: act.Action) -> None:
    assert world.state is not PowerState.PAUSED or world.owner_paused, "the VM was left suspended"
    used = world.live if world.state.active else world.config
    if isinstance(end, act.Park):
        assert not world.removed, "something was removed although it is parked"
        return
    assert isinstance(end, act.Done)
    assert len(set(used.values())) == 1, "the VM is on both sides"
    assert world.mark is None
    assert not world.jobs
    if end.outcome is Outcome.MOVED:
        assert set(used.values()) == set(world.config.values()) == {Side.DESTINATION}
        assert world.removed == {disk.source for disk in world.plan.disks}
    else:
        assert set(used.values()) == {Side.SOURCE}
        assert not world.images
        assert not world.removed


EVENTS = st.lists(
    st.sampled_from(["guard", "job lost", "pivot refused", "cancel", "power off", "power on"]), max_size=4
)


@settings(max_examples=400, deadline=None)
@given(
    disks=st.integers(1, 3),
    suspended_start=st.booleans(),
    events=EVENTS,
    deaths=st.integers(0, 4),
    seed=st.integers(0, 2**32),
)
def test_every_way_ends_right(disks: int, suspended_start: bool, events: list[str], deaths: int, seed: int) -> None:
    world = World(a_plan(disks, suspended_start))
    end = drive(world, random.Random(seed), list(events), deaths)
    check_end(world, end)


@pytest.mark.parametrize("disks", [1, 2, 3])
@pytest.mark.parametrize("suspended_start", [False, True])
def test_a_quiet_move(disks: int, suspended_start: bool) -> None:
    world = World(a_plan(disks, suspended_start))
    end = drive(world, random.Random(1), [], 0)
    check_end(world, end)
    assert end == act.Done(Outcome.MOVED)


def test_a_cold_move() -> None:
    world = World(a_plan(2), state=PowerState.OFF)
    assert drive(world, random.Random(1), [], 0) == act.Done(Outcome.MOVED)


def test_a_paused_vm_stays_paused() -> None:
    world = World(a_plan(2), state=PowerState.PAUSED, owner_paused=True)
    end = drive(world, random.Random(1), [], 0)
    check_end(world, end)
    assert end == act.Done(Outcome.MOVED)
    assert world.state is PowerState.PAUSED


def test_a_foreign_job_is_left_alone() -> None:
    world = World(a_plan(2))
    world.foreign.add("vdb")
    end = drive(world, random.Random(1), [], 0)
    assert end == act.Done(Outcome.FAILED)
    assert world.foreign == {"vdb"}


@given(st.data())
@settings(max_examples=500, deadline=None)
def test_every_observation_has_an_answer(data: st.DataObject) -> None:
    plan = a_plan(data.draw(st.integers(1, 3)), data.draw(st.booleans()))
    record = Record(
        wanted=data.draw(st.sampled_from(Wanted)),
        marked=data.draw(st.booleans()),
        home_copied=data.draw(st.booleans()),
        created=data.draw(st.sampled_from([(), ("x",)])),
        copies={
            disk.target: Copy(data.draw(st.sampled_from(Stage)), data.draw(st.integers(-1, 1)), 1)
            for disk in plan.disks
        },
        suspended=data.draw(st.booleans()),
        switching=data.draw(st.booleans()),
        switched=data.draw(st.booleans()),
        config_written=data.draw(st.booleans()),
        failure=data.draw(st.sampled_from([None, "it failed"])),
        outcome=data.draw(st.sampled_from([None, *Outcome])),
    )  # fmt: skip
    sides = st.sampled_from([None, *Side])
    views = tuple(
        DiskView(
            disk.target,
            data.draw(sides),
            data.draw(sides),
            data.draw(st.sampled_from(Job)),
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
    if isinstance(action, act.Pivot):
        assert state is not PowerState.RUNNING
        assert state.active
        assert all(seen.disk(target).ready and not seen.disk(target).remaining for target in action.targets)
    if isinstance(action, act.ReleaseSource):
        assert record.switched
        assert all(view.side is Side.DESTINATION for view in views)
    if isinstance(action, act.AbortCopy):
        assert seen.disk(action.target).job in (Job.OURS, Job.FOLD)
