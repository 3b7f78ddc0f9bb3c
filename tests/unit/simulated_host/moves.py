"""A move on a simulated host: its real loop, one process after the other until it is over; and how it must end."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import libvirt
import msgspec
from lxml import etree

from blockferry.base.errors import Interrupted, LeaseLost, MoveParked
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt import domain as libvirt_domain
from blockferry.hosts.libvirt import domain_xml, events
from blockferry.jobs.action import Action
from blockferry.jobs.loop import Waiting
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.leftovers import quarantine
from blockferry.safety.guard import Guard
from blockferry.safety.proof import Claims
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import CopyPlan, DiskPlan, DiskSizes, SourceImage, StartPlan
from blockferry.storage_move.home.plan import HomeFile, HomePlan
from blockferry.storage_move.move_kind import MoveKind
from blockferry.storage_move.move_loop import MoveLoop
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.overlays.plan import OverlaysPlan
from blockferry.storage_move.plan import DomainPlan, OutagePlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, OnBreak, SourcePolicy
from blockferry.storage_move.templates.plan import ChainPlan, LayerPlan
from simulated_host import clock
from simulated_host.connection import URI, SimulatedHost
from simulated_host.files import REGION, Image, read
from simulated_host.machine import HOST_UUID, UUID, Machine, Violation
from simulated_host.manager import Killed, Manager

REGIONS = 4
MOVE = "m1"
MOST_PROCESSES = 60
MOST_STEPS = 2000
"""A move here has some hundred."""


MONITOR = "libvirt_qemu"


class _Monitor:
    """libvirt_qemu, whose C code takes only a real domain."""

    @staticmethod
    def qemuMonitorCommand(domain: Any, command: str, _flags: int) -> str:  # noqa: N802 - libvirt's name
        return str(domain.monitor(command))


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """Have blockferry's modules use the machine's time, and its QEMU's monitor.

    An XML that was read is not read again: reading is pure, and what takes the longest here.
    """
    before, parse = getattr(libvirt_domain, MONITOR), domain_xml.parse
    setattr(libvirt_domain, MONITOR, _Monitor)
    domain_xml.parse = functools.lru_cache(maxsize=256)(parse)
    try:
        with clock.installed(events):
            yield
    finally:
        setattr(libvirt_domain, MONITOR, before)
        domain_xml.parse = parse


@dataclass(frozen=True, slots=True)
class Wish:
    """What is moved, and how."""

    disks: int = 1
    method: Method = Method.CHANGED_BLOCKS
    start_race: bool = False
    runs: bool = True
    source_format: str = "qcow2"
    dest_format: str = "qcow2"
    delete: bool = True
    layers: bool = False
    guarded: bool = True  # a guard can be started
    overlay_first: bool = False  # a background copy begins with an overlay
    verify: bool = False
    on_break: OnBreak = OnBreak.KEEP


def build(wish: Wish, seed: int) -> tuple[Machine, Plan]:
    """The host before the move, and the plan of it."""
    machine = Machine(seed, start_race=wish.start_race)
    machine.guards_work = wish.guarded
    clock.use(machine.clock)
    files = machine.files
    files.create("/san/web01", 0o711, "directory")
    notes = files.create("/san/web01/notes.txt", 0o644)
    notes.data = b"what the owner wrote\n"
    notes.flush()
    targets = ("vda", "vdb", "vdc")[: wish.disks]
    ending = {"qcow2": "qcow2", "raw": "img"}[wish.source_format]
    for target in targets:
        machine.add_disk(target, f"/san/web01/{target}.{ending}", wish.source_format, REGIONS)
        if wish.layers:
            _put_base_below(machine, target, f"/san/web01/{target}.{ending}")
    words = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{wish.source_format}'/>"
        f"<source file='/san/web01/{target}.{ending}'/><target dev='{target}' bus='virtio'/></disk>"
        for target in targets
    )
    machine.domain.config = etree.fromstring(
        f"<domain type='kvm'><name>web01</name><uuid>{UUID}</uuid><memory>65536</memory>"
        f"<os><type>hvm</type></os><devices>{words}</devices></domain>"
    )
    if wish.runs:
        machine.start()
    return machine, _plan(wish, targets, ending)


def _put_base_below(machine: Machine, target: str, path: str) -> None:
    """Part of what the image holds lies in an image below it."""
    top = machine.files.find(path)
    base = machine.files.create(f"/san/web01/{target}-base.qcow2", 0o644)
    assert top.image is not None
    base.image = Image("qcow2", top.image.size, None, {0: top.image.regions.pop(0)})
    base.flush()
    top.image.backing = (f"/san/web01/{target}-base.qcow2", "qcow2")
    top.flush()


def _plan(wish: Wish, targets: Sequence[str], ending: str) -> Plan:
    new = {"qcow2": "qcow2", "raw": "img"}[wish.dest_format]
    overlays = wish.method in (Method.SNAPSHOT, Method.CHANGED_BLOCKS) and not wish.layers
    return Plan(
        move=MOVE,
        uri=URI,
        vm="web01",
        uuid=UUID,
        method=wish.method,
        method_reason="",
        disks=tuple(
            DiskPlan(
                target=target,
                source=SourceImage(
                    path=f"/san/web01/{target}.{ending}", format=wish.source_format, kind="file", datastore="san"
                ),
                dest=DestinationImage(path=f"/ssd/web01/{target}.{new}", format=wish.dest_format, datastore="ssd"),
                sizes=DiskSizes(virtual=REGIONS * REGION, allocation=(REGIONS - 1) * REGION),
                chain=ChainPlan(
                    layers=_layers(target) if wish.layers else (),
                    backing=(f"/ssd/web01/{target}-base.qcow2", "qcow2") if wish.layers else None,
                ),
                release=ReleasePlan(
                    files=(
                        f"/san/web01/{target}.{ending}",
                        *((f"/san/web01/{target}-base.qcow2",) if wish.layers else ()),
                    )
                ),
                start=StartPlan(suspended=wish.start_race, overlay_suspended=wish.start_race),
                copy=CopyPlan(resumable=overlays),
                overlays=OverlaysPlan(
                    source=f"/san/web01/{target}.{MOVE}.overlay" if overlays else "",
                    dest=f"/ssd/web01/{target}.{MOVE}.overlay" if overlays else "",
                    first=wish.overlay_first and overlays,
                ),
            )
            for target in targets
        ),
        home=HomePlan(
            "ssd", "/ssd/web01", "/san/web01", (HomeFile("/san/web01/notes.txt", "/ssd/web01/notes.txt", "file", 21),)
        ),
        source=SourcePolicy(delete=wish.delete),
        verify=wish.verify,
        host=HOST_UUID,
        domain=DomainPlan(persistent=True, was=PowerState.RUNNING if wish.runs else PowerState.OFF),
        outage=OutagePlan(on_break=wish.on_break),
    )


def _layers(target: str) -> tuple[LayerPlan, ...]:
    old, new = f"/san/web01/{target}-base.qcow2", f"/ssd/web01/{target}-base.qcow2"
    return (LayerPlan(old, "qcow2", new, "qcow2", REGIONS * REGION, REGION),)


# ---------------------------------------------------------------- the journal, and the guard


@dataclass
class SimulatedJournal:
    """One move in a journal. Only its JSON outlives a process."""

    record: str = field(default_factory=lambda: msgspec.json.encode(Record()).decode())
    wanted: Wanted = Wanted.GO
    story: list[str] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    parked: str = ""
    over: bool = False
    kind: MoveKind = field(default_factory=MoveKind)

    def read(self) -> Record:
        return self.kind.with_wishes(self.kind.read_record(self.record), self.wanted.value, 0)


class SimulatedJob:
    """The handle of the move in one process (jobs/loop.py, Job)."""

    def __init__(self, journal: SimulatedJournal, manager: Manager, machine: Machine) -> None:
        self._journal, self._manager, self._machine = journal, manager, machine
        self.stop: Any = clock.Event()

    def read(self) -> Record:
        self._manager.must_live()
        return self._journal.read()

    def save(self, record: Record) -> None:
        with self._manager.calls("save", changes=True):
            self._manager.must_live()
            self._journal.record = msgspec.json.encode(record).decode()

    def log_event(self, kind: str, text: str) -> None:
        self._manager.must_live()
        self._journal.story.append(f"{kind}: {text}")

    def publish(self, _progress: object) -> None:
        self._manager.must_live()

    def park(self, problem: str) -> None:
        with self._manager.calls("park", changes=True):
            self._journal.parked = problem

    def finish(self, record: Record, _report: object) -> None:
        with self._manager.calls("finish", changes=True):
            self._manager.must_live()
            self._journal.record, self._journal.over = msgspec.json.encode(record).decode(), True

    def interim(self, record: Record, _report: object) -> None:
        self.save(record)

    def check(self) -> None:
        self._manager.must_live()

    def regain(self) -> None:
        self._manager.must_live()

    def away(self, text: str) -> None:
        raise AssertionError(text)

    def should_stop(self) -> bool:
        self._manager.must_live()
        return self._journal.wanted is Wanted.CANCEL


class SimulatedGuard(Guard):
    """safety/guard.py as its parent sees it. The process behind it looks at each moment, and outlives the parent."""

    def __init__(self, machine: Machine, manager: Manager) -> None:
        self._machine, self._manager = machine, manager
        self._until: float | None = None
        self._resumed = False
        self._works = machine.guards_work
        self._suspension = ""
        machine.guards.append(self)

    def look(self, now: float) -> None:
        if self._manager.dead:
            if self._until is not None:
                self._let_run()
            self._machine.guards.remove(self)
        elif self._until is not None and now > self._until:
            self._let_run()

    def _let_run(self) -> bool:
        ours = self._machine.qemu is not None and self._machine.qemu.paused and not self._resumed
        if ours:
            self._machine.resume("guard")
        self._resumed = self._resumed or ours
        if ours and self._suspension:
            self._machine.ended.add(self._suspension)
        self._until = None
        return ours

    @property
    def armed(self) -> bool:
        """Whether it would resume the VM."""
        return self._until is not None

    def prepare(self) -> None:
        """See Guard."""

    @property
    def may_be_over(self) -> bool:
        """See Guard."""
        return False

    def arm(self, seconds: float) -> bool:
        """See Guard."""
        with self._manager.calls("arm", changes=True):
            self._manager.must_live()
            self._until, self._resumed = self._machine.clock.now + seconds if self._works else None, False
        return self._works

    def host_problem(self) -> str:
        """See Guard."""
        return ""

    def disarm(self) -> None:
        """See Guard."""
        with self._manager.calls("disarm", changes=True):
            self._manager.must_live()
            self._until = None

    def let_run(self) -> bool | None:
        """See Guard."""
        with self._manager.calls("let_run", changes=True):
            self._manager.must_live()
            if not self._works or self._machine.chance.random() < 0.1:
                return None  # it does not answer in time
            return self._let_run()

    def limits_are_back(self) -> None:
        """See Guard."""

    def take_over(self) -> None:
        """See Guard."""


# ---------------------------------------------------------------- running it


@dataclass(kw_only=True)
class WatchedLoop(MoveLoop):
    """The real loop, which tells what it does."""

    about_to: Callable[[Action], None]
    has_done: Callable[[Action], None]
    steps: int = 0

    def perform(self, action: Action, seen: Observation) -> None:
        self.about_to(action)
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Violation(f"no end after {MOST_STEPS} steps of one process, the last one: {action}")
        super().perform(action, seen)
        self.has_done(action)


@dataclass
class Run:
    """A move, with all that it takes."""

    machine: Machine
    plan: Plan
    journal: SimulatedJournal = field(default_factory=SimulatedJournal)
    actions: list[Action] = field(default_factory=list)  # that were begun
    after: Callable[[Action], None] = lambda _action: None  # called when one is done
    disturbed: bool = False  # others than the move do something to the host
    points: list[int] = field(default_factory=list)  # that each process has passed
    deaths: list[str] = field(default_factory=list)  # where each process that died has died

    def process(self, dies_at: int | None, happens: Mapping[int, Callable[[], None]] | None = None) -> Outcome | None:
        """Run the loop in a process; its outcome, None when the process died, was parked, or has to be started anew."""
        machine, journal = self.machine, self.journal
        manager = machine.manager = Manager(machine.moment, dies_at, happens)
        site = SimulatedHost(machine, manager)
        job = SimulatedJob(journal, manager, machine)
        journal.parked = ""
        outcome: Outcome | None = None
        try:
            record = journal.read()
            tried = replace(
                record,
                unexpected=0,
                commits=replace(record.commits, attempts=0),
                switch=replace(record.switch, attempts=0),
            )  # as moves/run_storage_move.py begins
            if tried != record:
                job.save(tried)
            loop = WatchedLoop(
                has_done=lambda action: self.after(action),
                about_to=self.actions.append,
                context=self._context(site, job, manager),
                job=cast(Any, job),
                began_at=0.0,
            )
            outcome = loop.run()
        except Killed:
            self.deaths.append(manager.last)
        except Violation as error:
            raise AssertionError("\n".join([str(error), *journal.story[-12:], *self.deaths])) from error
        except (MoveParked, Waiting, LeaseLost, Interrupted) as error:
            journal.story.append(f"left: {type(error).__name__}")
        manager.dead = True
        self.points.append(manager.points)
        return outcome

    @property
    def names(self) -> list[str]:
        """The names of the actions."""
        return [type(action).__name__ for action in self.actions]

    def _context(self, site: SimulatedHost, job: SimulatedJob, manager: Manager) -> Context:
        plan = self.plan

        def keep(*words: Any, **more: Any) -> None:
            with manager.calls("keep", changes=True):
                self.journal.kept.append(quarantine.row(site, plan, *words, **more))

        def keep_again(row: Kept) -> None:
            with manager.calls("keep again", changes=True):
                self.journal.kept = [one for one in self.journal.kept if one.path != row.path] + [row]

        return Context(
            plan=plan,
            site=site,
            guard=SimulatedGuard(self.machine, manager),
            save=job.save,
            log_event=job.log_event,
            quarantine=keep,
            keep_again=keep_again,
            should_stop=job.should_stop,
            claims=lambda: Claims(kept=tuple(self.journal.kept)),
            journal="journal",
            check=job.check,
            stop=job.stop,
        )

    def to_the_end(self, dies_at: Sequence[int] = ()) -> Outcome | None:
        """One process after the other; each dies at its point, the ones after them live. None: it is parked."""
        deaths = iter(dies_at)
        for _ in range(MOST_PROCESSES):
            outcome = self.process(next(deaths, None))
            if outcome is not None:
                return outcome
            if self.journal.parked:
                return None
        raise AssertionError(f"no end after {MOST_PROCESSES} processes")


def disturb(run: Run, names: Sequence[str]) -> None:
    """Have all this happen to the host, in this order, whenever it comes."""
    run.disturbed = bool(names)
    run.machine.happenings = _happenings(run, names)


def happening(run: Run, name: str) -> Callable[[], None]:
    """One of them, to be called when it is to happen."""
    run.disturbed = True
    return _happenings(run, [name])[0]


def _happenings(run: Run, names: Sequence[str]) -> list[Callable[[], None]]:
    machine = run.machine

    def lost() -> None:
        machine.libvirtd_loses_it()

    def guest_off() -> None:
        if machine.lost and machine.qemu is not None and not machine.qemu.paused:
            machine.qemu.guest_off = True

    def cancel() -> None:
        run.journal.wanted = Wanted.CANCEL

    def power_off() -> None:
        if machine.domain.active and not machine.raced:
            machine.stop()

    def qemu_dies() -> None:
        if machine.domain.active and not machine.raced:
            machine.stop(clean=False)

    def power_on() -> None:
        if machine.qemu is None:
            try:
                machine.start()
            except BlockingIOError:
                machine.happenings.insert(0, power_on)  # a program has the image: the owner tries again

    def owner_pauses() -> None:
        # While a suspension of the move's is under way, or announced, or its guard is armed, nobody can tell the two
        # pauses apart.
        ours = run.journal.read().switch.suspended or any(guard.armed for guard in machine.guards)
        ours = ours or (machine.manager is not None and machine.manager.doing == "save")
        if machine.qemu is not None and machine.domain.active and not machine.qemu.paused and not ours:
            machine.pause("owner")

    def owner_resumes() -> None:
        if machine.domain.paused_by == "owner":
            machine.resume("owner")

    def job_fails() -> None:
        for disk in machine.qemu.disks.values() if machine.qemu is not None else ():
            if disk.job is not None and not disk.job.ending:
                disk.job = None
                return

    def pivot_refused() -> None:
        machine.refuse_pivots.add(run.plan.disks[0].target)

    def answer_lost() -> None:
        machine.lose_answer = True

    known: dict[str, Callable[[], None]] = {
        "lost": lost,
        "guest off": guest_off,
        "cancel": cancel,
        "power off": power_off,
        "qemu dies": qemu_dies,
        "power on": power_on,
        "owner pauses": owner_pauses,
        "owner resumes": owner_resumes,
        "job fails": job_fails,
        "pivot refused": pivot_refused,
        "libvirtd restarts": machine.libvirtd_restarts,
        "answer lost": answer_lost,
        "power fails": machine.power_fails,
    }
    return [known[name] for name in names]


# ---------------------------------------------------------------- the end


def check_end(run: Run, outcome: Outcome | None) -> None:
    """Nothing is lost, whatever the outcome; nothing is left over when the move is over."""
    machine, plan, journal = run.machine, run.plan, run.journal
    story = "\n".join([*journal.story[-12:], *run.deaths])
    for guard in list(machine.guards):
        guard.look(machine.clock.now)
    machine.check()
    paused = machine.domain.state == libvirt.VIR_DOMAIN_PAUSED
    assert not paused or machine.domain.paused_by == "owner", f"the VM was left suspended\n{story}"
    used = machine.used()
    for target, path in used.items():
        assert read(machine.files.chain(path)) == machine.guest[target].acknowledged, f"{target}: writes lost\n{story}"
    if outcome is None:
        return
    across = outcome is Outcome.MOVED
    wanted = {disk.target: disk.dest.path if across else disk.source.path for disk in plan.disks}
    assert used == wanted, f"{outcome}: {used}\n{story}"
    if machine.qemu is not None:
        assert {one.target: one.paths[0][0] for one in machine.qemu.disks.values()} == wanted, story
        assert not any(one.job for one in machine.qemu.disks.values()), f"a block job is left\n{story}"
    marks = [one for root in (machine.domain.live, machine.domain.config) if root is not None for one in root.iter()]
    assert not any("blockferry" in str(mark.tag) for mark in marks), f"the mark is left\n{story}"
    assert machine.view is None, f"a view is held\n{story}"
    assert not machine.programs, f"a program is left\n{story}"
    _check_files(run, across=across, story=story)


def _check_files(run: Run, *, across: bool, story: str) -> None:
    """Exactly the files that are to be there."""
    plan, kept, record = run.plan, {one.path for one in run.journal.kept}, run.journal.read()
    home = plan.home
    assert home is not None
    old = {old_file for disk in plan.disks for old_file in disk.release.files} | {file.source for file in home.files}
    new = {dest for disk in plan.disks for dest in (disk.dest.path, *(layer.dest for layer in disk.chain.layers))}
    new |= {file.dest for file in home.files}
    found = {path for path, inode in run.machine.files.names.items() if inode.kind == "file"}
    metadata = {path for path in found if path.endswith("web01.xml")}
    if across:
        expected = new | kept | {f"{home.dest}/web01.xml"}
        doubts = {kept_file.path for kept_file in run.journal.kept if not kept_file.why.startswith("kept ")}
        # What others have done in the middle may be a doubt for good; so is a view that has died with its process.
        unverified = plan.verify and any(disk.unverified for disk in record.disks.values())
        assert run.disturbed or unverified or not doubts, f"kept without need: {doubts}\n{story}"
        assert kept <= old | {disk.overlays.source for disk in plan.disks}, f"what is kept? {kept}\n{story}"
        assert plan.source.delete or old <= kept, f"not kept: {old - kept}\n{story}"
        assert not plan.source.delete or kept == doubts, f"kept although it was to go: {kept}\n{story}"
    else:
        partial = set(record.kept)
        expected = old | kept | partial | {f"{path}.blockferry" for path in partial}
        metadata = set()
    assert found - metadata == expected - metadata, f"left: {found - expected}, missing: {expected - found}\n{story}"
    if across and not kept:
        assert run.machine.files.get("/san/web01") is None, f"the old home is left\n{story}"
