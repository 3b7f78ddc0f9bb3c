"""Fingerprints of files that are written down: what tells that nobody wrote to a file since. Pure.

Inode, size and time of writing (nanoseconds), as "inode:size:mtime". The number of the device is not in it: btrfs, NFS
and loop devices get another one at each mount (and XFS's fsid is made of it), so a move that was resumed after a reboot
would take every file for changed. Journals of versions before 2026-11-29 have it as a first field.
"""

from __future__ import annotations

import re
from dataclasses import replace

from blockferry.storage_move.plan import DiskPlan, Plan
from blockferry.storage_move.record import Record

_OLD = re.compile(r"(?<![\d:])\d+:(\d+:\d+:-?\d+)(?![\d:])")
_OLD_IMAGE = re.compile(r"\d+:(\d+:\d+)")


def of(inode: int, size: int, mtime_ns: int) -> str:
    """The fingerprint of a file with these facts."""
    return f"{inode}:{size}:{mtime_ns}"


def current(text: str) -> str:
    """Fingerprints as they are written now, of one text that may hold several, of this or of an older version."""
    return _OLD.sub(r"\1", text)


def current_record(record: Record) -> Record:
    """A record of any version with its fingerprints as they are written now."""
    held = _OLD_IMAGE.fullmatch(record.held_print)
    return replace(
        record,
        cold_copied=_each(record.cold_copied),
        folded_as=_each(record.folded_as),
        synced={target: replace(one, fingerprint=current(one.fingerprint)) for target, one in record.synced.items()},
        nvram_copied=current(record.nvram_copied),
        nvram_made=current(record.nvram_made),
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
    return {name: current(one) for name, one in prints.items()}
