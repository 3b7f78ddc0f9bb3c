"""A move to another host on a simulated one that is both of them: its real loop and effects, below a made-up migration.

Both hosts see the same files, under directories of their own; libvirt shows the VM at one of them only. What the two
guards do, and how parts go over the wire, is tested elsewhere.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, cast
from unittest import mock

import libvirt
import msgspec
from lxml import etree

from blockferry.base.errors import Interrupted, LeaseLost, LibvirtFailed, MoveParked
from blockferry.host_move import effects, image_owner, kept_definition, migration_guarding
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_move_kind import HostMoveKind
from blockferry.host_move.host_move_loop import HostMoveLoop
from blockferry.host_move.host_observation import HostObservation
from blockferry.host_move.host_plan import HostMovePlan, TravellingDisk, storage_first
from blockferry.host_move.host_record import HostMoveRecord, PartCopied
from blockferry.host_move.points import point
from blockferry.hosts.helper.holding import Holding
from blockferry.hosts.helper.program import holder_calls
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.migration import MigrationOrder
from blockferry.jobs.action import Action
from blockferry.jobs.loop import Waiting
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.safety.proof import Claims
from blockferry.storage_move.request import SourcePolicy
from simulated_host import clock, programs
from simulated_host.connection import URI, SimulatedConnection, SimulatedHost, SimulatedLibvirt
from simulated_host.files import REGION, read
from simulated_host.helper import SimulatedRunner
from simulated_host.machine import HOST_UUID, UUID, Machine, Violation, disk_element
from simulated_host.manager import Killed, Manager

REGIONS = 4
DEST_UUID = "22222222-2222-3333-4444-555555555555"
MOST_PROCESSES = 60
MOST_STEPS = 2000

DEFINITION = f"{kept_definition.CONFIG}/web01.xml"
"""Of the host that has the VM: both see the same files."""


@dataclass
class Where:
    """Which of both hosts has the VM; and what the hosts know of who runs the move (hosts/helper/holding.py)."""

    host: str = HOST_UUID
    holders: dict[tuple[str, str], list[int]] = field(default_factory=dict)  # host, move -> number
    kept: set[str] = field(default_factory=set)  # hosts that keep the definition
    late: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)  # calls of processes that died with them


class PlacedLibvirt(SimulatedLibvirt):
    """virConnect of one of both hosts."""

    def __init__(self, machine: Machine, manager: Manager | None, where: Where, host: str) -> None:
        super().__init__(machine, manager)
        self._where, self._host = where, host

    def _found(self, known: bool) -> Any:
        return super()._found(known and self._where.host == self._host)

    def listAllDomains(self, flags: int = 0) -> list[Any]:  # noqa: N802 - libvirt's name
        """See virConnect."""
        found = super().listAllDomains(flags)
        return found if self._where.host == self._host else []


class PlacedRunner(SimulatedRunner):
    """The helper of one of both hosts, with the calls that it refuses once another process runs the move."""

    def __init__(self, machine: Machine, manager: Manager, where: Where, host: str) -> None:
        super().__init__(machine, manager)
        self._where, self._host = where, host

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        """See Runner. A call that its process died before may still come: see `Where.late`."""
        try:
            return super().call(do, timeout_s=timeout_s, repeat=repeat, **words)
        except Killed:
            if do in ACTS and self._manager.last == f"before {do}":
                self._where.late.append((self._host, do, words))
            raise

    def _held(self, move: str, number: list[int], act: Callable[[], Any]) -> dict[str, Any]:
        found = self._where.holders.get((self._host, move))
        if found != number:
            return {"refused": holder_calls.NONE if found is None else holder_calls.OLD}
        return {"result": act()}

    def _holder_hold(self, move: str, number: list[int]) -> str:
        found = self._where.holders.get((self._host, move))
        if found is not None and found > number:
            return holder_calls.OLD
        self._where.holders[self._host, move] = number
        return holder_calls.HOLDER

    def _holder_forget(self, move: str, number: list[int]) -> str:
        if self._where.holders.get((self._host, move)) not in (None, number):
            return holder_calls.OLD
        self._where.holders.pop((self._host, move), None)
        return holder_calls.HOLDER

    def _holder_call(self, move: str, number: list[int], what: str, words: dict[str, Any]) -> dict[str, Any]:
        return self._held(move, number, lambda: getattr(self, "_" + what.replace(".", "_", 1))(**words))

    def _holder_run(self, move: str, number: list[int], argv: list[str], data: str) -> dict[str, Any]:
        assert not data

        def act() -> dict[str, Any]:
            done = programs.run(self._machine, argv)
            return {"status": done.status, "out": base64.b64encode(done.stdout).decode(), "words": done.stderr}

        return self._held(move, number, act)

    def _holder_virsh(
        self, move: str, number: list[int], uri: str, words: list[str], texts: dict[str, str]
    ) -> dict[str, Any]:
        del uri
        return self._held(move, number, lambda: self._virsh(words, texts))

    def _holder_drop(self, move: str, number: list[int], uuid: str) -> dict[str, Any]:
        del uuid

        def act() -> None:
            if (
                self._host == HOST_UUID
                and self._where.host == DEST_UUID
                and self._files.find(DEFINITION).stable is None
            ):
                raise Violation("the only definition is not on the disk, and its copy goes")
            self._where.kept.discard(self._host)

        return self._held(move, number, act)

    def _holder_keep(self, move: str, number: list[int], uri: str, uuid: str) -> dict[str, Any]:
        del uri, uuid

        def act() -> dict[str, Any]:
            if self._where.host == self._host:
                self._where.kept.add(self._host)
                return {"status": 0, "out": "", "words": ""}
            return {"status": 1, "out": "", "words": "error: failed to get domain"}

        return self._held(move, number, act)

    def _holder_kept(self, move: str, uuid: str) -> dict[str, Any]:
        return {
            "path": holder_calls.kept_path(move, uuid),
            "xml": "<domain/>" if self._host in self._where.kept else None,
        }

    def _virsh(self, words: list[str], texts: dict[str, str]) -> dict[str, Any]:
        """A virsh on this host: a connection of its own."""
        said = {"status": 0, "out": "", "words": ""}
        if self._machine.refuses > 0:
            self._machine.refuses -= 1
            return {**said, "status": 1, "words": "error: failed to connect to the hypervisor"}
        raw = PlacedLibvirt(self._machine, None, self._where, self._host)
        try:
            _VIRSH[words[0]](raw, words[1:], texts)
        except libvirt.libvirtError as error:
            return {**said, "status": 1, "words": f"error: {error}"}
        return said


ACTS = frozenset({"holder.call", "holder.run", "holder.virsh", "holder.drop", "holder.keep"})


def _put_overlays(raw: PlacedLibvirt, words: list[str], texts: dict[str, str]) -> None:
    assert words[1:] == ["@snapshot", "--disk-only", "--atomic", "--no-metadata", "--reuse-external"], words
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    raw.lookupByUUIDString(words[0]).snapshotCreateXML(texts["snapshot"], flags)


def _commit(raw: PlacedLibvirt, words: list[str], _texts: dict[str, str]) -> None:
    assert words[2:] == ["--active", "--shallow"], words
    raw.lookupByUUIDString(words[0]).blockCommit(words[1], None, None, 0, 0)


def _pivot(raw: PlacedLibvirt, words: list[str], _texts: dict[str, str]) -> None:
    assert words[2:] == ["--pivot", "--async"], words
    raw.lookupByUUIDString(words[0]).blockJobAbort(words[1], libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)


def _metadata(raw: PlacedLibvirt, words: list[str], _texts: dict[str, str]) -> None:
    flags = libvirt.VIR_DOMAIN_AFFECT_LIVE if "--live" in words else 0
    flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG if "--config" in words else 0
    key, xml = ("", None) if "--remove" in words else (words[words.index("--key") + 1], words[-1])
    raw.lookupByUUIDString(words[0]).setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml, key, words[1], flags)


_VIRSH: dict[str, Callable[[PlacedLibvirt, list[str], dict[str, str]], Any]] = {
    "snapshot-create": _put_overlays,
    "blockcommit": _commit,
    "blockjob": _pivot,
    "metadata": _metadata,
    "define": lambda raw, _words, texts: raw.defineXML(texts["definition"]),
    "autostart": lambda raw, words, _: raw.lookupByUUIDString(words[-1]).setAutostart("--disable" not in words),
    "resume": lambda raw, words, _: raw.lookupByUUIDString(words[0]).resume(),
}


class PlacedHost(SimulatedHost):
    """One of both hosts."""

    def __init__(self, machine: Machine, manager: Manager, where: Where, host: str) -> None:
        super().__init__(machine, manager)
        self.runner = PlacedRunner(machine, manager, where, host)
        self._where, self._host = where, host

    def _made(self) -> Connection:
        super()._made()
        connection = SimulatedConnection(self._machine, self._manager)
        connection.raw = PlacedLibvirt(self._machine, self._manager, self._where, self._host)
        connection._host_id = self._host
        return connection


class SimulatedMigration:
    """hosts/libvirt/migration.py's call: it is over at once, well or not."""

    def __init__(self, run: HostRun, manager: Manager, order: MigrationOrder) -> None:
        self._run, self._manager, self._order = run, manager, order
        self.switched_at: float | None = None
        self.stats = None
        self.problem: LibvirtFailed | None = None
        self.over = threading.Event()

    def start(self) -> None:
        """The VM goes, with what its top images hold, and stands still there."""
        with self._manager.calls("migrate", changes=True):
            self._manager.must_live()
            if self._run.migrations_fail:
                self._run.migrations_fail -= 1
                self.problem = LibvirtFailed("migrate", "refused", "VIR_ERR_OPERATION_FAILED")
            elif self._run.machine.domain.active:
                self._go()
            self.over.set()

    def _go(self) -> None:
        machine, order = self._run.machine, self._order
        assert order.only_top
        assert machine.qemu is not None
        for target, (path, format) in order.disks.items():
            disk, chain = machine.qemu.disks[target], machine.files.chain(path)
            if machine.programs:
                raise Violation("the VM goes while a program has its images open")
            top, here = chain[0].image, disk.chain[0].image
            assert top is not None
            assert here is not None
            top.regions = dict(here.regions)
            chain[0].flush()
            if read(chain) != machine.guest[target].acknowledged:
                raise Violation(f"{target} has arrived without some of its writes")
            disk.chain, disk.paths, disk.job = chain, machine.paths(path), None
            for root in (machine.domain.live, machine.domain.config):
                assert root is not None
                element = disk_element(root, target)
                assert element is not None
                element.find("source").set("file", path)  # type: ignore[union-attr]
                element.find("driver").set("type", format)  # type: ignore[union-attr]
        if HOST_UUID not in self._run.where.kept:
            raise Violation("libvirt removes the only definition that is on a disk")
        machine.pause("move")
        machine.files.find(DEFINITION).stable = None
        self._run.where.host = DEST_UUID


