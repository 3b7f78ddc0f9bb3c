"""From a request to a plan: what is on both hosts, which disks go along, and to which paths. Nothing is touched."""

from __future__ import annotations

import itertools
import posixpath
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from blockferry.base.errors import BlockferryError, DiskNotFound, ImageUnreadable, Refused, nearest
from blockferry.base.units import MiB
from blockferry.host_move import state_planning
from blockferry.host_move.host_plan import BARRED, HostMovePlan, TravellingDisk, bytes_taken, storage_first
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.host_move.host_summary import HostCheckResult
from blockferry.host_move.precheck import looks, rules, tls_rules
from blockferry.host_move.precheck.catalogue import finding
from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts, Sharing, TlsSeen
from blockferry.hosts import filesystem_types
from blockferry.hosts.helper import files, references
from blockferry.hosts.host import Host
from blockferry.hosts.images import qemu_img
from blockferry.hosts.images.qemu_img import ChainImage
from blockferry.hosts.inventory import Datastore, Disk, PowerState, Vm, datastore_of
from blockferry.hosts.libvirt import domain_list, migration, pools
from blockferry.safety.shared_directory import SharedDirectories
from blockferry.storage_move.destination import datastore_places, placement
from blockferry.storage_move.precheck import source_filesystem
from blockferry.storage_move.precheck.finding import Finding
from blockferry.storage_move.precheck.space import RESERVE, NeededSpace, Promise, promised
from blockferry.storage_move.summary import DiskEstimate

TYPICAL_RATE = 200 * MiB
"""Bytes/s assumed for estimates."""

MOST_NAMES = 8
"""So many names of an image are tried at the destination."""


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """What the journal and the session know beside both hosts.

    `directories`: what was proven of directories; `promises`: what other moves have yet to write, `here` as seen from
    the destination; `taken`: paths at the destination that other moves make; `under_way`: UUID of a VM -> its move that
    is not over; `seen`, `since`: see NeededSpace.
    """

    directories: SharedDirectories
    promises: tuple[Promise, ...] = ()
    taken: frozenset[str] = frozenset()
    under_way: Mapping[str, str] = field(default_factory=dict)
    seen: frozenset[str] = frozenset()
    since: float = 0.0


@dataclass(slots=True)
class _Draft:
    """What the looks have shown so far of the VM's disks."""

    images: dict[str, tuple[ChainImage, ...]] = field(default_factory=dict)
    sharing: dict[str, Sharing] = field(default_factory=dict)
    going: dict[str, str] = field(default_factory=dict)  # target -> datastore of the destination
    disks: list[TravellingDisk] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def takes(self) -> dict[str, int]:
        return bytes_taken(self.disks)


def plan(
    request: HostMoveRequest, source: Host, dest: Host, beside: JournalFacts
) -> tuple[HostMovePlan, HostCheckResult, NeededSpace]:
    """Return what is to be done, what was found, and the room it fits into.

    Raises Refused with all reasons; as `check`.
    """
    result, room = check(request, source, dest, beside)
    if result.plan is None or room is None:
        reasons = [one for one in result.findings if one.is_error]
        text = " ".join(f"[{reason.code}] {reason.text} {reason.remedy}".rstrip() for reason in reasons)
        raise Refused(result.vm, text, tuple(reason.code for reason in reasons))
    return result.plan, result, room


