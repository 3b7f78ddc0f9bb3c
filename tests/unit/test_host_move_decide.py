"""Decisions of a move to another host over a simulated pair of hosts: never two running, never the source lost."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from blockferry.host_move import host_actions as actions
from blockferry.host_move.decide import can_turn_back, decide
from blockferry.host_move.host_observation import HostObservation
from blockferry.host_move.host_plan import HostMovePlan, StateFile, TravellingDisk
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.migrating import ABSENT, Instance
from blockferry.jobs.action import Action, Done, Finish, LookAgain, Park
from blockferry.jobs.outcome import Outcome, Wanted

DISKS = tuple(
    TravellingDisk(one, f"/old/{one}.qcow2", f"/new/web01/{one}.qcow2", "qcow2", 1 << 30, "ssd")
    for one in ("vda", "vdb")
)
VARIABLES = StateFile("nvram", "/nvram/web01.fd", "/new/web01/web01.fd", 4096)
PLAN = HostMovePlan(
    "m1", "web01", "u1", "qemu+ssh://kvm1/system", "h1", "kvm1", "qemu+ssh://kvm2/system", "h2", "kvm2",
    "qemu+ssh://kvm2/system", "kvm2", DISKS, state_files=(VARIABLES,),
)  # fmt: skip
OLD = tuple((disk.target, disk.source) for disk in DISKS)
COLD = replace(PLAN, cold=True, was_running=False)
RUNNING, PAUSED, OFF = PowerState.RUNNING, PowerState.PAUSED, PowerState.OFF


class Killed(Exception):
    """The manager was killed here."""


class TwoRun(AssertionError):
    """Both hosts ran the guest."""


@dataclass
class Pair:
    """Two hosts and one VM, as small as they can be. `memory`: which host's instance has the newest state."""

    plan: HostMovePlan
    record: HostMoveRecord = field(default_factory=HostMoveRecord)
    source: Instance = field(default_factory=lambda: Instance(RUNNING, persistent=True, paths=OLD))
    dest: Instance = ABSENT
    handed_over: bool = False
    problem: str | None = None
    newest: str = "source"
    prints: dict[str, str] = field(default_factory=lambda: {"vda": "1", "vdb": "1"})
    variables: str = "1"  # fingerprint of the UEFI variables at the source
    images: dict[str, str] = field(default_factory=dict)  # path at the destination -> content
    gone: set[str] = field(default_factory=set)  # old images that were removed
    parked: str | None = None
    acted: bool = False  # the note of who has let the guest run
    breaks: str = ""  # how the migration ends: "" well
    guards: bool = False  # both guards stand, and are always faster than the loop
    owner_pauses: bool = False  # right after a guard has let the guest run

    def act_of_guards(self) -> None:
        """host_move_calls.py: libvirt has left nothing at the source; or what is left there is noted as old."""
        if not self.guards or not self.plan.was_running or self.acted:
            return
        stands = self.dest.state is PAUSED and self.dest.reason == "user" and self.dest.mark == "m1"
        if self.source.migrated and stands:
            self.source = ABSENT
        if self.record.handed and self.handed_over:
            self.source, self.handed_over = replace(self.source, state=OFF, reason=""), False
        if self.record.handed and self.source.state is OFF:
            self.source = ABSENT
        if self.source.absent and stands:
            self.dest = replace(self.dest, state=RUNNING, reason="")
            self.acted = True
            self.check()
            if self.owner_pauses:
                self.dest = replace(self.dest, state=PAUSED, reason="user")

    def see(self) -> HostObservation:
        unnamed = tuple(
            disk.target for disk in self.plan.disks if self.plan.cold and self.plan.made_path(disk) in self.images
        )
        prints = self.prints if self.plan.cold else {}
        state_prints = {VARIABLES.source: self.variables} if self.plan.cold else {}
        source = self.source if self.source.absent else replace(self.source, nvram=VARIABLES.source)
        return HostObservation(
            self.record, source, self.dest, False, self.problem, self.handed_over, prints, unnamed,
            state_prints=state_prints,
        )  # fmt: skip

    def check(self) -> None:
        """What must be true at every instant."""
        if self.source.state is RUNNING and self.dest.state is RUNNING:
            raise TwoRun
        if self.dest.state is RUNNING:
            assert self.newest == "dest", "an old guest was let run"
            assert self.source.absent
        if self.source.state is RUNNING:
            assert self.newest == "source", "an old guest was let run"
        if self.newest == "source":
            assert not self.gone, "the source was removed while it was the truth"
            assert not self.source.absent or self.plan.cold
        if self.newest == "dest":
            assert not self.dest.absent
        if self.plan.cold and not self.plan.disks and not self.source.absent and not self.dest.absent:
            assert self.dest.barred, "either of the two definitions could be started"

    # -- effects, each in steps between which the manager may be killed

    def steps(self, action: Action) -> Iterator[None]:
        record = self.record
        match action:
            case actions.MarkVm():
                self.source = replace(self.source, mark="m1")
                yield
                self.record = replace(record, marked=True)
            case actions.UnmarkVm():
                self.source = replace(self.source, mark="")
                yield
                self.record = replace(record, marked=False)
            case actions.MakeImage(target):
                path = self.plan.made_path(self.plan.disk(target))
                self.record = record = replace(record, created=(*record.created, path))
                yield
                self.images[path] = "empty"
                yield
                self.record = replace(record, made=(*record.made, target))
            case actions.Migrate():
                self.record = replace(record, begun=True)
                yield
                self.migrate()
            case actions.CopyImage(target):
                print_ = self.prints[target]
                self.images[self.plan.made_path(self.plan.disk(target))] = print_
                yield
                self.record = replace(record, copied={**record.copied, target: print_})
            case actions.CopyStateFile(path):
                assert path == VARIABLES.source
                assert self.newest == "source"
                copied = self.variables
                self.record = record = replace(record, created=(*record.created, VARIABLES.dest), state_copied={})
                yield
                self.images[VARIABLES.dest] = copied
                yield
                self.record = replace(record, state_copied={path: copied})
            case actions.ProveStateFile(path):
                assert record.flushed
                self.record = replace(record, proven=(*record.proven, path))
            case actions.ReleaseStateFile(path):
                assert path in record.proven
                assert record.settled
                self.gone.add(path)
                yield
                self.record = replace(record, released=(*record.released, path))
            case actions.ForgetCopies(targets):
                self.record = replace(
                    record, copied={one: print_ for one, print_ in record.copied.items() if one not in targets}
                )
            case actions.DefineBarred():
                self.record = record = replace(record, begun=True)
                yield
                self.dest = Instance(OFF, persistent=True, mark="m1", barred=self.plan.staying)
                yield
                self.record = replace(record, defined=True)
            case actions.DefineAtSource():
                kept = Instance(OFF, mark="m1", paths=OLD) if self.source.absent else self.source
                self.source = replace(kept, persistent=True)
                yield
                failure = None if record.wanted is Wanted.CANCEL else "started"
                self.record = replace(record, failure=failure, defined=False)
            case actions.SaveHanded():
                if self.plan.cold:
                    assert all(
                        self.images[self.plan.made_path(travelling_disk)] == self.prints[travelling_disk.target]
                        for travelling_disk in self.plan.disks
                    )
                    assert self.images[VARIABLES.dest] == self.variables
                    self.newest = "dest"
                assert self.newest == "dest", "handed over, but the source is the truth"
                self.record = replace(record, handed=True)
            case actions.EndAtSource():
                assert self.newest == "dest"
                self.source, self.handed_over = replace(self.source, state=OFF, reason=""), False
            case actions.UndefineAtSource():
                self.source = replace(self.source, persistent=False) if self.source.active else ABSENT
            case actions.SaveAlone():
                assert self.source.absent
                self.record = replace(record, alone=True)
            case actions.RunAtSource():
                assert self.dest.absent
                self.source, self.handed_over = replace(self.source, state=RUNNING, reason=""), False
            case actions.RunAtDestination():
                assert self.source.absent
                if not self.acted:
                    self.dest = replace(self.dest, state=RUNNING, reason="")
                    yield
                    self.acted = True
                yield
                self.record = replace(record, arrived=True)
            case actions.NameImages():
                for disk in self.plan.disks:
                    if self.plan.made_path(disk) in self.images:
                        self.images[disk.dest] = self.images.pop(self.plan.made_path(disk))
                        yield
                self.dest = replace(self.dest, barred=())
            case actions.SaveArrived():
                self.record = replace(record, arrived=True)
            case actions.SaveUnproven(why):
                self.record = replace(record, unproven=why)
            case actions.FlushImages():
                assert record.arrived
                yield
                self.record = replace(record, flushed=True)
            case actions.SettleDefinition():
                self.dest = replace(self.dest, mark="")
                yield
                self.record = replace(record, settled=True)
            case actions.ReleaseImage(path):
                assert record.flushed
                self.gone.add(path)
                yield
                self.record = replace(record, released=(*record.released, path))
            case actions.TurnBack(problem):
                self.record = replace(record, failure=problem)
            case actions.EndAtDestination():
                assert self.dest.mark == "m1"
                assert self.dest.state is not RUNNING
                self.dest = ABSENT
            case actions.RemoveImages():
                self.images.clear()
                yield
                self.record = replace(record, created=(), made=(), copied={}, state_copied={})
            case actions.StopMigration():
                self.source = replace(self.source, job=False)
            case LookAgain():
                self.time_passes()
            case Finish(outcome):
                self.record = replace(record, outcome=outcome)
            case Park(problem):
                self.parked = problem
            case _:
                raise AssertionError(action)

    def migrate(self) -> None:
        """libvirt's own part, which goes on without us: how it ends is `breaks`."""
        assert VARIABLES.dest in self.images, "libvirt would make it from its template"
        stopped = replace(self.source, state=PAUSED, reason="migration")
        complete = Instance(PAUSED, "user", True, self.source.mark)
        match self.breaks:
            case "":
                self.source, self.dest, self.newest = ABSENT, complete, "dest"
            case "job goes on":
                self.source = replace(self.source, job=True)
                self.dest = Instance(PAUSED, "migration", False, self.source.mark, job=True)
            case "refused":
                self.problem = "refused"
            case "destination wakes late":
                self.dest, self.problem = complete, "timed out"
            case "source libvirtd killed before it knows":
                self.source, self.dest, self.handed_over = stopped, complete, True
                self.newest = "dest"
            case "destination lost at the switch":
                self.source, self.handed_over, self.problem = stopped, True, "lost"
            case "source ended, definition left":
                self.source, self.dest = replace(self.source, state=OFF, migrated=True), complete
                self.newest = "dest"
            case _:
                raise AssertionError(self.breaks)

    def time_passes(self) -> None:
        if self.source.job:
            self.breaks = ""
            self.source = replace(self.source, job=False)
            self.migrate()


