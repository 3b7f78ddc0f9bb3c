"""The judge of changed-block tracking: what really differs between two moments of a disk, and whether it was told.

The copies are taken by libvirt itself (a push-mode backup by virsh), byte by byte as the guest would read the disk at
that moment; nothing of the tracking's own machinery has a part in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.guests import Guest
from lab.process import wait_until

SECTOR = 512


@dataclass(frozen=True, slots=True)
class Coverage:
    """Differing sectors in all, and the offsets of those that lie outside of every area that was told."""

    differing: int
    untold: tuple[int, ...]

    @property
    def ok(self) -> bool:
        """Nothing is untold, and there was something to tell: no difference at all would prove nothing."""
        return self.differing > 0 and not self.untold


def frozen_copy(guest: Guest, target: str, path: Path) -> Path:
    """The whole disk as it is when this is called, as a raw file."""
    others = "".join(f"<disk name='{one}' backup='no'/>" for one in guest.sources() if one != target)
    wanted = f"<disk name='{target}' backup='yes' type='file'><driver type='raw'/><target file='{path}'/></disk>"
    xml = f"<domainbackup mode='push'><disks>{wanted}{others}</disks></domainbackup>"
    guest.host.virsh("backup-begin", guest.name, "/dev/stdin", stdin=xml)

    def over() -> bool:
        return "None" in guest.host.virsh("domjobinfo", guest.name)

    wait_until(over, f"the copy of {target} of {guest.name}", timeout=120, step=0.05)
    return path


def coverage(before: Path, after: Path, areas: Iterable[tuple[int, int]]) -> Coverage:
    """Compare two moments sector by sector. `areas`: (start, length) in bytes. A sector must lie in an area whole."""
    told = sorted(areas)
    old, new = before.read_bytes(), after.read_bytes()
    size = max(len(old), len(new))
    old, new = old.ljust(size, b"\0"), new.ljust(size, b"\0")
    differing, untold, at = 0, [], 0
    for chunk in range(0, size, 64 * SECTOR):
        if old[chunk : chunk + 64 * SECTOR] == new[chunk : chunk + 64 * SECTOR]:
            continue
        for start in range(chunk, min(chunk + 64 * SECTOR, size), SECTOR):
            if old[start : start + SECTOR] == new[start : start + SECTOR]:
                continue
            differing += 1
            while at < len(told) and sum(told[at]) <= start:
                at += 1
            if at == len(told) or not told[at][0] <= start or start + SECTOR > sum(told[at]):
                untold.append(start)
    return Coverage(differing, tuple(untold))