def build(seed: int, *, disks: int = 1, format: str = "qcow2", delete: bool = True) -> tuple[Machine, HostMovePlan]:
    """Both hosts before the move, and the plan of it."""
    machine = Machine(seed)
    clock.use(machine.clock)
    machine.files.create("/san/web01", 0o711, "directory")
    targets = ("vda", "vdb")[:disks]
    for target in targets:
        machine.add_disk(target, f"/san/web01/{target}.img", format, REGIONS)
    words = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{format}'/>"
        f"<source file='/san/web01/{target}.img'/><target dev='{target}' bus='virtio'/></disk>"
        for target in targets
    )
    machine.domain.config = etree.fromstring(
        f"<domain type='kvm'><name>web01</name><uuid>{UUID}</uuid><memory>65536</memory>"
        f"<os><type>hvm</type></os><devices>{words}</devices></domain>"
    )
    for path in ("/etc", "/etc/libvirt", kept_definition.CONFIG):
        machine.files.create(path, 0o755, "directory")
    machine.files.write(DEFINITION, f"<uuid>{UUID}</uuid>".encode(), 0o600)
    machine.start()
    plan = HostMovePlan(
        "m1", "web01", UUID, URI, HOST_UUID, "kvm1", URI, DEST_UUID, "kvm2", URI, "kvm2",
        tuple(
            TravellingDisk(
                target, f"/san/web01/{target}.img", f"/ssd/web01/{target}.img", format, REGIONS * REGION, "ssd",
                source_datastore="san", allocation=(REGIONS - 1) * REGION,
            )
            for target in targets
        ),
        source=SourcePolicy(delete=delete),
    )  # fmt: skip
    return machine, storage_first(plan)


