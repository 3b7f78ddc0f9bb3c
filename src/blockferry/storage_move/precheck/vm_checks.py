"""Reasons against a move that lie in the host, the VM, a disk or a datastore by itself. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from blockferry.base.units import MiB, format_size
from blockferry.hosts import defects, qemu_user
from blockferry.hosts.defects import Case, Remedy, dotted
from blockferry.hosts.inventory import Datastore, Disk, Image, PowerState
from blockferry.storage_move.destination.placement import FORMATS
from blockferry.storage_move.disk_plan import LuksPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.precheck import network
from blockferry.storage_move.precheck.finding import Finding, Severity, finding
from blockferry.storage_move.precheck.method import SYNCHRONOUS_SINCE
from blockferry.storage_move.request import Method, MoveRequest, PausedPolicy, Provision

OLDEST_LIBVIRT = SYNCHRONOUS_SINCE
OLDEST_QEMU = (6, 0, 0)

LEAST_PACKED = 16 * MiB
"""By so much more must a copy take than its image for that to be called compressed."""


def host_findings(facts: Facts) -> list[Finding]:
    found = []
    sides = [
        (f"libvirt on {facts.uri}", facts.libvirt, OLDEST_LIBVIRT),
        (f"QEMU on {facts.uri}", facts.qemu, OLDEST_QEMU),
    ]
    if facts.running_qemu is not None and facts.running_qemu != facts.qemu:
        sides.append((f"The QEMU in which {facts.vm.name} runs", facts.running_qemu, OLDEST_QEMU))
    for name, version, floor in sides:
        if version < floor:
            text = f"{name} is {dotted(version)}; {dotted(floor)} is the oldest that will do."
            found.append(finding("TOO_OLD", text))
    found.extend(_running_qemu(facts))
    if facts.access_problem:
        found.append(finding("NO_ADMIN_ACCESS", facts.access_problem))
    if facts.compare_problem:
        found.append(finding("CANNOT_VERIFY", facts.compare_problem + "."))
    if facts.host_guard_problem:
        name = facts.vm.name
        text = (
            f"No guard can stand on the host of {name} ({facts.host_guard_problem}): if the link is cut while a move "
            f"has it suspended, it stays suspended until the link is back."
        )
        found.append(finding("NO_HOST_GUARD", text))
    return found


def _running_qemu(facts: Facts) -> list[Finding]:
    """Where the VM's own QEMU is not the installed one, or is not known: by which one is decided."""
    vm, installed = facts.vm.name, dotted(facts.qemu)
    if facts.running_qemu_problem:
        why = facts.running_qemu_problem
        text = f"Which QEMU {vm} runs in cannot be told ({why}); taken for the installed {installed}."
        return [finding("QEMU_UNKNOWN", text)]
    if facts.running_qemu is None or facts.running_qemu == facts.qemu:
        return []
    own = dotted(facts.running_qemu)
    text = f"{vm} runs in QEMU {own}, and {installed} is installed; what is decided goes by its own."
    return [finding("OTHER_QEMU", text)]


def copy_case(disk: Disk, source_format: str, *, synchronous: bool, shallow: bool, live: bool = True) -> Case:
    """What the table of defects asks about the copy of a disk."""
    return Case(
        live=live,
        synchronous=synchronous,
        shallow=shallow,
        source_format=source_format,
        bus=disk.bus,
        iothread=disk.iothread,
        discard=disk.discard == "unmap",
        io=disk.io,
        copy_on_read=disk.copy_on_read,
    )


