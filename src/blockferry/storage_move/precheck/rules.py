"""Every reason for and against a move, and the plan. Pure: a request and facts in, findings and a plan out."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, replace

from blockferry.base.errors import DatastoreNotFound, DiskNotFound, UsageError, nearest
from blockferry.base.units import format_duration, format_rate, format_size
from blockferry.hosts import defects, exports, fencing
from blockferry.hosts.datastore_id import Directory
from blockferry.hosts.defects import Defect
from blockferry.hosts.inventory import Datastore, Disk, Image, PowerState
from blockferry.storage_move import checkpoint_notes
from blockferry.storage_move.clone import rules as clone_rules
from blockferry.storage_move.destination import image_names, placement
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.home import rules as home_rules
from blockferry.storage_move.overlays import resume_rules
from blockferry.storage_move.plan import (
    DiskPlan,
    HangPlan,
    HomeFile,
    HomePlan,
    LayerPlan,
    ManagedSavePlan,
    NvramPlan,
    Plan,
    ReusedLayer,
)
from blockferry.storage_move.precheck import method as precheck_method
from blockferry.storage_move.precheck import network, space, start_pause, vm_checks
from blockferry.storage_move.precheck import source_filesystem as filesystems
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.request import (
    COPY_BUFFER,
    ChainPolicy,
    Firmware,
    IfNotConverging,
    Method,
    MoveRequest,
    PausedPolicy,
    Preallocation,
    Provision,
)
from blockferry.storage_move.templates import rules as templates_rules
from blockferry.storage_move.trim import rules as trim_rules

VTPM_DIRECTORY = "/var/lib/libvirt/swtpm"
"""Where libvirt's system instance keeps the state of emulated TPMs, one directory a VM (libvirt's swtpmStorageDir)."""


@dataclass
class _Draft:
    """What is collected while the disks are looked at one by one."""

    findings: list[Finding]
    disks: list[DiskPlan]
    taken: set[str]
    modes: set[bool]  # whether the copies are to be synchronous; both, where they may become so on the way


@dataclass(frozen=True, slots=True)
class _MethodChoice:
    """How the VM is moved: the method, why in one sentence, and what is done when the guest outruns the copy."""

    method: Method
    reason: str
    if_not_converging: IfNotConverging


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


def precheck(request: MoveRequest, facts: Facts, move: str) -> tuple[tuple[Finding, ...], Plan | None]:
    """All findings (errors first) and, if nothing speaks against it, the plan.

    Raises DatastoreNotFound, DiskNotFound, UsageError for names that do not exist and for contradictions.
    """
    wanted = destinations(request, facts)
    if (moving := vm_checks.under_way(facts)) is not None:
        return (*vm_checks.lost_vm_findings(facts), moving), None
    draft = _Draft([*vm_checks.host_findings(facts), *vm_checks.vm_findings(request, facts)], [], set(), set())
    draft.taken |= image_names.of_home(request, facts)
    keeps = request.chain.keeps_layers and any(len(facts.chains.get(target, ())) > 1 for target in wanted)
    unsafe = defects.against_synchronous(facts.versions)
    draft.findings.extend(_mirror_impossible(request, facts, unsafe, keeps_chain=keeps))
    choice = _method(request, facts, unsafe, keeps_chain=keeps)
    draft.modes = _copy_modes(facts, choice, can_be_synchronous=not keeps and unsafe is None, keeps_chain=keeps)
    _look_at_disks(request, facts, wanted, draft)
    home = _home(request, facts, draft)
    nvram = _nvram(request, facts, home, draft)
    vtpm = _vtpm(facts, draft)
    if not draft.disks and not any(problem.is_error for problem in draft.findings):
        draft.findings.append(_nothing_to_move(facts, wanted))
    disks = tuple(resume_rules.planned(disk, request, facts, move) for disk in draft.disks)
    disks, not_cloned = clone_rules.planned(disks, request, facts, move)
    if unfit := resume_rules.spoiled(disks, request, facts):
        return precheck(request, facts.without_kept(unfit), move)
    if disks and all(disk.clone for disk in disks):
        choice = _method(request, facts, unsafe, keeps_chain=keeps, cloned=True)
    elif resume_rules.goes_on(disks):
        choice = _method(request, facts, unsafe, keeps_chain=keeps, goes_on=True)
    disks = start_pause.planned(disks, request, facts, choice.method)
    if any(disk.overlay_first for disk in disks) and choice.if_not_converging is IfNotConverging.MIRROR:
        # a copy by way of an overlay never writes to both sides at once
        choice = replace(choice, if_not_converging=IfNotConverging.WAIT)
    draft.findings.extend(_method_findings(request, facts, choice, disks))
    trims, why_not = trim_rules.planned(request, facts, [disk.target for disk in disks])
    draft.findings.extend(why_not)
    draft.findings.extend(resume_rules.findings(disks, request, facts, choice.method))
    draft.findings.extend(_kept_name_findings(request, facts, disks))
    source, said = filesystems.source_policy(request.source, facts, disks, home, nvram)
    draft.findings.extend(said)
    draft.findings.extend(clone_rules.findings(disks, not_cloned, replace(request, source=source), facts))
    draft.findings.extend(templates_rules.unused(request, facts, disks))
    draft.findings.extend(space.space_findings(disks, home, nvram, facts))
    draft.findings.extend(_checkpoint_findings(facts, disks))
    stores = [facts.datastore(name) for name in dict.fromkeys(disk.datastore for disk in disks)]
    draft.findings.extend(image_names.home_findings(request, facts, home, [store for store in stores if store]))
    severities = ("error", "warning", "info")
    findings = tuple(sorted(draft.findings, key=lambda problem: severities.index(problem.severity.value)))
    if any(problem.is_error for problem in findings):
        return findings, None
    plan = _plan(request, facts, move, choice, disks, home)
    plan = replace(plan, source=source, nvram=nvram, vtpm=vtpm, trim=trims, background_only=unsafe is not None)
    late = image_names.made_findings(facts, plan)
    return (*late, *findings), None if late else plan


def _plan(
    request: MoveRequest,
    facts: Facts,
    move: str,
    choice: _MethodChoice,
    disks: tuple[DiskPlan, ...],
    home: HomePlan | None,
) -> Plan:
    """The plan as far as it follows from request and facts alone; `precheck` fills in what it decided on the way."""
    return Plan(
        move=move,
        uri=facts.uri,
        host=facts.host,
        host_name=facts.host_name,
        directories=_directories(facts, disks, home),
        vm=facts.vm.name,
        uuid=facts.vm.uuid,
        method=choice.method,
        method_reason=choice.reason,
        disks=disks,
        home=home,
        persistent=facts.vm.persistent,
        was=facts.vm.state,
        source=request.source,
        verify=request.verify,
        chain=request.chain,
        bandwidth=request.bandwidth,
        contract=request.contract,
        buffer=COPY_BUFFER if request.contract is not None else request.buffer,
        if_not_converging=choice.if_not_converging,
        on_break=request.on_break,
        snapshots=tuple(snapshot.name for snapshot in facts.snapshots),
        checkpoints=facts.vm.checkpoints if any(disk.has_bitmaps for disk in disks) else (),
        resume_after=facts.vm.pause_reason == "ioerror" and request.paused is PausedPolicy.RESUME,
        hang=_hang_plan(request, facts, choice.method),
    )


def _mirror_impossible(
    request: MoveRequest, facts: Facts, unsafe: Defect | None, *, keeps_chain: bool
) -> Iterable[Finding]:
    """Why a mirror that was asked for cannot be done: a chain is to be kept, or the host has a defect (`unsafe`)."""
    vm = facts.vm.name
    if keeps_chain and request.method is Method.MIRROR:
        yield finding("METHOD_CHAIN", f"{vm} has a backing chain that is to be kept; mirror cannot do that.")
    if keeps_chain and request.if_not_converging is IfNotConverging.MIRROR:
        yield finding(
            "METHOD_CHAIN",
            f"{vm} has a backing chain that is to be kept; its copy cannot go over to a mirror.",
            "Use --if-not-converging throttle, wait or stop, or --chain flatten.",
        )
    if unsafe is not None and request.if_not_converging is IfNotConverging.MIRROR:
        text = f"The copy of {vm} cannot go over to a mirror on this host: {unsafe.title}. It waits instead."
        yield finding("KNOWN_DEFECT", text)


def _copy_modes(facts: Facts, choice: _MethodChoice, *, can_be_synchronous: bool, keeps_chain: bool) -> set[bool]:
    """Whether the copies are to be synchronous (True) or in the background (False); both, where that may change."""
    synchronous_later = choice.if_not_converging is IfNotConverging.MIRROR and can_be_synchronous
    modes = {choice.method is Method.MIRROR and not keeps_chain, synchronous_later}
    if facts.storage:
        modes.add(False)  # a mirror whose destination has hung goes on in the background
    if facts.partials:
        modes.add(False)  # a copy that broke is gone on with in the background
    return modes


def _look_at_disks(request: MoveRequest, facts: Facts, wanted: dict[str, Datastore], draft: _Draft) -> None:
    """Fill the draft with the plans of the disks, and the findings of destinations, disks and snapshots."""
    for store in {store.name: store for store in wanted.values() if not exports.is_export(store.name)}.values():
        draft.findings.extend(vm_checks.datastore_findings(store, facts))
    for target, store in wanted.items():
        disk = facts.vm.disk(target)
        assert disk is not None
        _look_at_disk(request, facts, disk, store, draft)
    draft.findings.extend(vm_checks.snapshot_findings(request, facts, tuple(wanted)))


def _nothing_to_move(facts: Facts, wanted: dict[str, Datastore]) -> Finding:
    names = ", ".join(sorted({store.name for store in wanted.values()}))
    return finding("NOTHING_TO_MOVE", f"All disks of {facts.vm.name} that were asked for live on {names} already.")


def _method_findings(
    request: MoveRequest, facts: Facts, choice: _MethodChoice, disks: tuple[DiskPlan, ...]
) -> Iterable[Finding]:
    """What the chosen method means for the guest's writes, and the known defects that it can meet."""
    if request.contract is not None and choice.method is Method.MIRROR:
        text = f"The writes of {facts.vm.name} have a latency contract, and by mirror they wait for the destination."
        yield finding("CONTRACT_MIRROR", text)
    yield from start_pause.findings(disks, request, facts, choice.method)
    yield from _hang_findings(request, facts, choice.method, choice.if_not_converging)
    yield from vm_checks.defect_findings(facts, choice.method, [disk.target for disk in disks])