def check(
    request: HostMoveRequest, source: Host, dest: Host, beside: JournalFacts
) -> tuple[HostCheckResult, NeededSpace | None]:
    """Return every reason for and against, the plan if there can be one, and what it was found to fit into.

    Raises VmNotFound, DiskNotFound, HostUnreachable, LibvirtFailed, HostCommandFailed.
    """
    vm = domain_list.vm(source.connection, request.vm)
    for target in request.disks:
        if vm.disk(target) is None:
            raise DiskNotFound(vm.name, target, nearest(target, [disk.target for disk in vm.disks]))
    if source.connection.host_id() == dest.connection.host_id():
        facts = looks.gather(source, dest, vm.uuid, Asked())
        return HostCheckResult(vm.name, tuple(rules.findings(facts, Asked())), None), None
    draft = _disks(request, vm, source, dest, beside)
    tls = looks.tls_seen(source, dest)
    asked = _asked(request, vm, dest, draft, tls)
    facts = looks.gather(source, dest, vm.uuid, asked, tls)
    spaces = {store.name: None if store.id is None else store.id.space for store in facts.stores}
    facts = replace(
        facts,
        images=draft.images,
        source_free=_free_beside(source, draft.disks) if asked.storage_first else {},
        under_way=beside.under_way.get(vm.uuid, ""),
        sharing={**facts.sharing, **draft.sharing},
        reserved=promised(beside.promises, spaces),
        variables=state_planning.look(vm, facts.needs, source, dest, beside.directories, draft.disks, beside.taken),
        tpm=state_planning.look_at_tpm(vm, source, dest),
    )
    policy, said = source_filesystem.kept_where_shared(request.source, vm.name, _filesystems(source, draft.disks))
    findings = (*rules.findings(facts, asked), *draft.findings, *(said if draft.disks else ()))
    if any(one.is_error for one in findings):
        return HostCheckResult(vm.name, findings, None), None
    made = replace(_plan(request, facts, source, dest, draft, asked), source=policy)
    if request.storage_first and vm.state.active:
        made = storage_first(made)
    return _result(made, facts, asked, findings), _needed(facts, asked, beside)


def _result(made: HostMovePlan, facts: HostFacts, asked: Asked, findings: tuple[Finding, ...]) -> HostCheckResult:
    rate = made.bandwidth or TYPICAL_RATE
    stores = [store for store in facts.stores if store.name in asked.takes]
    return HostCheckResult(
        vm=made.vm,
        findings=findings,
        plan=made,
        estimates=tuple(
            DiskEstimate(disk.target, disk.allocation, disk.allocation / rate, disk.required) for disk in made.disks
        ),
        space=tuple(rules.room(facts, asked, store) for store in stores),
        seconds=made.copy_bytes / rate + 1.0,
        memory=max(0, made.memory - sum(facts.needs.hugepages.values())),
        memory_free=facts.destination.memory_free,
    )


def _needed(facts: HostFacts, asked: Asked, beside: JournalFacts) -> NeededSpace:
    """What the plan was found to fit into, for the proof in the transaction that writes it down."""
    rooms = {store.name: rules.room(facts, asked, store) for store in facts.stores if store.name in asked.takes}
    return NeededSpace(
        {name: room.available_after - RESERVE for name, room in rooms.items()},
        {store.name: rules.sharing_space(facts, store) for store in facts.stores if store.name in rooms},
        beside.seen,
        beside.since,
        {store.name: None if store.id is None else store.id.space for store in facts.stores},
    )


# ------------------------------------------------------------ the ways between the hosts


def _asked(request: HostMoveRequest, vm: Vm, dest: Host, draft: _Draft, tls: TlsSeen) -> Asked:
    address, peer = ways(request, dest)
    return Asked(
        disks=draft.going,
        takes=draft.takes,
        networks=request.networks,
        any_network=request.any_network,
        address=address,
        peer_uri=peer if vm.state.active else "",
        tls=tls_rules.wanted(tls, mode=request.tls, require=request.require_tls),
        require_tls=request.require_tls,
        tls_off=request.tls == "off",
        compression=request.compression if vm.state.active else "",
        storage_first=request.storage_first and bool(draft.disks),
    )


def ways(request: HostMoveRequest, dest: Host) -> tuple[str, str]:
    """Return the address by which the source's QEMU reaches the destination, and the URI by which its libvirt does.

    A destination that is the manager's own machine is reached by the name that it has for itself.
    """
    named = urlsplit(dest.uri).hostname or ""
    own = named or dest.connection.hostname()
    return request.address or own, request.peer or (dest.uri if named else f"qemu+ssh://{own}/system")


