"""What `doctor` says of a host: judgements on facts that were gathered before. Pure."""

from __future__ import annotations

import enum
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from blockferry.base.units import GiB, MiB, format_duration, format_size
from blockferry.hosts import defects, qemu_user
from blockferry.hosts.defects import Case, Defect, Remedy, Version, Versions, dotted
from blockferry.hosts.inventory import Datastore, Vm
from blockferry.hosts.qemu_user import QemuUser
from blockferry.storage_move.precheck.vm_checks import OLDEST_LIBVIRT, OLDEST_QEMU, copy_case

CLOCK_WARNING_S = 2.0
CLOCK_ERROR_S = 300.0
"""Leases go by the database's clock alone; expiry of kept files and the story's times by ours."""

FULL = 64 * MiB
NEARLY_FULL = GiB
NEARLY_FULL_PART = 0.05
JOURNAL_ROOM = 64 * MiB

REMOTE_FILESYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "ceph", "fuseblk", "fuse", "gfs2", "ocfs2", "lustre", "9p")
)
"""File systems that other hosts may write to at the same time, by the mount table; those of FUSE are `fuse.NAME`."""


class Level(enum.Enum):
    """An error stands in the way of moves or endangers something; a warning should be looked at."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class HostCheck:
    """One line: what was looked at, a sentence, and what to do where there is something to do."""

    area: str  # "versions", "connection", "tools", "kvm", "datastores", "clock", "journal", "leftovers", "guard"
    level: Level
    text: str
    remedy: str = ""


class Verdict:
    """What the lines of a look at a host come to."""

    __slots__ = ()

    checks: tuple[HostCheck, ...]

    def count(self, level: Level) -> int:
        return sum(1 for check in self.checks if check.level is level)

    @property
    def healthy(self) -> bool:
        """No errors; warnings do not count."""
        return self.count(Level.ERROR) == 0


@dataclass(frozen=True, slots=True)
class Diagnosis(Verdict):
    """All lines, in the order in which they are shown."""

    uri: str
    checks: tuple[HostCheck, ...]


@dataclass(frozen=True, slots=True)
class DatastoreDirectory:
    """The directory of an active datastore as it is. Bytes; `identity` is (device, inode)."""

    problem: str | None = None
    filesystem: str = ""
    identity: tuple[int, int] | None = None
    free: int = 0
    size: int = 0
    reflink: bool | None = None  # None: not known


@dataclass(frozen=True, slots=True)
class JournalState:
    """The journal as found. `room` is None where it is not a file of this machine."""

    name: str
    version: str
    faults: tuple[str, ...]  # what the database's own check found
    clock_offset_s: float  # the database's clock less ours
    room: int | None = None
    exposed: bool = False  # others than its owner may read or write it


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is left of moves."""

    interrupted: tuple[str, ...]  # "move 1a2b of web01"
    parked: tuple[tuple[str, str], ...]  # (the same, why)
    orphans: tuple[str, ...]  # removable things that no move knows
    undecided: tuple[str, ...]  # what cannot be removed, and why
    kept: int = 0  # files in quarantine
    kept_bytes: int = 0
    expired: tuple[str, ...] = ()
    partial: tuple[str, ...] = ()  # broken copies that the next move goes on from
    unsearched: tuple[str, ...] = ()  # where could not be looked


# ------------------------------------------------------------ versions and defects


