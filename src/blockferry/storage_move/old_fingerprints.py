"""Plans and records of older versions: their fingerprints of files as they are written now (hosts/fingerprint.py)."""

from __future__ import annotations

import re
from dataclasses import replace

from blockferry.hosts import fingerprint
from blockferry.storage_move.plan import DiskPlan, Plan
from blockferry.storage_move.record import Record

_OLD_IMAGE = re.compile(r"\d+:(\d+:\d+)")


def current_record(record: Record) -> Record:
    """A record of any version with its fingerprints as they are written now."""
    held = _OLD_IMAGE.fullmatch(record.held_print)
    return replace(
        record,
        cold_copied=_each(record.cold_copied),
        folded_as=_each(record.folded_as),
        synced={
            target: replace(one, fingerprint=fingerprint.current(one.fingerprint))
            for target, one in record.synced.items()
        },
        nvram_copied=fingerprint.current(record.nvram_copied),
        nvram_made=fingerprint.current(record.nvram_made),
        held_print=record.held_print if held is None else held[1],
    )


def current_plan(plan: Plan) -> Plan:
    """The same of a plan."""
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
