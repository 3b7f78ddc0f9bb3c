"""The host: its files, its VM, its time; what happens to it, and what may never happen."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import libvirt
from lxml import etree

from simulated_host.clock import Clock
from simulated_host.files import Files, Image, Inode, Regions, read, read_stable
from simulated_host.manager import Manager
from simulated_host.qemu import BlockJob, GuestDisk, Qemu, QemuDisk

UUID = "5a0d7b1e-94b1-4d34-8c38-0f5d5f0f8a11"
HOST_UUID = "11111111-2222-3333-4444-555555555555"
OTHER_PAUSES_S = 0.5


class Violation(BaseException):
    """What may never happen has happened. No effect may catch it."""


@dataclass
class Program:
    """A program that has images open: it holds QEMU's locks. It ends with the manager that started it."""

    manager: Manager
    reads: list[Inode] = field(default_factory=list)
    writes: list[Inode] = field(default_factory=list)


class Sentinel(Protocol):
    """A guard's process."""

    @property
    def armed(self) -> bool: ...

    def look(self, now: float) -> None: ...


@dataclass
class View:
    """A pull-mode backup: the disks as they were when it was begun, shown on a socket."""

    socket: str
    disks: dict[str, Regions]
    scratch: list[str]


@dataclass
class Domain:
    """What libvirt has of the VM. The XML is kept as libvirt keeps it: one for now, one for the next start."""

    name: str
    config: etree._Element | None
    live: etree._Element | None = None
    state: int = libvirt.VIR_DOMAIN_SHUTOFF
    id: int = -1
    paused_by: str = ""  # "owner", "move"
    autostart: bool = False

    @property
    def active(self) -> bool:
        return self.state in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED)


