"""From a request to a plan: what is on both hosts, which disks go along, and to which paths. Nothing is touched."""

from __future__ import annotations

import posixpath
import secrets
from urllib.parse import urlsplit

from blockferry.base.errors import BlockferryError, Refused, UsageError, VmNotFound
from blockferry.host_move import support_rules
from blockferry.host_move.host_plan import HostMovePlan, TravellingDisk
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.hosts.helper import files
from blockferry.hosts.host import Host
from blockferry.hosts.images import qemu_img
from blockferry.hosts.images.qemu_img import ChainImage
from blockferry.hosts.inventory import Datastore, Disk, PowerState, Vm, datastore_of
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.safety.shared_directory import SharedDirectories


def plan(request: HostMoveRequest, source: Host, dest: Host, directories: SharedDirectories) -> HostMovePlan:
    """Decide what is to be done. `directories`: what the session has proven of them.

    Raises Refused with all reasons, VmNotFound, HostUnreachable, UsageError.
    """
    vm = domain_list.vm(source.connection, request.vm)
    reasons: list[tuple[str, str]] = []
    if source.connection.host_id() == dest.connection.host_id():
        reasons.append(("HOST_SAME", f"{vm.name} is on {dest.connection.hostname()} already."))
    else:
        reasons += _taken(vm, dest)
    images = _images(vm, source)
    reasons += support_rules.unsupported(vm, {target: len(found) for target, found in images.items()})
    stores = {store.name: store for store in pools.datastores(dest.connection, refresh=True)}
    own_stores = pools.datastores(source.connection)
    disks: list[TravellingDisk] = []
    staying: list[str] = []
    for disk in vm.disks:
        if disk.source is None:
            continue
        wanted = request.disks.get(disk.target, "")
        if not wanted and _shared(disk, source, dest, directories):
            staying.append(disk.target)
            reasons += support_rules.cached(vm, disk)
        elif not support_rules.travels(disk):
            reasons.append(
                ("HOST_DISK_STAYS", f"{disk.target} of {vm.name} is not at the same path on the other host.")
            )
        else:
            travelling_disk = _travelling(
                vm, disk, images, wanted or request.to, stores, own_stores, thick=request.thick
            )
            reasons += [] if isinstance(travelling_disk, TravellingDisk) else [travelling_disk]
            disks += [travelling_disk] if isinstance(travelling_disk, TravellingDisk) else []
    reasons += _space(disks, stores, dest)
    if reasons:
        text = " ".join(f"[{code}] {words}" for code, words in reasons)
        raise Refused(vm.name, text, tuple(code for code, _ in reasons))
    return _plan(request, vm, source, dest, tuple(disks), tuple(staying))


def _plan(
    request: HostMoveRequest, vm: Vm, source: Host, dest: Host, disks: tuple[TravellingDisk, ...],
    staying: tuple[str, ...],
) -> HostMovePlan:  # fmt: skip
    name = urlsplit(dest.uri).hostname or ""
    address, peer = request.address or name, request.peer or dest.uri
    if not address or not urlsplit(peer).hostname:
        raise UsageError(
            f"{dest.uri} does not say by which address {source.connection.hostname()} reaches that host.",
            "Name the destination as qemu+ssh://HOST/system, or give its address.",
        )
    return HostMovePlan(
        move=secrets.token_hex(4),
        vm=vm.name,
        uuid=vm.uuid,
        uri=source.uri,
        host=source.connection.host_id(),
        host_name=source.connection.hostname(),
        dest_uri=dest.uri,
        dest_host=dest.connection.host_id(),
        dest_host_name=dest.connection.hostname(),
        peer=peer,
        address=address,
        disks=disks,
        staying=staying,
        cold=vm.state is PowerState.OFF,
        was_running=vm.state is PowerState.RUNNING,
        persistent=vm.persistent,
        autostart=vm.autostart,
        keep_source=request.keep_source,
        downtime_ms=request.downtime_ms,
    )


def _taken(vm: Vm, dest: Host) -> list[tuple[str, str]]:
    """Why the destination cannot take a VM of this name and UUID."""
    found = []
    for word in (vm.uuid, vm.name):
        try:
            other = domain_list.vm(dest.connection, word)
        except VmNotFound:
            continue
        kind = "HOST_UUID_TAKEN" if other.uuid == vm.uuid else "HOST_NAME_TAKEN"
        found.append((kind, f"{dest.connection.hostname()} has a VM {other.name} (UUID {other.uuid}) already."))
        break
    return found


def _images(vm: Vm, source: Host) -> dict[str, tuple[ChainImage, ...]]:
    return {
        disk.target: qemu_img.chain(source.runner, disk.source.path, disk.source.format)
        for disk in vm.disks
        if support_rules.travels(disk) and disk.source is not None and disk.source.path is not None
    }


def _shared(disk: Disk, source: Host, dest: Host, directories: SharedDirectories) -> bool:
    """Whether both hosts have the same file at this path: their directories are one, by proof.

    A host that cannot write there proves nothing. A medium that cannot be written beside (an ISO) counts when the file
    is equal.
    """
    path = None if disk.source is None else disk.source.path
    if path is None or disk.source is None or disk.source.kind != "file":
        return False
    if files.stat_one(source.runner, path) is None or files.stat_one(dest.runner, path) is None:
        return False
    directory = posixpath.dirname(path)
    try:
        return directories.same(source, directory, dest, directory)
    except BlockferryError:
        return disk.device == "cdrom" and files.digest(source.runner, path) == files.digest(dest.runner, path)


def _travelling(
    vm: Vm, disk: Disk, images: dict[str, tuple[ChainImage, ...]], wanted: str, stores: dict[str, Datastore],
    own_stores: tuple[Datastore, ...], *, thick: bool,
) -> TravellingDisk | tuple[str, str]:  # fmt: skip
    """The disk with its new path, or why it cannot go."""
    assert disk.source is not None
    assert disk.source.path is not None
    if not wanted:
        return "HOST_DATASTORE", f"The other host does not have {disk.target} of {vm.name}: say where to, with --to."
    store = stores.get(wanted)
    if store is None or not store.active or not store.is_directory:
        return "HOST_DATASTORE", f"The other host has no active datastore {wanted} for files."
    image = images[disk.target][0]
    if image.format not in ("raw", "qcow2") or image.encrypted or image.data_file:
        return "HOST_FORMAT", f"{disk.target} of {vm.name} is {image.format}; only plain raw and qcow2 go."
    name = f"{disk.target}.{image.format}"
    home = datastore_of(disk.source.path, own_stores)
    return TravellingDisk(
        target=disk.target,
        source=disk.source.path,
        dest=posixpath.join(store.root, vm.name, name),
        format=image.format,
        virtual_size=image.virtual_size,
        datastore=store.name,
        source_datastore="" if home is None else home.name,
        thick=thick,
    )


def _space(disks: list[TravellingDisk], stores: dict[str, Datastore], dest: Host) -> list[tuple[str, str]]:
    """A thin disk may take its whole size; names that are taken."""
    found = []
    for name in dict.fromkeys(travelling_disk.datastore for travelling_disk in disks):
        needed = sum(travelling_disk.virtual_size for travelling_disk in disks if travelling_disk.datastore == name)
        if needed > stores[name].available:
            found.append(("HOST_SPACE", f"{name} has {stores[name].available} bytes free, and {needed} may be needed."))
    for disk in disks:
        if files.is_there(dest.runner, disk.dest):
            found.append(("HOST_FILE_TAKEN", f"{disk.dest} is there already on the other host."))
    return found
