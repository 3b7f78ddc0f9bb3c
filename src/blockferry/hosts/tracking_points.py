"""Tracking points of a VM: what is noted at one, what is there now. Only data; tracking/rules.py decides."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.inventory import PowerState


@dataclass(frozen=True, slots=True)
class NotedDisk:
    """One disk as it was at a point. `size` is the guest's size in bytes.

    `node`: the number of its block node, as the live XML shows it (`<source index=...>`); libvirt counts them up within
    a run of QEMU, so that whatever takes the image away, or puts another one in its place, gives it a new one. `file`:
    which file `path` is, for every host; None in points of older versions.
    """

    target: str
    path: str
    node: str
    size: int
    file: FileId | None = None


@dataclass(frozen=True, slots=True)
class PointNote:
    """What is written into a checkpoint when it is made, so that a loss can be noticed later.

    `run`: the QEMU process (boot id, process id, its start). `at`: seconds since the epoch, closer than libvirt has it.
    """

    run: str
    disks: tuple[NotedDisk, ...]
    at: float = 0.0

    def disk(self, target: str) -> NotedDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


@dataclass(frozen=True, slots=True)
class Point:
    """A libvirt checkpoint. `note` is None for somebody else's.

    `bitmaps`: target -> bytes that its bitmap holds as changed so far, None if libvirt does not find the bitmap;
    empty while the VM is off.
    """

    id: str
    created: float
    targets: tuple[str, ...]
    note: PointNote | None
    bitmaps: dict[str, int | None]

    @property
    def order(self) -> tuple[float, str]:
        """By which points are older and newer; two may be made within one of libvirt's seconds."""
        return (self.created if self.note is None else self.note.at or self.created, self.id)


@dataclass(frozen=True, slots=True)
class Present:
    """The VM as it is now. `run` is None while it is off, or if its process cannot be told from others."""

    state: PowerState
    run: str | None
    disks: tuple[NotedDisk, ...]

    def disk(self, target: str) -> NotedDisk | None:
        return next((disk for disk in self.disks if disk.target == target), None)