def defect_findings(facts: Facts, method: Method, targets: Sequence[str]) -> list[Finding]:
    """Defects of the host, and of the VM's own QEMU, that these copies can meet and that are not simply avoided."""
    if not facts.vm.state.active:
        return []
    found: dict[str, tuple[defects.Defect, list[str]]] = {}
    for target in targets:
        disk = facts.vm.disk(target)
        assert disk is not None
        source_format = disk.source.format if disk.source else "raw"
        case = copy_case(disk, source_format, synchronous=method is Method.MIRROR, shallow=False)
        for defect in defects.met(facts.versions, case):
            if defect.remedy in (Remedy.REFUSED, Remedy.TOLD, Remedy.NO_SYNCHRONOUS):
                found.setdefault(defect.id, (defect, []))[1].append(target)
    return [_defect_finding(facts, defect, disks) for defect, disks in found.values()]


def _defect_finding(facts: Facts, defect: defects.Defect, targets: list[str]) -> Finding:
    version = dotted(facts.versions.of(defect.component))
    disks = ", ".join(targets)
    text = (
        f"{defect.id}: {defect.component.value} {version}: {defect.title} ({disks} of {facts.vm.name}). {defect.what}"
    )
    severity = Severity.WARNING if defect.remedy is Remedy.TOLD else Severity.ERROR
    return finding("KNOWN_DEFECT", text, defect.instead, severity)


def vm_findings(request: MoveRequest, facts: Facts) -> list[Finding]:
    """Reasons that concern the VM as a whole."""
    vm, found = facts.vm, []
    if vm.job:
        remedy = f"Wait for it (`virsh domjobinfo {vm.name}`), or end it: `virsh domjobabort {vm.name}`."
        found.append(finding("JOB_ON_VM", f"{vm.name} is busy: {vm.job}.", remedy))
    if vm.has_managed_save:
        found.append(finding("MANAGED_SAVE", f"{vm.name} has a managed save image."))
    found += lost_vm_findings(facts)
    if vm.state is PowerState.CRASHED:
        found.append(finding("VM_CRASHED", f"The guest of {vm.name} has crashed; its disks are moved as they are."))
    if vm.pause_reason == "ioerror":
        found.append(_paused_on_error(request, vm.name))
    if request.method is Method.COLD and vm.state.active:
        found.append(
            finding("METHOD_NEEDS_POWER", f"{vm.name} is {vm.state.value}; the method cold needs it to be off.")
        )
    if request.method in (Method.MIRROR, Method.CHANGED_BLOCKS, Method.SNAPSHOT) and not vm.state.active:
        text = f"{vm.name} is off; the method {request.method.value} needs it to run."
        found.append(finding("METHOD_NEEDS_POWER", text))
    return found


def lost_vm_findings(facts: Facts) -> list[Finding]:
    """Whether libvirt calls a VM off whose QEMU lives, or may live. That matters also while a move has the VM."""
    vm, found = facts.vm, []
    if facts.lost_process:
        text = (
            f"libvirt says that {vm.name} is off, but its QEMU (process {facts.lost_process}) lives and has its disks."
        )
        found.append(finding("VM_LOST", text))
    if facts.off_doubt:
        text = f"libvirt says that {vm.name} is off, but that could not be checked: {facts.off_doubt}."
        found.append(finding("POWER_UNSURE", text))
    return found


def _paused_on_error(request: MoveRequest, vm: str) -> Finding:
    """A full datastore is the usual reason, and moving away the remedy. Nobody but the user says that it runs again."""
    if request.verify:
        text = f"{vm} is paused because of an I/O error: a frozen view of its disks cannot be held then."
        return finding("PAUSED_ON_ERROR", text, "Leave out --verify.", Severity.ERROR)
    if request.paused is PausedPolicy.RESUME:
        text = f"{vm} is paused because of an I/O error. It runs again once its disks are at the destination."
        return finding("PAUSED_ON_ERROR", text, "Use --paused keep to have it stay paused.")
    text = f"{vm} is paused because of an I/O error. It is moved as it is, and stays paused."
    return finding("PAUSED_ON_ERROR", text, f"Afterwards `virsh resume {vm}`; or use --paused resume.")


