"""Which disks their file system can clone instead of copying them, and what that means. Pure; docs/clone.md.

A clone is the old image's file as it is, byte for byte, whose blocks are shared until one of the two is written to.
So nothing can be changed on the way, and it has to be one file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blockferry.base.units import format_size
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.overlays import resume_rules
from blockferry.storage_move.precheck.finding import Finding, Severity, finding
from blockferry.storage_move.request import IfNotConverging, Method, MoveRequest, Provision

FORMATS = ("raw", "qcow2")


def wanted(request: MoveRequest, *, running: bool) -> bool:
    """Whether this request leaves it open, or asks, that disks are cloned."""
    return request.method in (Method.AUTO, Method.CLONE) or (request.method is Method.COLD and not running)


def why_not(disk: DiskPlan, request: MoveRequest, facts: Facts) -> str | None:
    """Why the file of this disk cannot be cloned, be the VM off or running; None when it can."""
    chain = facts.chains[disk.target]
    top = chain[0]
    if len(chain) > 1:
        becomes = "is kept as a chain" if request.chain.keeps_layers else "would have to become one image"
        return f"its chain of {len(chain)} images {becomes}"
    if disk.source.kind != "file":
        return f"{disk.source.path} is a block device"
    if disk.source.format not in FORMATS or top.parts:
        return f"{disk.source.path} is no image in one file of a format that can be cloned ({', '.join(FORMATS)})"
    if disk.dest.format != disk.source.format:
        return f"a clone stays {disk.source.format}, and {disk.dest.format} is asked for"
    if request.preallocation is not None or request.provision is Provision.THICK:
        return "a clone shares its blocks, and space of its own is asked for"
    if request.provision is Provision.THIN and top.allocation >= top.virtual_size:
        return "a clone has the holes of the old file, which has none, and thin is asked for"
    if request.cluster_size not in (None, top.cluster_size):
        return "a clone keeps its clusters, and others are asked for"
    if top.virtual_size != disk.sizes.virtual:
        return f"the size of {disk.source.path} is no multiple of 512 bytes"
    return facts.clones.get(disk.target, "it was not tried") or None


def why_not_running(disk: DiskPlan, request: MoveRequest, facts: Facts) -> str | None:
    """Why not while the VM runs, for which an overlay has to take its writes; None when it can."""
    if (reason := why_not(disk, request, facts) or resume_rules.no_overlay(disk, facts)) is not None:
        return reason
    if disk.source.has_bitmaps:
        return "its image carries bitmaps of checkpoints, which its QEMU holds in memory"
    if request.contract is not None:
        return "the guest's writes have a latency contract, and the file system cannot be told to go slowly"
    if request.if_not_converging is IfNotConverging.MIRROR:
        return "what follows a clone cannot go over to a mirror, as --if-not-converging asks"
    return None


def planned(
    disks: Sequence[DiskPlan], request: MoveRequest, facts: Facts, move: str
) -> tuple[tuple[DiskPlan, ...], dict[str, str]]:
    """The disks, those that are to be cloned marked so; and of the others why not.

    Of a running VM all are, or none: there is one method for them. Of one that is off, those that can be.
    """
    running = facts.vm.state.active
    if not wanted(request, running=running):
        return tuple(disks), {}
    why = {disk.target: (why_not_running if running else why_not)(disk, request, facts) for disk in disks}
    reasons = {target: reason for target, reason in why.items() if reason is not None}
    if running and reasons:
        return tuple(disks), reasons
    return tuple(disk if disk.target in reasons else _cloned(disk, facts, move) for disk in disks), reasons


def _cloned(disk: DiskPlan, facts: Facts, move: str) -> DiskPlan:
    disk = replace(disk, copy=replace(disk.copy, clone=True), partial=replace(disk.partial, allocated=0))
    if resume_rules.no_overlay(disk, facts) is None and not (
        disk.source.has_bitmaps or disk.encryption.sealed or disk.copy.as_is
    ):
        return resume_rules.with_overlays(disk, facts.vm.name, move)
    return replace(disk, overlays=replace(disk.overlays, source="", dest=""))


def findings(disks: Sequence[DiskPlan], reasons: dict[str, str], request: MoveRequest, facts: Facts) -> list[Finding]:
    """Refusals of a method that was asked for by name, and what sharing blocks means for the space."""
    found = []
    if request.method is Method.CLONE:
        for target, reason in reasons.items():
            text = f"{target} of {facts.vm.name} cannot be moved by the method clone: {reason}."
            found.append(finding("METHOD_CLONE", text))
    for disk in disks:
        if not disk.copy.clone:
            continue
        store = facts.datastore(disk.dest.datastore)
        free = facts.available.get(disk.dest.datastore, 0 if store is None else store.available)
        if request.source.delete:
            until, severity = "until the old disk is removed", Severity.INFO
        else:
            until = "as long as the old disk is kept"
            severity = Severity.WARNING if free < disk.sizes.virtual else Severity.INFO
        text = (
            f"{disk.target}: the clone takes no space; {until}, what the guest overwrites takes new space, "
            f"{format_size(disk.sizes.virtual)} at most "
            f"({format_size(max(0, free))} are free on {disk.dest.datastore})."
        )
        found.append(finding("CLONE_SHARES", text, severity=severity))
    return found
