"""The disks of a move, one by one: the reasons against a disk, its new image, its plan. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from blockferry.base.errors import UsageError
from blockferry.base.units import format_size
from blockferry.hosts import defects, exports
from blockferry.hosts.inventory import Datastore, Disk, Image
from blockferry.storage_move.destination import image_names, placement
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import CopyPlan, DiskPlan, DiskSizes, EncryptionPlan, SourceImage, StartPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.precheck import method as precheck_method
from blockferry.storage_move.precheck import network, space, vm_checks
from blockferry.storage_move.precheck.draft import Draft
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.request import (
    ChainPolicy,
    Method,
    MoveRequest,
    Preallocation,
    Provision,
)
from blockferry.storage_move.templates import rules as templates_rules
from blockferry.storage_move.templates.plan import ChainPlan, LayerPlan, ReusedLayer


@dataclass(frozen=True, slots=True)
class _NewImage:
    """What is decided about a disk's new image before its plan is written."""

    path: str
    format: str
    shallow: bool  # it holds what the top image of the chain holds, the rest stays in layers below it
    thick: bool
    cluster_size: int | None
    extended_l2: bool
    layers: tuple[LayerPlan, ...]
    reused: ReusedLayer | None
    twin: LayerPlan | None  # the layer of an earlier disk that it stands on


def look_at_disk(request: MoveRequest, facts: Facts, disk: Disk, store: Datastore, draft: Draft) -> None:
    """Fill the draft with one disk's findings and, unless there is a reason against it, its plan."""
    chain = facts.chains.get(disk.target, ())
    problems = vm_checks.disk_findings(request, facts, disk, chain)
    draft.findings.extend(problems)
    if any(problem.is_error for problem in problems) or not chain or disk.source is None or disk.source.place is None:
        return
    top = chain[0]
    if (here := facts.store_of(top.path)) is not None and here.same_place(store):
        draft.findings.append(_already_there(request, disk, top, store))
        return
    if exports.is_export(store.name):
        export_findings = network.findings(request, facts, disk, chain, store.name)
        draft.findings.extend(export_findings)
        if not any(problem.is_error for problem in export_findings):
            old_files = _old_files(facts, disk, chain, set(), shallow=False)
            draft.disks.append(network.planned(facts, disk, chain, store.name, old_files))
        return
    if not store.is_directory:
        return  # said by datastore_findings
    if (request.format or top.format) not in placement.FORMATS:
        return  # said by disk_findings
    new = _new_image(request, facts, disk, chain, store, draft)
    if new is not None:
        draft.findings.extend(_new_image_findings(request, facts, disk, chain, new))
        planned = _disk_plan(request, facts, disk, chain, store, new, draft)
        draft.findings.extend(_luks_findings(facts, planned, chain, shallow=new.shallow))
        draft.disks.append(_measured(request, facts, planned))


def _already_there(request: MoveRequest, disk: Disk, top: Image, store: Datastore) -> Finding:
    if request.format in (None, top.format):
        text = f"{disk.target} lives on {store.name} already ({top.path})."
    else:
        text = (
            f"{disk.target} lives on {store.name} already; changing its format in place is not done. "
            "Move it to another datastore with --format."
        )
    return finding("DISK_ALREADY_THERE", text)


def _new_image(
    request: MoveRequest, facts: Facts, disk: Disk, chain: tuple[Image, ...], store: Datastore, draft: Draft
) -> _NewImage | None:
    """The new image's name, format and layers; None when no name could be found. Takes the names in the draft.

    Raises UsageError for options that contradict the format or the chain.
    """
    top, format = chain[0], request.format or chain[0].format
    home, tail = image_names.in_home(facts, top.path), image_names.tail_of(request)
    chosen = image_names.choose(facts, store, disk.target, top, format, home=home, taken=draft.taken, tail=tail)
    draft.findings.extend(chosen.findings)
    if chosen.path is None:
        return None
    draft.taken.add(chosen.path)
    layers, reused, twin = _layers(request, facts, chain, store, draft)
    draft.findings.extend(templates_rules.findings(request, facts, disk.target, chain, reused, store.name))
    shallow = request.chain.keeps_layers and len(chain) > 1
    _fits_format(request, disk, format, shallow=shallow)
    if shallow and format != top.format:
        raise UsageError(
            f"Disk {disk.target} cannot change its format to {format} and keep its backing chain.",
            "Leave out --format, or use --chain flatten.",
        )
    cluster_size = request.cluster_size or (top.cluster_size if format == top.format == "qcow2" else None)
    large_clusters = (cluster_size or 0) >= placement.SMALLEST_EXTENDED_CLUSTER
    extended_l2 = top.extended_l2 and format == "qcow2" and large_clusters
    thick = _thick(request, top)
    return _NewImage(chosen.path, format, shallow, thick, cluster_size, extended_l2, layers, reused, twin)