def datastore_findings(store: Datastore, facts: Facts) -> list[Finding]:
    """Reasons that concern a destination as a whole, its space apart."""
    if not store.active:
        return [
            finding(
                "DATASTORE_INACTIVE", f"The datastore {store.name} is not active.", f"`virsh pool-start {store.name}`."
            )
        ]
    if not store.is_directory:
        return [finding("DATASTORE_KIND", f"The datastore {store.name} is of the kind {store.kind}.")]
    if store.name in facts.directories:
        return [finding("DATASTORE_MISSING", f"The datastore {store.name}: {facts.directories[store.name]}.")]
    # What is no directory in place of the home is another reason, and told by that (HOME_UNUSABLE).
    shut = {
        name: path
        for name, path in facts.out_of_reach.items()
        if (look := facts.places.get(path)) is None or look.kind == "directory"
    }
    return qemu_user_findings(store.name, facts.vm.name, facts.qemu_user, shut, facts.not_held)


def _ended_by(vm: str, disk: Disk) -> str:
    """How somebody else's block job is ended; a backup's belong to a job of the whole VM."""
    command = f"blockjob {vm} {disk.target} --abort"
    if disk.mirror is None and disk.other_job is not None and "backup" in disk.other_job:
        command = f"domjobabort {vm}"
    return f"Wait for it, or end it: `virsh {command}`."


def under_way(facts: Facts) -> Finding | None:
    """The move that has this VM, and how to follow or end it; None without one.

    Nothing else matters then, but that libvirt has lost the VM (`lost_vm_findings`).
    """
    vm, move_summary = facts.vm.name, facts.under_way
    if move_summary is None:
        if facts.other_move is None:
            return None
        if facts.other_to:
            text = f"{vm} is already being moved to {facts.other_to} ({facts.other_move})."
            return finding("MOVE_UNDER_WAY", text, f"Follow: `blockferry watch {vm}`. Stop: `blockferry cancel {vm}`.")
        return finding("MOVE_UNDER_WAY", f"{vm} is held by move {facts.other_move} of another journal.")
    to = ", ".join(dict.fromkeys(disk.dest.datastore for disk in move_summary.plan.disks))
    if move_summary.parked is not None:
        text = f"The move {move_summary.id} of {vm} to {to} is parked: {move_summary.parked.rstrip('.')}."
        return finding("MOVE_UNDER_WAY", text, f"Go on: `blockferry resume {vm}`. Stop: `blockferry cancel {vm}`.")
    total, done = move_summary.progress.total, move_summary.progress.done
    share = f", {min(100, 100 * done // total)} %" if total else ""
    text = f"{vm} is already being moved to {to} ({move_summary.id}{share})."
    follow = f"Follow: `blockferry watch {vm}`."
    if move_summary.record.switch.done or move_summary.record.switch.begun:
        return finding("MOVE_UNDER_WAY", text, follow)
    return finding("MOVE_UNDER_WAY", text, f"{follow} Stop: `blockferry cancel {vm}`.")


def disk_findings(request: MoveRequest, facts: Facts, disk: Disk, chain: tuple[Image, ...]) -> list[Finding]:
    """Reasons that concern one disk at its source."""
    unmovable = _unmovable_disk(facts, disk) or _unmovable_source(facts, disk)
    if unmovable is not None:
        return [unmovable]
    return [
        *_disagreement_findings(request, facts, disk),
        *_format_findings(request, disk, chain, f"{disk.target} of {facts.vm.name}"),
        *_content_findings(request, facts, disk, chain),
    ]


