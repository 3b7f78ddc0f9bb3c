"""Whether a move fits, counting what is promised as well as what is used. Pure; all sizes are bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from blockferry.base.units import MiB, format_size
from blockferry.hosts.datastore_id import SpaceId, SpaceKind
from blockferry.hosts.exports import is_export
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts, Measured
from blockferry.storage_move.firmware.plan import NvramPlan
from blockferry.storage_move.home.plan import HomePlan
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.summary import SpaceEstimate

RESERVE = 16 * MiB
"""What is always left free: the home's metadata, and the file system's own."""


def needed(disk: DiskPlan) -> int:
    """What the new image and its lower layers will take: all of it when thick, else what holds data, and the tables.

    A clone shares its blocks with the source: it takes but what the file system notes about that.
    """
    if disk.copy.clone:
        return disk.sizes.virtual // 8192 + MiB
    below = sum(layer.required if layer.required >= 0 else layer.allocation for layer in disk.chain.layers)
    if disk.sizes.required >= 0:
        return max(0, disk.sizes.required - disk.partial.allocated) + MiB + below
    bulk = disk.sizes.virtual if disk.dest.thick else min(disk.sizes.virtual, disk.sizes.allocation)
    return max(0, bulk - disk.partial.allocated) + tables(disk) + below


def tables(disk: DiskPlan) -> int:
    """What an image that could not be measured needs for its tables.

    qcow2 needs about 1/8192 of the virtual size (clusters of 64 KiB), and 10 bytes a cluster (18 with extended L2)
    where those are smaller.
    """
    found = disk.sizes.virtual // 8192 + MiB if disk.dest.format != "raw" else 0
    if disk.dest.cluster_size is not None:
        entry = 18 if disk.dest.extended_l2 else 10
        found = max(found, disk.sizes.virtual // disk.dest.cluster_size * entry + MiB)
    return found


def measured(disk: DiskPlan, measured: Measured, *, no_holes: bool) -> DiskPlan:
    """The plan of a disk whose content was measured. `no_holes`: what reads as zeros is written to a raw file there."""
    data = min(disk.sizes.virtual, measured.data)
    if disk.dest.format == "raw":
        required = disk.sizes.virtual if disk.dest.thick or no_holes else data
    elif disk.dest.format == "qcow2":
        required = measured.full if disk.dest.thick else measured.required
    else:
        required = disk.sizes.virtual if disk.dest.thick else data + tables(disk)
    return replace(disk, sizes=replace(disk.sizes, data=data, required=required))


def needs(disks: Iterable[DiskPlan], home: HomePlan | None, nvram: NvramPlan | None) -> dict[str, int]:
    """Datastore -> bytes that a move takes there: images, and the files of the home."""
    found: dict[str, int] = {}
    for disk in disks:
        if not is_export(disk.dest.datastore):
            found[disk.dest.datastore] = found.get(disk.dest.datastore, 0) + needed(disk)
    if home is not None:
        small = sum(file.size for file in home.files) + (0 if nvram is None else nvram.size)
        if small or home.datastore in found:
            found[home.datastore] = found.get(home.datastore, 0) + small
    return found


def left_to_take(plan: Plan, written: Mapping[str, int], *, home_copied: bool) -> dict[str, int]:
    """Datastore -> bytes that a move under way has yet to write, at most. `written`: target -> bytes so far."""
    found = {} if home_copied else needs((), plan.home, plan.firmware.nvram)
    for disk in plan.disks:
        if not is_export(disk.dest.datastore):
            left = max(0, needed(disk) - written.get(disk.target, 0))
            found[disk.dest.datastore] = found.get(disk.dest.datastore, 0) + left
    return found


@dataclass(frozen=True, slots=True)
class Promise:
    """Bytes that a move has yet to write to a datastore, at most.

    `datastore` is its name on the move's host, `space` what it stands on (None: not known), `here` whether the move may
    be of the host in question: only then does the name mean anything.
    """

    datastore: str
    size: int
    space: SpaceId | None = None
    here: bool = True

    def counts_at(self, stores: Mapping[str, SpaceId | None]) -> str:
        """The datastore of a host that these bytes have to be counted at; "" for none.

        `stores`: every datastore of it -> what that stands on. Where both sides are known, that decides, whatever the
        names: one export may be two datastores, and another host may call it by another name.
        """
        same = self.datastore if self.here and self.datastore in stores else ""
        if self.space is not None:
            shared = [name for name, space in stores.items() if space is not None and space.shares_space(self.space)]
            if shared:
                return same if same in shared else min(shared)
            now = stores.get(same) if same else None
            if now is not None and SpaceKind.POOL not in (now.kind, self.space.kind):
                return ""  # the name means another file system by now
        return same


def promised(promises: Iterable[Promise], stores: Mapping[str, SpaceId | None]) -> dict[str, int]:
    """Datastore of a host -> bytes that are promised there, each promise counted once."""
    found: dict[str, int] = {}
    for promise in promises:
        if name := promise.counts_at(stores):
            found[name] = found.get(name, 0) + promise.size
    return found


@dataclass(frozen=True, slots=True)
class NeededSpace:
    """What a plan was found to fit into, to be proven once more when it is written down. Bytes.

    `left`: datastore -> what is left there beside this plan, the reserve and all promises that were known; `groups`:
    datastores that share one file system; `stores`: all of the host's, and what they stand on; `seen`: the moves whose
    promises were known, `since`: when (wall time).
    """

    left: Mapping[str, int]
    groups: Mapping[str, tuple[str, ...]]
    seen: frozenset[str]
    since: float
    stores: Mapping[str, SpaceId | None]

    def overdrawn(self, newcomers: Iterable[Promise]) -> str:
        """The datastore that moves which were planned meanwhile leave too little room on; "" when all fits."""
        taken = promised(newcomers, self.stores)
        for store, left in self.left.items():
            if sum(taken.get(group, 0) for group in self.groups.get(store, (store,))) > left:
                return store
        return ""


def room(plan: Plan, facts: Facts, seen: frozenset[str], since: float) -> NeededSpace:
    """What the plan was found to fit into."""
    found = estimates(plan.disks, plan.home, plan.firmware.nvram, facts)
    return NeededSpace(
        {space_estimate.datastore: space_estimate.available_after - RESERVE for space_estimate in found},
        {space_estimate.datastore: facts.sharing(space_estimate.datastore) for space_estimate in found},
        seen,
        since,
        facts.spaces,
    )


def for_memory(memory: int) -> int:
    """What the saved state of a VM may take: its memory, a twentieth for what QEMU adds, and its devices' (video)."""
    return memory + memory // 20 + 64 * MiB