# ------------------------------------------------------------ which disks go, and where to


def _disks(request: HostMoveRequest, vm: Vm, source: Host, dest: Host, beside: JournalFacts) -> _Draft:
    """Decide of each disk whether it goes along. What stands against that is for the rules to say."""
    draft = _Draft()
    stores = {store.name: store for store in _stores(dest)}
    own_stores = pools.datastores(source.connection)
    for disk in vm.disks:
        if disk.source is None:
            continue
        wanted = request.disks.get(disk.target, "")
        if _is_image(disk):
            _read_image(draft, disk, source)
        if not wanted:
            sharing = _sharing(disk, draft.images.get(disk.target, ()), source, dest, beside.directories)
            if sharing is not None:
                draft.sharing[disk.target] = sharing
            if sharing is Sharing.SAME or not request.to or not _is_image(disk):
                continue
        draft.going[disk.target] = wanted or request.to
        image = next(iter(draft.images.get(disk.target, ())), None)
        store = stores.get(draft.going[disk.target])
        if image is not None and store is not None and store.is_directory and image.format in ("raw", "qcow2"):
            _place(draft, request, vm, disk.target, image, store, dest, beside.taken, own_stores)
    return draft


def _stores(dest: Host) -> tuple[Datastore, ...]:
    pools.datastores(dest.connection, refresh=True)
    return datastore_places.datastores(dest)


def _is_image(disk: Disk) -> bool:
    """Whether the content of this disk may have to go along: an image in a file."""
    return disk.device == "disk" and disk.source is not None and disk.source.kind == "file"


def _read_image(draft: _Draft, disk: Disk, source: Host) -> None:
    assert disk.source is not None
    assert disk.source.path is not None
    try:
        draft.images[disk.target] = qemu_img.chain(source.runner, disk.source.path, disk.source.format)
    except ImageUnreadable as error:
        draft.findings.append(finding("IMAGE_UNREADABLE", f"{disk.target}: {error.sentence}"))


def _sharing(
    disk: Disk, layers: Iterable[ChainImage], source: Host, dest: Host, directories: SharedDirectories
) -> Sharing | None:
    """Whether both hosts have the same file at this path, by a test file in its directory; None: not proven so.

    A medium that cannot be written beside (an ISO) counts when its content is the same.
    """
    path = None if disk.source is None else disk.source.path
    if path is None or disk.source is None or disk.source.kind != "file":
        return None
    for fromkey in dict.fromkeys((path, *(layer.path for layer in layers))):
        if files.stat_one(source.runner, fromkey) is None or files.stat_one(dest.runner, fromkey) is None:
            return None  # the rules' own look says which
        directory = posixpath.dirname(fromkey)
        try:
            if not directories.same(source, directory, dest, directory):
                return _of_medium(disk, path, source, dest) if disk.device in ("cdrom", "floppy") else Sharing.OTHER
        except BlockferryError:
            return _of_medium(disk, path, source, dest) if disk.device in ("cdrom", "floppy") else None
    return Sharing.SAME


def _of_medium(disk: Disk, path: str, source: Host, dest: Host) -> Sharing:
    same = files.digest(source.runner, path) == files.digest(dest.runner, path)
    return Sharing.SAME if same else Sharing.MEDIUM_DIFFERS