def play(pair: Pair, kill_at: int = -1, most: int = 200) -> int:
    """Run the loop to its end; killed once after so many steps. The number of steps."""
    count = 0
    for _ in range(most):
        seen = pair.see()
        action = decide(pair.plan, seen)
        if isinstance(action, Done):
            return count
        for _step in pair.steps(action):
            pair.check()
            pair.act_of_guards()
            count += 1
            if count == kill_at:
                pair.problem = None  # what only that process knew
                break
        pair.check()
        pair.act_of_guards()
        if pair.parked is not None:
            return count
    raise AssertionError(f"no end: {pair}")


BREAKS = (
    "", "job goes on", "refused", "destination wakes late", "source libvirtd killed before it knows",
    "destination lost at the switch", "source ended, definition left",
)  # fmt: skip
GO_ON = {"", "job goes on", "source libvirtd killed before it knows", "source ended, definition left"}


def assert_over(pair: Pair) -> None:
    assert pair.parked is None
    if pair.record.outcome is Outcome.MOVED:
        assert (pair.source, pair.dest.mark) == (ABSENT, "")
        assert pair.gone == {*(disk.source for disk in DISKS), VARIABLES.source}
        assert set(pair.images) == {*(disk.dest for disk in DISKS), VARIABLES.dest}
    else:
        assert pair.dest.absent
        assert pair.source.state is not PowerState.ABSENT
        assert pair.source.mark == ""
        assert not pair.images
        assert not pair.gone


