"""Gathering the facts for a pre-check. Looks at everything, touches nothing."""

from __future__ import annotations

import contextlib
import itertools
import posixpath
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from blockferry.base.errors import BlockferryError, HostCommandFailed, HostUnreachable, ImageUnreadable, LibvirtFailed
from blockferry.base.question import Question
from blockferry.base.units import MiB
from blockferry.hosts import exports, filesystem_types, host_inventory, path_identity, qemu_process
from blockferry.hosts.datastore_id import FileId, paths_of
from blockferry.hosts.exports import is_export
from blockferry.hosts.fencing import Storage
from blockferry.hosts.helper import comparison, files, host_guard, references, watchdog
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.host import Host
from blockferry.hosts.host_facts import HostInventory, images_of, names_of
from blockferry.hosts.host_inventory import Also
from blockferry.hosts.images import chains, network_exports, qemu_img, reflink
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, ImageChain, Vm, datastore_of
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.hosts.qemu_process import QemuProgram
from blockferry.hosts.qemu_user import QemuUser
from blockferry.hosts.runner import Runner
from blockferry.safety import proof
from blockferry.storage_move.clone import rules as clone_rules
from blockferry.storage_move.destination import datastore_places, image_names, old_disks, placement, reach
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.facts import ExportFact, Facts, Partial, SaveRoom, TemplateFacts
from blockferry.storage_move.home import home_survey
from blockferry.storage_move.home import rules as home_rules
from blockferry.storage_move.precheck import sizing, space
from blockferry.storage_move.request import ChainPolicy, Firmware, Method, MoveRequest, OnBreak
from blockferry.storage_move.switch import graph_proof
from blockferry.storage_move.templates import effects as templates_effects
from blockferry.storage_move.templates import rules as templates_rules


def read_chain(runner: Runner, disk: Disk) -> tuple[tuple[Image, ...], str | None]:
    """(backing chain top first, None) or ((), why it cannot be read)."""
    source = disk.source
    if source is None or source.path is None or source.kind not in ("file", "block"):
        return (), None
    try:
        layers = qemu_img.chain(runner, source.path, source.format)
    except (ImageUnreadable, HostCommandFailed) as error:
        return (), error.sentence
    return tuple(_image(layer) for layer in layers), None


def _read_export(runner: Runner, source: DiskSource) -> tuple[tuple[Image, ...], str | None]:
    """The same of an export. Only for the VM that is to move: a server that does not answer takes its time."""
    try:
        size = network_exports.size(runner, source.export)
    except (ImageUnreadable, HostCommandFailed) as error:
        return (), error.sentence
    return (Image(source.export, source.format, size, size),), None


def _image(layer: qemu_img.ChainImage) -> Image:
    return Image(
        path=layer.path,
        format=layer.format,
        virtual_size=layer.virtual_size,
        allocation=layer.allocation,
        backing_path=layer.backing_path,
        backing_format=layer.backing_format,
        internal_snapshots=layer.internal_snapshots,
        bitmaps=layer.bitmaps,
        encrypted=layer.encrypted,
        compat=layer.compat,
        data_file=layer.data_file,
        cluster_size=layer.cluster_size,
        extended_l2=layer.extended_l2,
        parts=layer.parts,
    )


