"""What in a host's inventory names files: VMs by their XML, backing chains, kept files, images in datastores. Pure.

And what could not be looked at, which is a doubt: about every file, about those that an image may stand on, or about
those of one name. What a doubt keeps, and what a user can do, is said in its sentence. `safety/proof.py` decides.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.helper import references
from blockferry.hosts.host import Host
from blockferry.hosts.host_facts import HostInventory, images_of, names_of
from blockferry.hosts.inventory import DEVICE_POOLS, Datastore, DiskSource, Vm, Volume
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.hosts.path_identity import PathSeen


@dataclass(frozen=True, slots=True)
class Doubt:
    """Something that could not be looked at. `sentence`: the end of "the file is kept, because ...".

    `only_bases`: it matters only to images that others may stand on; nobody can stand on what a running VM writes to.
    `only_named`: it matters only to files of this name (a raw image stands on nothing, but could be the file itself,
    reached by another mount). `by`: a file that does not count any more when it goes, too.
    """

    sentence: str
    only_bases: bool = False
    only_named: str | None = None
    by: str = ""

    def about(self, path: str, *, is_base: bool, going: frozenset[str] = frozenset()) -> bool:
        """Whether it is a doubt about this file. `going`: files that go together with it."""
        if self.by in going:
            return False
        if self.only_named is not None and self.only_named != posixpath.basename(path):
            return False
        return is_base or not self.only_bases


@dataclass(frozen=True, slots=True)
class Naming:
    """That something names `path`, as a sentence. `by`: a file that does not count any more when it goes, too."""

    path: str
    sentence: str
    by: str = ""


@dataclass(slots=True)
class FileReferences:
    """Everything that one inventory names; to be asked about many files.

    `trees`: directories with all that lies in them. `paths`, `inodes`: the same namings by normal path, and by the
    inode number of what the path leads to: files with different numbers are never one.
    """

    inventory: HostInventory
    paths: dict[str, list[Naming]] = field(default_factory=dict)
    trees: list[Naming] = field(default_factory=list)
    doubts: list[Doubt] = field(default_factory=list)
    inodes: dict[int, list[Naming]] = field(default_factory=dict)

    def add(self, paths: Iterable[str], sentence: str, by: str = "") -> None:
        """Note who names these; the first that names a path counts, of those that do not go."""
        for path in paths:
            known = self.paths.setdefault(posixpath.normpath(path), [])
            if any(one.path == path and (not one.by or one.by == by) for one in known):
                continue
            naming = Naming(path, sentence, by)
            known.append(naming)
            seen = self.inventory.seen(path)
            if seen is not None and seen.identity is not None:
                self.inodes.setdefault(seen.identity[1], []).append(naming)

    def file_user(
        self, path: str, seen: PathSeen | None, going: frozenset[str], same: Callable[[PathSeen, PathSeen], bool]
    ) -> str | None:
        """Who names this file, by its path or by another that leads to it. `same`: whether two paths are one file."""
        for naming in self.paths.get(posixpath.normpath(path), ()):
            if naming.by not in going:
                return naming.sentence
        return self.same_file_user(seen, going, same)

    def named_by(self, path: str, seen: PathSeen | None) -> frozenset[str]:
        """Return the images by which a file is needed, if it is needed by images that may go with it."""
        namings = list(self.paths.get(posixpath.normpath(path), ()))
        if seen is not None and seen.identity is not None:
            namings += self.inodes.get(seen.identity[1], ())
        return frozenset(naming.by for naming in namings if naming.by)

    def same_file_user(
        self, seen: PathSeen | None, going: frozenset[str], same: Callable[[PathSeen, PathSeen], bool]
    ) -> str | None:
        """Who names a file by whatever path leads to it."""
        if seen is None or seen.identity is None:
            return None
        for inode in self.inodes.get(seen.identity[1], ()):
            other = self.inventory.seen(inode.path)
            if inode.by not in going and other is not None and same(other, seen):
                return f"{inode.sentence} (as {inode.path})"
        return None


def find(inventory: HostInventory, kept: Iterable[Kept]) -> FileReferences:
    """Everything that names a file. `kept`: files in quarantine on that host, which may stand on others."""
    names = FileReferences(inventory)
    for vm in inventory.vms:
        _add_vm(names, vm)
    beside = inventory.beside
    for path, what in beside.paths.items():
        names.add([path], f"{what} refers to it")
    for path, what in beside.trees.items():
        _add_tree(names, path, f"{what} names the directory {path}, which holds it")
    names.doubts += [Doubt(f"it cannot be told what {problem}") for problem in beside.problems]
    names.doubts += _doubts_beside(inventory)
    names.doubts += [doubt for what, volume in beside.unlocated for doubt in _unlocated(what, volume)]
    names.doubts += [Doubt(problem) for problem in inventory.problems]
    if not inventory.looked.mounts:
        return names  # nothing could be looked at
    images = [(vm, target, source) for vm in inventory.vms for target, source in images_of(vm)]
    _doubt_what_is_not_seen(names, images)
    for vm, target, source in images:
        _add_chain(names, vm, target, source)
    for row in kept:
        if row.format not in (None, "raw"):
            _add_kept(names, row)
    _add_stores(names)
    _add_devices(names)
    _doubt_the_rest(names)
    return names


def _doubts_beside(inventory: HostInventory) -> list[Doubt]:
    """A doubt for each path that only snapshots and saved states name, and that cannot be looked at."""
    found = []
    for path, what in (*inventory.beside.paths.items(), *inventory.beside.trees.items()):
        seen = inventory.seen(path)
        if seen is None or not _unseen(seen, inventory.datastores, inventory.looked.mounts):
            continue
        sentence = (
            f"{path}, which {what} names, cannot be looked at ({seen.error or seen.absent}) and may be this file or "
            f"stand on it: mount its datastore or mend the error; or delete {what}, if nobody needs it any more"
        )
        found.append(Doubt(sentence))
    return found


def _add_tree(names: FileReferences, path: str, sentence: str) -> None:
    if all(tree.path != path for tree in names.trees):
        names.trees.append(Naming(path, sentence))


def _doubt_the_rest(names: FileReferences) -> None:
    """A doubt for each path that only chains, kept files and datastores name, and that cannot be looked at."""
    of_vms = {path for vm in names.inventory.vms for path in names_of(vm)} | set(names.inventory.beside.paths)
    for known in names.paths.values():
        for naming in known:
            seen = None if naming.path in of_vms else names.inventory.seen(naming.path)
            if seen is not None and seen.error:
                doubt = f"{naming.path} cannot be looked at ({seen.error}) and may be this file ({naming.sentence})"
                names.doubts.append(Doubt(doubt, only_bases=True, by=naming.by))


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
    trees = {named_path.path for named_path in vm.named if named_path.tree}
    disks = {
        path
        for disk in vm.disks
        for disk_source in (disk.live, disk.config)
        if disk_source
        for path in (disk_source.path, *disk_source.backing)
    }
    names.add((path for path in disks if path), f"VM {vm.name} refers to it")
    for named_path in vm.named:
        if named_path.tree:
            _add_tree(names, named_path.path, f"VM {vm.name} uses the directory {named_path.path}, which holds it")
        elif named_path.path not in disks:
            names.add([named_path.path], f"VM {vm.name} refers to it ({named_path.what})")
    for volume in vm.volumes:
        if volume.path is not None:
            names.add([volume.path], f"VM {vm.name} refers to it (volume {volume.name} of pool {volume.pool})")
    names.add(names_of(vm) - trees, f"VM {vm.name} refers to it")


# ------------------------------------------------------------ what cannot be seen


def _doubt_what_is_not_seen(names: FileReferences, images: Iterable[tuple[Vm, str, DiskSource]]) -> None:
    """A doubt for each image of a VM, and each other file, that is not there or cannot be looked at."""
    told: set[str] = set()
    looked, stores = names.inventory.looked, names.inventory.datastores
    for vm, target, source in images:
        seen = looked.paths.get(_path(source))
        if seen is not None and seen.path not in told and _unseen(seen, stores, looked.mounts):
            told.add(seen.path)
            alone = source.format == "raw" or source.closed
            names.doubts.append(_doubt(vm, _called(vm, target, seen.path), seen, alone=alone))
    for vm in names.inventory.vms:
        for named_path in vm.named:
            path_seen = looked.paths.get(named_path.path)
            if (
                named_path.path not in told
                and named_path.storage
                and path_seen is not None
                and _unseen(path_seen, stores, looked.mounts)
            ):
                told.add(named_path.path)
                names.doubts.append(
                    _doubt(
                        vm, f"{named_path.path}, which VM {vm.name} names ({named_path.what}),", path_seen, alone=True
                    )
                )
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


def _doubt(vm: Vm, what: str, seen: PathSeen, *, alone: bool) -> Doubt:
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


def _add_chain(names: FileReferences, vm: Vm, target: str, source: DiskSource) -> None:
    """What an image of a VM stands on."""
    path, whose = _path(source), f"{target} of VM {vm.name}"
    if source.format == "raw":
        return  # a raw image stands on nothing, whatever the guest has written into it
    chain = names.inventory.chains.get((path, source.format))
    if chain is None:
        return  # it is not there
    if chain.problem:
        names.doubts.append(Doubt(f"it cannot be told what {whose} stands on ({chain.problem.rstrip('.')})"))
    names.add((part for layer in chain.layers for part in layer.parts), f"it holds a part of {path} of {whose}")
    names.add((layer.path for layer in chain.layers[1:]), f"the backing chain of {whose} stands on it")


def _add_kept(names: FileReferences, row: Kept) -> None:
    """What a file in quarantine stands on."""
    looked, stores = names.inventory.looked, names.inventory.datastores
    seen, by = looked.paths.get(row.path), posixpath.normpath(row.path)
    if seen is None:
        return
    if not seen.there and not seen.error:
        if _unseen(seen, stores, looked.mounts):  # else somebody has removed it
            doubt = (
                f"it cannot be told what the kept file {row.path} stands on ({seen.absent}): mount its datastore "
                f"(`blockferry quarantine purge --now {row.path}` removes it then, if nobody needs it any more)"
            )
            names.doubts.append(Doubt(doubt, only_bases=True, by=by))
        return
    assert row.format is not None
    chain = names.inventory.chains.get((row.path, row.format))
    problem = seen.error or (chain.problem.rstrip(".") if chain is not None else "")
    if problem and _is_another(row, seen):
        return  # somebody has put something else there, which is no image of that format
    if problem:
        names.doubts.append(Doubt(f"it cannot be told what the kept file {row.path} stands on ({problem})", by=by))
    layers = () if chain is None else chain.layers
    parts = [part for layer in layers for part in layer.parts]
    names.add(parts, f"it holds a part of {row.path} of the kept file {row.path}", by)
    names.add((layer.path for layer in layers[1:]), f"the kept file {row.path} of {row.vm} stands on it", by)


def _is_another(row: Kept, seen: PathSeen) -> bool:
    if row.fingerprint is None or seen.identity is None:
        return False
    return KeptFingerprint(seen.identity[1], seen.size, seen.mtime_ns) != row.fingerprint


def _add_stores(names: FileReferences) -> None:
    """Images that no VM names may stand on others, too: overlays of a template that wait to be used.

    Only what can be the base of others is doubted for them: a datastore that nobody mounts any more must not keep
    every file for ever.
    """
    looked = names.inventory.looked
    for store in names.inventory.datastores:
        listing = looked.directories.get(store.path or "") if store.is_directory else None
        if listing is None:
            continue
        why = listing.problem
        if not why and (_unmounted(store, looked.mounts) or (not store.active and listing.empty)):
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
            names.add(layers, f"the volume {image} stands on it", posixpath.normpath(image))


def _add_devices(names: FileReferences) -> None:
    """The same of block devices that are volumes. What a VM names with a format is its image's chain (`_add_chain`)."""
    of_vms = {path for vm in names.inventory.vms for path in names_of(vm)}
    for store in names.inventory.datastores:
        if store.kind in DEVICE_POOLS and not store.active:
            names.doubts.append(
                Doubt(
                    f"the datastore {store.name} is not active, and an image in it may stand on this one: start it "
                    f"(`virsh pool-start {store.name}`), or undefine it if nobody needs it (`virsh pool-undefine "
                    f"{store.name}`)",
                    only_bases=True,
                )
            )
    for path, header in names.inventory.looked.headers.items():
        if path in of_vms:
            continue
        for error in header.unread.values():
            names.doubts.append(Doubt(f"it cannot be told what the volume {path} stands on ({error})", only_bases=True))
        for layers in header.stands_on.values():
            names.add(layers, f"the volume {path} stands on it", posixpath.normpath(path))