def versions(
    versions: Versions,
    qemu_img: Version | None,
    vms: Sequence[Vm],
    outdated: Iterable[str],
    running: Mapping[str, Version] | None = None,
) -> list[HostCheck]:
    """Floors, known defects, and VMs that still run a QEMU that has been replaced on disk.

    `running`: VM -> version of the QEMU in which it runs, as far as that is known.
    """
    own = running or {}
    checks = []
    for name, version, floor in (("libvirt", versions.libvirt, OLDEST_LIBVIRT), ("QEMU", versions.qemu, OLDEST_QEMU)):
        if version < floor:
            text = f"{name} is {dotted(version)}; {dotted(floor)} is the oldest that will do."
            checks.append(HostCheck("versions", Level.ERROR, text, f"Update {name}."))
        else:
            checks.append(HostCheck("versions", Level.OK, f"{name} {dotted(version)}."))
    if qemu_img is not None and qemu_img[:2] != versions.qemu[:2]:
        text = f"qemu-img is {dotted(qemu_img)}, QEMU is {dotted(versions.qemu)}."
        checks.append(HostCheck("versions", Level.WARNING, text, "Update both together."))
    for vm in outdated:
        text = f"{vm} still runs a QEMU that has been replaced on disk; which version it is cannot be told."
        if vm in own:
            text = f"{vm} still runs in QEMU {dotted(own[vm])}, which has been replaced on disk."
        checks.append(HostCheck("versions", Level.WARNING, text, f"Power-cycle {vm}."))
    mine = {vm.name: Versions(versions.libvirt, own.get(vm.name, versions.qemu)) for vm in vms}
    for defect in defects.DEFECTS:
        having = [vm for vm in vms if defect.affects(mine[vm.name].of(defect.component))]
        if defect.affects(versions.of(defect.component)):
            checks.append(_defect(defect, dotted(versions.of(defect.component)), having))
        elif having:
            names = ", ".join(f"{dotted(mine[vm.name].qemu)} in which {vm.name} runs" for vm in having)
            checks.append(_defect(defect, names, having))
    return checks


def _cases(vm: Vm) -> list[Case]:
    return [
        copy_case(disk, disk.source.format if disk.source else "raw", synchronous=True, shallow=False)
        for disk in vm.disks
        if disk.device == "disk"
    ]


def _defect(defect: Defect, version: str, having: Sequence[Vm]) -> HostCheck:
    """A defect that we deal with is no reason to worry; one that we can only tell of is, if a VM can meet it."""
    head = f"{defect.id} ({defect.component.value} {version}): {defect.title}."
    if defect.remedy not in (Remedy.TOLD, Remedy.REFUSED):
        return HostCheck("defects", Level.OK, f"{head} {defect.instead}")
    vms = [vm.name for vm in having if any(defect.concerns(case) for case in _cases(vm))]
    if not vms:
        return HostCheck("defects", Level.OK, f"{head} No VM here can meet it.")
    some = ", ".join(vms[:5]) + (f" and {len(vms) - 5} more" if len(vms) > 5 else "")
    return HostCheck("defects", Level.WARNING, f"{head} {defect.what} It can meet {some}.", defect.instead)


# ------------------------------------------------------------ the host


def tools(missing: Sequence[str]) -> list[HostCheck]:
    if not missing:
        return [HostCheck("tools", Level.OK, "Every program that is needed on the host is there.")]
    text = f"Not found on the host: {', '.join(missing)}."
    return [HostCheck("tools", Level.ERROR, text, "Install qemu-utils, coreutils, findutils, util-linux on the host.")]


KVM = "/dev/kvm"


def kvm(user: QemuUser, number: int) -> list[HostCheck]:
    """Whether QEMU's user can open /dev/kvm. `number`: 0, or the errno when that was tried."""
    if number == 0:
        return [HostCheck("kvm", Level.OK, f"QEMU can use {KVM}.")]
    if number == errno.ENOENT:
        return [HostCheck("kvm", Level.OK, f"There is no {KVM}: VMs run without KVM.")]
    slow = (
        "VMs cannot use KVM, and each change of a VM's configuration (`virsh define`, the switch of a move) takes 10 s "
        "or longer, because libvirt tries out QEMU anew each time"
    )
    if number in (errno.EACCES, errno.EPERM):
        text = f"QEMU runs as {user}, which may not open {KVM}: {slow}."
        give = f"chgrp kvm {KVM}; chmod 660 {KVM}; usermod -aG kvm $(id -nu {user.uid})"
        return [HostCheck("kvm", Level.WARNING, text, f"`{give}`, then restart libvirtd.")]
    text = f"{KVM} cannot be opened ({os.strerror(number)}): {slow}."
    return [HostCheck("kvm", Level.WARNING, text, f"`dmesg | grep -i kvm` says why; without KVM, `rm {KVM}`.")]


