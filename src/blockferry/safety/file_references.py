"""What on a host names files: VMs by their XML, backing chains, kept files, images in datastores.

And what could not be looked at, which is a doubt: about every file, about those that an image may stand on, or about
those of one name. What a doubt keeps, and what a user can do, is said in its sentence. `safety/proof.py` decides.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from blockferry.base.errors import BlockferryError, HostCommandFailed, HostUnreachable
from blockferry.hosts.helper import references
from blockferry.hosts.helper.references import PathSeen, ReferencesSeen
from blockferry.hosts.host import Host
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import Datastore, DiskSource, Vm, Volume
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.hosts.runner import Runner

_TRIES = 3


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that could not be looked at. `sentence`: the end of "the file is kept, because ...".

    `only_bases`: it matters only to images that others may stand on; nobody can stand on what a running VM writes to.
    `only_named`: it matters only to files of this name (a raw image stands on nothing, but could be the file itself,
    reached by another mount).
    """

    sentence: str
    only_bases: bool = False
    only_named: str | None = None

    def about(self, path: str, is_base: bool) -> bool:
        """Whether it is a doubt about this file."""
        if self.only_named is not None and self.only_named != posixpath.basename(path):
            return False
        return is_base or not self.only_bases


@dataclass(slots=True)
class FileReferences:
    """Path -> who names it, as a sentence; the same of directories with all that lies in them; and the doubts."""

    paths: dict[str, str] = field(default_factory=dict)
    trees: dict[str, str] = field(default_factory=dict)
    doubts: list[Doubt] = field(default_factory=list)
    looked: ReferencesSeen = field(default_factory=lambda: ReferencesSeen({}, {}, frozenset()))

    def add(self, paths: Iterable[str], sentence: str) -> None:
        """Note who names these; the first that names a path counts."""
        for path in paths:
            self.paths.setdefault(path, sentence)


class _Vanished(Exception):
    """An image that was there a moment ago is gone: it may have another name by now, so we look again."""


def names_of(vm: Vm) -> set[str]:
    """Every path that a VM's XMLs name, live and persistent, backing chains and volumes included."""
    found = {path for path in (vm.nvram, vm.config_nvram) if path}
    found |= {one.path for one in vm.named} | {one.path for one in vm.volumes if one.path}
    for disk in vm.disks:
        for source in (disk.live, disk.config):
            if source is not None:
                found.update(one for one in (source.path, *source.backing) if one)
        if disk.mirror is not None:
            found.add(disk.mirror.dest)
    return found


def images_of(vm: Vm) -> list[tuple[str, DiskSource]]:
    """(target, image) of each image that a VM uses now or would at its next start."""
    found: dict[tuple[str, str], tuple[str, DiskSource]] = {}
    for disk in vm.disks:
        for source in (disk.live, disk.config):
            named = source is not None and source.path and source.kind in ("file", "block", "volume")
            if source is not None and source.path and named and (disk.device == "disk" or source.format != "raw"):
                found.setdefault((disk.target, source.path), (disk.target, source))
    for volume in vm.volumes:
        if volume.path is not None:
            kind = "block" if volume.path.startswith("/dev/") else "file"
            source = DiskSource(kind, volume.path, volume.format, closed=volume.closed)
            found.setdefault((volume.target, volume.path), (volume.target, source))
    return list(found.values())


def gather(site: Host, kept: Iterable[Kept], going: Iterable[str], besides: Iterable[str]) -> FileReferences:
    """Everything that names a file of this host. `besides`: paths that are looked at with the others.

    `kept`: files in quarantine, which may stand on others; those in `going` do not count. When an image vanishes
    while we look, we look again, and in the end it is a doubt. Raises HostUnreachable, LibvirtFailed.
    """
    kept, going, besides = tuple(kept), {posixpath.normpath(one) for one in going}, tuple(besides)
    for last in range(1, _TRIES + 1):
        try:
            return _gather(site, kept, going, besides, last == _TRIES)
        except _Vanished:
            continue
    raise AssertionError("the last try never ends so")


