"""The hosts of a move to another host, found again by their UUIDs: by its plan, the configuration, our own URI."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from blockferry.base.errors import BlockferryError, HostUnreachable, OtherHost
from blockferry.hosts.configured_hosts import CONNECT_S, ConfiguredHost
from blockferry.hosts.host import Host
from blockferry.moves.environment import Environment


@dataclass(slots=True)
class _Search:
    """What the hosts that may be meant have answered."""

    uris: dict[str, str] = field(default_factory=dict)  # UUID -> URI
    silent: dict[str, BlockferryError] = field(default_factory=dict)  # name of a host -> why it did not answer


def uri_of(env: Environment, move: str, vm: str, host: str, name: str, planned: str) -> str:
    """Return a URI that leads to this host now. `host`: libvirt's UUID; `planned`: the URI that the plan names.

    One that is unreachable at present is returned as planned: whoever runs the move waits for it. Raises OtherHost
    when the planned URI leads elsewhere and no host of the configuration is the one; hosts that did not answer are
    named then.
    """
    problem: BlockferryError | None = None
    here = ""
    for own in (
        env.site,
        *(configured_host.opened() for configured_host in env.hosts if configured_host.uri == planned),
    ):
        if own.uri == planned:
            try:
                if own.connection.host_id() == host:
                    return planned
                here = own.connection.hostname()
                break
            except BlockferryError as error:
                problem = error
    else:
        if problem is None:
            here, problem = _asked_directly(planned, host)
            if here == "" and problem is None:
                return planned
    search = _search(env)
    if host in search.uris:
        return search.uris[host]
    if isinstance(problem, HostUnreachable):
        return planned
    if problem is not None:
        raise problem
    silent = "".join(f"; {one} does not answer" for one in search.silent)
    raise OtherHost(move, vm, f"{name} (UUID {host}), which no configured host is{silent}", here, noted=True)


def _asked_directly(uri: str, host: str) -> tuple[str, BlockferryError | None]:
    """("", None) when the URI leads to this host, else the name of the one that it leads to, or what was met."""
    site = Host(uri)
    try:
        if site.connection.host_id() == host:
            return "", None
        return site.connection.hostname() or uri, None
    except BlockferryError as error:
        return "", error
    finally:
        site.close()


def _search(env: Environment) -> _Search:
    """Ask all configured hosts, and our own, at the same time; each for no longer than a connection may take."""
    search, lock = _Search(), threading.Lock()

    def ask(configured_host: ConfiguredHost) -> None:
        try:
            uuid = configured_host.connected().connection.host_id()
        except BlockferryError as error:
            with lock:
                search.silent[configured_host.name] = error
            return
        with lock:
            search.uris.setdefault(uuid, configured_host.uri)

    threads = [threading.Thread(target=ask, args=(host,), daemon=True) for host in (*env.hosts, env.own)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(CONNECT_S + 1.0)
    with lock:
        return _Search(dict(search.uris), dict(search.silent))