def datastores(stores: Sequence[Datastore], places: Mapping[str, DatastoreDirectory]) -> list[HostCheck]:
    checks = [_datastore(store, places.get(store.name)) for store in stores]
    if not stores:
        text = "There is no datastore (storage pool): nothing can be moved anywhere."
        checks.append(
            HostCheck("datastores", Level.WARNING, text, "`virsh pool-define-as NAME dir --target DIRECTORY`.")
        )
    seen: dict[tuple[int, int], str] = {}
    for store in stores:
        identity = places[store.name].identity if store.name in places else None
        if identity is None:
            continue
        if identity in seen:
            text = (
                f"The datastores {seen[identity]} and {store.name} are one directory: moving from one to the other "
                "is no move."
            )
            checks.append(
                HostCheck("datastores", Level.WARNING, text, "Undefine one of them: `virsh pool-undefine NAME`.")
            )
        else:
            seen[identity] = store.name
    return checks


def out_of_reach(user: QemuUser | None, stopped: Mapping[str, str]) -> list[HostCheck]:
    """Active datastores on which QEMU could not open an image. `stopped`: datastore -> directory it cannot pass."""
    if user is None:
        return []
    return [
        HostCheck(
            "datastores",
            Level.WARNING,
            f"{store}: QEMU runs as {user}, which cannot pass {directory}: no VM can have a disk there.",
            qemu_user.remedy(user, directory),
        )
        for store, directory in stopped.items()
    ]


def _datastore(store: Datastore, place: DatastoreDirectory | None) -> HostCheck:
    name = f"{store.name} ({store.kind})"
    if not store.active:
        after = " although it is to start by itself" if store.autostart else ""
        return HostCheck(
            "datastores", Level.WARNING, f"{name} is not active{after}.", f"`virsh pool-start {store.name}`."
        )
    if place is None:
        return HostCheck("datastores", Level.OK, f"{name} is active; blockferry cannot move there yet.")
    if place.problem is not None:
        return HostCheck(
            "datastores", Level.ERROR, f"{name}: {place.problem}.", f"Mount it, then `virsh pool-refresh {store.name}`."
        )
    room = f"{format_size(place.free)} of {format_size(place.size)} free"
    text = f"{name}: {room}, {place.filesystem}{_sharing(reflink=place.reflink)}."
    if place.free < FULL:
        return HostCheck(
            "datastores", Level.ERROR, f"{name} is full: {room}.", "Free space there: VMs on it stop when they write."
        )
    if place.free < NEARLY_FULL or place.free < place.size * NEARLY_FULL_PART:
        return HostCheck(
            "datastores", Level.WARNING, f"{name} is nearly full: {room}.", "Move something away, or free space there."
        )
    if not store.autostart:
        text = f"{text} It does not start by itself: after a reboot of the host it is not there."
        return HostCheck("datastores", Level.WARNING, text, f"`virsh pool-autostart {store.name}`.")
    if place.filesystem.partition(".")[0] in REMOTE_FILESYSTEMS:
        text = f"{text} Other hosts may use files there without being seen from here."
    return HostCheck("datastores", Level.OK, text)


def _sharing(*, reflink: bool | None) -> str:
    return "" if reflink is None else " that can share blocks" if reflink else " that cannot share blocks"


def clock(*, synchronised: bool | None, offset_s: float, uncertainty_s: float, remote: bool) -> list[HostCheck]:
    """`offset_s`: the host's clock less ours, known to within `uncertainty_s`."""
    checks = []
    if synchronised is None:
        checks.append(
            HostCheck("clock", Level.OK, "Whether the host's clock is kept right cannot be told (no timedatectl).")
        )
    elif synchronised:
        checks.append(HostCheck("clock", Level.OK, "The host's clock is kept right by NTP."))
    else:
        text = "The host's clock is not kept right by NTP."
        checks.append(HostCheck("clock", Level.WARNING, text, "Set up chrony or systemd-timesyncd."))
    if remote:
        checks.append(_offset("clock", "The host's clock", offset_s, uncertainty_s))
    return checks


def _offset(area: str, whose: str, offset_s: float, uncertainty_s: float = 0.0) -> HostCheck:
    sure = max(0.0, abs(offset_s) - uncertainty_s)
    way = "ahead of" if offset_s > 0 else "behind"
    if sure <= CLOCK_WARNING_S:
        return HostCheck(area, Level.OK, f"{whose} agrees with this machine's.")
    level = Level.ERROR if sure > CLOCK_ERROR_S else Level.WARNING
    text = (
        f"{whose} is {format_duration(abs(offset_s))} {way} this machine's; times in reports and of expiry are "
        "wrong by that."
    )
    return HostCheck(area, level, text, "Set up NTP on both.")