def survey(
    site: Host,
    request: MoveRequest,
    promises: Sequence[space.Promise],
    other_move: str | None,
    *,
    suspended_start: bool | None,
    kept: Mapping[str, Partial] | None = None,
    promised: frozenset[str] = frozenset(),
    promised_files: frozenset[FileId] = frozenset(),
    old: Mapping[str, tuple[Kept, str]] | None = None,
    claims: Callable[[], proof.Claims] = lambda: proof.Claims({}, ()),
    known: Callable[[], templates_effects.KnownImages] = templates_effects.KnownImages,
    tell: Callable[[str], None] = lambda _: None,
) -> Facts:
    """All that `precheck` wants to know; `tell` hears what takes long.

    `promised`, `promised_files`: what other moves make, by its path on this host and by its identity.
    Raises VmNotFound, HostUnreachable, LibvirtFailed.
    """
    connection, runner = site.connection, site.runner
    vm = with_volume_paths(domain_list.vm(connection, request.vm))
    stores = pools.datastores(connection)
    libvirt, qemu = connection.versions()
    if other_move is not None:
        return Facts(connection.uri, vm, stores, libvirt, qemu, {}, other_move=other_move)
    if vm.state.active:
        vm = _with_jobs(site, vm)
    names = {name for name in (request.to, request.home, *request.disks.values()) if name}
    for store in stores:
        if store.name in names:
            pools.refresh_pool(connection, store.name)
    try:
        runner.call("files.there", timeout_s=30, path="/")
    except (HostUnreachable, HostCommandFailed) as error:
        return Facts(connection.uri, vm, stores, libvirt, qemu, {}, access_problem=error.sentence)
    compare = request.verify or _wants_to_go_on(request)
    programs = _Programs.of(site, vm, compare=compare)
    stores = datastore_places.looked_at(runner, pools.datastores(connection), connection.host_id())
    wanted = [store for store in stores if store.name in names]
    remains = qemu_process.QemuPresence() if vm.state.active else qemu_process.remains(runner, site.uri, vm.uuid)
    if remains.pid is not None and (now := domain_list.vm(connection, vm.uuid)).state.active:
        vm, remains = now, qemu_process.QemuPresence()  # it was started this moment
        programs = _Programs.of(site, vm, compare=compare)
    facts = replace(
        Facts(connection.uri, vm, stores, libvirt, qemu, {}),
        host=connection.host_id(),
        host_name=connection.hostname(),
        snapshots=domain_list.snapshots(connection, vm.name),
        reserved=space.promised(
            promises, {datastore.name: None if datastore.id is None else datastore.id.space for datastore in stores}
        ),
        promised=promised
        | frozenset(paths_of(dict.fromkeys(promised_files, ""), datastore_places.directories(stores))),
        lost_process=remains.pid or 0,
        off_doubt=remains.doubt,
        suspended_start=suspended_start,
    )
    facts = _with_images(runner, facts)
    return _with_files(site, request, facts, wanted, _Noted(kept or {}, old or {}, claims, known, tell), programs)


@dataclass(frozen=True, slots=True)
class _Programs:
    """What the host's programs are asked while the rest is looked at: QEMU takes a tenth of a second to answer."""

    user: Question[QemuUser | None]
    program: Question[QemuProgram] | None  # of a VM that runs
    compare: Question[str | None] | None  # where it matters whether images can be compared

    @classmethod
    def of(cls, site: Host, vm: Vm, *, compare: bool) -> _Programs:
        runner, name, uuid = site.runner, vm.name, vm.uuid
        return cls(
            user=Question(lambda: reach.qemu_user(site, name, uuid), "qemu-user"),
            program=(
                Question(lambda: qemu_process.program_of(runner, site.uri, name, uuid), "qemu-version")
                if vm.state.active
                else None
            ),
            compare=Question(lambda: comparison.problem(runner), "comparison") if compare else None,
        )

    def problem_of_comparing(self, runner: Runner, *, wanted: bool) -> str | None:
        if not wanted:
            return None
        return comparison.problem(runner) if self.compare is None else self.compare.answer()


@dataclass(frozen=True, slots=True)
class _Noted:
    """What the journal knows of files: partial copies, kept old disks, what others claim, images compared before."""

    kept: Mapping[str, Partial]
    old: Mapping[str, tuple[Kept, str]]
    claims: Callable[[], proof.Claims]
    known: Callable[[], templates_effects.KnownImages]
    tell: Callable[[str], None]


def _with_images(runner: Runner, facts: Facts) -> Facts:
    """With the backing chains of the VM's disks, what cannot be read of them, and the headers of raw LUKS disks."""
    vm = facts.vm
    chains: dict[str, tuple[Image, ...]] = {}
    problems: dict[str, str] = {}
    for disk in vm.disks:
        if disk.device not in ("cdrom", "floppy"):
            behind = disk.source is not None and disk.source.export
            found = _read_export(runner, disk.source) if disk.source and behind else read_chain(runner, disk)
            chains[disk.target], problem = found
            if problem:
                problems[disk.target] = problem
    headers = {
        disk.target: header
        for disk in vm.disks
        if disk.secret is not None and (chain := chains.get(disk.target)) and chain[0].format == "raw"
        if (header := qemu_img.luks_header(runner, chain[0].path)) is not None
    }
    return replace(facts, chains=chains, problems=problems, luks_headers=headers)


