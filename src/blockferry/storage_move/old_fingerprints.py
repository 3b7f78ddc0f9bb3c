"""Plans of older versions: their fingerprints of files as they are written now (hosts/fingerprint.py)."""

from __future__ import annotations

from dataclasses import replace

from blockferry.hosts import fingerprint
from blockferry.storage_move.plan import DiskPlan, Plan


def current_plan(plan: Plan) -> Plan:
    """A plan of any version with its fingerprints as they are written now."""
    return replace(plan, disks=tuple(_disk(disk) for disk in plan.disks))


def _disk(disk: DiskPlan) -> DiskPlan:
    if disk.reused is None:
        return disk
    return replace(
        disk,
        reused=replace(disk.reused, prints=_each(disk.reused.prints), source_prints=_each(disk.reused.source_prints)),
    )


def _each(prints: dict[str, str]) -> dict[str, str]:
    return {name: fingerprint.current(one) for name, one in prints.items()}
