"""What the pre-check has collected so far: findings, the plans of disks, names taken."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.precheck.finding import Finding


@dataclass
class Draft:
    """What is collected while the disks are looked at one by one."""

    findings: list[Finding]
    disks: list[DiskPlan]
    taken: set[str]
    modes: set[bool]  # whether the copies are to be synchronous; both, where they may become so on the way