# ------------------------------------------------------------ what we keep


def no_journal(name: str) -> HostCheck:
    return HostCheck("journal", Level.OK, f"There is no journal at {name} yet; the first move makes it.")


def journal(state: JournalState) -> list[HostCheck]:
    checks = []
    if state.faults:
        text = f"The journal {state.name} is damaged: {'; '.join(state.faults[:3])}."
        remedy = (
            "Stop all blockferry processes and put back a backup (docs/journal.md); moves under way stay as they are."
        )
        checks.append(HostCheck("journal", Level.ERROR, text, remedy))
    else:
        checks.append(HostCheck("journal", Level.OK, f"{state.name}: schema {state.version}, sound, can be written."))
    if state.room is not None and state.room < JOURNAL_ROOM:
        level = Level.ERROR if state.room < MiB else Level.WARNING
        text = f"The journal's file system has {format_size(state.room)} left; without the journal no move goes on."
        checks.append(HostCheck("journal", level, text, "Free space there."))
    if state.exposed:
        text = f"Other users may read or write the journal {state.name}."
        checks.append(HostCheck("journal", Level.WARNING, text, f"`chmod 600 {state.name}`."))
    offset = _offset("journal", "The journal's clock", state.clock_offset_s)
    return checks if offset.level is Level.OK else [*checks, offset]


def leftovers(leftovers: Leftovers) -> list[HostCheck]:
    checks = []
    for one in leftovers.interrupted:
        text = f"{one} was interrupted and nobody goes on with it."
        checks.append(
            HostCheck("leftovers", Level.WARNING, text, "Any other command takes it up; `blockferry resume` does.")
        )
    for one, why in leftovers.parked:
        checks.append(
            HostCheck(
                "leftovers", Level.ERROR, f"{one} stands still: {why}", "Put it right, then `blockferry resume ID`."
            )
        )
    for one in leftovers.orphans:
        checks.append(
            HostCheck("leftovers", Level.WARNING, one, "`blockferry orphans` lists and removes what is left.")
        )
    for one in leftovers.undecided:
        checks.append(HostCheck("leftovers", Level.WARNING, one, "`blockferry orphans` tells more."))
    for one in leftovers.partial:
        checks.append(HostCheck("leftovers", Level.OK, f"{one} The next move to the same place goes on from it."))
    for one in leftovers.unsearched:
        checks.append(HostCheck("leftovers", Level.WARNING, one, "`blockferry orphans` once it can be read."))
    for one in leftovers.expired:
        text = f"{one} is in quarantine, and its time is over."
        checks.append(
            HostCheck("leftovers", Level.WARNING, text, "`blockferry quarantine purge` removes what has expired.")
        )
    if leftovers.kept and not leftovers.expired:
        files = "file" if leftovers.kept == 1 else "files"
        text = f"{leftovers.kept} old {files} in quarantine ({format_size(leftovers.kept_bytes)})."
        checks.append(HostCheck("leftovers", Level.OK, text))
    if not checks:
        checks.append(HostCheck("leftovers", Level.OK, "Nothing is left of earlier moves."))
    return checks


def host_guard(problem: str) -> list[HostCheck]:
    """`problem`: why no guard can stand on a host other than this one, a clause."""
    if not problem:
        return []
    text = f"No guard can stand on the host ({problem}): a VM that is suspended when the link is cut would stay so."
    return [HostCheck("guard", Level.WARNING, text, "Install virsh on the host (libvirt-clients, libvirt-client).")]


def guard(*, works: bool) -> list[HostCheck]:
    if works:
        return [
            HostCheck("guard", Level.OK, "The guard, which lets a suspended VM run if blockferry dies, can be started.")
        ]
    text = "The guard cannot be started: should blockferry die in a switch, the VM would stay suspended."
    return [
        HostCheck("guard", Level.ERROR, text, "`python -m blockferry.safety.guard URI UUID NAME` by hand says why.")
    ]