def _kept_name_findings(request: MoveRequest, facts: Facts, disks: tuple[DiskPlan, ...]) -> Iterable[Finding]:
    for disk in disks:
        if not exports.is_export(disk.datastore):
            yield from image_names.kept_findings(request, facts, named(disk.datastore, facts), disk.target, disk)


def _checkpoint_findings(facts: Facts, disks: tuple[DiskPlan, ...]) -> Iterable[Finding]:
    if facts.vm.checkpoints and any(disk.has_bitmaps for disk in disks):
        yield finding("CHECKPOINTS_VOID", checkpoint_notes.before_move(facts.vm.checkpoints, facts.vm.name))


def _directories(facts: Facts, disks: Iterable[DiskPlan], home: HomePlan | None) -> dict[str, Directory]:
    """What the datastores stand on that the move takes files from and brings files to, as far as that is known."""
    names = {name for disk in disks for name in (disk.datastore, disk.source_datastore)}
    names |= {home.datastore} if home is not None else set()
    return {
        one.name: Directory(one.path, one.id)
        for one in facts.datastores
        if one.name in names and one.path and one.id is not None
    }


def _may_hang(request: MoveRequest, facts: Facts) -> str:
    """Why a write of the guest to both sides at once could wait for ever, a clause; "" when it could not."""
    if why := network.why_it_may_hang(request):
        return why
    if facts.storage_problem:
        return f"it cannot be told what the destination does when it hangs ({facts.storage_problem})"
    return next((text for one in facts.storage.values() if (text := fencing.unbounded(one))), "")