class Machine:
    """`seed`: of everything that is left to chance. Times are seconds."""

    def __init__(self, seed: int, *, start_race: bool = False) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.clock.passes = self._wait
        self.files = Files({"/": 1, "/san": 2, "/ssd": 3})
        self.guest: dict[str, GuestDisk] = {}
        self.start_race = start_race
        self.knows_zeroed = seed % 2 == 1  # whether its libvirt can be told that a copy's target reads as zeros
        self.domain = Domain("web01", None)
        self.qemu: Qemu | None = None
        self.programs: list[Program] = []
        self.view: View | None = None
        self.pools = {"san": "/san", "ssd": "/ssd"}
        self.listeners: dict[int, Callable[..., None]] = {}
        self.refuses = 0  # so many connections more, until libvirtd is up again
        self.generation = 0  # of libvirtd: connections of an earlier one are broken
        self.guards_work = True
        self.resumed_by = ""
        self.refuse_pivots: set[str] = set()
        self.lose_answer = False  # libvirtd does what the next call wants, and dies before it answers
        self.guards: list[Sentinel] = []
        self.ended: set[str] = set()  # names of suspensions that a guard has ended, as it has noted on the host
        self.happenings: list[Callable[[], None]] = []  # what is still to happen to it, in this order
        self.quiet_for = self.chance.randrange(400)  # moments until the first of it
        self.manager: Manager | None = None
        # libvirt cannot change a configuration only if the VM is still off: who starts it in the moment before has it
        # run on the old disks while the configuration names the new ones. decide puts that right; until then nobody
        # ends it here, for that cannot be helped (docs/states.md).
        self.started_unseen = False  # since libvirt was last asked for its state by the move
        self.raced = False
        self._runs = 0
        self._acting = False

    # ------------------------------------------------------------ building it

    def add_disk(self, target: str, path: str, format: str, regions: int) -> None:
        """An image that holds something everywhere but in its last region."""
        inode = self.files.create(path, 0o644)
        inode.image = Image(format, regions << 20)
        guest = self.guest[target] = GuestDisk(regions)
        for region in range(regions - 1):
            guest.writes += 1
            inode.image.regions[region] = guest.acknowledged[region] = guest.writes
        guest.flushed = dict(guest.acknowledged)
        inode.flush()

    # ------------------------------------------------------------ time

    def moment(self) -> None:
        """A little time passes: the guest writes, jobs copy, guards look, something happens."""
        self._wait(0.001)

    def _wait(self, seconds: float) -> None:
        if self._acting:  # what happens takes no time by itself
            self.clock.now += seconds
            return
        for _ in range(1 if seconds < 0.05 else 3):
            self._acting = True
            self.programs = [program for program in self.programs if not program.manager.dead]
            try:
                if self.qemu is not None:
                    self.qemu.moment()
                for guard in list(self.guards):
                    guard.look(self.clock.now)
                self.quiet_for -= 1
                if self.happenings and self.quiet_for < 0:
                    self.quiet_for = self.chance.choice((0, 3, 30, 100))
                    self.happenings.pop(0)()
            finally:
                self._acting = False
        self.clock.now += seconds

    def notify(self, kind: int, *words: object) -> None:
        for callback in list(self.listeners.values()):
            callback(kind, *words)

    # ------------------------------------------------------------ the VM

    def start(self, *, paused: bool = False) -> None:
        """libvirt starts a QEMU with the persistent XML. Raises OSError where an image is missing or locked."""
        domain = self.domain
        self.started_unseen = True
        assert domain.config is not None
        assert not domain.active
        qemu = Qemu(self.files, self.guest, self.chance, self.pivoted, start_race=self.start_race)
        for disk in domain.config.iterfind("./devices/disk"):
            target, path = disk.find("target").get("dev"), disk.find("source").get("file")  # type: ignore[union-attr]
            assert target is not None
            assert path is not None
            chain = self.files.chain(path)
            for program in self.programs:
                if any(one in program.writes for one in chain) or chain[0] in program.reads:
                    raise BlockingIOError(11, 'Failed to get "write" lock', path)
            if read(chain) != self.guest[target].acknowledged:
                raise Violation(f"the VM was started on {path}, which lacks writes of {target}")
            qemu.disks[target] = QemuDisk(target, chain, self.paths(path))
        self._runs += 1
        self.qemu = qemu
        domain.live, domain.id = copy.deepcopy(domain.config), self._runs
        domain.state = libvirt.VIR_DOMAIN_PAUSED if paused else libvirt.VIR_DOMAIN_RUNNING
        qemu.paused = paused
        self.notify(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE)

    def chain_of(self, path: str) -> list[tuple[str, Inode]]:
        """Path and file of the image and of all that it stands on, top first. Raises OSError."""
        found = []
        for inode in self.files.chain(path):
            assert inode.image is not None
            found.append((path, inode))
            path = "" if inode.image.backing is None else inode.image.backing[0]
        return found

    def paths(self, path: str) -> list[tuple[str, str]]:
        """Path and format of the image and of all that it stands on."""
        return [(one, inode.image.format) for one, inode in self.chain_of(path) if inode.image is not None]

    def stop(self, *, clean: bool = True) -> None:
        """The VM goes off. Not `clean`: its QEMU is killed, and part of what a copy's tables were to hold is lost."""
        assert self.qemu is not None
        for target, disk in self.qemu.disks.items():
            if clean:
                self.qemu.flush(target)
            elif disk.job is not None and disk.job.target[0].image is not None:
                regions = disk.job.target[0].image.regions
                for region in [one for one in regions if self.chance.random() < 0.3]:
                    if disk.job.kind == "copy":
                        del regions[region]
        if clean:
            self.end_view()
        self.qemu = self.view = None
        self.domain.live, self.domain.id, self.domain.paused_by = None, -1, ""
        self.domain.state = libvirt.VIR_DOMAIN_SHUTOFF
        self.notify(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE)

    def begin_view(self, socket: str, scratch: dict[str, str]) -> None:
        """Raises OSError."""
        assert self.qemu is not None
        for path in scratch.values():
            self.files.find(path)
        self.files.create(socket)
        self.view = View(
            socket, {target: read(self.qemu.disks[target].chain) for target in scratch}, list(scratch.values())
        )

    def end_view(self) -> None:
        """QEMU takes its socket away; one that is killed leaves it."""
        if self.view is not None and self.files.get(self.view.socket) is not None:
            self.files.unlink(self.view.socket)
        self.view = None

    def defined(self, root: etree._Element) -> None:
        """libvirt has the VM's configuration anew."""
        self.domain.config = root
        live = {} if self.qemu is None else {disk.target: disk.paths[0][0] for disk in self.qemu.disks.values()}
        differ = self.qemu is not None and live != self.used()
        self.raced = differ and (self.raced or self.started_unseen)

    def pause(self, by: str) -> None:
        assert self.qemu is not None
        self.qemu.paused = True
        self.domain.state, self.domain.paused_by = libvirt.VIR_DOMAIN_PAUSED, by

    def resume(self, by: str) -> None:
        if self.domain.paused_by == "owner" and by != "owner":
            raise Violation(f"the owner's pause was ended by the {by}")
        self.resumed_by = by
        if self.qemu is not None:
            lost = self.lost  # libvirt does not learn what its monitor is told past it
            self.qemu.paused = False
            if not lost:
                self.domain.state, self.domain.paused_by = libvirt.VIR_DOMAIN_RUNNING, ""

    def pivoted(self, disk: QemuDisk, job: BlockJob) -> None:
        """QEMU is on the other image: libvirt's XML says so, also the one for the next start if it had the old one."""
        old = disk.paths[0][0]
        disk.paths = job.paths
        for root in (self.domain.live, self.domain.config):
            self.name(root, disk.target, old, job.path, job.format)
        self.notify(libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2, disk.target)

    @staticmethod
    def name(root: etree._Element | None, target: str, old: str, path: str, format: str) -> None:
        """An XML that names this disk's old image names this one from now on."""
        element = None if root is None else disk_element(root, target)
        if element is None or element.find("source").get("file") != old:  # type: ignore[union-attr]
            return
        element.find("source").set("file", path)  # type: ignore[union-attr]
        element.find("driver").set("type", format)  # type: ignore[union-attr]

    def put_above(self, target: str, path: str) -> None:
        """An external snapshot of a disk: the overlay takes the writes from now on."""
        assert self.qemu is not None
        disk = self.qemu.disks[target]
        old = disk.paths[0][0]
        disk.chain[0].flush()  # as QEMU does before it puts another image above (blockdev.c, external_snapshot_action)
        disk.chain, disk.paths = [self.files.find(path), *disk.chain], [(path, "qcow2"), *disk.paths]
        for root in (self.domain.live, self.domain.config):
            self.name(root, target, old, path, "qcow2")

    # ------------------------------------------------------------ what may never happen

    def switching(self) -> None:
        """A disk is switched to its copy. Others may have let the guest run in the moment before."""
        if self.qemu is not None and not self.qemu.paused and self.resumed_by not in ("guard", "owner"):
            raise Violation("a disk is switched while the guest runs")

    def used(self) -> dict[str, str]:
        """Target -> the image that a start would use."""
        assert self.domain.config is not None
        return {
            str(disk.find("target").get("dev")): str(disk.find("source").get("file"))  # type: ignore[union-attr]
            for disk in self.domain.config.iterfind("./devices/disk")
        }

    def removing(self, path: str) -> None:
        """A file is about to lose its name."""
        inode = self.files.get(path)
        if inode is None:
            return
        if self.view is not None and path in self.view.scratch:
            raise Violation(f"{path} is removed, and QEMU keeps there what a view needs")
        for disk in self.qemu.disks.values() if self.qemu is not None else ():
            if inode in disk.chain:
                raise Violation(f"{path} is removed, and the VM uses it")
            if disk.job is not None and inode in disk.job.target:
                raise Violation(f"{path} is removed, and a block job writes to it")
        if self.domain.config is not None:
            for used in self.used().values():
                if self.files.get(used) is not None and inode in self.files.chain(used):
                    raise Violation(f"{path} is removed, and the next start of the VM uses it")

    def check(self) -> None:
        """Raise unless no acknowledged write is lost, and none that was flushed if power were lost now."""
        for target, path in self.used().items():
            guest = self.guest[target]
            if self.qemu is not None and read(self.qemu.disks[target].chain) != guest.acknowledged:
                raise Violation(f"{target}: the running VM does not read what it has written")
            try:
                chain = self.files.chain(path)
            except OSError as error:
                raise Violation(f"{target}: the next start finds no image ({error})") from None
            if self.raced or self.lost:
                continue
            after_power_loss = read_stable(chain)
            for region, write in guest.flushed.items():
                if after_power_loss.get(region, 0) < write:
                    raise Violation(f"{target}: a loss of power now loses flushed writes ({path})")

    # ------------------------------------------------------------ what happens

    def libvirtd_restarts(self) -> None:
        self.generation += 1
        self.refuses = 2
        self.listeners.clear()

    def libvirtd_loses_it(self) -> None:
        """libvirtd dies as it concludes a job: the new one does not know of the QEMU, and names the old images.

        docs/design/lost-vm.md. Only what QEMU does by itself goes on.
        """
        if self.qemu is None or not self.domain.active or self.raced:
            return
        for disk in self.qemu.disks.values():
            if disk.job is not None and disk.job.ending == "pivot" and self.chance.random() < 0.5:
                config = copy.deepcopy(self.domain.config)
                self.qemu.conclude(disk, disk.job)
                self.domain.config = config
        self.libvirtd_restarts()
        self.domain.live, self.domain.id = None, -1
        self.domain.state, self.domain.paused_by = libvirt.VIR_DOMAIN_SHUTOFF, ""

    @property
    def lost(self) -> bool:
        """Whether libvirt has lost the VM."""
        return self.qemu is not None and not self.domain.active

    def power_fails(self) -> None:
        """The host is off, and on again; the VM is not started."""
        if self.raced or self.lost:
            return
        self.check()
        if self.qemu is not None:
            self.stop(clean=False)
        else:
            for path in self.used().values():  # what a VM has left in the page cache the kernel has written by now
                for inode in self.files.chain(path):
                    inode.flush()
        for inode in {id(name): name for name in self.files.names.values()}.values():
            if inode.kind == "file":
                inode.lose_power()
        for target, path in self.used().items():
            guest = self.guest[target]
            guest.acknowledged = dict(read(self.files.chain(path)))
            guest.flushed = dict(guest.acknowledged)
        self.programs.clear()
        self.guards.clear()
        self.libvirtd_restarts()
        if self.manager is not None:
            self.manager.dead, self.manager.last = True, "power was lost"


def disk_element(root: etree._Element, target: str) -> etree._Element | None:
    """The `<disk>` of a target."""
    for disk in root.iterfind("./devices/disk"):
        if disk.find("target").get("dev") == target:  # type: ignore[union-attr]
            return disk
    return None
