"""The datastores of a host as both libvirt and the file system tell of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from blockferry.base.errors import HostCommandFailed, HostUnreachable
from blockferry.hosts.datastore_id import Directory, of_mount
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.host import Host
from blockferry.hosts.inventory import Datastore, Vm
from blockferry.hosts.libvirt import pools
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.runner import Runner


def datastores(site: Host) -> tuple[Datastore, ...]:
    """All pools. Of active directories: where they really are, and the bytes that QEMU's user may still write.

    libvirt counts what is reserved for root as available (statvfs's f_bfree); QEMU's user cannot have that.
    Where the host's files cannot be reached, what libvirt says.
    """
    return looked_at(site.runner, pools.datastores(site.connection), site.connection.host_id())


def looked_at(runner: Runner, stores: tuple[Datastore, ...], host: str) -> tuple[Datastore, ...]:
    """The same of pools that were read already. `host`: libvirt's UUID."""
    paths = {store.path for store in stores if store.active and store.is_directory and store.path}
    try:
        looks = helper_paths.look(runner, paths, mounted=True)
    except (HostCommandFailed, HostUnreachable):
        return stores
    return tuple(_with(store, looks.get(store.path or ""), host) for store in stores)


def _with(store: Datastore, look: PathFacts | None, host: str) -> Datastore:
    if look is None or not (store.active and store.is_directory):
        return store
    available = look.free if look.kind == "directory" else store.available
    known = None if look.mounted is None else of_mount(look.mounted, host, store.uuid)
    return replace(store, resolved=look.resolved, file_system=look.file_system, available=available, id=known)


def directories(stores: Iterable[Datastore]) -> tuple[Directory, ...]:
    """The directories of those datastores of which is known what they stand on."""
    return tuple(Directory(store.path, store.id) for store in stores if store.path and store.id is not None)


def resolved(runner: Runner, vms: Iterable[Vm]) -> Mapping[str, str]:
    """Path of each disk's file -> that path without symbolic links. Empty where that cannot be told."""
    paths = {
        source.path
        for vm in vms
        for disk in vm.disks
        for source in (disk.live, disk.config)
        if source is not None and source.path is not None and source.path.startswith("/")
    }
    try:
        return {path: look.resolved for path, look in helper_paths.look(runner, paths).items()}
    except (HostCommandFailed, HostUnreachable):
        return {}