def _hang_findings(request: MoveRequest, facts: Facts, method: Method, policy: IfNotConverging) -> list[Finding]:
    """A synchronous copy that was asked for by name although nothing bounds what the guest's writes wait."""
    why = _may_hang(request, facts)
    by_name = request.method is Method.MIRROR or request.if_not_converging is IfNotConverging.MIRROR
    synchronous = method is Method.MIRROR or policy is IfNotConverging.MIRROR
    if not (why and by_name and synchronous and facts.vm.state.active):
        return []
    return [finding("HANG_UNBOUNDED", f"The writes of {facts.vm.name} wait as long as its destination does: {why}.")]


def _hang_plan(request: MoveRequest, facts: Facts, method: Method) -> HangPlan | None:
    if not facts.vm.state.active or method is Method.COLD:
        return None
    bounds = [fencing.bound(one, request.hang, synchronous=method is Method.MIRROR) for one in facts.storage.values()]
    return HangPlan(
        request.hang, "; ".join(dict.fromkeys(bounds)) or f"not known: {facts.storage_problem or 'no facts'}"
    )


def _method(
    request: MoveRequest,
    facts: Facts,
    unsafe: Defect | None,
    *,
    keeps_chain: bool,
    goes_on: bool = False,
    cloned: bool = False,
) -> _MethodChoice:
    """Which method, why, and what is done when the guest outruns it. `unsafe`: what forbids synchronous copies here."""
    may_hang = _may_hang(request, facts)
    method, reason = precheck_method.choose(
        request.method,
        facts.vm.state,
        request.bandwidth,
        defect=unsafe,
        may_hang=may_hang,
        keeps_chain=keeps_chain,
        contract=request.contract is not None,
        goes_on=goes_on,
        cloned=cloned,
    )
    by_overlay = goes_on or method in (Method.SNAPSHOT, Method.CLONE)
    policy = precheck_method.if_not_converging(
        request.if_not_converging,
        request.method,
        method,
        request.bandwidth,
        can_be_synchronous=not keeps_chain and unsafe is None and not by_overlay,
        may_hang=bool(may_hang),
    )
    return _MethodChoice(method, reason, policy)


