"""Where each disk of a move, and its home, is to go. Pure."""

from __future__ import annotations

from blockferry.base.errors import DatastoreNotFound, DiskNotFound, UsageError, nearest
from blockferry.hosts import exports
from blockferry.hosts.inventory import Datastore
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.precheck import network
from blockferry.storage_move.request import (
    MoveRequest,
)


def destinations(request: MoveRequest, facts: Facts) -> dict[str, Datastore]:
    """target -> datastore, for every disk that is asked to move. CD drives follow the home, not this."""
    vm = facts.vm
    for target in request.disks:
        if vm.disk(target) is None:
            known = [disk.target for disk in vm.disks]
            raise DiskNotFound(vm.name, target, nearest(target, known) or tuple(known[:3]))
    if request.to is None and not request.disks:
        raise UsageError("No destination was named.", "Name one with --to DATASTORE or --disk vda=DATASTORE.")
    wanted: dict[str, Datastore] = {}
    for disk in vm.disks:
        name = request.disks.get(disk.target, request.to)
        if name is None or (disk.device in ("cdrom", "floppy") and disk.target not in request.disks):
            continue
        wanted[disk.target] = network.destination(name) if exports.is_export(name) else named(name, facts)
    return wanted


def named(name: str, facts: Facts) -> Datastore:
    store = facts.datastore(name)
    if store is None:
        raise DatastoreNotFound(name, facts.uri, nearest(name, [datastore.name for datastore in facts.datastores]))
    return store