def _gather(
    site: Host, kept: tuple[Kept, ...], going: set[str], besides: tuple[str, ...], last: bool
) -> FileReferences:
    names = FileReferences()
    everyone = domain_list.all_vms(site.connection)
    stores = pools.datastores(site.connection)
    for vm in everyone:
        _add_vm(names, vm)
    beside = domain_list.names_beside(site.connection)
    for path, what in beside.paths.items():
        names.add([path], f"{what} refers to it")
    for path, what in beside.trees.items():
        names.trees.setdefault(path, f"{what} names the directory {path}, which holds it")
    names.doubts += [Doubt(f"it cannot be told what {problem}") for problem in beside.problems]
    names.doubts += [doubt for what, volume in beside.unlocated for doubt in _unlocated(what, volume)]
    rows = [row for row in kept if posixpath.normpath(row.path) not in going and row.format not in (None, "raw")]
    paths = [*names.paths, *names.trees, *(row.path for row in rows), *besides]
    try:
        names.looked = references.look(
            site.runner, (path for path in paths if path.startswith("/")), _directories(stores).values()
        )
    except HostCommandFailed as error:  # a datastore that does not answer; or there is no python3
        names.doubts.append(Doubt(f"what VMs name could not be looked at ({error.sentence.rstrip('.')})"))
        return names
    images = [(vm, target, source) for vm in everyone for target, source in images_of(vm)]
    _doubt_what_is_not_seen(names, everyone, images, stores)
    read: dict[str, ImageChain] = {}
    for vm, target, source in images:
        if names.looked.paths[_path(source)].there:
            _add_chain(names, site.runner, vm, target, source, last, read)
    for row in rows:
        _add_kept(names, site.runner, row, stores)
    _add_stores(names, stores, going)
    _look_at_the_rest(names, site.runner)
    return names


def _look_at_the_rest(names: FileReferences, runner: Runner) -> None:
    """Look at what chains, kept files and datastores have named since: a file may be named by another path there."""
    rest = [path for path in names.paths if path.startswith("/") and path not in names.looked.paths]
    if not rest:
        return
    try:
        looked = references.look(runner, [path for path in rest if "\0" not in path])
    except HostCommandFailed as error:
        names.doubts.append(Doubt(f"what images stand on could not be looked at ({error.sentence.rstrip('.')})"))
        return
    names.looked = replace(names.looked, paths={**names.looked.paths, **looked.paths})
    for path, seen in looked.paths.items():
        if seen.error:
            doubt = f"{path} cannot be looked at ({seen.error}) and may be this file ({names.paths[path]})"
            names.doubts.append(Doubt(doubt, only_bases=True))


def directory_user(site: Host, directory: str) -> str:
    """Who names a directory, or something in it that is not there: "" if nobody, and it may go when it is empty.

    Raises HostUnreachable, LibvirtFailed.
    """
    wanted = posixpath.normpath(directory)
    named = [(path, f"VM {vm.name}") for vm in domain_list.all_vms(site.connection) for path in names_of(vm)]
    beside = domain_list.names_beside(site.connection)
    named += [*beside.paths.items(), *beside.trees.items()]
    for path, who in named:
        normal = posixpath.normpath(path)
        if normal == wanted or normal.startswith(wanted.rstrip("/") + "/"):
            return f"{who} names {path}"
    for who, volume in beside.unlocated:
        if volume.may_be_file:
            return f"it cannot be told where volume {volume.name} of pool {volume.pool} is, which {who} names"
    return f"it cannot be told what {beside.problems[0]}" if beside.problems else ""


def _add_vm(names: FileReferences, vm: Vm) -> None:
    trees = {one.path for one in vm.named if one.tree}
    disks = {path for disk in vm.disks for one in (disk.live, disk.config) if one for path in (one.path, *one.backing)}
    names.add((path for path in disks if path), f"VM {vm.name} refers to it")
    for one in vm.named:
        if one.tree:
            names.trees.setdefault(one.path, f"VM {vm.name} uses the directory {one.path}, which holds it")
        elif one.path not in disks:
            names.add([one.path], f"VM {vm.name} refers to it ({one.what})")
    for volume in vm.volumes:
        if volume.path is not None:
            names.add([volume.path], f"VM {vm.name} refers to it (volume {volume.name} of pool {volume.pool})")
    names.add(names_of(vm) - trees, f"VM {vm.name} refers to it")


def _directories(stores: Iterable[Datastore]) -> dict[str, str]:
    """Name of each datastore of files -> its directory."""
    return {
        store.name: store.path
        for store in stores
        if store.is_directory and store.kind != "gluster" and store.path and store.path.startswith("/")
    }


# ------------------------------------------------------------ what cannot be seen


def _doubt_what_is_not_seen(
    names: FileReferences,
    everyone: Iterable[Vm],
    images: Iterable[tuple[Vm, str, DiskSource]],
    stores: tuple[Datastore, ...],
) -> None:
    """A doubt for each image of a VM, and each other file, that is not there or cannot be looked at."""
    told: set[str] = set()
    for vm, target, source in images:
        seen = names.looked.paths[_path(source)]
        if seen.path not in told and _unseen(seen, stores, names.looked.mounts):
            told.add(seen.path)
            alone = source.format == "raw" or source.closed
            names.doubts.append(_doubt(vm, _called(vm, target, seen.path), seen, alone))
    for vm in everyone:
        for one in vm.named:
            found = names.looked.paths.get(one.path)
            if (
                one.path not in told
                and one.storage
                and found is not None
                and _unseen(found, stores, names.looked.mounts)
            ):
                told.add(one.path)
                names.doubts.append(_doubt(vm, f"{one.path}, which VM {vm.name} names ({one.what}),", found, True))
        names.doubts += [doubt for volume in vm.volumes for doubt in _unlocated(f"VM {vm.name}", volume)]
        names.doubts += _unread_exports(vm)


