"""Asking every configured host how it is: all at the same time, none for longer than a limit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from blockferry.base.errors import BlockferryError, HostUnreachable
from blockferry.fleet import host_listing, known_hosts
from blockferry.fleet.host_listing import HostDatastore, HostFigures, HostListing, HostState
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt import pools

LIMIT_S = 10.0
"""So long is waited for the hosts, for all of them together. Who has not answered by then is told as it was last."""

FORGET_S = 90 * 86400.0
"""So long a host is remembered that this configuration does not list: another user's may."""


def hosts(configured: Sequence[ConfiguredHost], file: Path, limit_s: float = LIMIT_S) -> tuple[HostListing, ...]:
    """Return what is known of each host now, in the order of the configuration. Raises nothing for one that is down.

    `file`: where what was seen is kept (known_hosts.py).
    """
    known = known_hosts.read(file)
    asked = [_Asked(configured_host, limit_s) for configured_host in configured]
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

    def __init__(self, configured_host: ConfiguredHost, limit_s: float) -> None:
        self._one, self._limit_s = configured_host, limit_s
        words = f"it did not answer within {limit_s:g} s"
        self.listing = HostListing(configured_host.name, configured_host.uri, HostState.DOWN, words)
        self.thread = threading.Thread(target=self._ask, name=f"host-{configured_host.name}", daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        name, uri = self._one.name, self._one.uri
        try:
            load = _Load(self._one.opened())  # by a connection of its own, while libvirt is connected to
            site = self._one.connected(self._limit_s)
            self.listing = HostListing(name, uri, HostState.ASKED, "libvirt is connected and has not answered yet")
            host_figures = figures(site)
        except BlockferryError as error:
            asked = self.listing.state is HostState.ASKED and not isinstance(error, HostUnreachable)
            state = HostState.UP if asked else HostState.DOWN
            self.listing = HostListing(name, uri, state, error.sentence.rstrip("."))
            return
        up = HostListing(name, uri, HostState.UP, "", host_figures, time.time(), (uri,))
        self.listing = up  # with the load, if that comes in time
        self.listing = replace(up, figures=replace(host_figures, load=load.value(self._limit_s)))


def figures(site: Host) -> HostFigures:
    """Return what libvirt tells of a host; no load. Raises HostUnreachable, LibvirtFailed."""
    connection = site.connection
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
        load=None,
        vms=node.vms,
        running=node.running,
        datastores=tuple(HostDatastore(store.name, store.active, store.capacity, store.available) for store in stores),
    )


class _Load:
    """The mean of a minute, as the kernel tells it (proc(5), loadavg), asked while libvirt answers."""

    def __init__(self, site: Host) -> None:
        self._site = site
        self._value: float | None = None
        self._thread = threading.Thread(target=self._look, name=f"load-{site.uri}", daemon=True)
        self._thread.start()

    def value(self, limit_s: float) -> float | None:
        """None when the host's files cannot be reached, or not in time."""
        self._thread.join(limit_s)
        return self._value

    def _look(self) -> None:
        with contextlib.suppress(BlockferryError, ValueError, IndexError):
            self._value = float(self._site.runner.run(["cat", "/proc/loadavg"], timeout_s=LIMIT_S).text.split()[0])