@pytest.mark.parametrize("breaks", BREAKS)
@pytest.mark.parametrize("was_running", [True, False])
def test_a_running_vm_killed_at_each_step(breaks: str, was_running: bool) -> None:
    state = Instance(RUNNING if was_running else PAUSED, "" if was_running else "user", True, paths=OLD)
    plan = replace(PLAN, was_running=was_running)
    for kill_at in range(-1, 40):
        pair = Pair(plan, source=state, breaks=breaks)
        count = play(pair, kill_at)
        if breaks == "destination wakes late" and pair.record.outcome is None:
            raise AssertionError(pair.parked)
        assert_over(pair)
        moved = pair.record.outcome is Outcome.MOVED
        if kill_at < 0:
            assert moved == (breaks in GO_ON)
        if moved:
            assert pair.dest.state is (RUNNING if was_running else PAUSED)
        else:
            assert pair.source.state is RUNNING or not was_running
        if 0 <= kill_at > count:
            break


@pytest.mark.parametrize("breaks", BREAKS)
@pytest.mark.parametrize("owner_pauses", [False, True])
def test_with_guards_that_are_faster_than_the_loop(breaks: str, owner_pauses: bool) -> None:
    """They let the guest run as soon as nothing of it is left at the source; a pause after that is its owner's."""
    acted = 0
    for kill_at in range(-1, 40):
        pair = Pair(PLAN, breaks=breaks, guards=True, owner_pauses=owner_pauses)
        count = play(pair, kill_at)
        assert_over(pair)
        moved = pair.record.outcome is Outcome.MOVED
        if kill_at < 0:
            assert moved == (breaks in GO_ON)
        if moved:
            assert pair.acted
            assert pair.dest.state is (PAUSED if owner_pauses else RUNNING)
        acted += pair.acted
        if 0 <= kill_at > count:
            break
    assert bool(acted) == (breaks in GO_ON)