@dataclass
class HostJournal:
    """One move in a journal. Only its JSON outlives a process."""

    record: str = field(default_factory=lambda: msgspec.json.encode(HostMoveRecord()).decode())
    wanted: Wanted = Wanted.GO
    story: list[str] = field(default_factory=list)
    kept: dict[str, Kept] = field(default_factory=dict)
    parked: str = ""
    kind: HostMoveKind = field(default_factory=HostMoveKind)

    def read(self) -> HostMoveRecord:
        return self.kind.with_wishes(self.kind.read_record(self.record), self.wanted.value, 0)


class HostJob:
    """The handle of the move in one process (jobs/loop.py, Job)."""

    def __init__(self, journal: HostJournal, manager: Manager) -> None:
        self._journal, self._manager = journal, manager
        self.stop: Any = clock.Event()

    def read(self) -> HostMoveRecord:
        self._manager.must_live()
        return self._journal.read()

    def save(self, record: HostMoveRecord) -> None:
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

    def finish(self, record: HostMoveRecord, _report: object) -> None:
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


@dataclass(kw_only=True)
class WatchedHostLoop(HostMoveLoop):
    """The real loop, which tells what it does."""

    about_to: Callable[[Action], None]
    steps: int = 0

    def perform(self, action: Action, seen: HostObservation) -> None:
        self.about_to(action)
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise Violation(f"no end after {MOST_STEPS} steps of one process, the last one: {action}")
        super().perform(action, seen)