def _path(source: DiskSource) -> str:
    assert source.path is not None
    return source.path


def _unmounted(store: Datastore, mounts: frozenset[str]) -> bool:
    """Whether a pool that mounts its directory has not, or no longer: libvirt may still call it active then."""
    return store.kind in ("fs", "netfs") and posixpath.normpath(store.path or "") not in mounts


def _unseen(seen: PathSeen, stores: tuple[Datastore, ...], mounts: frozenset[str]) -> bool:
    """Whether something may be at a path that we cannot look at now. What is gone for good is seen."""
    if seen.error:
        return True
    # Its directory is gone, but the datastore that held it is there: then the image is gone with its directory.
    gone = seen.nearest and any(
        store.active and store.path and (posixpath.normpath(store.path) == seen.nearest or store.holds(seen.nearest))
        for store in stores
        if store.is_directory and not _unmounted(store, mounts)
    )
    return bool(seen.absent) and not gone


def why_unseen(site: Host, path: str) -> str:
    """Why something may be at a path where nothing is seen: its datastore is not mounted. "" when it is gone for good.

    Raises HostUnreachable, LibvirtFailed.
    """
    stores = pools.datastores(site.connection)
    try:
        looked = references.look(site.runner, [path])
    except HostCommandFailed as error:
        return error.sentence.rstrip(".")
    seen = looked.paths[path]
    places = {posixpath.normpath(place) for store in stores for place in (store.path, store.root) if place}
    if (
        seen.empty
        and seen.empty not in places
        and any(
            store.active and store.is_directory and store.holds(seen.empty) and not _unmounted(store, looked.mounts)
            for store in stores
        )
    ):
        return ""  # the VM's empty home, in a datastore that is there
    if _unseen(seen, stores, looked.mounts):
        return seen.error or seen.absent
    away = (store for store in stores if store.is_directory and store.holds(path) and _unmounted(store, looked.mounts))
    return next((f"the datastore {store.name} is not mounted" for store in away), "")


def _called(vm: Vm, target: str, path: str) -> str:
    """A disk in words, with the pool by which the VM names it."""
    volume = next((one for one in vm.volumes if one.path == path and one.target == target), None)
    state = f", which {volume.pool_state}" if volume is not None and volume.pool_state else ""
    by = "" if volume is None else f", volume {volume.name} of pool {volume.pool}{state}"
    return f"{target or 'a disk'} of VM {vm.name} ({path}{by})"


def _doubt(vm: Vm, what: str, seen: PathSeen, alone: bool) -> Doubt:
    """`alone`: an image that stands on nothing. Only one that is absent can be told from this file by its name."""
    may = "may be this file" if alone else "may stand on it"
    sentence = (
        f"{what} cannot be looked at ({seen.error or seen.absent}) and {may}: mount its datastore or mend the error; "
        f"or undefine VM {vm.name}, if nobody needs it any more"
    )
    return Doubt(sentence, only_named=posixpath.basename(seen.path) if alone and not seen.error else None)


def _unlocated(who: str, volume: Volume) -> list[Doubt]:
    """The doubt about a volume whose path libvirt does not say. `who`: the VM, its snapshot or saved state."""
    alone = volume.format == "raw" or volume.closed
    if volume.path is not None or (alone and not volume.may_be_file):
        return []
    state = f"which {volume.pool_state}" if volume.pool_state else "whose volumes are no files of this host"
    may = "may be this file" if alone else "may stand on it"
    start = f"start the pool (`virsh pool-start {volume.pool}`)" if volume.pool_state == "is not active" else ""
    remove = "undefine" if who.startswith("VM ") else "delete"
    define = f"define the pool {volume.pool}" if volume.pool_state == "is not defined" else ""
    what = f"{volume.target or 'a disk'} of {who} (volume {volume.name} of pool {volume.pool}, {state})"
    mend = f"{start or define or 'make it readable'}, or {remove} {who} if nobody needs it"
    sentence = f"{what} cannot be looked at and {may}: {mend}"
    return [Doubt(sentence, only_named=posixpath.basename(volume.name) if alone else None)]


