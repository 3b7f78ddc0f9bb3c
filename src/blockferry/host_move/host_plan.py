"""The plan of a move to another host: written down once, never changed. Its JSON is a promise (docs/journal.md)."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

PLAN_VERSION = 1

BARRED = ".incoming"
"""Ending of the images of a VM that is off until its definition is only at the destination: so long it cannot start."""


@dataclass(frozen=True, slots=True)
class TravellingDisk:
    """A disk whose content goes along. `virtual_size` is bytes; `datastore`: the destination's name of it."""

    target: str
    source: str
    dest: str
    format: str
    virtual_size: int
    datastore: str
    source_datastore: str = ""
    thick: bool = False


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
    keep_source: bool = False
    downtime_ms: int = 0  # 0: QEMU's own limit
    version: int = PLAN_VERSION

    def disk(self, target: str) -> TravellingDisk:
        """Return the travelling disk of this target. Raises StopIteration."""
        return next(disk for disk in self.disks if disk.target == target)

    def made_path(self, disk: TravellingDisk) -> str:
        """Return where the image is made: under a name by which a VM that is off cannot start with it yet."""
        return disk.dest + BARRED if self.cold else disk.dest

    @property
    def made(self) -> frozenset[str]:
        """Return every path at the destination that this move makes."""
        return frozenset(path for disk in self.disks for path in (disk.dest, self.made_path(disk)))

    @property
    def directories(self) -> tuple[str, ...]:
        """Return the directories at the destination that have to be there."""
        return tuple(dict.fromkeys(posixpath.dirname(disk.dest) for disk in self.disks))
