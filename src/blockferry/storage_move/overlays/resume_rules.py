"""What becomes of a copy that breaks, and whether one can be gone on with. Pure; docs/design/resume.md."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import replace

from blockferry.base.units import GiB, MiB, format_size, format_time
from blockferry.hosts.exports import is_export
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts, Partial
from blockferry.storage_move.overlays.plan import PartialPlan, overlay_stem
from blockferry.storage_move.precheck.finding import Finding, Severity, finding
from blockferry.storage_move.precheck.method import race_possible
from blockferry.storage_move.request import IfNotConverging, Method, MoveRequest, OnBreak

WORTH_KEEPING = GiB
"""Less than this is not kept unless asked: copying it anew takes seconds, and an orphan is a burden."""

LEAST_OVERLAY = 16 * MiB
"""With less room than this beside the source no overlay is begun: its tables alone may fill that, and stop the VM."""

FORMATS = ("raw", "qcow2")


def keeps(asked: OnBreak, method: Method, *, cancelled: bool) -> bool:
    """Whether a broken copy stays at the destination.

    By default not when its user cancels (he wants to be rid of it), and not with mirror: that is for near and fast
    destinations, where comparing takes as long as copying, and its guest is not held for checkpoints, so that with
    QEMU's death nothing is left to go on from. Nor with clone: another one takes no longer than looking at the old.
    """
    if asked is OnBreak.AUTO:
        return method not in (Method.MIRROR, Method.CLONE) and not cancelled
    return asked is OnBreak.KEEP


def why_not(disk: DiskPlan, facts: Facts) -> str | None:
    """Why a broken copy of this disk could not be gone on with at all; None when it could."""
    if is_export(disk.source.path) or is_export(disk.dest.path):
        return "it is, or goes, behind a network block device"
    if disk.shallow:
        return "its backing chain is kept as a chain"
    if disk.encryption.sealed:
        return "it is encrypted and copied as it is"
    if disk.copy.as_is:
        return "its image holds internal snapshots, which comparing would not bring across"
    for format in (disk.source.format, disk.dest.format):
        if format not in FORMATS:
            return f"{format} is not compared"
    if disk.source.parts:
        return "its content lies in several files, of which one alone does not tell whether it was written to"
    if disk.source.has_bitmaps:
        return "its image carries bitmaps of checkpoints, which comparing would not bring across"
    return facts.compare_problem


def why_not_running(disk: DiskPlan, facts: Facts) -> str | None:
    """Why not while the VM runs, for which an overlay has to take its writes; None when it could."""
    return why_not(disk, facts) or no_overlay(disk, facts)


def no_overlay(disk: DiskPlan, facts: Facts) -> str | None:
    """Why no overlay can be put above this disk while the VM runs; None when it can."""
    if not facts.vm.persistent:
        return f"{facts.vm.name} is transient: when it goes off, nothing would name the overlay with its last writes"
    if disk.source.kind != "file":
        return f"{disk.source.path} is a block device, beside which no overlay can lie"
    if (found := facts.vm.disk(disk.target)) is not None and found.read_only:
        return "it is read-only, and libvirt puts no overlay above such a disk"
    if facts.vm.pause_reason == "ioerror":
        return f"{facts.vm.name} is paused because its storage failed, where an overlay would have to lie, too"
    if disk.source.volume:
        return f"the VM names it as the volume {disk.source.volume}, and libvirt would lose that name under an overlay"
    if disk.encryption.sealed:
        return "it is encrypted, and an overlay would hold the guest's writes in the clear"
    return None


def planned(disk: DiskPlan, request: MoveRequest, facts: Facts, move: str) -> DiskPlan:
    """The disk's plan with all that going on from a broken copy needs."""
    here = facts.partials.get(disk.dest.path)
    fits = here is not None and here.format == disk.dest.format and here.virtual_size == disk.sizes.virtual
    resumable = why_not(disk, facts) is None
    running = why_not_running(disk, facts) is None
    resumes = fits and resumable and not request.from_scratch and (running or not facts.vm.state.active)
    resumes = resumes and request.method is not Method.MIRROR
    resumes = resumes and (request.contract is None or not facts.vm.state.active)  # comparing does not mind the guest
    pauses = (
        facts.suspended_start
        if facts.suspended_start is not None
        else any(
            race_possible(versions.qemu, "qcow2", shallow=True) for versions in (facts.versions, facts.later_versions)
        )
    )
    kept = here.allocated if here is not None and resumes else 0
    return replace(
        with_overlays(disk, facts.vm.name, move) if running else disk,
        copy=replace(disk.copy, resumable=resumable),
        start=replace(disk.start, overlay_suspended=pauses),
        partial=PartialPlan(None if here is None else here.move, kept, None if here is None else here.row),
    )


def spoiled(disks: Sequence[DiskPlan], request: MoveRequest, facts: Facts) -> dict[str, str]:
    """Paths of old disks in quarantine that were to become copies and cannot, each with the reason, a clause.

    A broken copy that is not gone on with is replaced. An old disk is not: it stays, and the copy gets another name.
    """
    found = {}
    for disk in disks:
        here = facts.partials.get(disk.dest.path)
        if here is None or not here.kept or disk.partial.allocated:
            continue
        reason = why_not(disk, facts) or (no_overlay(disk, facts) if facts.vm.state.active else None)
        if reason is None and not here.allocated:
            reason = "it is empty"
        if disk.copy.clone:
            reason = "a clone needs no copying"
        elif here.virtual_size != disk.sizes.virtual:
            reason = f"it has {here.virtual_size} bytes, the disk {disk.sizes.virtual}"
        elif reason is None and request.contract is not None:
            reason = "comparing minds no latency contract"
        found[disk.dest.path] = reason or "the method mirror copies anew"
    return found