@dataclass
class HostRun:
    """A move to the other host, with all that it takes."""

    machine: Machine
    plan: HostMovePlan
    where: Where = field(default_factory=Where)
    journal: HostJournal = field(default_factory=HostJournal)
    names: list[str] = field(default_factory=list)  # of the actions that were begun
    migrations_fail: int = 0  # so many of them
    tokens: int = 0  # of leases: each process has its own
    points: list[int] = field(default_factory=list)
    deaths: list[str] = field(default_factory=list)

    def process(self, dies_at: int | None, happens: Mapping[int, Callable[[], None]] | None = None) -> Outcome | None:
        """Run the loop in a process; its outcome, None when it died, was parked, or has to be started anew."""
        machine, journal = self.machine, self.journal
        manager = machine.manager = Manager(machine.moment, dies_at, happens)
        job = HostJob(journal, manager)
        journal.parked = ""
        outcome: Outcome | None = None
        try:
            with _below(self, manager):
                record = journal.read()
                job.save(replace(record, unexpected=0, first=replace(record.first, attempts=0)))
                loop = WatchedHostLoop(
                    about_to=lambda action: self.names.append(type(action).__name__),
                    context=self._context(job, manager),
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

    def _context(self, job: HostJob, manager: Manager) -> HostMoveContext:
        def keep(row: Kept) -> None:
            with manager.calls("keep", changes=True):
                self.journal.kept[row.path] = row

        self.tokens += 1
        return HostMoveContext(
            plan=self.plan,
            holding=Holding(self.plan.move, self.tokens, job.check, point),
            source=PlacedHost(self.machine, manager, self.where, HOST_UUID),
            dest=PlacedHost(self.machine, manager, self.where, DEST_UUID),
            save=job.save,
            log_event=job.log_event,
            check=job.check,
            should_stop=job.should_stop,
            bandwidth=lambda: 0,
            claims=lambda: Claims(kept=tuple(self.journal.kept.values())),
            dest_claims=Claims,
            quarantine=keep,
            journal="journal",
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

    # ------------------------------------------------------------ what happens

    def deliver_late(self) -> list[str]:
        """What a dead process has sent comes to its host now. Return which of it was carried out."""
        done = []
        for host, do, words in self.where.late:
            runner = PlacedRunner(self.machine, Manager(self.machine.moment), self.where, host)
            if "result" in runner.call(do, **words):
                done.append(f"{do} {words}")
        self.where.late.clear()
        return done

    def cancel(self) -> None:
        self.journal.wanted = Wanted.CANCEL

    def power_off(self) -> None:
        """Its guest ends, wherever it runs."""
        if self.machine.domain.state == libvirt.VIR_DOMAIN_RUNNING:
            self.machine.stop()

    def power_on(self) -> None:
        """Its owner starts it at the source."""
        if self.machine.qemu is None and self.where.host == HOST_UUID:
            try:
                self.machine.start()
            except BlockingIOError:
                self.machine.happenings.insert(0, self.power_on)

    def job_fails(self) -> None:
        for disk in self.machine.qemu.disks.values() if self.machine.qemu is not None else ():
            if disk.job is not None and not disk.job.ending:
                disk.job = None

    def pivot_refused(self) -> None:
        self.machine.refuse_pivots.add("vda")

    def check_end(self, outcome: Outcome | None) -> None:
        """Nothing is lost, whatever the outcome; nothing is left over when the move is over."""
        machine, journal = self.machine, self.journal
        story = "\n".join([*journal.story[-12:], *self.deaths])
        machine.check()
        used = machine.used()
        for target, path in used.items():
            assert read(machine.files.chain(path)) == machine.guest[target].acknowledged, f"{target}: lost\n{story}"
        if outcome is None:
            return
        assert machine.domain.state != libvirt.VIR_DOMAIN_PAUSED, story
        across = outcome is Outcome.MOVED
        assert self.where.host == (DEST_UUID if across else HOST_UUID), story
        wanted = {disk.target: disk.dest if across else disk.source for disk in self.plan.disks}
        assert used == wanted, f"{outcome}: {used}\n{story}"
        if machine.qemu is not None:
            assert {one.target: one.paths[0][0] for one in machine.qemu.disks.values()} == wanted, story
            assert not any(one.job for one in machine.qemu.disks.values()), f"a block job is left\n{story}"
        roots = [root for root in (machine.domain.live, machine.domain.config) if root is not None]
        marks = [one for root in roots for one in root.iter() if "blockferry" in str(one.tag)]
        assert not marks, f"the mark is left\n{story}"
        found = {path for path, inode in machine.files.names.items() if inode.kind == "file"}
        expected = {*wanted.values(), *journal.kept, DEFINITION}
        assert not self.where.kept, story
        assert found == expected, f"left: {found - expected}, missing: {expected - found}\n{story}"
        old = {disk.source for disk in self.plan.disks}
        assert across or not journal.kept, story
        assert not across or self.plan.source.delete or old <= set(journal.kept), story


@contextmanager
def _below(run: HostRun, manager: Manager) -> Iterator[None]:
    """What is made up: the migration call, the guards, owners, and how bytes go from host to host."""

    def copy_image(
        context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk, fingerprint: str
    ) -> HostMoveRecord:
        with manager.calls("copy", changes=True):
            manager.must_live()
            source, dest = run.machine.files.find(disk.source), run.machine.files.find(disk.dest)
            if run.machine.qemu is not None and run.machine.qemu.disks[disk.target].chain[0] is source:
                raise Violation(f"{disk.source} is copied while the VM writes to it")
            assert source.image is not None
            assert dest.image is not None
            dest.image.regions = dict(source.image.regions)
            dest.flush()
        part = PartCopied(fingerprint, disk.virtual_size)
        record = replace(record, parts={**record.parts, disk.target: part})
        context.save(record)
        return record

    names = (
        "start",
        "stand_by",
        "end_stalled",
        "tell_handed",
        "arm_destination",
        "note_running",
        "forget",
        "end",
        "leave",
    )
    quiet: dict[str, Any] = {name: lambda *_: None for name in names}
    with (
        mock.patch.multiple(migration_guarding, **quiet, has_acted=lambda _context: False),
        mock.patch.object(effects, "copy_image", copy_image),
        mock.patch.object(
            effects, "Migration", lambda _connection, _uuid, _name, order, _: SimulatedMigration(run, manager, order)
        ),
        mock.patch.object(image_owner, "_give", return_value=None),
    ):
        yield
