"""Datastores: libvirt's storage pools. https://libvirt.org/formatstorage.html"""

from __future__ import annotations

import contextlib

import libvirt
from lxml import etree

from blockferry.hypervisor.connection import Connection
from blockferry.model.inventory import Datastore


def datastores(connection: Connection, refresh: bool = False) -> tuple[Datastore, ...]:
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


def backed_volumes(connection: Connection) -> dict[str, str]:
    """Path of each volume that has a backing file -> path of that file, over all active pools.

    Volumes that no VM uses count too: a template's overlays may be waiting to be used.
    """
    found = {}
    with connection.doing("list the storage pools"):
        pools = connection.raw.listAllStoragePools(libvirt.VIR_CONNECT_LIST_STORAGE_POOLS_ACTIVE)
    for pool in pools:
        try:
            _refresh(pool)
            for volume in pool.listAllVolumes(0):
                below = etree.fromstring(volume.XMLDesc(0).encode()).findtext("./backingStore/path")
                if below:
                    found[volume.path()] = below
        except libvirt.libvirtError:
            continue  # a pool that cannot be looked at now (gone, not reachable) holds nothing that can be proven
    return found


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
    )
