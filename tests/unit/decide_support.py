"""A small host for the tests of decide: files that hold writes, block jobs, a guest, a guard, and a record.

`effects` does what the effects of storage_move/effects.py do, in the same order, and yields wherever a process can
die or the world can change. What counts is not what decide believes but what the files hold: each disk has a count
of acknowledged writes, each file the count that it holds.

Not modelled, because it cannot be told apart on a real host: an owner who pauses the VM while a suspension of ours is
under way or announced in the record, and one who starts it twice between two looks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from blockferry.hosts.inventory import JobInfo, PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import DiskPlan, DiskSizes, SourceImage, StartPlan
from blockferry.storage_move.disk_record import Copy, Stage
from blockferry.storage_move.lost_vm import rules as lost_vm_rules
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, LostView, Observation
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, SourcePolicy
from blockferry.storage_move.switch.graph_proof import GraphView
from blockferry.storage_move.templates.plan import ChainPlan, LayerPlan

SIZE = 40
RATE = 15
GONE = -1  # what a file holds that is not there, or is empty or half a copy
TRIES = 8

SOURCE, DESTINATION = DiskSide.SOURCE, DiskSide.DESTINATION


def make_plan(
    disks: int = 1,
    *,
    suspended_start: bool = False,
    persistent: bool = True,
    method: Method = Method.CHANGED_BLOCKS,
    layers: bool = False,
) -> Plan:
    return Plan(
        move="m1",
        uri="test:///",
        vm="web01",
        uuid="u",
        method=method,
        method_reason="",
        disks=tuple(
            DiskPlan(
                target=target,
                source=SourceImage(path=f"/a/{target}", format="qcow2", kind="file", datastore="a"),
                dest=DestinationImage(path=f"/b/{target}", format="qcow2", datastore="b"),
                sizes=DiskSizes(virtual=SIZE, allocation=SIZE),
                chain=ChainPlan(
                    layers=(LayerPlan("/a/base", "qcow2", "/b/base", "qcow2", SIZE, SIZE),) if layers else ()
                ),
                release=ReleasePlan(files=(f"/a/{target}",)),
                start=StartPlan(suspended=suspended_start),
            )
            for target in ("vda", "vdb", "vdc")[:disks]
        ),
        home=None,
        source=SourcePolicy(),
        domain=DomainPlan(persistent=persistent, was=PowerState.RUNNING),
    )


class Refused(Exception):
    """The host said no."""


class Unreachable(Exception):
    """The way to the host broke in the middle of an effect."""


@dataclass
class BlockJob:
    """A copy of one disk to its other side; `tainted`: it has missed a write of the guest."""

    dest: DiskSide
    synchronous: bool
    foreign: bool = False
    looked: bool = False
    ready: bool = False
    tainted: bool = False
    ending: str = ""
    cur: int = 0
    end: int = 1


@dataclass
class Host:
    """The truth."""

    plan: Plan
    state: PowerState = PowerState.RUNNING
    owner_paused: bool = False
    idle: frozenset[str] = frozenset()  # disks that the guest never writes to
    incarnation: int = 1
    live: dict[str, DiskSide] = field(default_factory=dict)
    config: dict[str, DiskSide] = field(default_factory=dict)
    jobs: dict[str, BlockJob] = field(default_factory=dict)
    written: dict[str, int] = field(default_factory=dict)
    held: dict[tuple[str, DiskSide], int] = field(default_factory=dict)
    mark: str | None = None
    record: Record = field(default_factory=Record)
    # of the process that runs the move:
    known: Record | None = None
    suspended: bool = False
    flushed: bool = False
    pivot_failures: int = 0
    passes: int = 0
    guard_armed: bool = False
    cold_copying: bool = False
    announcing: bool = False  # a suspension of ours is decided
    # what is to go wrong:
    refuse_pivots: set[str] = field(default_factory=set)
    break_pivots: set[str] = field(default_factory=set)
    stuck: set[str] = field(default_factory=set)  # QEMU goes on with the old image of these, whatever libvirt says
    started_since_look: bool = False
    # once libvirt has lost it, `live` is what its QEMU writes to:
    standing: bool = False  # the guest's processors stand still
    guest_off: bool = False  # the guest has powered off, its QEMU waits to be ended
    reachable: bool = True  # its monitor can be asked
    autostart: bool = True
    truth: dict[str, DiskSide] = field(default_factory=dict)  # what a lost QEMU wrote to when it ended

    def __post_init__(self) -> None:
        for target in self.targets:
            self.config[target] = SOURCE
            self.written[target] = 1
            self.held[target, SOURCE], self.held[target, DESTINATION] = 1, GONE
        if self.state.active:
            self.live = dict.fromkeys(self.targets, SOURCE)

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(disk.target for disk in self.plan.disks)

    def sides(self) -> dict[str, DiskSide]:
        return self.live if self.state.active or self.state is PowerState.LOST else self.config

    # ------------------------------------------------------------ looking, as storage_move/observe.py does

    def look(self) -> Observation:
        self.started_since_look = False
        if not self.suspended or self.known is None:
            self.known = self.record
        record = self.known
        if self.state is not PowerState.PAUSED and self.suspended:
            self.suspended = False  # the guard, or somebody, was first
            self.known = record = self.record
        if self.state is PowerState.RUNNING and record.switch.suspended and not self.suspended:
            record = replace(record, switch=replace(record.switch, suspended=False))
        quick = self.suspended and record.switch.begun and self.plan.synchronous
        left = max((job.end - job.cur for job in self.jobs.values()), default=0)
        return Observation(
            state=self.state,
            persistent=self.plan.domain.persistent and self.state is not PowerState.ABSENT,
            disks=tuple(self._view(target, quick) for target in self.targets),
            record=record,
            incarnation=self.incarnation if self.state.active else -1,
            mark=self.mark,
            config_agrees=not self.plan.domain.persistent
            or all(disk_side is DESTINATION for disk_side in self.config.values()),
            expected_drain_s=0.004 * left,
            passes=self.passes,
            pivot_failures=self.pivot_failures,
            flushed=self.flushed,
            graph=self._graph(),
            lost=self._lost_view() if self.state is PowerState.LOST else None,
        )

    def path(self, target: str, side: DiskSide) -> str:
        disk = self.plan.disk(target)
        return {SOURCE: disk.source.path, DESTINATION: disk.dest.path}.get(
            side, lost_vm_rules.stand_in(self.plan, target)
        )

    def _lost_view(self) -> LostView:
        status = "shutdown" if self.guest_off else "paused" if self.standing else "running"
        return LostView(
            pid=1,
            run=str(self.incarnation),
            status=status if self.reachable else "",
            problem="" if self.reachable else "its monitor cannot be connected to",
            current={one: self.path(one, side) for one, side in self.live.items()} if self.reachable else {},
            jobs=tuple(self.jobs),
            since_s=1000.0,
            autostart=self.autostart and self.plan.domain.persistent,
        )

    def _graph(self) -> GraphView | None:
        """As storage_move/observe.py asks QEMU: once all disks are across and no job is left."""
        mine = any(not job.foreign for job in self.jobs.values())
        if not self.state.active or mine or any(side is not DESTINATION for side in self.live.values()):
            return None
        return GraphView(wrong={target: self.plan.disk(target).source.path for target in self.stuck})

    def _view(self, target: str, quick: bool) -> DiskView:
        job = self.jobs.get(target)
        info = JobInfo(job.cur, job.end, 0) if job and not quick and not job.foreign else None
        return DiskView(
            target=target,
            live=self.live[target] if self.state.active else None,
            config=self.config[target] if self.plan.domain.persistent and self.state is not PowerState.ABSENT else None,
            job=DiskJob.NONE if job is None else DiskJob.FOREIGN if job.foreign else DiskJob.OURS,
            ready=bool(job and job.ready),
            ending=bool(job and job.ending),
            info=info,
            fingerprint=str(self.held[target, SOURCE]) if self.state is PowerState.OFF else "",
            config_path=self.path(target, self.config[target]),
        )

    # ------------------------------------------------------------ time

    def tick(self) -> None:
        """A moment passes: the guest writes, jobs copy, what was asked of them is done."""
        self.passes += 1
        for target, job in list(self.jobs.items()):
            if job.ending:
                self._end(target, job)
        runs = self.state is PowerState.LOST and not (self.standing or self.guest_off)
        if self.state is PowerState.RUNNING or runs:
            for target in self.targets:
                if target not in self.idle:
                    self._guest_writes(target)
        for job in self.jobs.values():
            if not job.looked:
                job.looked, job.end = True, SIZE
            else:
                job.cur = min(job.end, job.cur + RATE)
                job.ready = job.ready or job.cur == job.end

    def _guest_writes(self, target: str) -> None:
        self.written[target] += 1
        self.held[target, SOURCE if target in self.stuck else self.live[target]] = self.written[target]
        job = self.jobs.get(target)
        if job is not None:
            job.tainted = job.tainted or (self.plan.disk(target).start.suspended and not job.looked)
            job.end += 0 if job.synchronous else 2

    def _end(self, target: str, job: BlockJob) -> None:
        del self.jobs[target]
        if job.ending == "pivot" and target not in self.break_pivots:
            assert not job.tainted, f"{target} was switched to a copy that has missed a write"
            self.held[target, job.dest] = self.written[target]
            if self.plan.domain.persistent and self.config[target] is self.live[target]:
                self.config[target] = job.dest
            self.live[target] = job.dest
        self.break_pivots.discard(target)

    def check(self) -> None:
        """Every acknowledged write is in a file, and where the VM looks for it."""
        for target in self.targets:
            newest = max(self.held[target, SOURCE], self.held[target, DESTINATION])
            assert newest == self.written[target], f"acknowledged writes to {target} are lost"
            if (self.state.active or self.state is PowerState.LOST) and target not in self.stuck:
                assert self.held[target, self.live[target]] == self.written[target], f"{target}: the VM lost its disk"

    # ------------------------------------------------------------ what others do

    def happens(self, event: str, number: int) -> None:
        """Something happens to the host, if it can."""
        target = self.targets[number % len(self.targets)]
        job = self.jobs.get(target)
        if event == "tick":
            self.tick()
        elif event == "cancel":
            self.record = replace(self.record, wanted=Wanted.CANCEL)
        elif event == "job lost" and job is not None:
            del self.jobs[target]
        elif event == "pivot refused":
            self.refuse_pivots.add(target)
        elif event == "pivot breaks":
            self.break_pivots.add(target)
        elif event == "foreign job" and job is None and self.state.active:
            self.jobs[target] = BlockJob(DESTINATION, False, foreign=True)
        elif event == "foreign job ends" and job is not None and job.foreign:
            del self.jobs[target]
        elif event == "guard" and self.guard_armed:
            self.guard_resumes()
        elif (
            event == "pause"
            and self.state is PowerState.RUNNING
            and not (self.record.switch.suspended or self.announcing)
        ):
            self.state, self.owner_paused = PowerState.PAUSED, True
        elif event == "resume" and self.state is PowerState.PAUSED:
            self.state, self.owner_paused = PowerState.RUNNING, False
            self.tick()
        elif event == "crash" and self.state is PowerState.RUNNING:
            self.state = PowerState.CRASHED
        elif event == "power off" and self.state.active:
            self.goes_off()
        elif event == "power on" and self.state is PowerState.OFF and not self.cold_copying:
            self.goes_on()
        elif event == "lost" and self.state in (PowerState.RUNNING, PowerState.PAUSED) and not self.stuck:
            self.is_lost()
        elif event == "monitor gone" and self.state is PowerState.LOST:
            self.reachable = False
        elif event == "guest off" and self.state is PowerState.LOST and not self.standing:
            self.guest_off = True
        elif event == "qemu ends" and self.state is PowerState.LOST and self.next_start_is_right():
            self.goes_off()

    def is_lost(self) -> None:
        """libvirtd dies while it concludes what was asked of it: QEMU has done it, the configuration is the old one."""
        for target, job in list(self.jobs.items()):
            if job.ending:
                before = self.config[target]
                self._end(target, job)
                self.config[target] = before
        self.standing = self.state is PowerState.PAUSED
        self.state = PowerState.LOST

    def next_start_is_right(self) -> bool:
        """Whether the next start uses what QEMU writes to, or is barred."""
        if not self.plan.domain.persistent:
            return self.record.lost is not None
        return all(self.config[one] in (side, DiskSide.ELSEWHERE) for one, side in self.live.items())

    def owner_names_the_right_images(self) -> None:
        """`virsh edit`, after a parked move has asked for it."""
        self.config = dict(self.truth)

    def guard_resumes(self) -> None:
        self.guard_armed = False
        if self.state is PowerState.LOST and self.standing and self.reachable:
            assert not self.owner_paused
            self.standing = False
            self.tick()
        if self.state is PowerState.PAUSED:
            assert not self.owner_paused
            self.state = PowerState.RUNNING
            self.tick()

    def goes_off(self) -> None:
        self.state = PowerState.OFF if self.plan.domain.persistent else PowerState.ABSENT
        self.owner_paused, self.guard_armed = False, False
        self.truth, self.live, self.jobs, self.stuck = self.live, {}, {}, set()
        self.standing, self.guest_off, self.reachable = False, False, True
        if self.state is PowerState.ABSENT:
            self.mark = None

    def goes_on(self) -> None:
        if self.started_since_look or DiskSide.ELSEWHERE in self.config.values():
            return
        self.started_since_look = True
        self.state, self.incarnation, self.live = PowerState.RUNNING, self.incarnation + 1, dict(self.config)
        for target in self.targets:
            assert self.held[target, self.live[target]] == self.written[target], f"{target}: booted from an old copy"
        self.tick()

    def process_dies(self, guard: str) -> None:
        """kill -9: what was in memory is lost. `guard`: how it answers: "at once", "late" or "never"."""
        self.known, self.suspended, self.flushed, self.pivot_failures = None, False, False, 0
        self.passes, self.cold_copying = 0, False
        if guard == "at once" and self.guard_armed:
            self.guard_resumes()
        elif guard == "never":
            self.guard_armed = False

    # ------------------------------------------------------------ acting, as the effects do

    def note(self, record: Record) -> None:
        self.record = replace(record, wanted=self.record.wanted)
        self.known = self.record

    def effects(self, action: actions.Action, seen: Observation) -> Iterator[None]:
        """Do it; at each yield something may happen, or nothing of the rest."""
        name = re.sub(r"(?<!^)([A-Z])", r"_\1", type(action).__name__).lower()
        method: Callable[..., Iterator[None]] = getattr(self, "_do_" + name)
        yield from method(action, seen)

    def _active(self) -> None:
        if not self.state.active:
            raise Refused("the domain is not running")

    def _exists(self) -> None:
        if self.state is PowerState.ABSENT:
            raise Refused("no such domain")

    def _asked(self) -> None:
        if not self.reachable or self.state is not PowerState.LOST:
            raise Refused("the monitor cannot be reached")

    def _do_let_lost_run(self, _action: actions.LetLostRun, seen: Observation) -> Iterator[None]:
        yield
        self._asked()
        assert not self.owner_paused, "a pause of the owner's was ended"
        self.standing, self.guard_armed = False, False
        yield
        self.note(replace(seen.record, switch=replace(seen.record.switch, suspended=False)))

    def _do_save_lost(self, _action: actions.SaveLost, seen: Observation) -> Iterator[None]:
        assert seen.lost is not None
        record, current = seen.record, lost_vm_rules.known(seen.record, seen.lost)
        stands = seen.lost.status in ("", lost_vm_rules.PAUSED)
        noted = lost_vm_rules.settle(
            self.plan,
            replace(record, switch=replace(record.switch, suspended=record.switch.suspended and stands)),
            current,
        )
        self.note(replace(noted, lost=replace(record.lost or LostVm(), run=seen.lost.run, current=current)))
        yield

    def _do_point_to_current(self, _action: actions.PointToCurrent, seen: Observation) -> Iterator[None]:
        assert seen.lost is not None
        yield
        self._exists()
        for target, path in lost_vm_rules.known(seen.record, seen.lost).items():
            self.config[target] = lost_vm_rules.side_of(self.plan.disk(target), path)
        yield

    def _do_bar_start(self, action: actions.BarStart, seen: Observation) -> Iterator[None]:
        assert seen.lost is not None
        before = seen.record.lost or LostVm()
        paths = {target: lost_vm_rules.stand_in(self.plan, target) for target in action.targets}
        off = before.autostart or seen.lost.autostart
        self.note(replace(seen.record, lost=replace(before, unclear=paths, autostart=off)))
        yield
        self._exists()
        self.autostart = False
        yield
        for target in action.targets:
            self.config[target] = DiskSide.ELSEWHERE
        yield

    def _do_end_lost(self, _action: actions.EndLost, _seen: Observation) -> Iterator[None]:
        yield
        self._asked()
        assert self.guest_off, "a QEMU was ended whose guest runs"
        assert self.next_start_is_right()
        self.goes_off()
        yield

    def _do_save_found(self, _action: actions.SaveFound, seen: Observation) -> Iterator[None]:
        before = seen.record.lost or LostVm()
        yield
        if before.autostart and seen.persistent:
            self._exists()
            self.autostart = True
        current = dict(before.current)
        for target in before.unclear:
            if seen.disk(target).config_path in lost_vm_rules.images(self.plan.disk(target)):
                current[target] = seen.disk(target).config_path
        record = replace(
            seen.record, switch=replace(seen.record.switch, suspended=seen.record.switch.suspended and seen.same_run)
        )
        self.note(replace(lost_vm_rules.settle(self.plan, record, current), lost=None))
        yield

    def _do_mark(self, _action: actions.Mark, seen: Observation) -> Iterator[None]:
        self._exists()
        self.mark = self.plan.move
        yield
        self.note(replace(seen.record, configuration=replace(seen.record.configuration, marked=True)))

    def _do_unmark(self, _action: actions.Unmark, _seen: Observation) -> Iterator[None]:
        self._exists()
        self.mark = None
        yield

    def _do_copy_home(self, _action: actions.CopyHome, seen: Observation) -> Iterator[None]:
        yield
        self.note(replace(seen.record, home=replace(seen.record.home, copied=True)))

    def _do_copy_layers(self, action: actions.CopyLayers, seen: Observation) -> Iterator[None]:
        record = replace(seen.record, created=(*seen.record.created, f"/b/layer-of-{action.target}"))
        self.note(record)
        yield
        self.note(record.with_disk(action.target, replace(record.disk(action.target), layers_copied=True)))

    def _do_suspend(self, action: actions.Suspend, seen: Observation) -> Iterator[None]:
        self.note(replace(seen.record, switch=replace(seen.record.switch, suspended=True, begun=action.switch)))
        yield
        self.guard_armed, self.suspended, self.pivot_failures = True, True, 0
        yield
        self._active()
        if self.state is PowerState.RUNNING:
            self.state = PowerState.PAUSED
        yield

    def _do_resume(self, action: actions.Resume, seen: Observation) -> Iterator[None]:
        yield
        self._exists()
        assert not self.owner_paused, "a pause of the owner's was ended"
        was_suspended = self.state is PowerState.PAUSED
        if self.state is PowerState.LOST:
            self.suspended = False
            return  # it stands still by our doing, still
        if was_suspended:
            self.state = PowerState.RUNNING
        self.suspended, self.guard_armed = False, False
        yield
        record = seen.record
        for target in action.clean if was_suspended else ():
            record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
        self.flushed = False
        mixed = any(view.side is DESTINATION for view in seen.disks)
        attempts = record.switch.attempts + action.switch_failed
        self.note(
            replace(
                record,
                switch=replace(record.switch, suspended=False, begun=record.switch.begun and mixed, attempts=attempts),
            )
        )

    def _do_start_copy(self, action: actions.StartCopy, seen: Observation) -> Iterator[None]:
        before = seen.record.copy(action.target)
        attempts = before.attempts + 1 if before.reverse == action.reverse else 1
        copy = Copy(Stage.STARTING, seen.incarnation, attempts, action.reverse)
        record = seen.record.with_copy(action.target, copy)
        self.note(record)
        yield
        self._active()
        if action.target in self.jobs:
            raise Refused("another job is running on that disk")
        dest = SOURCE if action.reverse else DESTINATION
        assert self.live[action.target] is not dest, "a disk was to be copied onto itself"
        self.jobs[action.target] = BlockJob(dest, action.reverse or self.plan.synchronous)
        self.held[action.target, dest] = GONE
        yield
        self.note(record.with_copy(action.target, replace(copy, stage=Stage.STARTED)))

    def _do_save_clean(self, action: actions.SaveClean, seen: Observation) -> Iterator[None]:
        record = seen.record
        for target in action.targets:
            record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
        self.note(record)
        yield

    def _do_await(self, _action: actions.Await, _seen: Observation) -> Iterator[None]:
        yield
        self.tick()

    def _do_flush_destination(self, _action: actions.FlushDestination, _seen: Observation) -> Iterator[None]:
        yield
        self.flushed = True

    def _do_pivot(self, action: actions.Pivot, seen: Observation) -> Iterator[None]:
        if not seen.record.switch.begun:
            self.note(replace(seen.record, switch=replace(seen.record.switch, begun=True)))
        yield
        for target in action.targets:
            job = self.jobs.get(target)
            if job is None or job.foreign or not job.ready or target in self.refuse_pivots:
                self.refuse_pivots.discard(target)
                self.pivot_failures += 1
                break
            job.ending = "pivot"
            yield
        self.tick()

    def _do_abort_copy(self, action: actions.AbortCopy, seen: Observation) -> Iterator[None]:
        copy = seen.record.copy(action.target)
        yield
        self._active()
        job = self.jobs.get(action.target)
        if job is None:
            raise Refused("no job on that disk")
        assert not job.foreign, "somebody else's job was ended"
        job.ending = "abort"
        yield
        self.note(seen.record.with_copy(action.target, Copy(Stage.NONE, -1, copy.attempts, copy.reverse)))

    def _do_forget_copy(self, action: actions.ForgetCopy, seen: Observation) -> Iterator[None]:
        copy = seen.record.copy(action.target)
        self.note(seen.record.with_copy(action.target, Copy(Stage.NONE, -1, copy.attempts)))
        yield

    def _do_fail(self, action: actions.Fail, seen: Observation) -> Iterator[None]:
        self.note(replace(seen.record, failure=seen.record.failure or action.problem))
        yield

    def _do_save_switched(self, _action: actions.SaveSwitched, seen: Observation) -> Iterator[None]:
        assert all(view.side is DESTINATION for view in seen.disks)
        record = self._with_graph(seen)
        self.note(replace(record, switch=replace(record.switch, done=True, begun=False)))
        yield

    @staticmethod
    def _with_graph(seen: Observation) -> Record:
        if not seen.state.active or seen.graph is None:
            return seen.record
        return replace(seen.record, graph=replace(seen.record.graph, proven=seen.graph.proven, doubt=seen.graph.doubt))

    def _do_save_graph(self, _action: actions.SaveGraph, seen: Observation) -> Iterator[None]:
        self.note(self._with_graph(seen))
        yield

    def _do_point_at_truth(self, action: actions.PointAtTruth, seen: Observation) -> Iterator[None]:
        self.note(
            replace(
                seen.record,
                switch=replace(seen.record.switch, done=False, begun=True),
                configuration=replace(seen.record.configuration, written=False),
            )
        )
        yield
        self._exists()
        self.config.update(dict.fromkeys(action.targets, SOURCE))
        yield

    def _do_write_config(self, _action: actions.WriteConfig, seen: Observation) -> Iterator[None]:
        yield
        self._exists()
        self.config = dict.fromkeys(self.targets, DESTINATION)
        yield
        self.note(replace(seen.record, configuration=replace(seen.record.configuration, written=True)))

    def _do_revert_config(self, _action: actions.RevertConfig, _seen: Observation) -> Iterator[None]:
        yield
        self._exists()
        self.config = dict.fromkeys(self.targets, SOURCE)
        yield

    def _do_create_image(self, action: actions.CreateImage, seen: Observation) -> Iterator[None]:
        target = action.target
        record = seen.record.without_cold_copy(target)
        self.note(record)
        yield
        self._overwrite(target)
        record = self._name(record, target)
        yield
        self.note(record.with_copy(target, Copy(Stage.IMAGE, -1, record.copy(target).attempts)))

    def _do_cold_copy(self, action: actions.ColdCopy, seen: Observation) -> Iterator[None]:
        target = action.target
        self._overwrite(target)
        record = self._name(seen.record, target)
        yield
        if self.state.active:
            raise Refused("another process holds the image's lock")
        self.cold_copying = True
        yield
        self.held[target, DESTINATION], self.cold_copying = self.held[target, SOURCE], False
        yield
        record = record.with_disk(target, replace(record.disk(target), cold_copied=seen.disk(target).fingerprint))
        self.note(record.with_copy(target, Copy(Stage.NONE, -1, record.copy(target).attempts)))

    def _name(self, record: Record, target: str) -> Record:
        path = self.plan.disk(target).dest.path
        if path not in record.created:
            record = replace(record, created=(*record.created, path))
            self.note(record)
        return record

    def _overwrite(self, target: str) -> None:
        assert target not in self.jobs or self.jobs[target].foreign, f"{target}: the image under a job is made anew"
        assert self.live.get(target) is not DESTINATION, f"{target}: the image in use is made anew"
        assert self.config[target] is not DESTINATION or not self.plan.domain.persistent, (
            "the next start's image is made anew"
        )
        self.held[target, DESTINATION] = GONE

    def _do_settle(self, action: actions.Settle, seen: Observation) -> Iterator[None]:
        yield
        self.note(seen.record.with_disk(action.target, replace(seen.record.disk(action.target), settled=True)))

    def _do_release_source(self, action: actions.ReleaseSource, seen: Observation) -> Iterator[None]:
        target = next(disk.target for disk in self.plan.disks if action.path in disk.release.files)
        yield
        self.held[target, SOURCE] = GONE
        yield
        self.note(replace(seen.record, released=(*seen.record.released, action.path)))

    def _do_release_home(self, _action: actions.ReleaseHome, seen: Observation) -> Iterator[None]:
        yield
        self.note(replace(seen.record, released=(*seen.record.released, "home")))

    def _do_remove_destination(self, _action: actions.RemoveDestination, seen: Observation) -> Iterator[None]:
        record = seen.record.changed(lambda disk: replace(disk, copy=Copy(), cold_copied=None, layers_copied=False))
        record = replace(record, home=replace(record.home, copied=False))
        self.note(record)
        yield
        for target in self.targets:
            if self.plan.disk(target).dest.path in record.created:
                self._overwrite(target)
                yield
        self.note(replace(record, created=()))

    def _do_finish(self, action: actions.Finish, seen: Observation) -> Iterator[None]:
        yield
        self.note(replace(seen.record, outcome=action.outcome))


def can_be(seen: Observation) -> bool:
    """Whether a host can look like that at all."""
    active, known = seen.state.active, seen.state is not PowerState.ABSENT
    return (known or not seen.persistent) and all(
        (view.live is not None) == active
        and (view.config is not None) == seen.persistent
        and (active or (view.job is DiskJob.NONE and not view.ending))
        and (active or seen.persistent or not known)
        for view in seen.disks
    )


WHILE_LOST = (
    actions.LetLostRun,
    actions.SaveLost,
    actions.PointToCurrent,
    actions.BarStart,
    actions.EndLost,
    actions.Await,
    actions.Park,
)
"""Nothing of it copies, removes or releases a file, or asks libvirt for anything but to change a configuration."""


def check_rules(seen: Observation, action: actions.Action) -> None:
    """What decide may never answer, whatever it sees."""
    if not can_be(seen):
        return
    record = seen.record
    if seen.state is PowerState.LOST and record.outcome is None:
        assert isinstance(action, WHILE_LOST), "that is not for a VM that libvirt has lost"
        assert not isinstance(action, actions.LetLostRun) or record.switch.suspended, (
            "a pause that is not ours was ended"
        )
    if seen.off_doubt and not seen.state.active and seen.state is not PowerState.LOST and record.outcome is None:
        assert isinstance(action, (actions.Park, actions.Await)), "off was believed although it could not be checked"
    lives = [view.live for view in seen.disks]
    across = all(view.side is DESTINATION for view in seen.disks)
    match action:
        case actions.Done(outcome):
            assert record.outcome is outcome
        case actions.Pivot(targets):
            assert targets
            assert seen.state in (PowerState.PAUSED, PowerState.CRASHED), "a pivot while the guest runs"
            for target in targets:
                view = seen.disk(target)
                assert view.job is DiskJob.OURS, "a pivot without a job of ours"
                assert view.ready, "a pivot before both sides are in step"
                assert not view.remaining, "a pivot with something left to copy"
            sides = {seen.disk(target).side for target in targets}
            assert len(sides) == 1
            assert set(targets) == {view.target for view in seen.disks if view.side in sides}, "not all at one instant"
        case actions.Suspend():
            assert seen.state is PowerState.RUNNING
        case actions.Resume():
            assert seen.state is PowerState.PAUSED
            assert record.switch.suspended, "a pause that is not ours was ended"
        case actions.AbortCopy(target):
            assert seen.disk(target).job in (DiskJob.OURS, DiskJob.COMMIT), "a job that is not ours was ended"
        case actions.StartCopy(target, reverse):
            assert seen.state.active
            assert seen.disk(target).side is (DESTINATION if reverse else SOURCE)
            assert not record.switch.done
        case actions.ColdCopy(target):
            assert seen.state is PowerState.OFF
            assert not record.switch.done
            assert seen.disk(target).side is SOURCE
        case actions.CreateImage(target):
            assert not record.switch.done
            assert seen.disk(target).live is SOURCE
        case actions.SaveSwitched():
            assert across
            assert not seen.state.active or record.graph.proven or record.graph.doubt or seen.graph is not None
        case actions.MoveMedium():
            assert record.switch.done
        case actions.Settle() | actions.ReleaseSource() | actions.ReleaseHome():
            assert record.switch.done, "the source was touched before the switch"
            assert across
            assert seen.config_agrees or not seen.persistent, "live and persistent configuration differ"
            known = record.graph.proven or record.graph.doubt or not seen.state.active
            assert known, "the source was touched although QEMU was not asked which images it uses"
        case actions.SaveGraph():
            assert across
            assert seen.graph is not None
            assert not seen.graph.wrong
        case actions.PointAtTruth(targets):
            assert seen.graph is not None
            assert set(targets) <= set(seen.graph.wrong)
            assert seen.state.active
        case actions.RemoveDestination():
            assert not record.switch.done, "the destination was removed after the switch"
            assert not any(DESTINATION in (view.live, view.config) for view in seen.disks), "what is in use was removed"
            assert not any(view.job is DiskJob.OURS for view in seen.disks), "the image under a job was removed"
        case actions.RevertConfig():
            assert not record.switch.done
            assert seen.state.active
            assert lives == [SOURCE] * len(lives)
        case actions.WriteConfig():
            assert across or seen.state is PowerState.OFF
        case actions.Finish(outcome):
            assert not any(view.job is DiskJob.OURS for view in seen.disks), "a job of ours was left"
            if outcome is Outcome.MOVED:
                assert record.switch.done
            elif seen.state is not PowerState.ABSENT:
                assert not record.created
        case _:
            pass
