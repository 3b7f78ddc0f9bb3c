"""What is on the host: VMs with their disks, datastores with their space, and the names of both for completion."""

from __future__ import annotations

from blockferry.hosts import identity
from blockferry.hosts.images import chains
from blockferry.hosts.inventory import datastore_of
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.moves.environment import Environment
from blockferry.storage_move import survey
from blockferry.storage_move.destination import datastore_places
from blockferry.storage_move.summary import DatastoreListing, DiskListing, VmListing


def vms(env: Environment) -> tuple[VmListing, ...]:
    env.site.runner.prepare()  # while libvirt is connected to
    env.site.connection.prepare_host_id()  # while the VMs are read
    everyone = domain_list.all_vms(env.site.connection)
    stores = datastore_places.datastores(env.site)
    uri, host = env.site.connection.uri, env.site.connection.host_id()
    moving = {} if env.nothing_under_way() else _moving(env, uri, host)
    listings = []
    resolved = datastore_places.resolved(env.site.runner, everyone)
    images = chains.of_drives(env.site.runner, everyone)
    for vm in everyone:
        disks = []
        for disk in vm.disks:
            image_chain = chains.of_disk(images, disk)
            chain, problem = image_chain.layers, image_chain.problem or None
            path = disk.source.path if disk.source else None
            store = datastore_of(path, stores, resolved.get(path, "")) if path else None
            disks.append(
                DiskListing(
                    target=disk.target,
                    device=disk.device,
                    path=path or (disk.source.description if disk.source else None),
                    format=disk.source.format if disk.source else "",
                    datastore=None if store is None else store.name,
                    virtual_size=chain[0].virtual_size if chain else None,
                    allocation=sum(image.allocation for image in chain) if chain else None,
                    problem=problem,
                    layers=max(1, len(chain)),
                )
            )
        listings.append(VmListing(vm, tuple(disks), moving.get(vm.uuid)))
    return tuple(listings)


def _moving(env: Environment, uri: str, host: str) -> dict[str, str]:
    """UUID of a VM -> its move that is not over, of those that have to do with this host."""
    every = env.every_move
    return {
        move_summary.plan.uuid: move_summary.id
        for move_summary in every.unfinished()
        if any(
            identity.may_be_here(claimed.where, uri, host)
            for claimed in every.kind_of(move_summary).claimed(move_summary)
        )
    }


def datastores(env: Environment) -> tuple[DatastoreListing, ...]:
    env.site.runner.prepare()  # while libvirt is connected to
    connection, runner = env.site.connection, env.site.runner
    everyone = domain_list.all_vms(connection)
    problems: dict[str, str | None] = {}
    for store in pools.datastores(connection):
        problems[store.name] = pools.refresh_pool(connection, store.name) if store.active else "not active"
    stores = datastore_places.datastores(env.site)
    users = survey.names_in(stores, everyone, datastore_places.resolved(runner, everyone))
    totals = survey.committed(runner, stores, everyone, chains.of_drives(runner, everyone))
    listings = []
    for store in stores:
        total = totals[store.name] if store.active and store.is_directory else None
        listings.append(DatastoreListing(store, total, tuple(sorted(users[store.name])), problems.get(store.name)))
    return tuple(listings)
