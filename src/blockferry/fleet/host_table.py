"""Asking every configured host how it is: all at the same time, none for longer than a limit."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from blockferry.base.errors import BlockferryError, HostUnreachable
from blockferry.fleet import host_listing, known_hosts
from blockferry.fleet.host_listing import HostDatastore, HostFigures, HostListing, HostState
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt import pools

LIMIT_S = 5.0
"""So long is waited for the hosts, for all of them together. Who has not answered by then is told as it was last."""

FORGET_S = 90 * 86400.0
"""So long a host is remembered that this configuration does not list: another user's may."""


def hosts(configured: Sequence[ConfiguredHost], file: Path, limit_s: float = LIMIT_S) -> tuple[HostListing, ...]:
    """Return what is known of each host now, in the order of the configuration. Raises nothing for one that is down.

    `file`: where what was seen is kept (known_hosts.py).
    """
    known = known_hosts.read(file)
    asked = [_Asked(one, limit_s) for one in configured]
    until = time.monotonic() + limit_s
    for one in asked:
        one.thread.join(max(0.0, until - time.monotonic()))
    found = host_listing.merged([host_listing.with_known(one.listing, known) for one in asked])
    names = {one.name for one in found}
    oldest = time.time() - FORGET_S
    rest = [one for one in known if one.name not in names and (one.seen or 0.0) > oldest]
    known_hosts.write(file, [one for one in (*found, *rest) if one.figures is not None])
    return found


class _Asked:
    """One host, asked in a thread; `listing` is right at every moment."""

    def __init__(self, one: ConfiguredHost, limit_s: float) -> None:
        self._one, self._limit_s = one, limit_s
        words = f"it did not answer within {limit_s:g} s"
        self.listing = HostListing(one.name, one.uri, HostState.DOWN, words)
        self.thread = threading.Thread(target=self._ask, name=f"host-{one.name}", daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        name, uri = self._one.name, self._one.uri
        try:
            site = self._one.connected(self._limit_s)
            self.listing = HostListing(name, uri, HostState.ASKED, "libvirt is connected and has not answered yet")
            found = figures(site)
        except BlockferryError as error:
            asked = self.listing.state is HostState.ASKED and not isinstance(error, HostUnreachable)
            state = HostState.UP if asked else HostState.DOWN
            self.listing = HostListing(name, uri, state, error.sentence.rstrip("."))
        else:
            self.listing = HostListing(name, uri, HostState.UP, "", found, time.time(), (uri,))


def figures(site: Host) -> HostFigures:
    """Return what a host tells of itself. Raises HostUnreachable, LibvirtFailed."""
    connection = site.connection
    site.runner.prepare()  # while libvirt is asked
    libvirt, qemu = connection.versions()
    node = connection.node()
    stores = pools.datastores(connection)
    return HostFigures(
        uuid=connection.host_id(),
        hostname=connection.hostname(),
        libvirt=".".join(map(str, libvirt)),
        qemu=".".join(map(str, qemu)),
        cpus=node.cpus,
        memory=node.memory,
        memory_free=node.memory_free,
        load=_load(site),
        vms=node.vms,
        running=node.running,
        datastores=tuple(HostDatastore(one.name, one.active, one.capacity, one.available) for one in stores),
    )


def _load(site: Host) -> float | None:
    """The mean of a minute, as the kernel tells it (proc(5), loadavg); None when the files cannot be reached."""
    try:
        return float(site.runner.run(["cat", "/proc/loadavg"], timeout_s=LIMIT_S).text.split()[0])
    except (BlockferryError, ValueError, IndexError):
        return None