def _unmovable_disk(facts: Facts, disk: Disk) -> Finding | None:
    """Why a disk of this kind, or that is attached in this way, does not move, whatever it is made of."""
    name = f"{disk.target} of {facts.vm.name}"
    if disk.device == "lun":
        return finding("PASSTHROUGH_LUN", f"{name} is a LUN passed through to the guest.")
    if disk.device in ("cdrom", "floppy"):
        text = f"{name} is a {disk.device}; its medium follows the VM's home."
        return finding("READ_ONLY_DISK", text, "Leave it out of --disk.")
    if disk.shareable:
        return finding("SHARED_DISK", f"{name} is shared with other VMs (<shareable/>).")
    if disk.transient:
        return finding("TRANSIENT_DISK", f"{name} is transient.")
    if facts.vm.state.active and facts.vm.persistent and disk.live is None and disk.config is not None:
        text = f"{name} is only in the persistent configuration: it is attached at the next start of the VM."
        movable = " ".join(
            f"--disk {other.target}=DATASTORE"
            for other in facts.vm.disks
            if other.device == "disk" and other.live is not None and not other.shareable
        )
        return finding("CONFIG_DIFFERS", text, f"Power-cycle {facts.vm.name} first; or move the others: {movable}.")
    return None


def _unmovable_source(facts: Facts, disk: Disk) -> Finding | None:
    """Why what a disk is made of cannot be copied, or could not be read."""
    name, source = f"{disk.target} of {facts.vm.name}", disk.source
    if disk.sliced:
        text = f"{name} is a slice of {source.description if source else 'a file'} (<slices>)"
        return finding("UNSUPPORTED_SOURCE", f"{text}: a copy would hold the wrong part of that file.")
    if source is None:
        return finding("UNSUPPORTED_SOURCE", f"{name} has no source.")
    if source.place is None or source.kind not in ("file", "block", "network"):
        return finding("UNSUPPORTED_SOURCE", f"{name} is {source.description}.")
    if disk.target in facts.problems:
        return finding("IMAGE_UNREADABLE", f"{name}: {facts.problems[disk.target]}")
    return None


def _disagreement_findings(request: MoveRequest, facts: Facts, disk: Disk) -> Iterable[Finding]:
    """Where somebody else works on the disk, or configuration, libvirt and QEMU do not name the same image."""
    name, source = f"{disk.target} of {facts.vm.name}", disk.source
    assert source is not None
    if source.export:
        yield from network.source_findings(request, facts, disk)
    if disk.mirror or disk.other_job:
        what = f"a block {disk.mirror.job} to {disk.mirror.dest}" if disk.mirror else str(disk.other_job)
        yield finding("JOB_ON_DISK", f"{name} is busy: {what}.", _ended_by(facts.vm.name, disk))
    if facts.vm.persistent and disk.live and (disk.config is None or disk.config.place != disk.live.place):
        elsewhere = disk.config.description if disk.config else "nothing: it was attached to the running VM only"
        yield finding("CONFIG_DIFFERS", f"{name} runs on {disk.live.place}, the next start would use {elsewhere}.")
    if disk.target in facts.graph_differs:
        text = f"{name}: libvirt says {source.place}, QEMU uses {facts.graph_differs[disk.target]}."
        yield finding("BLOCK_GRAPH", text)


def _format_findings(request: MoveRequest, disk: Disk, chain: tuple[Image, ...], name: str) -> Iterable[Finding]:
    source = disk.source
    assert source is not None
    for format in {chain[0].format if chain else source.format, request.format or "raw"}:
        if format not in FORMATS:
            yield finding("UNSUPPORTED_FORMAT", f"{name}: the format {format} cannot be moved.")
    if source.volume:
        text = f"{name} is {source.description}, the file {source.path}; its configuration names files then."
        yield finding("VOLUME_AS_FILE", text)


def _content_findings(request: MoveRequest, facts: Facts, disk: Disk, chain: tuple[Image, ...]) -> Iterable[Finding]:
    """What the images of the disk hold, or who else uses them."""
    name, source = f"{disk.target} of {facts.vm.name}", disk.source
    assert source is not None
    for image in chain:
        yield from _image_findings(name, image)
    if any(image.internal_snapshots for image in chain):
        yield from _internal_findings(request, facts, disk, chain)
    if is_encrypted(disk, chain) and not sealed(request, facts, disk, chain):
        how = _unsealed(facts, disk, chain)
        yield finding("ENCRYPTED_IMAGE", f"{name}: {source.description} is encrypted{how}.")
    if chain and (others := facts.users.get(chain[0].path)):
        yield finding("IMAGE_USED_ELSEWHERE", f"{name}: {chain[0].path} is also used by {', '.join(others)}.")