def _new_image_findings(
    request: MoveRequest, facts: Facts, disk: Disk, chain: tuple[Image, ...], new: _NewImage
) -> Iterable[Finding]:
    """What speaks against the new image, and what it will not be like the old one in."""
    top, flattened = chain[0], len(chain) > 1 and not new.shallow
    yield from vm_checks.lost_findings(facts, disk, chain, new.format, flattened=flattened)
    yield from _destination_findings(facts, disk, top, new.path, new.format, new.layers)
    size = placement.guest_size(top.virtual_size)
    if not placement.holds_size(new.format, size, new.cluster_size, extended_l2=new.extended_l2):
        yield _cannot_hold(facts, disk, top, new.format, new.cluster_size)
    leaves_holes = new.format != "qcow2" or disk.discard == "unmap"
    if request.preallocation is Preallocation.FULL and facts.vm.state.active and leaves_holes:
        text = f"{disk.target} of {facts.vm.name}: all of {new.path} is reserved at the end, not written."
        yield finding("FULL_RESERVED", text)
    if flattened:
        yield finding("CHAIN_FLATTENED", f"{disk.target}: its chain of {len(chain)} images becomes one.")


def _luks_findings(facts: Facts, disk: DiskPlan, chain: tuple[Image, ...], *, shallow: bool) -> Iterable[Finding]:
    """An encrypted copy of a running VM is written whole: what is more than the old image takes is told."""
    if (
        disk.encryption.luks is not None
        and facts.vm.state.active
        and _allocation(chain, shallow=shallow) < chain[0].virtual_size
    ):
        size = format_size(chain[0].virtual_size)
        yield finding("LUKS_FULL", f"{disk.target} of {facts.vm.name} is encrypted: {disk.dest.path} will take {size}.")


def _allocation(chain: tuple[Image, ...], *, shallow: bool) -> int:
    """The bytes that the part of the chain takes that becomes the new image."""
    return chain[0].allocation if shallow else sum(image.allocation for image in chain)


def _disk_plan(
    request: MoveRequest,
    facts: Facts,
    disk: Disk,
    chain: tuple[Image, ...],
    store: Datastore,
    new: _NewImage,
    draft: Draft,
) -> DiskPlan:
    top = chain[0]
    assert disk.source is not None
    assert disk.source.place is not None
    here = facts.store_of(top.path)
    stays_below = _stays_below(chain, new.layers, new.reused, new.twin) if new.shallow else None
    sealed = vm_checks.sealed(request, facts, disk, chain)
    luks = vm_checks.luks(facts, disk, chain) if sealed else None
    written_whole = luks is not None and facts.vm.state.active
    old_files = _old_files(facts, disk, chain, _copied_layers(chain, new, draft), shallow=new.shallow)
    old_parts = tuple(part for image in chain[: len(old_files)] for part in image.parts if not facts.users.get(part))
    return DiskPlan(
        target=disk.target,
        source=SourceImage(
            path=disk.source.place,
            format=top.format,
            kind=disk.source.kind,
            datastore=None if here is None else here.name,
            has_bitmaps=_has_bitmaps(facts, top),
            parts=top.parts,
            volume=disk.source.volume,
        ),
        dest=DestinationImage(
            path=new.path,
            format=new.format,
            datastore=store.name,
            thick=new.thick,
            cluster_size=new.cluster_size,
            preallocation=(request.preallocation or Preallocation.OFF).value,
            extended_l2=new.extended_l2,
        ),
        sizes=DiskSizes(
            virtual=placement.guest_size(top.virtual_size),
            allocation=top.virtual_size if written_whole else _allocation(chain, shallow=new.shallow),
        ),
        chain=ChainPlan(
            layers=new.layers,
            backing=(new.layers[0].dest, new.layers[0].dest_format) if new.shallow and new.layers else stays_below,
            stays_below=stays_below,
            reused=new.reused,
        ),
        release=ReleasePlan(files=(*old_files, *old_parts), parts=old_parts),
        start=StartPlan(
            suspended=_suspended_start(facts, disk, top.format, new.format, draft.modes, shallow=new.shallow)
        ),
        copy=CopyPlan(
            cache=disk.cache,
            as_is=bool(top.internal_snapshots),
            granularity=precheck_method.granularity(top.format, new.format),
        ),
        encryption=EncryptionPlan(sealed=sealed, luks=luks),
    )