@pytest.mark.parametrize("touched", [False, True])
def test_a_vm_that_is_off_killed_at_each_step(touched: bool) -> None:
    for kill_at in range(-1, 40):
        pair = Pair(COLD, source=Instance(OFF, persistent=True, paths=OLD))
        if touched:
            pair.record = HostMoveRecord(marked=True, copied={"vda": "0"})  # it was written to since
            pair.source = replace(pair.source, mark="m1")
        play(pair, kill_at)
        assert_over(pair)
        assert pair.record.outcome is Outcome.MOVED
        assert pair.dest.state is OFF
        assert set(pair.images.values()) == {"1"}


@pytest.mark.parametrize("cold", [False, True])
def test_cancelled_after_each_step(cold: bool) -> None:
    for after in range(30):
        pair = Pair(COLD if cold else PLAN, source=Instance(OFF if cold else RUNNING, persistent=True, paths=OLD))
        for steps in range(1, 100):
            action = decide(pair.plan, pair.see())
            if isinstance(action, Done):
                break
            for _step in pair.steps(action):
                pair.check()
            pair.check()
            if steps == after:
                pair.record = replace(pair.record, wanted=Wanted.CANCEL)
        assert_over(pair)
    pair = Pair(PLAN, breaks="job goes on", record=HostMoveRecord(wanted=Wanted.CANCEL))
    play(pair)
    assert pair.record.outcome is Outcome.CANCELLED


def test_cancelled_and_killed_between_the_mark_and_its_note() -> None:
    """The mark goes all the same."""
    for plan, state in ((PLAN, RUNNING), (COLD, OFF)):
        pair = Pair(plan, source=Instance(state, persistent=True, mark="m1", paths=OLD))
        pair.record = HostMoveRecord(wanted=Wanted.CANCEL)
        play(pair)
        assert_over(pair)


def test_started_at_the_source_while_its_definition_was_taken() -> None:
    pair = Pair(COLD, source=Instance(OFF, persistent=True, paths=OLD))
    while not isinstance(action := decide(COLD, pair.see()), actions.UndefineAtSource):
        list(pair.steps(action))
    pair.source = replace(pair.source, state=RUNNING)  # somebody was faster
    list(pair.steps(action))
    assert not pair.source.persistent
    pair.images.clear()  # what matters is the VM
    play(pair)
    assert pair.record.outcome is Outcome.FAILED
    assert (pair.source.state, pair.source.persistent, pair.dest) == (RUNNING, True, ABSENT)


SHARED = replace(COLD, disks=(), staying=("vda", "vdb"))


@pytest.mark.parametrize("kill_at", range(12))
def test_off_and_all_shared(kill_at: int) -> None:
    """There is no image whose name could bar one of the two definitions."""
    pair = Pair(SHARED, source=Instance(OFF, persistent=True, paths=OLD))
    play(pair, kill_at)
    assert pair.record.outcome is Outcome.MOVED
    assert pair.source.absent
    assert (pair.dest.state, pair.dest.barred) == (OFF, ())