def _with_files(
    site: Host, request: MoveRequest, facts: Facts, wanted: list[Datastore], noted: _Noted, programs: _Programs
) -> Facts:
    """With everything that is read from files and from the host: paths, who uses them, places, rights, space."""
    connection, runner = site.connection, site.runner
    vm, stores, chains = facts.vm, facts.datastores, facts.chains
    measured = Question(lambda: sizing.measured(runner, vm, chains, request), "sizes")
    home = home_survey.look(runner, connection, vm, stores, chains)
    # Only now: whether a file system can clone is tried with a file beside the image, which is none of the home's.
    clones = Question(lambda: _clones(runner, vm, stores, chains, request), "clones")
    candidates = _candidates(vm, wanted, chains, home, request)
    paths = {path for chain in chains.values() for image in chain for path in (image.path, *image.parts)}
    paths = {path for path in paths if not is_export(path)}
    try:
        looks = helper_paths.look(runner, [*candidates, *_around(vm, paths, wanted)])
    except HostCommandFailed as error:
        return Facts(facts.uri, vm, stores, facts.libvirt, facts.qemu, {}, access_problem=error.sentence)
    existing = frozenset(path for path in candidates if looks[path].taken)
    left = {path: one for path, one in noted.kept.items() if path in existing}
    inventory = host_inventory.take(site, Also(paths=frozenset(paths)), listings=False)
    used = _users(vm, inventory, paths)
    in_quarantine, to_use = old_disks.kept(site, request, stores, wanted, noted.old, noted.claims)
    facts = replace(
        facts,
        measured=measured.answer(),
        no_holes=sizing.no_holes(runner, vm, wanted, looks, chains, request),
        users=used,
        templates=_templates(runner, vm, inventory.vms, stores, chains, used, request, noted.known, noted.tell),
        existing=existing,
        filesystems=_filesystems(runner, vm, paths, home),
        places=looks,
        identities={path: one.identity for path, one in looks.items() if one.identity is not None},
        directories=_directories(runner, wanted),
        exports=_exports(runner, vm, inventory.vms, request),
        available=_available(runner, wanted),
        committed=committed(runner, stores, inventory.vms, inventory.chains),
        home_source=home.source,
        home_files=home.files,
        home_stays=home.stays,
        compare_problem=programs.problem_of_comparing(
            runner, wanted=request.verify or bool(left) or _wants_to_go_on(request)
        ),
        partials={**to_use, **_partials(runner, left)},
        kept=in_quarantine,
        clones=clones.answer(),
    )
    return _with_host(site, request, facts, wanted, programs)


def _with_host(site: Host, request: MoveRequest, facts: Facts, wanted: list[Datastore], programs: _Programs) -> Facts:
    """With what the host's programs may and can: QEMU's user and version, the guard, fencing, the block graph."""
    runner, vm = site.runner, facts.vm
    storage, storage_problem = _storage(runner, vm, wanted, request)
    program = None if programs.program is None else programs.program.answer()
    user = programs.user.answer()
    return replace(
        facts,
        save_room=_save_room(runner) if request.firmware is Firmware.NOW and vm.nvram and vm.state.active else None,
        host_guard_problem=host_guard.problem(runner, site.uri) if vm.state.active else "",
        source_free=_source_free(runner, vm) if vm.state.active else {},
        storage=storage,
        storage_problem=storage_problem,
        graph_differs=_graph_differs(site, vm) if vm.state.active else {},
        qemu_user=user,
        out_of_reach=reach.out_of_reach(runner, user, wanted, vm.name, facts.home_source),
        not_held=reach.not_held(runner, wanted, [chain[0].path for chain in facts.chains.values() if chain]),
        running_qemu=program.version if program else None,
        running_qemu_problem=program.problem if program else "",
    )


def _filesystems(runner: Runner, vm: Vm, paths: set[str], home: home_survey.Home) -> dict[str, str]:
    """The types of the file systems that the VM's files are on now."""
    old = [*paths, *(file.path for file in home.files), *([vm.nvram] if vm.nvram else [])]
    looked = references.look(runner, [path for path in old if path.startswith("/")])
    found = {path: one for path, one in looked.paths.items() if one.there}
    return {path: filesystem_types.EXPORTED if one.exported else one.filesystem for path, one in found.items()}


