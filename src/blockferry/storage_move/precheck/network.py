"""Disks that come from, or go to, an export of NBD, iSCSI or Ceph RBD: what fits, and their part of the plan. Pure.

What is behind an export is the server's: it is written to where the user has named it, and never made, marked,
measured or removed by us. So much of what makes a copy to a file safe has no counterpart there, and is refused by name
(docs/network.md).
"""

from __future__ import annotations

from blockferry.base.units import format_size
from blockferry.hosts import exports
from blockferry.hosts.inventory import Datastore, Disk, Image
from blockferry.storage_move.destination import placement
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import CopyPlan, DiskPlan, DiskSizes, SourceImage
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.request import Method, MoveRequest, OnBreak, Provision


def destination(uri: str) -> Datastore:
    """An export as the place that a disk is asked to go to. It has no directory, so nothing else goes there."""
    return Datastore(uri, "", "nbd", True, None)


def findings(request: MoveRequest, facts: Facts, disk: Disk, chain: tuple[Image, ...], dest: str) -> list[Finding]:
    """Why this disk cannot go to the export `dest`."""
    name, top = f"{disk.target} of {facts.vm.name}", chain[0]
    found = _limits(request, facts, name)
    if (request.format or top.format) != "raw":
        text = f"{name} is {request.format or top.format}; behind {dest} there is nothing but the bytes of the disk."
        found.append(finding("EXPORT_FORMAT", text))
    export = facts.exports[dest]
    size = placement.guest_size(top.virtual_size)
    if export.problem:
        found.append(finding("EXPORT_UNUSABLE", f"{dest}: {export.problem}"))
    elif export.size != size:
        text = f"{dest} has {export.size} bytes ({format_size(export.size)}), {name} {size} ({format_size(size)})."
        found.append(finding("EXPORT_SIZE", text))
    storage = exports.parse(dest).storage
    places = {one: place for one, place in request.disks.items() if one != disk.target and exports.is_export(place)}
    users = [*export.users, *(one for one, place in places.items() if exports.parse(place).storage == storage)]
    if users:
        found.append(finding("EXPORT_IN_USE", f"{dest}, to which {name} is to go, is used by {', '.join(users)}."))
    if disk.source is not None and disk.source.export:
        text = f"{name} is {disk.source.export}: nothing tells whether {dest} is the same storage by another name."
        found.append(finding("EXPORT_LIMITS", text))
    for what, asked in (
        ("--provision thick", request.provision is Provision.THICK),
        ("--preallocation", request.preallocation is not None),
        ("--cluster-size", request.cluster_size is not None),
    ):
        if asked:
            found.append(finding("EXPORT_LIMITS", f"{name} goes to {dest}, where {what} means nothing."))
    if not any(one.is_error for one in found):
        found.append(finding("EXPORT_OVERWRITTEN", f"All that {dest} holds is overwritten by {name}."))
    return found


def source_findings(request: MoveRequest, facts: Facts, disk: Disk) -> list[Finding]:
    """Why a disk that is an export cannot be moved from there; and that what is there stays."""
    assert disk.source is not None
    name, place = f"{disk.target} of {facts.vm.name}", disk.source.export
    found = _limits(request, facts, name)
    if disk.source.format != "raw":
        found.append(finding("EXPORT_FORMAT", f"{name} is {disk.source.format} behind {place}."))
    if not facts.vm.state.active:
        text = f"{name} is {place}, and {facts.vm.name} is off: nothing would keep others from writing there meanwhile."
        found.append(finding("EXPORT_OFF", text))
    if not any(one.is_error for one in found):
        found.append(finding("EXPORT_STAYS", f"What {place} holds stays there; only its owner can remove it."))
    return found


def _limits(request: MoveRequest, facts: Facts, name: str) -> list[Finding]:
    found = []
    if request.method in (Method.SNAPSHOT, Method.CLONE):
        text = f"{name} is, or goes, behind a network block device; method {request.method.value} needs files."
        found.append(finding("EXPORT_LIMITS", text))
    if request.verify:
        found.append(finding("EXPORT_LIMITS", f"{name} is, or goes, behind a network block device: no --verify there."))
    if request.on_break is OnBreak.KEEP:
        text = f"{name} is, or goes, behind a network block device: a copy that breaks cannot be gone on with there."
        found.append(finding("EXPORT_LIMITS", text))
    if facts.vm.snapshots or facts.vm.checkpoints:
        text = f"{name} is, or goes, behind a network block device; {facts.vm.name} has snapshots or checkpoints."
        found.append(finding("EXPORT_LIMITS", text))
    return found


def planned(facts: Facts, disk: Disk, chain: tuple[Image, ...], dest: str, old_files: tuple[str, ...]) -> DiskPlan:
    """The plan of a disk that goes to an export: nothing is made there, and it is as large as it has to be."""
    assert disk.source is not None
    assert disk.source.place is not None
    top = chain[0]
    return DiskPlan(
        target=disk.target,
        source=SourceImage(
            path=disk.source.place, format=top.format, kind=disk.source.kind, datastore=None, parts=top.parts
        ),
        dest=DestinationImage(path=dest, format="raw", datastore=dest),
        sizes=DiskSizes(
            virtual=placement.guest_size(top.virtual_size), allocation=sum(image.allocation for image in chain)
        ),
        release=ReleasePlan(files=old_files),
        copy=CopyPlan(cache=disk.cache),
    )


def why_it_may_hang(request: MoveRequest) -> str:
    """A clause, "" when no disk goes to an export: no server can be fenced from here (docs/reliability.md)."""
    place = next((disk for disk in request.disks.values() if exports.is_export(disk)), "")
    return f"the server of {place} may stop answering, and it cannot be fenced" if place else ""