@pytest.mark.parametrize("steps", range(12))
def test_off_and_all_shared_is_cancelled(steps: int) -> None:
    pair = Pair(SHARED, source=Instance(OFF, persistent=True, paths=OLD))
    for _ in range(steps):
        action = decide(SHARED, pair.see())
        if isinstance(action, Done | Finish | LookAgain | Park):
            break
        for _step in pair.steps(action):
            pair.check()
        pair.check()
    pair.record = replace(pair.record, wanted=Wanted.CANCEL)
    play(pair)
    assert pair.source.absent != pair.dest.absent
    assert not pair.dest.barred


def test_written_to_between_the_copy_and_the_end_of_the_definition() -> None:
    pair = Pair(COLD, source=Instance(OFF, persistent=True, paths=OLD))
    while not isinstance(action := decide(COLD, pair.see()), actions.UndefineAtSource):
        list(pair.steps(action))
    list(pair.steps(action))
    pair.prints["vdb"] = "2"  # it was started and ended right before
    play(pair)
    assert pair.record.outcome is Outcome.MOVED
    assert pair.images[DISKS[1].dest] == "2"


@pytest.mark.parametrize("kill_at", range(-1, 8))
@pytest.mark.parametrize("what", ["image", "variables", "forgotten"])
def test_cancelled_while_the_source_has_no_definition_and_a_copy_is_stale(what: str, kill_at: int) -> None:
    """No copy is begun after a cancel: it would be stopped at once, again and again."""
    pair = Pair(COLD, source=Instance(OFF, persistent=True, paths=OLD))
    while not isinstance(action := decide(COLD, pair.see()), actions.UndefineAtSource):
        list(pair.steps(action))
    list(pair.steps(action))
    if what == "variables":
        pair.variables = "2"
    elif what == "image":
        pair.prints["vdb"] = "2"
    else:
        pair.record = replace(pair.record, copied={"vda": "1"})
    pair.record = replace(pair.record, wanted=Wanted.CANCEL)
    assert isinstance(decide(COLD, pair.see()), actions.DefineAtSource)
    play(pair, kill_at)
    assert pair.record.outcome is Outcome.CANCELLED
    assert_over(pair)


def test_variables_that_are_written_to_between_the_copy_and_the_end_of_the_definition() -> None:
    pair = Pair(COLD, source=Instance(OFF, persistent=True, paths=OLD))
    while not isinstance(action := decide(COLD, pair.see()), actions.UndefineAtSource):
        list(pair.steps(action))
    list(pair.steps(action))
    pair.variables = "2"
    play(pair)
    assert pair.record.outcome is Outcome.MOVED
    assert pair.images[VARIABLES.dest] == "2"


def test_variables_that_are_in_another_file_since_the_plan_turn_it_back() -> None:
    for plan, state in ((PLAN, RUNNING), (COLD, OFF)):
        pair = Pair(plan, source=Instance(state, persistent=True, paths=OLD))
        seen = pair.see()
        record = HostMoveRecord(marked=True, made=("vda", "vdb"), state_copied={VARIABLES.source: "1"})
        moved = replace(seen, record=record, source=replace(seen.source, nvram="/elsewhere.fd"))
        assert isinstance(decide(plan, moved), actions.TurnBack)


def test_variables_that_are_not_proven_are_released_as_a_doubt() -> None:
    """The old file is not proven to be needed no more; what is done with it is for the release to say."""
    pair = Pair(PLAN)
    while not isinstance(action := decide(PLAN, pair.see()), actions.ProveStateFile):
        list(pair.steps(action))
    pair.record = replace(pair.record, doubted={VARIABLES.source: "it differs"}, settled=True)
    assert decide(PLAN, pair.see()) == actions.ReleaseStateFile(VARIABLES.source)


STANDS = [
    Instance(state, reason, persistent, mark, job, migrated, OLD)
    for state, reason in ((RUNNING, ""), (PAUSED, "user"), (PAUSED, "migration"), (OFF, ""), (PowerState.ABSENT, ""))
    for persistent in (False, True)
    for mark in ("", "m1", "other")
    for job in (False, True)
    for migrated in (False, True)
]


