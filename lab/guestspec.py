"""What a guest is made of, as plain data: written to the lab's state file and read back by another process."""

from __future__ import annotations

from dataclasses import dataclass

BLOCK = 4096
"""Unit of the judge: every block carries its own header and checksum."""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk of a guest, with what the judge has to know about it."""

    target: str
    path: str
    """The image at creation. The disk may move; ask the host's XML where it is now."""
    format: str
    size_bytes: int
    serial: int
    """The judge's number of this disk; written into each of its blocks."""
    area_offset: int
    """Where the judge's area begins: below it lies a file system, or nothing."""
    area_blocks: int
    fill_blocks: int
    """The first so many blocks of the area carry judge blocks with sequence number 0 from creation on."""


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """A guest: its disks and the seed that makes its blocks unlike any other guest's."""

    name: str
    host: str
    seed: int
    disks: tuple[DiskSpec, ...]

    def disk(self, target: str) -> DiskSpec:
        for disk in self.disks:
            if disk.target == target:
                return disk
        raise KeyError(f"{self.name} has no disk {target}")