def _place(
    draft: _Draft, request: HostMoveRequest, vm: Vm, target: str, image: ChainImage, store: Datastore, dest: Host,
    taken: frozenset[str], own_stores: tuple[Datastore, ...],
) -> None:  # fmt: skip
    """Give a disk its path at the destination: the first name that nothing has and no other move makes."""
    used = {disk.dest for disk in draft.disks}
    names = placement.image_paths(store, vm.name, target, image.path, image.format, in_home=True)
    tried = [one for one in itertools.islice(names, MOST_NAMES + len(used)) if one not in used]
    free = [one for one in tried if one not in taken and not _is_there(dest, one)]
    if not free:
        text = f"{target} of {vm.name} has no free name at {dest.connection.hostname()}: {tried[0]} is taken."
        draft.findings.append(finding("NAME_COLLISION", text))
        return
    if free[0] != tried[0]:
        text = f"{target}: {tried[0]} is there already, or made by another move; the disk goes to {free[0]}."
        draft.findings.append(finding("NAME_TAKEN", text))
    home = datastore_of(image.path, own_stores)
    draft.disks.append(
        TravellingDisk(
            target=target,
            source=image.path,
            dest=free[0],
            format=image.format,
            virtual_size=image.virtual_size,
            datastore=store.name,
            source_datastore="" if home is None else home.name,
            thick=request.thick,
            required=_required(image, thick=request.thick),
            allocation=min(image.allocation, image.virtual_size),
        )
    )


def _is_there(dest: Host, path: str) -> bool:
    """Whether the name is taken: by a file, or by what the other form of it would be while the move runs."""
    return files.is_there(dest.runner, path) or files.is_there(dest.runner, path + BARRED)


def _required(image: ChainImage, *, thick: bool) -> int:
    """Bytes that the new image takes at most: all of it when it is thick, else what holds data, and the tables."""
    data = image.virtual_size if thick else min(image.virtual_size, image.allocation)
    return data + MiB + (image.virtual_size // 8192 if image.format == "qcow2" else 0)


def _free_beside(source: Host, disks: Iterable[TravellingDisk]) -> dict[str, int]:
    """Target -> bytes free beside its image at the source."""
    return {disk.target: files.free_bytes(source.runner, posixpath.dirname(disk.source)) for disk in disks}


def _filesystems(source: Host, disks: Iterable[TravellingDisk]) -> Mapping[str, str]:
    """Path of each old image -> the type of its file system."""
    paths = [disk.source for disk in disks]
    mapping = references.look(source.runner, paths).paths if paths else {}
    return {
        path: filesystem_types.EXPORTED if one.exported else one.filesystem
        for path, one in mapping.items()
        if one.there
    }


# ------------------------------------------------------------ the plan


def _plan(
    request: HostMoveRequest, facts: HostFacts, source: Host, dest: Host, draft: _Draft, asked: Asked
) -> HostMovePlan:
    vm = facts.vm
    address, peer = ways(request, dest)
    used = {disk.datastore for disk in draft.disks}
    named = {name for nic in facts.needs.nics for name in (nic.source, nic.network)}
    networks = {old: new for old, new in request.networks.items() if old in named}
    places = {
        datastore.name: datastore for datastore in facts.stores if datastore.name in used and datastore.id is not None
    }
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
        disks=tuple(draft.disks),
        staying=tuple(one.target for one in vm.disks if one.source is not None and one.target not in asked.disks),
        cold=vm.state is PowerState.OFF,
        was_running=vm.state is PowerState.RUNNING,
        persistent=vm.persistent,
        autostart=vm.autostart,
        bandwidth=request.bandwidth,
        downtime_ms=request.downtime_ms,
        auto_converge=request.auto_converge,
        channels=0 if vm.state is PowerState.OFF else request.channels,
        compression="" if vm.state is PowerState.OFF else request.compression,
        tls=tls_rules.planned(facts.tls, address, facts.destination.hostname) if asked.tls and facts.tls else None,
        networks=networks,
        config_networks=migration.network_names(source.connection, vm.uuid, vm.name) if networks else (),
        state_files=state_planning.travelling(facts.variables, facts.tpm, active=vm.state.active),
        memory=facts.needs.memory if vm.state.active else 0,
        dest_datastores={
            name: directory for name, store in places.items() for directory in datastore_places.directories((store,))
        },
    )