@pytest.mark.parametrize("cold", [False, True])
def test_in_whatever_world_nothing_runs_twice_and_nobody_elses_is_touched(cold: bool) -> None:
    """Every pair of states, under records of all kinds, however absurd."""
    dice = random.Random(7)
    plan = replace(COLD if cold else PLAN, was_running=not cold)
    flags = ("marked", "begun", "defined", "handed", "alone", "arrived", "settled")
    records = [HostMoveRecord(**dict.fromkeys(some, True)) for some in itertools.combinations(flags, 3)]  # type: ignore[arg-type]
    for source, dest in itertools.product(STANDS, STANDS):
        record = dice.choice(records)
        made = tuple(travelling_disk.target for travelling_disk in DISKS) if dice.random() < 0.5 else ()
        failure = "x" if dice.random() < 0.3 else None
        seen = HostObservation(
            replace(record, made=made, failure=failure), source, dest,
            calling=False, handed_over=source.state is PAUSED and dice.random() < 0.5,
        )  # fmt: skip
        action = decide(plan, seen)
        match action:
            case actions.RunAtDestination():
                assert record.handed
                assert source.absent
                assert dest.complete
            case actions.SaveHanded():
                assert cold or dest.complete or dest.state in (RUNNING, OFF)
                assert dest.mark == "m1"
            case actions.RunAtSource():
                assert dest.absent
                assert not record.handed
            case actions.EndAtSource():
                assert record.handed
                assert seen.handed_over
                assert source.state is PAUSED
            case actions.EndAtDestination():
                assert dest.mark == "m1"
                assert dest.state is not RUNNING
                assert not record.handed
                if not cold and (source.state is OFF or seen.handed_over):
                    assert not (dest.state is OFF and dest.persistent), "it may have run there"
            case actions.ReleaseImage() | actions.SettleDefinition():
                assert record.handed
                assert record.arrived
            case actions.UndefineAtSource():
                assert not source.active
                assert record.handed or (cold and source.state is OFF)
            case actions.RemoveImages():
                assert not record.handed
                assert dest.absent
        if can_turn_back(plan, seen):
            assert not record.handed


def test_two_that_run_are_left_alone() -> None:
    seen = HostObservation(
        HostMoveRecord(marked=True, begun=True), Instance(RUNNING, persistent=True, mark="m1"),
        Instance(RUNNING, persistent=True, mark="m1"),
    )  # fmt: skip
    assert isinstance(decide(PLAN, seen), Park)


def test_off_at_the_source_for_another_reason_and_complete_at_the_destination() -> None:
    """The destination woke late, the source ran on and was powered off: what was acknowledged there counts."""
    seen = HostObservation(
        HostMoveRecord(marked=True, begun=True), Instance(OFF, persistent=True, mark="m1"),
        Instance(PAUSED, "user", True, "m1"),
    )  # fmt: skip
    assert isinstance(decide(PLAN, seen), Park)


HANDED = HostMoveRecord(marked=True, begun=True, handed=True, alone=True)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("arrived", [False, True])
def test_a_new_image_that_is_not_there_parks_the_move(cold: bool, arrived: bool) -> None:
    """A file system that is not mounted: nothing is settled, and above all nothing is removed at the source."""
    dest = Instance(OFF if cold else RUNNING, persistent=True, mark="m1")
    record = replace(HANDED, arrived=arrived, flushed=arrived)
    seen = HostObservation(record, ABSENT, dest, missing=("/new/web01/vda.qcow2",))
    action = decide(COLD if cold else PLAN, seen)
    assert isinstance(action, Park)
    assert "/new/web01/vda.qcow2" in action.problem


@pytest.mark.parametrize("cold", [False, True])
def test_defined_again_at_the_source_after_it_was_alone(cold: bool) -> None:
    """Its owner has run it there from a backup meanwhile: which of the two is newer is not for us to say."""
    source = Instance(OFF, persistent=True, paths=OLD)
    dest = Instance(OFF if cold else PAUSED, "" if cold else "user", True, "m1")
    assert isinstance(decide(COLD if cold else PLAN, HostObservation(HANDED, source, dest)), Park)


