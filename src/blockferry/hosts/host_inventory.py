"""Taking the inventory of a host, and of all configured hosts: once for everything within one decision. Only looks."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from blockferry.base import clock
from blockferry.base.errors import BlockferryError, HostCommandFailed
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.helper import references
from blockferry.hosts.host import Host
from blockferry.hosts.host_facts import HostInventory, HostSight, NamesBeside, drives_of, images_of, names_of
from blockferry.hosts.identity import HostId
from blockferry.hosts.images import chains
from blockferry.hosts.images.chains import Named
from blockferry.hosts.inventory import DEVICE_POOLS, Datastore, ImageChain, Vm
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.runner import Runner

TRIES = 3
"""So often we look again when an image vanishes meanwhile: it may have another name by now, which we have not seen."""

FRESH_S = 2.0
"""So old the inventory of a host may be once all have answered; else it is taken again."""

STALE_S = 10.0
"""An inventory that is older than this when all have answered, also at the last try, is none."""

OTHERS_S = 180.0
"""A host other than the one where the files lie has so long to look at its VMs and images, once it is connected."""


@dataclass(frozen=True, slots=True)
class Also:
    """What is looked at besides what VMs name: images (with their formats), whose chains are read, and paths."""

    images: frozenset[Named] = frozenset()
    paths: frozenset[str] = frozenset()
    of_others: dict[str, frozenset[Named]] = field(default_factory=dict)  # host -> images that are kept there


def take_all(site: Host, also: Also) -> tuple[HostSight, ...]:
    """The inventories of this host and of every other configured one, with all images of their datastores.

    The first is this host's, with what is `also` named. Of another host a failure is noted: one that cannot be reached
    is waited for as long as connecting may take (configured_hosts.CONNECT_S), beside everything else. A host that is
    configured twice, or that is this one, is taken once; two machines that bear one UUID are told, and count as not
    asked. This host's is of the end of all that. Raises for this host: HostUnreachable, LibvirtFailed.
    """
    own = HostId(site.uri, site.connection.host_id(), site.connection.hostname())
    others = [_Other(configured_host, also, own) for configured_host in site.others if configured_host.uri != site.uri]
    first = take(site, also)
    taken = clock.seconds()
    for other in others:
        other.join(taken + OTHERS_S)
    for _ in range(1, TRIES):
        now = clock.seconds()
        old = [other for other in others if other.sight.inventory and now - other.taken > FRESH_S]
        if not old and now - taken <= FRESH_S:
            break
        for other in old:
            other.look_again()
        first = take(site, also)
        taken = clock.seconds()
        for other in old:
            other.join(taken + OTHERS_S)
    return (HostSight(first.host, first), *_of_others(others, own))


def _of_others(others: Iterable[_Other], own: HostId) -> list[HostSight]:
    """What the other hosts have answered, each once."""
    found: list[HostSight] = []
    names = {own.uuid: own.name}
    for other in others:
        sight = other.outcome()
        if not sight.host.uuid:
            found.append(sight)
        elif sight.host.uuid not in names:
            names[sight.host.uuid] = other.hostname
            found.append(sight)
        elif _machine(names[sight.host.uuid]) != _machine(other.hostname):
            found.append(other.twin(names[sight.host.uuid]))
    return found


class _Other:
    """Another host, looked at in a thread: one that does not answer holds up nothing but that."""

    def __init__(self, other: ConfiguredHost, also: Also, own: HostId) -> None:
        """`own`: the host where the files lie, which is looked at already."""
        self._other, self._also, self._own = other, also, own
        self.hostname = ""
        self._nobody = HostId(other.uri, "", other.name)
        self.taken = 0.0  # clock.seconds() at which `sight` was whole
        self.look_again()

    def look_again(self) -> None:
        """Begin to take the inventory. What was taken before does not count any more."""
        self.sight = HostSight(self._nobody, problem=f"it did not answer within {OTHERS_S:g} s")
        self._thread = threading.Thread(target=self._look, name=f"inventory-{self._other.name}", daemon=True)
        self._thread.start()

    def join(self, until: float) -> None:
        """Wait for the end of the look, at most until `until` (clock.seconds())."""
        self._thread.join(max(0.0, until - clock.seconds()))

    def outcome(self) -> HostSight:
        """What the host has answered; one that could not be brought up to now has not been asked."""
        age = clock.seconds() - self.taken
        if self.sight.inventory is not None and age > STALE_S:
            return HostSight(self._nobody, problem=f"what it answered is {age:.0f} s old: another host took so long")
        return self.sight

    def _look(self) -> None:
        try:
            site = self._other.connected()
            uuid = site.connection.host_id()
            self.hostname = site.connection.hostname()
            if uuid and uuid == self._own.uuid:
                self.sight = HostSight(HostId(self._other.uri, uuid, self._other.name))
                return
            host_inventory = take(site, Also(self._also.of_others.get(uuid, frozenset())))
        except BlockferryError as error:
            self.sight = HostSight(self._nobody, problem=error.sentence.rstrip("."))
        else:
            self.taken = clock.seconds()
            self.sight = HostSight(replace(host_inventory.host, name=self._other.name), host_inventory)

    def twin(self, name: str) -> HostSight:
        """The same host, which bears the UUID of `name`: whose VM is which, cannot be told."""
        return HostSight(
            self._nobody,
            problem=f"libvirt's UUID of {self.hostname} is that of {name}, too: give each its own `host_uuid` in "
            "/etc/libvirt/libvirtd.conf",
        )


def _machine(hostname: str) -> str:
    """The name without its domain, which libvirt tells when DNS answers, and does not when it does not."""
    return hostname.partition(".")[0]


def take(site: Host, also: Also | None = None, *, listings: bool = True) -> HostInventory:
    """The inventory of one host.

    `listings`: read what the images in its datastores stand on, too: for a proof, which counts also what no VM names.
    Raises HostUnreachable, LibvirtFailed. What else cannot be looked at is in the inventory.
    """
    also = also or Also()
    host_inventory, vanished = _take(site, also, listings=listings)
    for _ in range(1, TRIES):
        if not vanished:
            break
        host_inventory, vanished = _take(site, also, listings=listings)
    gone = {one: ImageChain(problem="it vanished while it was looked at") for one in vanished}
    return replace(host_inventory, chains={**host_inventory.chains, **gone})


def _take(site: Host, also: Also, *, listings: bool) -> tuple[HostInventory, frozenset[Named]]:
    """The inventory, and the images of VMs that vanished while their chains were read."""
    connection, runner = site.connection, site.runner
    vms = domain_list.all_vms(connection)
    stores = pools.datastores(connection)
    beside = domain_list.names_beside(connection)
    host = HostId(connection.uri, connection.host_id(), connection.hostname())
    host_inventory = HostInventory(host, vms, stores, beside)
    paths = [*_paths(vms, beside), *also.paths, *(path for path, _ in also.images)]
    try:
        looked = references.look(
            runner,
            (one for one in paths if one.startswith("/")),
            _directories(stores, listings=listings),
            _devices(connection, stores) if listings else (),
        )
    except HostCommandFailed as error:  # a datastore that does not answer; or there is no python3
        problem = f"what VMs name could not be looked at ({error.sentence.rstrip('.')})"
        return replace(host_inventory, problems=(problem,)), frozenset()
    of_vms = _images(vms)
    wanted = {image for image in of_vms | also.images if looked.paths[image[0]].there}
    read = chains.read(runner, sorted(wanted))
    host_inventory = replace(host_inventory, looked=looked, chains=read)
    vanished = _vanished(runner, [one for one, chain in read.items() if chain.problem])
    left = {one: chain for one, chain in read.items() if one not in vanished or one in of_vms}
    return _with_the_rest(runner, replace(host_inventory, chains=left)), vanished & of_vms


def _paths(vms: Iterable[Vm], beside: NamesBeside) -> Iterator[str]:
    for vm in vms:
        yield from names_of(vm)
    yield from (*beside.paths, *beside.trees)


def _images(vms: Iterable[Vm]) -> frozenset[Named]:
    sources = [source for vm in vms for source in (*drives_of(vm), *(one for _, one in images_of(vm)))]
    return frozenset(
        (disk_source.path, disk_source.format)
        for disk_source in sources
        if disk_source.path and disk_source.path.startswith("/")
    )


def _directories(stores: Iterable[Datastore], *, listings: bool) -> tuple[str, ...]:
    """The directories of the datastores of files."""
    return tuple(
        store.path
        for store in stores
        if listings and store.is_directory and store.kind != "gluster" and store.path and store.path.startswith("/")
    )


def _devices(connection: Connection, stores: Iterable[Datastore]) -> list[str]:
    """The volumes of the datastores of block devices: an image that no VM names may lie in one."""
    active = [store for store in stores if store.active and store.kind in DEVICE_POOLS]
    return [path for store in active for path in pools.device_paths(connection, store)]


def _vanished(runner: Runner, images: Sequence[Named]) -> frozenset[Named]:
    """Those of the images that are not there any more."""
    if not images:
        return frozenset()
    try:
        looked = references.look(runner, [path for path, _ in images]).paths
    except HostCommandFailed:
        return frozenset()  # the problem of each stays
    return frozenset(image for image in images if not looked[image[0]].there and not looked[image[0]].error)


def _with_the_rest(runner: Runner, host_inventory: HostInventory) -> HostInventory:
    """Look at what chains and datastores have named since: a file may be named by another path there."""
    named = [
        path
        for chain in host_inventory.chains.values()
        for layer in chain.layers
        for path in (layer.path, *layer.parts)
    ]
    for listing in (*host_inventory.looked.directories.values(), *host_inventory.looked.headers.values()):
        named += [path for paths in listing.stands_on.values() for path in paths]
    known = host_inventory.looked.paths
    rest = [path for path in dict.fromkeys(named) if path.startswith("/") and path not in known and "\0" not in path]
    if not rest:
        return host_inventory
    try:
        looked = references.look(runner, rest)
    except HostCommandFailed as error:
        problem = f"what images stand on could not be looked at ({error.sentence.rstrip('.')})"
        return replace(host_inventory, problems=(*host_inventory.problems, problem))
    return replace(host_inventory, looked=replace(host_inventory.looked, paths={**known, **looked.paths}))
