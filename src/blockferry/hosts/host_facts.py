"""All that is known of one host at one moment: VMs, the files that they name, datastores, and what was not to be seen.

A `HostInventory` is taken once (hosts/host_inventory.py) and answers for everything within one decision. Frozen facts;
who needs a file is decided from it in safety/file_references.py and safety/proof.py.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from blockferry.hosts.datastore_id import SpaceId, SpaceKind, of_mount
from blockferry.hosts.filesystem_types import holds_files, is_of_one_host, is_shared
from blockferry.hosts.identity import HostId
from blockferry.hosts.inventory import Datastore, DiskSource, ImageChain, Vm, Volume
from blockferry.hosts.path_identity import PathSeen, ReferencesSeen


@dataclass(frozen=True, slots=True)
class NamesBeside:
    """What VMs name outside of their own XML: path -> "snapshot s1 of VM web01", "the saved state of VM web01".

    `trees`: directories that are named with all that lies in them. `problems`: what could not be read, as the end of
    "it cannot be told what ...". `unlocated`: who names volumes whose path libvirt does not say.
    """

    paths: dict[str, str]
    trees: dict[str, str]
    problems: tuple[str, ...] = ()
    unlocated: list[tuple[str, Volume]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class HostInventory:
    """One host. `chains`: (path, format) -> chain, of each image that was there.

    `problems`: what could not be looked at as a whole, sentences; then `looked` and `chains` lack what that was.
    """

    host: HostId
    vms: tuple[Vm, ...]
    datastores: tuple[Datastore, ...]
    beside: NamesBeside = field(default_factory=lambda: NamesBeside({}, {}))
    looked: ReferencesSeen = field(default_factory=lambda: ReferencesSeen({}, {}, frozenset()))
    chains: Mapping[tuple[str, str], ImageChain] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def chain(self, source: DiskSource | None) -> ImageChain:
        """What an image of a VM stands on; without layers when that was not looked at."""
        if source is None or source.path is None:
            return ImageChain()
        return self.chains.get((source.path, source.format), ImageChain())

    def seen(self, path: str) -> PathSeen | None:
        return self.looked.paths.get(path)

    def space_of(self, path: str) -> SpaceId | None:
        """The network file system or Ceph that a file lies on; None when that is not known, or it is none."""
        seen = self.looked.paths.get(path)
        mounted = None if seen is None else self.looked.mounted.get(seen.place[0])
        if mounted is None:
            return None
        space = of_mount(mounted, self.host.uuid, "").space
        return space if space.kind in (SpaceKind.NETWORK, SpaceKind.CEPH) else None

    @property
    def spaces(self) -> frozenset[SpaceId] | None:
        """The network file systems that this host reaches; None when it may reach others of which we cannot tell."""
        if self.problems or not self.looked.mounted:
            return None
        kinds = [kind for types in self.looked.not_mounted.values() for kind in types.split(",")]
        if any(is_shared(kind) and holds_files(kind) for kind in kinds):
            return None  # autofs, fstab or systemd mounts what others may have, or what is not known
        if any(self._may_mount(store) for store in self.datastores):
            return None
        if any(seen.error or seen.absent for seen in self.looked.paths.values()):
            return None  # what a VM names lies on something that is not mounted now, or does not answer
        if any(seen.exported for seen in self.looked.paths.values()):
            return None  # others reach it under this server's name, or another one
        found = set()
        for mounted in self.looked.mounted.values():
            if is_of_one_host(mounted.kind) or not holds_files(mounted.kind):
                continue
            space = of_mount(mounted, self.host.uuid, "").space
            if space.kind not in (SpaceKind.NETWORK, SpaceKind.CEPH):
                return None  # a cluster file system, FUSE, or a type that we do not know
            found.add(space)
        return frozenset(found)

    def _may_mount(self, store: Datastore) -> bool:
        """Whether a datastore stands on a file system that is not mounted now, as far as can be told."""
        if store.kind in ("fs", "netfs"):
            return not store.active or posixpath.normpath(store.path or "/") not in self.looked.mounts
        if store.kind == "dir" and not store.active:
            listing = self.looked.directories.get(store.path or "")
            return listing is None or listing.empty or bool(listing.problem)
        return not store.active and store.kind not in ("logical", "disk")


@dataclass(frozen=True, slots=True)
class HostSight:
    """A configured host: its inventory, or why it could not be taken.

    `spaces`: the network file systems that a host without an inventory is known to reach; None: not known.
    """

    host: HostId
    inventory: HostInventory | None = None
    problem: str = ""
    spaces: frozenset[SpaceId] | None = None

    @property
    def reaches(self) -> frozenset[SpaceId] | None:
        """The network file systems that it reaches; None when that is not known."""
        return self.spaces if self.inventory is None else self.inventory.spaces


def may_reach(space: SpaceId | None, reached: frozenset[SpaceId] | None) -> bool:
    """Whether a host that reaches these file systems may have a file of `space`, which others can have mounted.

    Only two names of a server, and what is not known, are doubts: one server may be mounted by a name and by an
    address, so any other network file system may be this one; and a server of NFS may stand on Ceph. Another cluster's
    fsid is proof.
    """
    if space is None or reached is None:
        return reached is None or any(space_id.kind is SpaceKind.NETWORK for space_id in reached)
    if space.kind is SpaceKind.NETWORK and any(space_id.kind is SpaceKind.CEPH for space_id in reached):
        return True
    return any(space_id.shares_space(space) or space_id.kind is SpaceKind.NETWORK for space_id in reached)


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


def drives_of(vm: Vm) -> Iterator[DiskSource]:
    """Every source of a disk or drive that is an image on the host, now and at the next start."""
    for disk in vm.disks:
        for source in (disk.live, disk.config):
            if source is not None and source.path and source.kind in ("file", "block"):
                yield source


def names_of(vm: Vm) -> set[str]:
    """Every path that a VM's XMLs name, live and persistent, backing chains and volumes included."""
    found = {path for path in (vm.nvram, vm.config_nvram) if path}
    found |= {named_path.path for named_path in vm.named} | {volume.path for volume in vm.volumes if volume.path}
    for disk in vm.disks:
        for source in (disk.live, disk.config):
            if source is not None:
                found.update(one for one in (source.path, *source.backing) if one)
        if disk.mirror is not None:
            found.add(disk.mirror.dest)
    return found