@pytest.mark.parametrize("handed_over", [False, True])
def test_off_at_the_destination_where_it_may_have_run(handed_over: bool) -> None:
    """The source's host had lost power at the switch; it was let run at the destination, and shut off."""
    source = Instance(PAUSED if handed_over else OFF, "migration" if handed_over else "", True, "m1", paths=OLD)
    record = HostMoveRecord(marked=True, begun=True, made=("vda", "vdb"))
    seen = HostObservation(record, source, Instance(OFF, persistent=True, mark="m1"), handed_over=handed_over)
    assert isinstance(decide(PLAN, seen), Park)


def test_qemu_ended_at_the_destination_before_its_images_were_flushed() -> None:
    """What it had not written out may be lost with that host's power: the old images are kept."""
    seen = HostObservation(replace(HANDED, arrived=True), ABSENT, Instance(OFF, persistent=True, mark="m1"))
    assert isinstance(decide(PLAN, seen), actions.SaveUnproven)
    known = replace(seen, record=replace(seen.record, unproven="it ended"))
    assert isinstance(decide(PLAN, known), actions.FlushImages)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize(
    "paths", [(("vda", "/old/vda.snap1"), OLD[1]), (*OLD, ("vdc", "/old/vdc.qcow2")), OLD[:1]], ids=str
)
def test_other_disks_than_those_that_were_planned_for(cold: bool, paths: tuple[tuple[str, str], ...]) -> None:
    """A snapshot, a disk that was attached, one that was detached."""
    source = Instance(OFF if cold else RUNNING, persistent=True, mark="m1", paths=paths)
    record = HostMoveRecord(marked=True, made=("vda", "vdb"), copied={"vda": "1", "vdb": "1"})
    seen = HostObservation(record, source, ABSENT, prints={"vda": "1", "vdb": "1"})
    action = decide(replace(COLD if cold else PLAN, state_files=()), seen)
    assert isinstance(action, actions.TurnBack)
    assert "have changed" in action.problem


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("mark", ["", "m0"])
def test_a_definition_at_the_source_that_is_not_the_one_that_went(cold: bool, mark: str) -> None:
    """Killed after `handed`; its owner has defined it from a backup before anybody noted that the source was empty."""
    plan = COLD if cold else PLAN
    dest = Instance(OFF if cold else PAUSED, "" if cold else "user", True, "m1")
    seen = HostObservation(replace(HANDED, alone=False), Instance(OFF, persistent=True, mark=mark, paths=OLD), dest)
    action = decide(plan, seen)
    assert isinstance(action, Park)
    assert "does not bear the mark" in action.problem
    ours = replace(seen, source=replace(seen.source, mark="m1"))
    assert isinstance(decide(plan, ours), actions.UndefineAtSource)


def test_an_old_qemu_at_the_source_that_is_not_ours_is_not_ended() -> None:
    dest = Instance(PAUSED, "user", True, "m1")
    source = Instance(PAUSED, "migration", True, "m2", paths=OLD)
    seen = HostObservation(replace(HANDED, alone=False), source, dest, handed_over=True)
    assert isinstance(decide(PLAN, seen), Park)
    assert isinstance(decide(PLAN, replace(seen, source=replace(source, mark="m1"))), actions.EndAtSource)


@pytest.mark.parametrize("cold", [False, True])
def test_what_waits_at_the_destination_without_our_mark_is_left_alone(cold: bool) -> None:
    plan = COLD if cold else PLAN
    dest = Instance(OFF if cold else PAUSED, "" if cold else "user", True, "m2")
    seen = HostObservation(HANDED, ABSENT, dest, unnamed=("vda",) if cold else ())
    assert isinstance(decide(plan, seen), Park)
    action = decide(plan, replace(seen, dest=replace(dest, mark="m1")))
    assert isinstance(action, actions.NameImages if cold else actions.RunAtDestination)


@pytest.mark.parametrize("defined", [False, True])
def test_a_vm_that_is_off_and_was_defined_anew_is_not_undefined(defined: bool) -> None:
    """Nor is a definition without our mark made at the destination, which nobody could take away again."""
    record = HostMoveRecord(
        marked=True, begun=defined, defined=defined, made=("vda", "vdb"), copied={"vda": "1", "vdb": "1"}
    )
    source = Instance(OFF, persistent=True, paths=OLD)
    dest = Instance(OFF, persistent=True, mark="m1") if defined else ABSENT
    seen = HostObservation(record, source, dest, prints={"vda": "1", "vdb": "1"})
    plan = replace(COLD, state_files=())
    assert isinstance(decide(plan, seen), Park)
    cancelled = replace(seen, record=replace(record, wanted=Wanted.CANCEL))
    assert not isinstance(decide(plan, cancelled), Park)
    ours = replace(seen, source=replace(source, mark="m1"))
    assert isinstance(decide(plan, ours), actions.UndefineAtSource if defined else actions.DefineBarred)


