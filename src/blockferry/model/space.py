"""Whether a move fits, counting what is promised as well as what is used. Pure; all sizes are bytes."""

from __future__ import annotations

from collections.abc import Sequence

from blockferry.model.exports import is_export
from blockferry.model.facts import Facts
from blockferry.model.finding import Finding, finding
from blockferry.model.plan import DiskPlan
from blockferry.model.summary import SpaceEstimate
from blockferry.units import MiB, format_size

RESERVE = 16 * MiB
"""What is always left free: the home's files, the file system's own metadata."""


def needed(disk: DiskPlan) -> int:
    """What the copy will take: all of it when thick, else what is allocated at the source, with its metadata.

    A clone shares its blocks with the source: it takes but what the file system notes about that.
    qcow2 needs about 1/8192 of the virtual size for its tables (clusters of 64 KiB), and 10 bytes a cluster (18 with
    extended L2) where those are smaller.
    """
    if disk.clone:
        return disk.virtual_size // 8192 + MiB
    tables = disk.virtual_size // 8192 + MiB if disk.dest_format != "raw" else 0
    if disk.cluster_size is not None:
        entry = 18 if disk.extended_l2 else 10
        tables = max(tables, disk.virtual_size // disk.cluster_size * entry + MiB)
    below = sum(layer.allocation for layer in disk.layers)
    bulk = disk.virtual_size if disk.thick else min(disk.virtual_size, disk.allocation)
    return max(0, bulk - disk.partial_bytes) + tables + below


def for_memory(memory: int) -> int:
    """What the saved state of a VM may take: its memory, a twentieth for what QEMU adds, and its devices' (video)."""
    return memory + memory // 20 + 64 * MiB


def estimates(disks: Sequence[DiskPlan], facts: Facts) -> tuple[SpaceEstimate, ...]:
    """Each destination before and after the move."""
    found = []
    for name in sorted({disk.datastore for disk in disks if not is_export(disk.datastore)}):
        store = facts.datastore(name)
        assert store is not None
        mine = [disk for disk in disks if disk.datastore == name]
        before = facts.available.get(name, store.available) - facts.reserved.get(name, 0)
        found.append(
            SpaceEstimate(
                datastore=name,
                available_before=before,
                available_after=before - sum(map(needed, mine)),
                committed_after=facts.committed.get(name, 0) + sum(disk.virtual_size for disk in mine),
                capacity=store.capacity,
            )
        )
    return tuple(found)


def space_findings(disks: Sequence[DiskPlan], facts: Facts) -> list[Finding]:
    found = []
    for one in estimates(disks, facts):
        store = facts.datastore(one.datastore)
        if store is not None and not store.active:
            continue  # said by itself; libvirt has no figures of it
        need = one.available_before - one.available_after
        if one.available_after < RESERVE:
            held = facts.reserved.get(one.datastore, 0)
            others = f" ({format_size(held)} more are promised to other moves)" if held else ""
            found.append(
                finding(
                    "DESTINATION_FULL",
                    f"{one.datastore} has {format_size(max(0, one.available_before))} free{others}; the move needs "
                    f"{format_size(need)} and {format_size(RESERVE)} of reserve.",
                )
            )
        elif one.committed_after > one.capacity > 0:
            found.append(
                finding(
                    "DESTINATION_OVERCOMMITTED",
                    f"The images on {one.datastore} may grow to {format_size(one.committed_after)} in all; it has "
                    f"{format_size(one.capacity)}.",
                )
            )
    return found