def _copied_layers(chain: tuple[Image, ...], new: _NewImage, draft: Draft) -> set[str]:
    """The lower images of the chain that the destination has when this disk and the earlier ones are copied."""
    copied = {layer.source for layer in new.layers}
    if new.twin is not None:
        copied.update(path for earlier in draft.disks for path in earlier.release.files)
    elif new.reused is not None:
        copied.update(image.path for image in chain[1 + len(new.layers) :])
    return copied


def _measured(request: MoveRequest, facts: Facts, disk: DiskPlan) -> DiskPlan:
    """With what its content takes, where that could be measured and the copy is not of the file as it is."""
    measured = facts.measured.get(disk.target)
    if measured is None or disk.encryption.sealed or disk.copy.as_is:
        return disk
    no_holes = disk.dest.datastore in facts.no_holes and facts.vm.state.active and request.method is not Method.SNAPSHOT
    return space.measured(disk, measured, no_holes=no_holes)


def _fits_format(request: MoveRequest, disk: Disk, format: str, *, shallow: bool) -> None:
    """Raises UsageError for what an image of this format cannot be made with."""
    ahead = request.preallocation or Preallocation.OFF
    for option, given, formats, with_chain in (
        ("--cluster-size", request.cluster_size is not None, ("qcow2",), False),
        ("--preallocation metadata", ahead is Preallocation.METADATA, ("qcow2",), False),
        ("--preallocation falloc", ahead is Preallocation.FALLOC, ("qcow2", "raw"), True),
        ("--preallocation full", ahead is Preallocation.FULL, ("qcow2", "raw"), False),
    ):
        if given and format not in formats:
            raise UsageError(
                f"{option} does not go with disk {disk.target}, which is to be {format}.",
                "Add --format qcow2, or move this disk without it.",
            )
        if given and shallow and not with_chain:
            raise UsageError(
                f"{option} does not go with disk {disk.target}, whose backing chain is to be kept.",
                "Use --chain flatten, or leave it out.",
            )


def _cannot_hold(facts: Facts, disk: Disk, top: Image, format: str, cluster_size: int | None) -> Finding:
    clusters = f" with clusters of {format_size(cluster_size)}" if format == "qcow2" and cluster_size else ""
    return finding(
        "FORMAT_CANNOT_HOLD",
        f"{disk.target} of {facts.vm.name} has {top.virtual_size} bytes ({format_size(top.virtual_size)}); "
        f"{format}{clusters} cannot hold exactly that.",
    )


def _suspended_start(
    facts: Facts, disk: Disk, source_format: str, dest_format: str, modes: set[bool], *, shallow: bool
) -> bool:
    """Whether the copy must be started in a suspension; or the way back, should a switch break in the middle.

    By the VM's own QEMU, and by that of its next start: a copy is begun anew when the VM is powered off and on.
    """
    if facts.suspended_start is not None:
        return facts.suspended_start
    there = [vm_checks.copy_case(disk, source_format, synchronous=mode, shallow=shallow) for mode in modes]
    back = vm_checks.copy_case(disk, dest_format, synchronous=True, shallow=False)
    return any(
        defects.starts_suspended(versions, case)
        for versions in (facts.versions, facts.later_versions)
        for case in (*there, back)
    )