def is_encrypted(disk: Disk, chain: Sequence[Image]) -> bool:
    """Whether QEMU needs a secret for this disk. LUKS is raw in libvirt's XML: there only `<encryption>` tells."""
    return disk.encrypted or any(image.encrypted for image in chain)


def sealed(request: MoveRequest, facts: Facts, disk: Disk, chain: Sequence[Image]) -> bool:
    """Whether an encrypted disk is copied as it is, so that neither its secret is needed nor anything is decrypted.

    That takes one image, and nothing to be changed on the way. `--verify` would have to read what the guest reads. Of
    a running VM (its QEMU copies what the guest reads) it takes a new image that QEMU encrypts in the same way.
    """
    if not is_encrypted(disk, chain) or len(chain) != 1 or chain[0].parts:
        return False
    if facts.vm.state.active and luks(facts, disk, chain) is None:
        return False
    asked = request.format not in (None, chain[0].format) or request.preallocation or request.cluster_size
    return not (asked or request.verify or request.provision is Provision.THICK)


def luks(facts: Facts, disk: Disk, chain: Sequence[Image]) -> LuksPlan | None:
    """How QEMU can open a second image like this one: the same LUKS header in a file, the same secret of libvirt's."""
    header = facts.luks_headers.get(disk.target)
    plain_file = disk.source is not None and disk.source.kind == "file"
    if disk.secret is None or header is None or not plain_file or len(chain) != 1:
        return None
    return LuksPlan(header, disk.secret)


def _unsealed(facts: Facts, disk: Disk, chain: Sequence[Image]) -> str:
    if facts.vm.state.active and luks(facts, disk, chain) is None:
        return ", not as LUKS in a raw file, and a copy of a running VM's disk would hold it decrypted"
    return "; it can be copied as it is, with nothing changed on the way and without --verify"


def _image_findings(name: str, image: Image) -> list[Finding]:
    found = []
    if image.data_file:
        text = f"{name}: {image.path} keeps its data in {image.data_file}; the new image holds both."
        found.append(finding("DATA_FILE", text))
    return found


def _internal_findings(request: MoveRequest, facts: Facts, disk: Disk, chain: tuple[Image, ...]) -> list[Finding]:
    """Internal snapshots are carried by copying the one file they are in as it is, while nobody writes to it."""
    image = next(image for image in chain if image.internal_snapshots)
    names = ", ".join(image.internal_snapshots)
    what = f"{disk.target} of {facts.vm.name}: {image.path} holds the internal snapshots {names}"
    if facts.vm.state.active:
        text, remedy = f"{what}; they can only be carried while the VM is off.", "Power it off, then move it."
    elif len(chain) > 1:
        text, remedy = f"{what}, and it is part of a backing chain.", "Commit the chain, or delete the snapshots."
    elif request.format not in (None, image.format):
        text, remedy = f"{what}, which {request.format} cannot hold.", "Leave out --format."
    elif request.provision is Provision.THICK:
        text, remedy = f"{what}; the file is copied as it is, not made thick.", "Leave out --provision."
    else:
        return []
    return [finding("INTERNAL_SNAPSHOTS", text, remedy)]


