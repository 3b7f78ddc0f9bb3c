"""How long a guest stands still when a copy has to begin in a suspension, and which disks go another way. Pure.

QEMU's defect 3273 makes suspended starts necessary (docs/design/start-race.md); hosts/defects.py knows where. The pause
grows with the disk: QEMU zeroes a destination with discard='unmap' first, and then looks at the source piece by piece.
A disk for which that takes long goes by way of an overlay instead: its copy begins right after the overlay was put
above it, when there is next to nothing to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blockferry.base.units import GiB, format_duration, format_size
from blockferry.hosts.defects import Version
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.overlays import resume_rules
from blockferry.storage_move.precheck.finding import Finding, Severity, finding
from blockferry.storage_move.request import IfNotConverging, Method, MoveRequest

LIMIT_S = 0.1
"""What a guest may stand still for the start of a job."""

REFUSED_S = 1.0
"""A disk whose start takes longer, and that cannot go by way of an overlay, is not moved while its VM runs."""

LEAST_FREE = 10
"""Beside a source with less free than this part of the disk's size a short pause is better than an overlay: a datastore
that runs full stops the guest, and a full one is what people move away from."""

CALLS_S = 0.03
"""Suspend, one call that starts a job, resume. The figures are of QEMU 7.2 on two slow cores (docs/measured.md)."""

ZEROING_S = 0.008
"""For each GiB of a qcow2 destination's size: QEMU makes the tables of all of it."""

LOOK_S = 0.005
"""For each GiB of data: one question for every piece that is stored apart."""

LOOKS_ALWAYS: Version = (10, 1, 0)
"""Before, a copy to a destination that cannot discard marks the whole disk in one step (block/mirror.c)."""


def expected_s(disk: DiskPlan, facts: Facts) -> float:
    """Return for how many seconds the guest is expected to stand still for this disk alone; 0 without a suspension."""
    if not disk.start.suspended or not facts.vm.state.active:
        return 0.0
    found = facts.vm.disk(disk.target)
    unmaps = found is not None and found.discard == "unmap"
    look = LOOK_S * disk.sizes.allocation / GiB
    if disk.shallow:
        return CALLS_S + look
    if not unmaps:
        return CALLS_S + (look if max(facts.versions.qemu, facts.later_versions.qemu) >= LOOKS_ALWAYS else 0.0)
    zeroing = 0.0 if disk.dest.format == "raw" else ZEROING_S * disk.sizes.virtual / GiB
    return CALLS_S + zeroing + look


def why_no_overlay(disk: DiskPlan, request: MoveRequest, facts: Facts, method: Method) -> str | None:
    """Why this disk cannot go by way of an overlay, a clause; None when it can."""
    if method is Method.MIRROR:
        return "a mirror never goes by way of an overlay"
    if request.if_not_converging is IfNotConverging.MIRROR:
        return "a copy that may have to go over to a mirror never goes by way of an overlay"
    if request.contract is not None:
        return "a base below an overlay is copied outside of QEMU, which minds no latency contract"
    free = facts.source_free.get(disk.target)
    if free is not None and free * LEAST_FREE < disk.sizes.virtual and expected_s(disk, facts) <= REFUSED_S:
        return f"only {format_size(free)} are free beside {disk.source.path} for what the guest writes meanwhile"
    return resume_rules.why_not_running(disk, facts)


def planned(disks: Sequence[DiskPlan], request: MoveRequest, facts: Facts, method: Method) -> tuple[DiskPlan, ...]:
    """Return the disks with the pauses that are expected, and with those that go by way of an overlay for it."""
    found = []
    for disk in disks:
        pause_s = expected_s(disk, facts)
        by_overlay = method in (Method.CHANGED_BLOCKS, Method.MIRROR) and not disk.copy.clone and pause_s > LIMIT_S
        by_overlay = by_overlay and bool(disk.overlays.source) and why_no_overlay(disk, request, facts, method) is None
        found.append(
            replace(disk, start=replace(disk.start, pause_s=pause_s), overlays=replace(disk.overlays, first=by_overlay))
        )
    return tuple(found)


def findings(disks: Sequence[DiskPlan], request: MoveRequest, facts: Facts, method: Method) -> list[Finding]:
    """What is said of the pauses at the start."""
    found = []
    for disk in disks:
        if disk.start.pause_s <= LIMIT_S or disk.copy.clone or method not in (Method.CHANGED_BLOCKS, Method.MIRROR):
            continue
        long = format_duration(disk.start.pause_s)
        if disk.overlays.first:
            text = (
                f"{disk.target}: an overlay takes the guest's writes while {disk.source.path} is copied. Without it "
                f"{facts.vm.name} would stand still for about {long} when the copy begins."
            )
            found.append(finding("START_OVERLAY", text))
            continue
        reason = why_no_overlay(disk, request, facts, method)
        text = f"{disk.target}: {facts.vm.name} stands still for about {long} when the copy begins; {reason}."
        severity = Severity.ERROR if disk.start.pause_s > REFUSED_S else None
        found.append(finding("START_PAUSE", text, severity=severity))
    return found