def _with_jobs(site: Host, vm: Vm) -> Vm:
    """With the block jobs that its XML does not show."""
    seen = site.control(vm.uuid, vm.name).look(tuple(disk.target for disk in vm.disks))
    jobs = {disk.target: disk.other_job for disk in seen.disks}
    return replace(vm, disks=tuple(replace(disk, other_job=jobs.get(disk.target)) for disk in vm.disks))


def _storage(
    runner: Runner, vm: Vm, stores: Iterable[Datastore], request: MoveRequest
) -> tuple[dict[str, Storage], str | None]:
    """Of a running VM: what each destination does when it hangs; or why that cannot be told."""
    paths = {store.path: store.name for store in stores if store.active and store.is_directory and store.path}
    if not vm.state.active:
        return {}, None
    try:
        found = watchdog.storages(runner, paths, request.hang)
    except HostCommandFailed as error:
        return {}, (error.stderr.strip().splitlines() or [error.sentence])[-1]
    return {paths[path]: one for path, one in found.items()}, None


def with_volume_paths(vm: Vm) -> Vm:
    """The VM with the paths of those disks that its XML names as volumes of active pools of files."""
    paths = {
        f"{volume.pool}/{volume.name}": volume.path
        for volume in vm.volumes
        if volume.path and volume.may_be_file and not volume.pool_state
    }

    def found(source: DiskSource | None) -> DiskSource | None:
        if source is None or source.volume not in paths:
            return source
        return replace(source, kind="file", path=paths[source.volume])

    return replace(
        vm, disks=tuple(replace(disk, live=found(disk.live), config=found(disk.config)) for disk in vm.disks)
    )


def _graph_differs(site: Host, vm: Vm) -> dict[str, str]:
    """Disks that QEMU has on another image than libvirt says. A QEMU that cannot be asked is asked after the switch."""
    try:
        return graph_proof.differing(vm, site.control(vm.uuid, vm.name).block_graph())
    except LibvirtFailed:
        return {}


def _wants_to_go_on(request: MoveRequest) -> bool:
    """Whether it matters to this request that images can be compared; looking costs a tenth of a second."""
    return request.method is not Method.MIRROR or request.on_break is OnBreak.KEEP


def _partials(runner: Runner, kept: Mapping[str, Partial]) -> dict[str, Partial]:
    """Of the broken copies that the journal knows, those whose marker still says that they are that move's."""
    found = {}
    stats = files.stat_many(runner, kept)
    for path, partial in kept.items():
        stat = stats[path]
        with contextlib.suppress(HostCommandFailed):  # a marker that cannot be read says nothing
            if stat is not None and stat.kind == "file" and destination_effects.marked_by(runner, path) == partial.move:
                found[path] = replace(partial, allocated=stat.allocated)
    return found


def _clones(
    runner: Runner,
    vm: Vm,
    stores: tuple[Datastore, ...],
    chains: Mapping[str, tuple[Image, ...]],
    request: MoveRequest,
) -> dict[str, str]:
    """For each disk that is asked to move: why its file system cannot clone it to where it goes; "" when it can."""
    if not clone_rules.wanted(request, running=vm.state.active):
        return {}
    found: dict[str, str] = {}
    for target, chain in chains.items():
        name = request.disks.get(target, request.to)
        store = next(
            (
                datastore
                for datastore in stores
                if datastore.name == name and datastore.active and datastore.is_directory
            ),
            None,
        )
        here = datastore_of(chain[0].path, stores) if chain else None
        if store is None or not chain or (here is not None and here.same_place(store)):
            continue
        if is_export(chain[0].path):
            continue
        if chain[0].format not in clone_rules.FORMATS:
            continue  # not cloned in any case, and perhaps not moved at all: there is no name for it at the destination
        try:
            directory = files.existing_directory(runner, placement.home_directory(store, vm.name))
            found[target] = (
                reflink.problem(runner, posixpath.dirname(files.realpath(runner, chain[0].path)), directory) or ""
            )
        except HostCommandFailed as error:
            found[target] = error.sentence
    return found


