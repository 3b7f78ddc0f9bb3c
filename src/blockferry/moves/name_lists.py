"""Names for completion: of VMs, datastores and disks. Only libvirt is asked, and little is loaded for it."""

from __future__ import annotations

from blockferry.hosts.libvirt import domain_list, pools
from blockferry.moves.environment import Environment


def vm_names(env: Environment) -> tuple[str, ...]:
    return domain_list.names(env.site.connection)


def datastore_names(env: Environment) -> tuple[str, ...]:
    return pools.names(env.site.connection)


def disk_names(env: Environment, vm: str) -> tuple[str, ...]:
    found = domain_list.vm(env.site.connection, vm)
    return tuple(disk.target for disk in found.disks if disk.device == "disk")