def test_a_running_vm_does_not_go_without_our_mark() -> None:
    record = HostMoveRecord(marked=True, made=("vda", "vdb"))
    seen = HostObservation(record, Instance(RUNNING, persistent=True, paths=OLD), ABSENT)
    plan = replace(PLAN, state_files=())
    assert isinstance(decide(plan, seen), Park)
    assert isinstance(decide(plan, replace(seen, source=replace(seen.source, mark="m1"))), actions.Migrate)


def test_somebody_s_backup_is_no_migration_of_ours() -> None:
    """It began after the pre-check: the call has failed for it, and says so; a cancel leaves it alone."""
    record = HostMoveRecord(marked=True, begun=True, made=("vda", "vdb"))
    source = Instance(RUNNING, persistent=True, mark="m1", paths=OLD, job=True, foreign=True)
    plan = replace(PLAN, state_files=())
    failed = HostObservation(record, source, ABSENT, problem="cannot acquire state change lock")
    assert decide(plan, failed) == actions.TurnBack("cannot acquire state change lock")
    cancelled = replace(failed, record=replace(record, wanted=Wanted.CANCEL, created=("/new/web01/vda.qcow2",)))
    assert isinstance(decide(plan, cancelled), actions.RemoveImages)
    ours = replace(cancelled, source=replace(source, foreign=False))
    assert isinstance(decide(plan, ours), actions.StopMigration)


def test_a_stopped_source_that_is_saved_is_waited_for() -> None:
    """QEMU's state is that of a guest that was handed over, too, once it is saved."""
    record = HostMoveRecord(marked=True, begun=True, made=("vda", "vdb"))
    source = Instance(PAUSED, "save", True, "m1", paths=OLD, job=True, foreign=True)
    seen = HostObservation(record, source, Instance(PAUSED, "user", True, "m1"))
    assert isinstance(decide(PLAN, seen), LookAgain)


def test_a_vm_that_has_state_now_which_was_not_there_when_the_move_was_planned() -> None:
    """It was off, never started, and was installed since: its disks are copied again, its TPM's state never was."""
    path = "/var/lib/libvirt/swtpm/u1/tpm2/tpm2-00.permall"
    record = HostMoveRecord(marked=True, begun=True, defined=True, made=("vda", "vdb"), copied={"vda": "1", "vdb": "1"})
    source, dest = (Instance(OFF, persistent=True, mark="m1", paths=OLD, tpm=True) for _ in range(2))
    plan = replace(COLD, state_files=())
    seen = HostObservation(record, source, dest, prints={"vda": "1", "vdb": "1"}, unplanned=(path,))
    action = decide(plan, seen)
    assert isinstance(action, actions.TurnBack)
    assert path in action.problem
    assert isinstance(decide(plan, replace(seen, unplanned=())), actions.UndefineAtSource)
    # It was started and powered off right before its definition was removed.
    gone = replace(seen, source=ABSENT)
    assert isinstance(decide(plan, gone), actions.DefineAtSource)
    assert isinstance(decide(plan, replace(gone, unplanned=())), actions.SaveHanded)


@pytest.mark.parametrize("cold", [False, True])
def test_a_destination_that_has_lost_the_vm_after_it_had_arrived(cold: bool) -> None:
    """Its power, before the definition was on its disk: the source keeps that. Nothing goes there."""
    record = replace(HANDED, arrived=True)
    action = decide(COLD if cold else PLAN, HostObservation(record, ABSENT, ABSENT))
    assert isinstance(action, Park)
    assert "/var/lib/blockferry/definitions" in action.problem
    settled = replace(record, flushed=True, proven=(VARIABLES.source,), settled=True)
    assert isinstance(decide(PLAN, HostObservation(settled, ABSENT, ABSENT)), actions.ReleaseStateFile)
