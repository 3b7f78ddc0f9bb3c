"""What is shown of a configured host, and how what was known before goes along with what is seen now. Pure."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


class HostState(enum.Enum):
    UP = "up"  # it has answered now
    DOWN = "down"  # it cannot be reached; the figures are those of `seen`
    ASKED = "being asked"  # libvirt is connected and has not answered in time; the figures are those of `seen`


@dataclass(frozen=True, slots=True)
class HostDatastore:
    """A datastore of a host. Bytes; 0 where it is not active."""

    name: str
    active: bool
    capacity: int
    available: int


@dataclass(frozen=True, slots=True)
class HostFigures:
    """What a host told of itself. Bytes; `load`: processes that want to run, mean of a minute. None: not known."""

    uuid: str
    hostname: str
    libvirt: str
    qemu: str
    cpus: int
    memory: int
    memory_free: int | None
    load: float | None
    vms: int
    running: int
    datastores: tuple[HostDatastore, ...] = ()


@dataclass(frozen=True, slots=True)
class HostListing:
    """One host. `name`, `uri`: as configured; `also`: other names in the configuration that lead to it.

    `figures`: of the moment `seen` (seconds since the epoch); None when it was never seen. `addresses`: the URIs under
    which libvirt's UUID of it was seen. `problem`: why it is down.
    """

    name: str
    uri: str
    state: HostState
    problem: str = ""
    figures: HostFigures | None = None
    seen: float | None = None
    addresses: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


def with_known(now: HostListing, known: Iterable[HostListing]) -> HostListing:
    """Add what was known of a host before: of one that is down its last figures, and all addresses it was seen under.

    A host that answers is known by its UUID; one that does not, by its name and URI in the configuration.
    """
    uuid = "" if now.figures is None else now.figures.uuid
    for host_listing in known:
        same = (
            host_listing.figures is not None and host_listing.figures.uuid == uuid
            if uuid
            else (host_listing.name, host_listing.uri) == (now.name, now.uri)
        )
        if same:
            addresses = tuple(dict.fromkeys((*now.addresses, *host_listing.addresses)))
            if now.figures is None:
                return replace(now, figures=host_listing.figures, seen=host_listing.seen, addresses=addresses)
            return replace(now, addresses=addresses)
    return now


def merged(listings: Sequence[HostListing]) -> tuple[HostListing, ...]:
    """One listing for each host: two entries that answer with one UUID are one host, by the first one's name."""
    found: dict[str, HostListing] = {}
    for listing in listings:
        uuid = listing.figures.uuid if listing.figures is not None and listing.state is HostState.UP else ""
        key = uuid or f"{listing.name} {listing.uri}"
        first = found.get(key)
        if first is None:
            found[key] = listing
            continue
        addresses = tuple(dict.fromkeys((*first.addresses, *listing.addresses)))
        found[key] = replace(first, addresses=addresses, also=(*first.also, listing.name))
    return tuple(found.values())