def snapshot_findings(request: MoveRequest, facts: Facts, targets: Sequence[str]) -> list[Finding]:
    """Snapshots of the VM that could not be reverted to any more when these disks have moved; none is dropped."""
    found = []
    everything = {image.path for chain in facts.chains.values() for image in chain}
    for snapshot in facts.snapshots:
        name = f"the snapshot {snapshot.name} of {facts.vm.name}"
        if snapshot.memory is not None:
            text = f"{name} has the guest's memory in {snapshot.memory}, a file that names the present disks."
            found.append(finding("SNAPSHOTS", _begin(text), "Delete that snapshot, or leave the VM where it is."))
            continue
        outer = [target for target in snapshot.external if target in targets]
        lost = [path for path in snapshot.files if path not in everything and not _stays(path, facts)]
        if outer and not request.chain.keeps_layers:
            text = f"{name} is external: the disks as they were are lower layers, which would become one image."
            found.append(finding("SNAPSHOTS", _begin(text), "Add --chain keep."))
        elif outer and request.format is not None:
            text = f"{name} is external: its layers keep their formats."
            found.append(finding("SNAPSHOTS", _begin(text), "Leave out --format."))
        elif lost:
            text = f"{name} names {', '.join(lost)}, which is in no present backing chain."
            found.append(
                finding("SNAPSHOTS", _begin(text), "`virsh snapshot-list VM --tree`; delete what is not needed.")
            )
        elif snapshot.internal and facts.vm.state.active and set(snapshot.internal) & set(targets):
            text = f"{name} is internal; it can only be carried while the VM is off."
            found.append(finding("SNAPSHOTS", _begin(text), "Power it off, then move it."))
    return found


def lost_findings(facts: Facts, disk: Disk, chain: Sequence[Image], format: str, *, flattened: bool) -> list[Finding]:
    """What the new image cannot hold although the old one does; nothing of it is the guest's content."""
    name, found = f"{disk.target} of {facts.vm.name}", []
    lost = [] if facts.vm.checkpoints else list(chain[0].bitmaps) if format != "qcow2" else []
    if flattened:
        lost += [bitmap for image in chain[1:] for bitmap in image.bitmaps]
    if lost:
        why = f"{format} cannot hold them" if format != "qcow2" else "the layers that hold them become one image"
        text = f"{name}: the bitmaps {', '.join(dict.fromkeys(lost))} are not copied: {why}."
        found.append(finding("BITMAPS_LOST", text))
    measured, top = facts.measured.get(disk.target), chain[0]
    packed = measured is not None and measured.data > top.allocation * 5 // 4 + LEAST_PACKED
    if measured is not None and packed and top.format == "qcow2" and len(chain) == 1:
        text = f"{name}: {top.path} is compressed ({format_size(top.allocation)}); the copy is not, and takes "
        found.append(finding("COMPRESSION_LOST", f"{text}{format_size(measured.data)}."))
    return found


def _stays(path: str, facts: Facts) -> bool:
    """Whether a file that a snapshot names is no image: a medium or the UEFI variables, which follow by themselves."""
    media = {
        source.path
        for disk in facts.vm.disks
        if disk.device in ("cdrom", "floppy")
        for source in (disk.live, disk.config)
        if source is not None
    }
    return path in media or path in (facts.vm.nvram, facts.vm.config_nvram)


def _begin(text: str) -> str:
    return text[0].upper() + text[1:]


def qemu_user_findings(
    store: str,
    vm: str,
    user: qemu_user.QemuUser | None,
    out_of_reach: Mapping[str, str],
    not_held: Mapping[str, str],
) -> list[Finding]:
    """What QEMU could not open on a datastore, and what its files cannot be given."""
    found = []
    if user is not None and store in out_of_reach:
        directory = out_of_reach[store]
        text = f"QEMU of {vm} runs as {user}, which cannot pass {directory}: it could not open a disk on {store}."
        found.append(finding("QEMU_CANNOT_REACH", text, qemu_user.remedy(user, directory)))
    if store in not_held:
        text = f"Files on {store} cannot have the owner, mode or ACL that they have now ({not_held[store]})."
        found.append(finding("OWNER_LOST", text))
    return found