def destinations(request: MoveRequest, facts: Facts) -> dict[str, Datastore]:
    """target -> datastore, for every disk that is asked to move. CD drives follow the home, not this."""
    vm = facts.vm
    for target in request.disks:
        if vm.disk(target) is None:
            known = [disk.target for disk in vm.disks]
            raise DiskNotFound(vm.name, target, nearest(target, known) or tuple(known[:3]))
    if request.to is None and not request.disks:
        raise UsageError("No destination was named.", "Name one with --to DATASTORE or --disk vda=DATASTORE.")
    wanted: dict[str, Datastore] = {}
    for disk in vm.disks:
        name = request.disks.get(disk.target, request.to)
        if name is None or (disk.device in ("cdrom", "floppy") and disk.target not in request.disks):
            continue
        wanted[disk.target] = network.destination(name) if exports.is_export(name) else named(name, facts)
    return wanted


def named(name: str, facts: Facts) -> Datastore:
    store = facts.datastore(name)
    if store is None:
        raise DatastoreNotFound(name, facts.uri, nearest(name, [one.name for one in facts.datastores]))
    return store


def _look_at_disk(request: MoveRequest, facts: Facts, disk: Disk, store: Datastore, draft: _Draft) -> None:
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
    request: MoveRequest, facts: Facts, disk: Disk, chain: tuple[Image, ...], store: Datastore, draft: _Draft
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
    if disk.luks is not None and facts.vm.state.active and _allocation(chain, shallow=shallow) < chain[0].virtual_size:
        size = format_size(chain[0].virtual_size)
        yield finding("LUKS_FULL", f"{disk.target} of {facts.vm.name} is encrypted: {disk.dest} will take {size}.")


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
    draft: _Draft,
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
        source=disk.source.place,
        source_format=top.format,
        source_kind=disk.source.kind,
        dest=new.path,
        dest_format=new.format,
        datastore=store.name,
        source_datastore=None if here is None else here.name,
        virtual_size=placement.guest_size(top.virtual_size),
        allocation=top.virtual_size if written_whole else _allocation(chain, shallow=new.shallow),
        thick=new.thick,
        layers=new.layers,
        backing=(new.layers[0].dest, new.layers[0].dest_format) if new.shallow and new.layers else stays_below,
        stays_below=stays_below,
        old_files=(*old_files, *old_parts),
        suspended_start=_suspended_start(facts, disk, top.format, new.format, draft.modes, shallow=new.shallow),
        cache=disk.cache,
        cluster_size=new.cluster_size,
        has_bitmaps=_has_bitmaps(facts, top),
        as_is=bool(top.internal_snapshots),
        granularity=precheck_method.granularity(top.format, new.format),
        preallocation=(request.preallocation or Preallocation.OFF).value,
        extended_l2=new.extended_l2,
        parts=top.parts,
        old_parts=old_parts,
        sealed=sealed,
        luks=luks,
        reused=new.reused,
        source_volume=disk.source.volume,
    )


