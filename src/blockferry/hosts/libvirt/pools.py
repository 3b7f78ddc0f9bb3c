"""Datastores: libvirt's storage pools. https://libvirt.org/formatstorage.html"""

from __future__ import annotations

import contextlib
import posixpath
from dataclasses import replace

import libvirt
from lxml import etree

from blockferry.hosts.inventory import DIRECTORY_POOLS, Datastore, Volume
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.qemu_user import Permissions


def datastores(connection: Connection, *, refresh: bool = False) -> tuple[Datastore, ...]:
    """All pools. `refresh`: have libvirt look at active ones first (numbers change only by that)."""
    with connection.doing("list the storage pools"):
        pools = connection.raw.listAllStoragePools(0)
    found = []
    for pool in pools:
        if refresh:
            refresh_pool(connection, pool.name())
        try:
            found.append(_read(pool))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_STORAGE_POOL:
                with connection.doing(f"describe the storage pool {pool.name()}"):
                    raise
    return tuple(sorted(found, key=lambda store: store.name))


def device_paths(connection: Connection, store: Datastore) -> tuple[str, ...]:
    """Return the block devices that are the volumes of an active pool. Raises HostUnreachable, LibvirtFailed."""
    with connection.doing(f"list the volumes of the storage pool {store.name}"):
        try:
            volumes = connection.raw.storagePoolLookupByName(store.name).listAllVolumes(0)
            paths = [str(volume.path()) for volume in volumes]
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_NO_STORAGE_VOL):
                return ()  # it went away meanwhile
            raise
    return tuple(path for path in paths if path.startswith("/dev/"))


def names(connection: Connection) -> tuple[str, ...]:
    with connection.doing("list the storage pools"):
        return tuple(sorted(pool.name() for pool in connection.raw.listAllStoragePools(0)))


def refresh_pool(connection: Connection, name: str) -> str | None:
    """Have libvirt look at the pool's content again; the error's words if it cannot, None if all is well."""
    try:
        pool = connection.raw.storagePoolLookupByName(name)
        if pool.isActive():
            _refresh(pool)
    except libvirt.libvirtError as error:
        return str(error)
    return None


def _refresh(pool: libvirt.virStoragePool) -> None:
    """Refresh an active pool. Raises libvirtError.

    libvirt stops a pool that it cannot refresh (storagePoolRefresh in its storage_driver.c; measured on 9.0). To look
    must change nothing, so it is started again, if its storage answers by then.
    """
    try:
        pool.refresh(0)
    except libvirt.libvirtError:
        with contextlib.suppress(libvirt.libvirtError):
            if not pool.isActive():
                pool.create(0)
        raise


def locate(connection: Connection, volume: Volume) -> Volume:
    """Find out the path of a volume that an XML names.

    libvirt says it of an active pool. Of an inactive one that is a directory, and of a volume that an active one does
    not list, it is where the volume would be; of an inactive volume group it cannot be told. Raises HostUnreachable.
    """
    try:
        pool = connection.raw.storagePoolLookupByName(volume.pool)
        root = etree.fromstring(pool.XMLDesc(0).encode())
        kind, directory = root.get("type") or "", root.findtext("./target/path") or ""
        active = bool(pool.isActive())
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_STORAGE_POOL:
            return replace(volume, pool_state="is not defined")
        with connection.doing(f"describe the storage pool {volume.pool}"):
            connection.raw.getLibVersion()
        return replace(volume, pool_state=f"cannot be looked at ({error.get_error_message()})")
    state = "" if active else "is not active"
    if active:
        try:
            path = str(pool.storageVolLookupByName(volume.name).path())
            if path.startswith("/"):
                return replace(volume, path=path)
            return replace(volume, may_be_file=False)  # an object of a server
        except libvirt.libvirtError:
            state = "does not list it"
    if kind in DIRECTORY_POOLS and kind != "gluster" and directory:
        return replace(volume, path=posixpath.join(directory, volume.name), pool_state=state)
    # An inactive volume group has no device nodes: that nothing is at the path would not say that nothing is in it.
    listed = active and kind == "logical" and directory
    path_of_device = posixpath.join(directory, volume.name) if listed else None
    return replace(volume, path=path_of_device, pool_state=state, may_be_file=kind in DIRECTORY_POOLS)


def _read(pool: libvirt.virStoragePool) -> Datastore:
    root = etree.fromstring(pool.XMLDesc(0).encode())
    active = bool(pool.isActive())
    _state, capacity, allocation, available = pool.info() if active else (0, 0, 0, 0)
    return Datastore(
        name=pool.name(),
        uuid=pool.UUIDString(),
        kind=root.get("type") or "",
        active=active,
        path=root.findtext("./target/path"),
        capacity=capacity,
        available=available,
        allocation=allocation,
        autostart=bool(pool.autostart()),
        permissions=_permissions(root),
    )


def _permissions(root: etree._Element) -> Permissions | None:
    """https://libvirt.org/formatstorage.html#target-elements"""
    uid, gid, mode = (root.findtext(f"./target/permissions/{name}") for name in ("owner", "group", "mode"))
    if not uid or not gid or not mode or int(uid) < 0 or int(gid) < 0:
        return None
    return Permissions(int(uid), int(gid), int(mode, 8))
