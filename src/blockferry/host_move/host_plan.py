"""The plan of a move to another host: written down once, never changed. Its JSON is a promise (docs/journal.md)."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from blockferry.hosts.datastore_id import Directory, FileId, SpaceId, file_of
from blockferry.storage_move.overlays.plan import overlay_stem
from blockferry.storage_move.request import SourcePolicy

PLAN_VERSION = 3
"""3: disks go before their running VM (`overlay`, `new_overlay`)."""

USUAL_VERSION = 2
"""Of a plan without that: who knows only these may carry it out."""

BARRED = ".incoming"
"""Ending of the images of a VM that is off until its definition is only at the destination: so long it cannot start."""


@dataclass(frozen=True, slots=True)
class TravellingDisk:
    """A disk whose content goes along. Sizes are bytes; `datastore`: the destination's name of it.

    `required`: what the new image takes there at most; `allocation`: what the old one takes. `overlay`: beside the
    source, takes the guest's writes while the image goes before its running VM; `new_overlay`: above the new image,
    takes what libvirt then carries. "": libvirt copies the whole disk, or the VM is off.
    """

    target: str
    source: str
    dest: str
    format: str
    virtual_size: int
    datastore: str
    source_datastore: str = ""
    thick: bool = False
    required: int = 0
    allocation: int = 0
    overlay: str = ""
    new_overlay: str = ""


@dataclass(frozen=True, slots=True)
class StateFile:
    """A small file of the VM beside its disks that goes along. Bytes.

    `role`: "nvram", its UEFI variables; "tpm", the state of its emulated TPM. `sent`: libvirt sends it with the memory.
    """

    role: str
    source: str
    dest: str
    size: int
    sent: bool = False


@dataclass(frozen=True, slots=True)
class PlannedTls:
    """Memory and disks are encrypted. `source`, `dest`: directories of QEMU's certificates on either host. `name`: in
    the destination's certificate, where the source reaches it by another one; "": by that."""

    source: str
    dest: str
    name: str = ""


def with_overlays(disk: TravellingDisk, vm: str, move: str) -> TravellingDisk:
    """Return the disk as one that goes before its running VM, with the names of both overlays."""
    stem = overlay_stem(vm, disk.target, move)
    return replace(
        disk,
        overlay=posixpath.join(posixpath.dirname(disk.source), f"{stem}.overlay.qcow2"),
        new_overlay=posixpath.join(posixpath.dirname(disk.dest), f"{stem}.new-overlay.qcow2"),
    )


def storage_first(plan: HostMovePlan) -> HostMovePlan:
    """Return the plan with its disks going before their running VM."""
    disks = tuple(with_overlays(disk, plan.vm, plan.move) for disk in plan.disks)
    return replace(plan, disks=disks, version=PLAN_VERSION) if disks else plan


def bytes_taken(disks: Iterable[TravellingDisk]) -> dict[str, int]:
    """Return the bytes that the new images of these disks take at most: datastore of the destination -> bytes."""
    found: dict[str, int] = {}
    for disk in disks:
        found[disk.datastore] = found.get(disk.datastore, 0) + disk.required
    return found