def _copied_layers(chain: tuple[Image, ...], new: _NewImage, draft: _Draft) -> set[str]:
    """The lower images of the chain that the destination has when this disk and the earlier ones are copied."""
    copied = {layer.source for layer in new.layers}
    if new.twin is not None:
        copied.update(path for earlier in draft.disks for path in earlier.old_files)
    elif new.reused is not None:
        copied.update(image.path for image in chain[1 + len(new.layers) :])
    return copied


def _measured(request: MoveRequest, facts: Facts, disk: DiskPlan) -> DiskPlan:
    """With what its content takes, where that could be measured and the copy is not of the file as it is."""
    found = facts.measured.get(disk.target)
    if found is None or disk.sealed or disk.as_is:
        return disk
    no_holes = disk.datastore in facts.no_holes and facts.vm.state.active and request.method is not Method.SNAPSHOT
    return space.measured(disk, found, no_holes=no_holes)


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
    request: MoveRequest, facts: Facts, chain: tuple[Image, ...], store: Datastore, draft: _Draft
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
        for one in draft.disks:
            twin = next((layer for layer in one.layers if layer.source == image.path), None)
            if twin is not None and one.datastore == store.name:
                return tuple(layers), one.reused, twin
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
        found = facts.measured.get(image.path)
        data, required = (-1, -1) if found is None else (found.data, found.required)
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


def _home(request: MoveRequest, facts: Facts, draft: _Draft) -> HomePlan | None:
    """Where the metadata and small files go; None when the home stays."""
    name = request.home or request.to
    if name is None:
        return None
    store = named(name, facts)
    if not store.is_directory:
        return None
    vm = facts.vm
    dest = placement.home_directory(store, vm.name)
    if facts.home_source == dest:
        return None
    files: list[HomeFile] = []
    inserted = {
        disk.source.path: disk.target
        for disk in vm.disks
        if disk.device in ("cdrom", "floppy") and disk.source is not None and disk.source.path
    }
    for small in facts.home_files:
        if small.path == vm.nvram:
            continue
        role = "iso" if small.path in inserted else "file"
        new = home_rules.destination(dest, facts.home_source, small.path)
        if new in facts.existing or new in {one.dest for one in files}:
            draft.findings.append(finding("NAME_COLLISION", f"{new} is there already; {small.path} would go there."))
        files.append(HomeFile(small.path, new, role, small.size, inserted.get(small.path)))
    carried = {one.source for one in files}
    for path, target in inserted.items():
        if path not in carried:
            draft.findings.append(finding("CDROM_STAYS", f"{path}, inserted in {target}, stays where it is."))
    if stays := facts.home_stays:
        names = ", ".join(posixpath.basename(one.path) for one in stays[:5])
        more = f" and {len(stays) - 5} more" if len(stays) > 5 else ""
        draft.findings.append(finding("HOME_FILES_STAY", f"In the old home {facts.home_source} stay {names}{more}."))
    return HomePlan(store.name, dest, facts.home_source, tuple(files), facts.home_stays)