def _templates(
    runner: Runner,
    vm: Vm,
    everyone: tuple[Vm, ...],
    stores: tuple[Datastore, ...],
    chains: Mapping[str, tuple[Image, ...]],
    used: Mapping[str, tuple[str, ...]],
    request: MoveRequest,
    known: Callable[[], templates_effects.KnownImages],
    tell: Callable[[str], None],
) -> dict[tuple[str, str], TemplateFacts]:
    """For each disk that is asked to move: what lies where its lower layers might be reused from; read and compared."""
    found: dict[tuple[str, str], TemplateFacts] = {}
    directories = datastore_places.directories(stores)
    for target, chain in chains.items() if templates_rules.wanted(request) else ():
        name = request.disks.get(target, request.to)
        store = next(
            (
                datastore
                for datastore in stores
                if datastore.name == name and datastore.active and datastore.is_directory
            ),
            None,
        )
        for index, image in enumerate(chain[1:] if store is not None else (), 1):
            assert store is not None
            here = datastore_of(image.path, stores)
            if (here is not None and here.same_place(store)) or image.format not in placement.FORMATS:
                break
            home = placement.is_in_home(image.path, vm.name)
            path = templates_rules.named(request) or placement.image_path(
                store, vm.name, "base", image.path, image.format, in_home=home, taken=frozenset()
            )
            key = (image.path, store.name)
            if key not in found:
                template_facts = templates_effects.find(runner, chain[index:], path, everyone, known, tell, directories)
                if template_facts is not None:
                    found[key] = template_facts
            if key in found and not found[key].problem:
                break
            if used.get(image.path) and request.chain is ChainPolicy.KEEP:
                break  # it stays, and all below it
    return found


def _exports(runner: Runner, vm: Vm, everyone: tuple[Vm, ...], request: MoveRequest) -> dict[str, ExportFact]:
    """The exports that disks are asked to go to: their size as their server tells it, and whose disks they are."""
    found = {}
    for uri in filter(is_export, request.disks.values()):
        storage = exports.parse(uri).storage
        users = [
            f"{disk.target} of {other.name}"
            for other in everyone
            for disk in other.disks
            if any(source is not None and storage in source.storages for source in (disk.live, disk.config))
            and not (other.uuid == vm.uuid and request.disks.get(disk.target) == uri)
        ]
        try:
            found[uri] = ExportFact(network_exports.size(runner, uri), users=tuple(users))
        except (ImageUnreadable, HostCommandFailed) as error:
            found[uri] = ExportFact(0, error.sentence, tuple(users))
    return found


def _source_free(runner: Runner, vm: Vm) -> dict[str, int]:
    found = {}
    for disk in vm.disks:
        if disk.source is not None and disk.source.path is not None and disk.source.kind == "file":
            try:
                found[disk.target] = files.free_bytes(runner, posixpath.dirname(disk.source.path))
            except BlockferryError:
                continue  # other findings say what is wrong with it
    return found


SAVE_DIRECTORY = "/var/lib/libvirt/qemu/save"
"""Where libvirt's system instance keeps managed save images; no setting changes it."""

TRIAL = 128 * MiB