def _layers(
    request: MoveRequest, facts: Facts, chain: tuple[Image, ...], store: Datastore, draft: Draft
) -> tuple[tuple[LayerPlan, ...], ReusedLayer | None, LayerPlan | None]:
    """The lower layers to be copied, top first, and what they stand on instead of a copy of the rest: an image that is
    reused, or (third) a layer that is copied for an earlier disk of the VM.

    With `--chain keep` a layer that another VM stands on (a template) stays where it is, and so does all below it;
    unless the same image is at the destination already.
    """
    layers: list[LayerPlan] = []
    for index, image in enumerate(chain[1:] if request.chain.reuses else (), 1):
        here = facts.store_of(image.path)
        if here is not None and here.same_place(store):
            break
        for disk in draft.disks:
            twin = next((layer for layer in disk.chain.layers if layer.source == image.path), None)
            if twin is not None and disk.dest.datastore == store.name:
                return tuple(layers), disk.chain.reused, twin
        reused = templates_rules.reusable(request, facts, chain[index:], store.name)
        if reused is not None:
            return tuple(layers), reused, None
        if facts.users.get(image.path) and request.chain is not ChainPolicy.COPY:
            break
        home, tail = (
            image_names.layer_in_home(facts, image.path, chain[0].path),
            image_names.tail_of(request),
        )
        chosen = image_names.choose(facts, store, "base", image, image.format, home=home, taken=draft.taken, tail=tail)
        draft.findings.extend(chosen.findings)
        if chosen.path is None:
            break
        dest = chosen.path
        draft.taken.add(dest)
        measured = facts.measured.get(image.path)
        data, required = (-1, -1) if measured is None else (measured.data, measured.required)
        allocated, size = image.allocation, image.virtual_size
        layers.append(LayerPlan(image.path, image.format, dest, image.format, size, allocated, data, required))
    return tuple(layers), None, None


def _old_files(
    facts: Facts, disk: Disk, chain: tuple[Image, ...], copied: set[str], *, shallow: bool
) -> tuple[str, ...]:
    """The files that nothing should need after the move: those of our chain that nobody else refers to."""
    old = []
    for image in chain:
        lower = image is not chain[0]
        if exports.is_export(image.path):
            break  # its owner's
        if facts.users.get(image.path) or (lower and shallow and image.path not in copied):
            break  # shared, and so is everything below
        old.append(disk.source.path if not lower and disk.source and disk.source.path else image.path)
    return tuple(old)


def _stays_below(
    chain: tuple[Image, ...], layers: tuple[LayerPlan, ...], reused: ReusedLayer | None, twin: LayerPlan | None
) -> tuple[str, str] | None:
    """What the new layers stand on: path and format."""
    if twin is not None:
        return twin.dest, twin.dest_format
    if reused is not None:
        return reused.path, reused.format
    below = chain[1 + len(layers) :]
    return (below[0].path, below[0].format) if below else None


def _thick(request: MoveRequest, top: Image) -> bool:
    if request.preallocation is not None:
        return request.preallocation in (Preallocation.FALLOC, Preallocation.FULL)
    if request.provision is Provision.SAME:
        # A qcow2 file that has grown to its full size is not preallocated; making its copy so would only keep the
        # device busy and starve the guest (docs/performance.md).
        return top.format == "raw" and top.allocation >= top.virtual_size > 0
    return request.provision is Provision.THICK


def _destination_findings(
    facts: Facts,
    disk: Disk,
    top: Image,
    dest: str,
    format: str,
    layers: tuple[LayerPlan, ...],
) -> list[Finding]:
    vm, found = facts.vm, []
    for path in (dest, *(layer.dest for layer in layers)):
        same = facts.identities.get(path) is not None and facts.identities.get(path) == facts.identities.get(top.path)
        if same:
            found.append(finding("SAME_FILE", f"{disk.target} of {vm.name}: {top.path} and {path} are one file."))
        elif path in facts.existing and path not in facts.partials:
            found.append(finding("NAME_COLLISION", f"{path} is there already; {disk.target} would be copied to it."))
    if facts.vm.checkpoints and _has_bitmaps(facts, top) and format != "qcow2":
        names = ", ".join(facts.vm.checkpoints)
        found.append(
            finding("CHECKPOINTS_LOST", f"{disk.target}: {format} cannot carry the checkpoints {names} of {vm.name}.")
        )
    if top.compat == "0.10" and format == "qcow2":
        found.append(finding("OLD_QCOW2", f"{disk.target}: {top.path} is qcow2 of compat 0.10; the copy is 1.1."))
    return found


def _has_bitmaps(facts: Facts, top: Image) -> bool:
    """Whether the image holds, or may hold, bitmaps of checkpoints.

    QEMU writes those of its present run into the image when it closes it; until then only libvirt knows of them.
    """
    unsaved = facts.vm.state.active and bool(facts.vm.checkpoints) and top.format == "qcow2"
    return bool(top.bitmaps) or unsaved