def _nvram(request: MoveRequest, facts: Facts, home: HomePlan | None, draft: _Draft) -> NvramPlan | None:
    """Where the UEFI variables go, None when they stay; a finding says which and why."""
    vm = facts.vm
    if vm.nvram is None:
        return None
    small = next((one for one in facts.home_files if one.path == vm.nvram), None)
    planned = facts.following if facts.following is not None and facts.following.source == vm.nvram else None
    if home is not None and small is not None:
        planned = NvramPlan(vm.nvram, home_rules.destination(home.dest, facts.home_source, vm.nvram), small.size)
        if planned.dest == posixpath.normpath(vm.nvram):
            return None  # the home comes to where they are
        if planned.dest in facts.existing:
            text = f"{planned.dest} is there already; the UEFI variables of {vm.name} would go there."
            draft.findings.append(finding("NAME_COLLISION", text))
    why = ""
    if request.firmware is Firmware.LEAVE:
        why = "as asked"
    elif not vm.persistent:
        why = "the VM is transient: when it is off there is nothing that could be pointed elsewhere"
    elif vm.config_nvram is None:
        why = "the configuration leaves their place to libvirt"
    elif vm.config_nvram != vm.nvram:
        why = f"the next start would use {vm.config_nvram}"
    elif planned is None:
        why = "its home does not move" if home is None else "the file is another VM's, too, or cannot be found"
    if why or planned is None:
        text = f"The UEFI variables of {vm.name} stay in {vm.nvram}: {why}."
        draft.findings.append(finding("NVRAM_STAYS", text))
        return None
    if request.firmware is Firmware.NOW and vm.state.active:
        return replace(planned, now=_hold(facts, draft))
    if vm.state.active or vm.has_managed_save:
        text = f"The UEFI variables of {vm.name} stay in {vm.nvram} until it has been powered off, then they follow."
        draft.findings.append(finding("NVRAM_FOLLOWS", text))
    return planned


HOLD_OVERHEAD_S = 1.0
"""Ending a QEMU, copying the variables, starting another one."""


def _hold(facts: Facts, draft: _Draft) -> ManagedSavePlan | None:
    """How the VM is held for its UEFI variables; None, with the reason among the findings, when it cannot be."""
    vm, room = facts.vm, facts.save_room
    why = ""
    if vm.unsavable:
        why = f"it has {vm.unsavable}"
    elif vm.state is PowerState.CRASHED:
        why = "its guest has crashed"
    elif room is None or room.problem:
        why = "the place for saved states cannot be looked at" + (f": {room.problem}" if room else "")
    if why or room is None:
        draft.findings.append(finding("FIRMWARE_NOT_NOW", f"{vm.name} cannot be saved and restored: {why}."))
        return None
    needed = space.for_memory(vm.memory)
    if room.free < needed:
        text = f"{vm.name} needs {format_size(needed)} in {room.directory} for its memory; {format_size(room.free)}"
        draft.findings.append(finding("FIRMWARE_NO_ROOM", f"{text} are free."))
        return None
    expected_s = 2 * vm.memory / room.rate + HOLD_OVERHEAD_S
    text = (
        f"{vm.name} stands still for up to about {format_duration(expected_s)} for its UEFI variables: "
        f"{format_size(vm.memory)} are saved to {room.directory} and loaded again, at {format_rate(room.rate)} as "
        "measured."
    )
    draft.findings.append(finding("FIRMWARE_NOW", text))
    return ManagedSavePlan(f"{room.directory}/{vm.name}.save", vm.memory, room.rate, expected_s)


def _vtpm(facts: Facts, draft: _Draft) -> str | None:
    """Where the state of an emulated TPM is: libvirt's swtpm keeps it on the host, by the VM's UUID."""
    if not facts.vm.tpm:
        return None
    path = f"{VTPM_DIRECTORY}/{facts.vm.uuid}"
    text = f"The state of the vTPM of {facts.vm.name} stays in {path}; it is the host's, and the VM finds it there."
    draft.findings.append(finding("TPM_STAYS", text))
    return path