def with_overlays(disk: DiskPlan, vm: str, move: str) -> DiskPlan:
    stem = overlay_stem(vm, disk.target, move)
    return replace(
        disk,
        overlays=replace(
            disk.overlays,
            source=posixpath.join(posixpath.dirname(disk.source.path), f"{stem}.overlay.qcow2"),
            dest=posixpath.join(posixpath.dirname(disk.dest.path), f"{stem}.new-overlay.qcow2"),
        ),
    )


def resumes_partial_copy(disks: Sequence[DiskPlan]) -> bool:
    return any(disk.partial.allocated for disk in disks)


def _pauses(disk: DiskPlan, request: MoveRequest, method: Method) -> bool:
    """Whether the VM is suspended for moments while this disk is copied: rules.checkpoint_due, before there is a plan.

    Not told of a copy that takes less than half a minute at 50 MiB/s, before which no checkpoint is due.
    """
    if method is not Method.CHANGED_BLOCKS or disk.dest.format != "qcow2" or not disk.copy.resumable:
        return False
    if disk.overlays.first or disk.copy.clone or disk.partial.allocated or request.on_break is OnBreak.REMOVE:
        return False
    return request.on_break is OnBreak.KEEP or (request.contract is None and disk.copy_bytes > 1536 * MiB)


def _old_disk_used(disk: DiskPlan, here: Partial) -> str:
    row = here.row
    since = "" if row is None or row.since is None else f" since {format_time(row.since)}"
    text = (
        f"{disk.target}: {disk.dest.path} ({format_size(disk.partial.allocated)}), the old disk that move {here.move} "
        f"has left and quarantine keeps{since}, becomes the copy; both sides are compared and only what differs is "
        "written. It cannot be gone back to any more."
    )
    if row is not None and "because" in row.why:  # the file system is shared, which this host cannot see through
        text += f" It was {row.why}; that no other host needs it is on your word."
    return text


def findings(disks: Sequence[DiskPlan], request: MoveRequest, facts: Facts, method: Method) -> list[Finding]:
    """What is gone on with, what could be after a break, and why not."""
    found = []
    if method is Method.SNAPSHOT and request.contract is not None:
        text = f"The method snapshot copies {facts.vm.name} outside of QEMU, which minds no latency contract."
        found.append(finding("METHOD_SNAPSHOT", text))
    if method is Method.SNAPSHOT and request.if_not_converging is IfNotConverging.MIRROR:
        text = f"The method snapshot cannot go over to a mirror for {facts.vm.name}."
        found.append(finding("METHOD_SNAPSHOT", text))
    for disk in disks:
        here = facts.partials.get(disk.dest.path)
        if here is not None and here.kept:
            found.append(finding("KEPT_USED", _old_disk_used(disk, here)))
        elif disk.partial.allocated:
            text = (
                f"{disk.target}: {disk.dest.path} ({format_size(disk.partial.allocated)}) is what move "
                f"{disk.partial.move} has left; both sides are compared and only what differs is copied."
            )
            found.append(finding("RESUME_FROM", text))
        elif disk.partial.move is not None:
            other = "mirror copies anew" if request.contract is None else "comparing minds no latency contract"
            other = "a clone needs no copying" if disk.copy.clone else other
            cause = "as asked" if request.from_scratch else why_not_running(disk, facts) or other
            text = f"{disk.target}: {disk.dest.path}, which move {disk.partial.move} has left, is replaced ({cause})."
            found.append(finding("RESUME_REPLACED", text))
        if not facts.vm.state.active or (request.on_break is OnBreak.REMOVE and not disk.copy.clone):
            continue
        reason = why_not_running(disk, facts)
        if _pauses(disk, request, method):
            often = "at every 5 %" if request.on_break is OnBreak.KEEP else "at every 5 %, at most every 30 s"
            text = f"{disk.target}: while it is copied {facts.vm.name} is suspended for 14 to 170 ms {often}."
            found.append(finding("CHECKPOINT_PAUSES", text))
        if reason is not None and method is Method.SNAPSHOT:
            found.append(finding("METHOD_SNAPSHOT", f"{disk.target} cannot be moved by the method snapshot: {reason}."))
        elif reason is None and not keeps(request.on_break, method, cancelled=False):
            reason = f"the method {method.value} keeps nothing unless asked (--on-break keep)"
        if reason is not None and not disk.copy.clone:
            text = f"If the copy of {disk.target} breaks, it begins anew: {reason}."
            found.append(finding("RESUME_NOT", text))
        free = facts.source_free.get(disk.target)
        overlaid = method in (Method.SNAPSHOT, Method.CLONE) or disk.partial.allocated or disk.overlays.first
        if overlaid and free is not None and free < disk.sizes.virtual // 10:
            text = (
                f"{disk.target}: its overlay grows with what the guest writes until the switch, and there are only "
                f"{format_size(free)} free beside {disk.source.path}."
            )
            found.append(finding("OVERLAY_SPACE", text, severity=Severity.ERROR if free < LEAST_OVERLAY else None))
    return found