def _unread_exports(vm: Vm) -> Iterator[Doubt]:
    """Images behind servers that may stand on files of the host. The XML of a running VM tells their chains."""
    for disk in vm.disks:
        source = disk.live or disk.config
        if source is None or source.kind != "network" or source.format == "raw" or source.closed:
            continue
        what = f"{disk.target} of VM {vm.name} ({source.description}, {source.format})"
        yield Doubt(
            f"it cannot be told what {what} stands on while the VM is off: start it, or undefine it if nobody needs it",
            only_bases=True,
        )


# ------------------------------------------------------------ what images stand on


def _add_chain(
    names: FileReferences,
    runner: Runner,
    vm: Vm,
    target: str,
    source: DiskSource,
    last: bool,
    read: dict[str, ImageChain],
) -> None:
    """What an image of a VM stands on. Raises _Vanished."""
    path, whose = _path(source), f"{target} of VM {vm.name}"
    if source.format == "raw":
        return  # a raw image stands on nothing, whatever the guest has written into it
    key = f"{source.format} {path}"
    if key not in read:
        read[key] = _read_chain(runner, path, source.format)
    chain = read[key]
    if chain.problem:
        if not last and chain.vanished:
            raise _Vanished
        names.doubts.append(Doubt(f"it cannot be told what {whose} stands on ({chain.problem})"))
    names.add(chain.parts, f"it holds a part of {path} of {whose}")
    names.add(chain.layers, f"the backing chain of {whose} stands on it")


@dataclass(frozen=True, slots=True)
class ImageChain:
    """What an image stands on. `parts`: other files that hold a part of its content. `vanished`: it is gone now."""

    layers: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    problem: str = ""
    vanished: bool = False


def _read_chain(runner: Runner, path: str, format: str | None) -> ImageChain:
    try:
        layers = qemu_img.chain(runner, path, format)
    except HostUnreachable:
        raise
    except BlockferryError as error:
        gone = not references.look(runner, [path]).paths[path].there
        return ImageChain(
            problem="it vanished while it was looked at" if gone else error.sentence.rstrip("."), vanished=gone
        )
    return ImageChain(tuple(one.path for one in layers[1:]), tuple(part for one in layers for part in one.parts))


def _add_kept(names: FileReferences, runner: Runner, row: Kept, stores: tuple[Datastore, ...]) -> None:
    """What a file in quarantine stands on."""
    seen = names.looked.paths[row.path]
    if not seen.there and not seen.error:
        if _unseen(seen, stores, names.looked.mounts):  # else somebody has removed it
            doubt = (
                f"it cannot be told what the kept file {row.path} stands on ({seen.absent}): mount its datastore "
                f"(`blockferry quarantine purge --now {row.path}` removes it then, if nobody needs it any more)"
            )
            names.doubts.append(Doubt(doubt, only_bases=True))
        return
    chain = ImageChain(problem=seen.error) if seen.error else _read_chain(runner, row.path, row.format)
    if chain.problem and _is_another(row, seen):
        return  # somebody has put something else there, which is no image of that format
    if chain.problem and not chain.vanished:
        names.doubts.append(Doubt(f"it cannot be told what the kept file {row.path} stands on ({chain.problem})"))
    names.add(chain.parts, f"it holds a part of {row.path} of the kept file {row.path}")
    names.add(chain.layers, f"the kept file {row.path} of {row.vm} stands on it")


def _is_another(row: Kept, seen: PathSeen) -> bool:
    if row.fingerprint is None or seen.identity is None:
        return False
    return KeptFingerprint(seen.identity[1], seen.size, seen.mtime_ns) != row.fingerprint


def _add_stores(names: FileReferences, stores: Iterable[Datastore], going: set[str]) -> None:
    """Images that no VM names may stand on others, too: overlays of a template that wait to be used.

    Only what can be the base of others is doubted for them: a datastore that nobody mounts any more must not keep
    every file for ever.
    """
    for store in stores:
        listing = names.looked.directories.get(store.path or "") if store.is_directory else None
        if listing is None:
            continue
        why = listing.problem
        if not why and (_unmounted(store, names.looked.mounts) or (not store.active and listing.empty)):
            why = "it is not mounted" if store.active else "it is not active"
        if why:
            names.doubts.append(
                Doubt(
                    f"the datastore {store.name} ({store.path}) cannot be looked at ({why}), and an image in it may "
                    f"stand on this one: mount and start it (`virsh pool-start {store.name}`), or undefine it if "
                    f"nobody needs it (`virsh pool-undefine {store.name}`)",
                    only_bases=True,
                )
            )
        for image, error in listing.unread.items():
            doubt = f"it cannot be told what {image} in the datastore {store.name} stands on ({error})"
            names.doubts.append(Doubt(doubt, only_bases=True))
        for image, layers in listing.stands_on.items():
            if posixpath.normpath(image) not in going:
                names.add(layers, f"the volume {image} stands on it")