@dataclass(frozen=True, slots=True)
class HostMovePlan:
    """One VM from one host to another. The host it is planned on is the source (`uri`, `host`, `host_name`).

    `peer`: by which the source's libvirtd reaches the destination's; `address`: by which its QEMU does. `cold`: the VM
    is off. `was_running`: False for one that its user has paused; it arrives paused. `staying`: targets on storage that
    both hosts have.
    """

    move: str
    vm: str
    uuid: str
    uri: str
    host: str
    host_name: str
    dest_uri: str
    dest_host: str
    dest_host_name: str
    peer: str
    address: str
    disks: tuple[TravellingDisk, ...]
    staying: tuple[str, ...] = ()
    cold: bool = False
    was_running: bool = True
    persistent: bool = True
    autostart: bool = False
    source: SourcePolicy = field(default_factory=SourcePolicy)  # what becomes of the old images
    bandwidth: int = 0  # bytes/s, 0 unlimited
    downtime_ms: int = 0  # 0: QEMU's own limit
    auto_converge: bool = False  # QEMU slows a guest that changes its memory as fast as it is sent
    channels: int = 0  # connections that the memory is sent over at once; 0: one, as QEMU does by itself
    compression: str = ""  # of the memory: one of base/config.py's; "": none
    memory: int = 0  # bytes of the guest, of a VM that is not off
    networks: dict[str, str] = field(default_factory=dict)  # network, bridge or device -> its name at the destination
    config_networks: tuple[str, ...] = ()  # the names in the configuration's order before, where some have another name
    dest_datastores: dict[str, Directory] = field(default_factory=dict)  # the destination's datastores: what they are
    tls: PlannedTls | None = None  # None: in plain
    state_files: tuple[StateFile, ...] = ()
    version: int = USUAL_VERSION

    @property
    def targets(self) -> list[str]:
        """Return the targets of all disks: those that stay and those that travel."""
        return [*self.staying, *(disk.target for disk in self.disks)]

    def disk(self, target: str) -> TravellingDisk:
        """Return the travelling disk of this target. Raises StopIteration."""
        return next(disk for disk in self.disks if disk.target == target)

    def made_path(self, disk: TravellingDisk) -> str:
        """Return where the image is made: under a name by which a VM that is off cannot start with it yet."""
        return disk.dest + BARRED if self.cold else disk.dest

    @property
    def made(self) -> frozenset[str]:
        """Return every path at the destination that this move makes."""
        named = (path for disk in self.disks for path in (disk.dest, self.made_path(disk), disk.new_overlay))
        return frozenset((*(path for path in named if path), *(file.dest for file in self.copied_files)))

    @property
    def copied_files(self) -> tuple[StateFile, ...]:
        """Return the state files that this move copies itself."""
        return tuple(file for file in self.state_files if not file.sent)

    @property
    def first(self) -> tuple[TravellingDisk, ...]:
        """Return the disks that go before the VM, which runs on overlays meanwhile."""
        return tuple(disk for disk in self.disks if disk.overlay)

    @property
    def old_files(self) -> tuple[str, ...]:
        """Return the paths at the source that are this move's to clear up: old images, and overlays above them."""
        return tuple(path for disk in self.disks for path in (disk.source, disk.overlay) if path)

    @property
    def made_files(self) -> frozenset[FileId]:
        """Return those of `made` of which every host knows which file it is."""
        known = (file_of(path, self.dest_datastores.values()) for path in self.made)
        return frozenset(file_id for file_id in known if file_id is not None)

    @property
    def directories(self) -> tuple[str, ...]:
        """Return the directories at the destination that have to be there."""
        return tuple(dict.fromkeys(posixpath.dirname(disk.dest) for disk in self.disks))

    @property
    def renamed_files(self) -> dict[str, str]:
        """Return the state files that have another path at the destination: old path -> new path."""
        return {file.source: file.dest for file in self.state_files if file.source != file.dest}

    @property
    def takes(self) -> dict[str, int]:
        """Return the bytes that the new images take at most: datastore of the destination -> bytes."""
        return bytes_taken(self.disks)

    def space(self, datastore: str) -> SpaceId | None:
        """Return the file system that a datastore of the destination takes its bytes from; None: not known."""
        directory = self.dest_datastores.get(datastore)
        return None if directory is None else directory.id.space

    @property
    def copy_bytes(self) -> int:
        """Return the bytes that have to go at least: of the disks, and of the guest's memory."""
        return sum(disk.allocation for disk in self.disks) + self.memory

    @property
    def destination(self) -> str:
        """Return where the VM goes, for people."""
        stores = ", ".join(dict.fromkeys(disk.datastore for disk in self.disks))
        return f"{self.dest_host_name} ({stores})" if stores else self.dest_host_name