def _save_room(runner: Runner) -> SaveRoom:
    """Room and speed of the place for saved states: a file is written there, synced, and gone again."""
    try:
        free = files.free_bytes(runner, SAVE_DIRECTORY)
        rate = files.write_rate(runner, SAVE_DIRECTORY, min(TRIAL, free // 4)) if free else 1.0
    except HostCommandFailed as error:
        return SaveRoom(SAVE_DIRECTORY, 0, 0.0, error.sentence)
    return SaveRoom(SAVE_DIRECTORY, free, rate)


def _candidates(
    vm: Vm,
    stores: Iterable[Datastore],
    chains: Mapping[str, tuple[Image, ...]],
    old: home_survey.Home,
    request: MoveRequest,
) -> list[str]:
    """Every path that the plan might write to."""
    found: list[str] = []
    most = sum(len(chain) for chain in chains.values()) + len(old.files) + 1 + image_names.MOST_NAMES
    for store in stores:
        if not store.is_directory:
            continue
        home = placement.home_directory(store, vm.name)
        found.extend(home_rules.destination(home, old.source, file.path) for file in old.files)
        for target, chain in chains.items():
            for image in chain:
                for form in {request.format or image.format, image.format} & set(placement.FORMATS):
                    for name, in_home in itertools.product((target, "base"), (True, False)):
                        names = placement.image_paths(store, vm.name, name, image.path, form, in_home=in_home)
                        found.extend(itertools.islice(names, most))
    return list(dict.fromkeys(found))


def _around(vm: Vm, images: set[str], stores: Iterable[Datastore]) -> set[str]:
    """The directories that files are made in or lie in, and the images themselves."""
    found = {*images, *(posixpath.dirname(path) for path in images)}
    for store in stores:
        if store.is_directory and store.path:
            found |= {store.path, placement.home_directory(store, vm.name)}
    return found


def _users(vm: Vm, inventory: HostInventory, paths: set[str]) -> dict[str, tuple[str, ...]]:
    """Which other VMs refer to our images, as a disk or in a backing chain, by whatever path.

    Of one whose chain cannot be read, or does not answer, only what its XML names counts; before anything is removed
    that is a doubt (safety/proof.py).
    """
    names: dict[str, set[str]] = {}
    for other in inventory.vms:
        if other.uuid == vm.uuid:
            continue
        names[other.name] = {posixpath.normpath(name) for name in names_of(other)}
        for _, source in images_of(other):
            for layer in inventory.chain(source).layers:
                names[other.name] |= {posixpath.normpath(path) for path in (layer.path, *layer.parts)}
    found: dict[str, tuple[str, ...]] = {}
    for path in paths:
        mine = posixpath.normpath(path)
        seen = inventory.seen(path)
        by_file = {
            posixpath.normpath(name)
            for name, one in inventory.looked.paths.items()
            if seen is not None and path_identity.same_file(one, seen)
        }
        users = tuple(name for name, named in names.items() if mine in named or named & by_file)
        if users:
            found[path] = users
    return found


def _directories(runner: Runner, stores: Iterable[Datastore]) -> dict[str, str]:
    """What is wrong with the destinations' directories, by a look and a harmless try."""
    found = {}
    for store in stores:
        if not (store.active and store.is_directory and store.path):
            continue
        if not files.writable_directory(runner, store.path, timeout_s=30):
            found[store.name] = f"its directory {store.path} is missing or cannot be written"
    return found


def _available(runner: Runner, stores: Iterable[Datastore]) -> dict[str, int]:
    found = {}
    for store in stores:
        if store.active and store.is_directory and store.path:
            try:
                found[store.name] = files.free_bytes(runner, store.path)
            except BlockferryError:
                found[store.name] = 0
    return found


def committed(
    runner: Runner, stores: tuple[Datastore, ...], everyone: Iterable[Vm], images: Mapping[chains.Named, ImageChain]
) -> dict[str, int]:
    """Datastore -> bytes that the VMs' images on it would take if all thin ones grew to their full size."""
    sizes = {
        layer.path: max(layer.virtual_size, layer.allocation)
        for vm in everyone
        for disk in vm.disks
        if disk.device == "disk"
        for layer in chains.of_disk(images, disk).layers
        if layer.path.startswith("/")
    }
    try:
        looks = helper_paths.look(runner, sizes)
    except HostCommandFailed:
        looks = {}
    found = dict.fromkeys((store.name for store in stores), 0)
    counted: set[tuple[int, int]] = set()
    for path, size in sizes.items():
        look = looks.get(path)
        if look is not None and look.identity is not None:
            if look.identity in counted:
                continue  # one file by two names
            counted.add(look.identity)
        store = datastore_of(path, stores, look.resolved if look is not None else "")
        for datastore in stores if store is not None else ():
            if store is not None and datastore.same_place(store):
                found[datastore.name] += size
    return found


def names_in(
    stores: tuple[Datastore, ...], everyone: tuple[Vm, ...], resolved: Mapping[str, str]
) -> dict[str, set[str]]:
    """Datastore -> names of the VMs that have a disk on it."""
    found: dict[str, set[str]] = {store.name: set() for store in stores}
    for vm in everyone:
        for disk in vm.disks:
            path = disk.source.path if disk.source is not None else None
            here = datastore_of(path, stores, resolved.get(path, "")) if path else None
            for store in stores:
                if here is not None and store.same_place(here):
                    found[store.name].add(vm.name)
    return found