def estimates(
    disks: Sequence[DiskPlan], home: HomePlan | None, nvram: NvramPlan | None, facts: Facts
) -> tuple[SpaceEstimate, ...]:
    """Each destination before and after the move. Datastores on one file system share its space."""
    found = []
    takes = needs(disks, home, nvram)
    for name in sorted(takes):
        store = facts.datastore(name)
        if store is None:
            continue
        group = facts.sharing(name)
        before = facts.available.get(name, store.available) - sum(facts.reserved.get(one, 0) for one in group)
        grows = sum(disk.sizes.virtual for disk in disks if disk.dest.datastore == name)
        found.append(
            SpaceEstimate(
                datastore=name,
                available_before=before,
                available_after=before - sum(takes.get(one, 0) for one in group),
                committed_after=facts.committed.get(name, 0) + grows,
                capacity=store.capacity,
            )
        )
    return tuple(found)


def space_findings(
    disks: Sequence[DiskPlan], home: HomePlan | None, nvram: NvramPlan | None, facts: Facts
) -> list[Finding]:
    found = []
    for disk in disks:
        if (
            disk.dest.format == "raw"
            and disk.dest.datastore in facts.no_holes
            and disk.sizes.required > disk.sizes.data >= 0
        ):
            text = (
                f"{disk.target}: {disk.dest.datastore} cannot make holes in files; all of {disk.dest.path} is written"
            )
            text += f", {format_size(disk.sizes.virtual)}."
            found.append(finding("THIN_BECOMES_THICK", text, "Add --format qcow2, which needs no holes."))
    for estimate in estimates(disks, home, nvram, facts):
        store = facts.datastore(estimate.datastore)
        if store is not None and not store.active:
            continue  # said by itself; libvirt has no figures of it
        need = estimate.available_before - estimate.available_after
        if estimate.available_after < RESERVE:
            held = sum(facts.reserved.get(name, 0) for name in facts.sharing(estimate.datastore))
            others = f" ({format_size(held)} more are promised to other moves)" if held else ""
            found.append(
                finding(
                    "DESTINATION_FULL",
                    f"{estimate.datastore} has {format_size(max(0, estimate.available_before))} free{others}; "
                    f"the move needs "
                    f"{format_size(need)} and {format_size(RESERVE)} of reserve.",
                )
            )
        elif estimate.committed_after > estimate.capacity > 0:
            found.append(
                finding(
                    "DESTINATION_OVERCOMMITTED",
                    f"The images on {estimate.datastore} may grow to {format_size(estimate.committed_after)} in all; "
                    f"it has "
                    f"{format_size(estimate.capacity)}.",
                )
            )
    return found
