"""Looking over a host that is to take VMs, and the ways between it and the other hosts. Changes nothing on any of them.

A part that cannot be looked at is a line that says so; the other parts are looked at all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from blockferry.base.errors import BlockferryError
from blockferry.base.host_entries import HostEntry
from blockferry.doctor import effects, preparation_rules
from blockferry.doctor.preparation_rules import HostPreparation, NamedHost, WayTried
from blockferry.doctor.rules import HostCheck, Level
from blockferry.host_move.precheck import looks, rules
from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts
from blockferry.hosts.helper import files
from blockferry.hosts.host import Host
from blockferry.hosts.neighbour_facts import Certificate

CA = "ca-cert.pem"


@dataclass(slots=True)
class _Side:
    """One of the hosts, and what is known of it so far."""

    entry: HostEntry
    site: Host
    named: NamedHost
    certificates: dict[str, Certificate] = field(default_factory=dict)
    vms: Mapping[str, str] = field(default_factory=dict)  # UUID -> name
    now: float = 0.0  # by its own clock


def prepare(
    entry: HostEntry, connect: Callable[[HostEntry], Host], others: Sequence[HostEntry], *, require_tls: bool
) -> HostPreparation:
    """Look over the host `entry`, and try the ways between it and each of `others`, in both directions.

    `connect`: gives a connected host, or raises. `require_tls`: moves without TLS are refused.
    """
    checks: list[HostCheck] = []
    reached = effects.part(checks, "connection", lambda: _nothing(connect(entry)))
    if not reached:
        return HostPreparation(entry.name, entry.uri, tuple(checks))
    side = _side(entry, connect(entry))
    own, connected, files_reached = effects.look_host(side.site)
    checks += own
    lacking: dict[NamedHost, Sequence[str]] = {}
    ways: list[WayTried] = []
    if connected and files_reached:
        lacking[side.named] = effects.missing(side.site.runner, (*effects.PROGRAMS, *preparation_rules.PROGRAMS))
        checks += preparation_rules.programs(effects.missing(side.site.runner, preparation_rules.PROGRAMS))
        ways = _all_ways(checks, side, connect, others, require_tls=require_tls)
    if not others:
        text = "No other host is configured: the ways between hosts were not tried."
        checks.append(
            HostCheck("hosts", Level.WARNING, text, "List the hosts in blockferry.toml: docs/configuration.md.")
        )
    bare = [side.named] if ways and not _has_any(side) else []
    return HostPreparation(entry.name, entry.uri, tuple(checks), preparation_rules.commands(ways, lacking, bare))


def _nothing(_host: Host) -> list[HostCheck]:
    return []


def _side(entry: HostEntry, site: Host) -> _Side:
    hostname = site.connection.hostname()
    address = urlsplit(site.uri)
    login = f"{address.username or 'root'}@{address.hostname}" if address.hostname else ""
    return _Side(entry, site, NamedHost(entry.name, hostname, login, address.port or 0))


def _has_any(side: _Side) -> bool:
    return any(certificate.errno == 0 for certificate in side.certificates.values())


def _all_ways(
    checks: list[HostCheck],
    side: _Side,
    connect: Callable[[HostEntry], Host],
    others: Sequence[HostEntry],
    *,
    require_tls: bool,
) -> list[WayTried]:
    """Add what is found between this host and each other one; the ways that were tried."""
    ways: list[WayTried] = []
    known: list[_Side] = []
    for entry in others:
        try:
            other = _side(entry, connect(entry))
        except BlockferryError as error:
            text = f"{entry.name} does not answer; the ways between it and {side.entry.name} were not tried: "
            checks.append(HostCheck(entry.name, Level.WARNING, text + error.sentence, error.hint))
            continue
        uuids = side.site.connection.host_id(), other.site.connection.host_id()
        if uuids[0] == uuids[1] and side.named.hostname == other.named.hostname:
            continue  # the same host under another name
        known.append(other)
        for source, destination in ((other, side), (side, other)):
            effects.part(
                checks,
                f"{source.entry.name} to {destination.entry.name}",
                functools.partial(_way, ways, source, destination, require_tls=require_tls),
            )
    pairs = [(other.named, other.site.connection.host_id()) for other in known]
    checks += preparation_rules.same_uuids(side.site.connection.host_id(), side.named, pairs)
    for other in known:
        checks += preparation_rules.vms_twice(side.named, side.vms, other.named, other.vms)
    for one in (side, *known):
        if one.certificates:
            checks += preparation_rules.tls_of(one.named, tuple(one.certificates.values()), one.now)
    effects.part(checks, "tls", lambda: preparation_rules.authorities(_digests((side, *known))))
    return ways


def _digests(sides: Sequence[_Side]) -> Mapping[str, str]:
    """Name of each host with a certificate authority -> SHA-256 of its file."""
    found = {}
    for side in sides:
        authority = next(
            (
                certificate
                for certificate in side.certificates.values()
                if certificate.path.endswith(CA) and certificate.errno == 0
            ),
            None,
        )
        if authority is not None:
            found[side.entry.name] = files.digest(side.site.runner, authority.path)
    return found


def _way(ways: list[WayTried], source: _Side, destination: _Side, *, require_tls: bool) -> list[HostCheck]:
    """Try one direction as a move would."""
    named = urlsplit(destination.site.uri).hostname or destination.named.hostname
    address = destination.entry.address or named
    peer = destination.entry.peer_uri or (
        destination.site.uri if urlsplit(destination.site.uri).hostname else f"qemu+ssh://{named}/system"
    )
    asked = Asked(address=address, peer_uri=peer, require_tls=require_tls)
    running, off = looks.between(source.site, destination.site, asked)
    assert running.tls is not None
    source.certificates |= {certificate.path: certificate for certificate in running.tls.source}
    destination.certificates |= {certificate.path: certificate for certificate in running.tls.destination}
    source.vms, destination.vms = running.source.vms, running.destination.vms
    source.now, destination.now = running.tls.source_at, running.tls.destination_at
    asked = replace(asked, tls=require_tls or preparation_rules.has_certificates(running.tls))
    findings = rules.between(running, asked) + rules.between(off, replace(asked, require_tls=False))
    trial = running.ports
    connected = trial.address if trial is not None and 0 in trial.ports.values() else ""
    told = _tried(running, off, peer)
    tried = WayTried(source.named, destination.named, tuple(findings), address, peer, told, connected)
    ways.append(tried)
    return preparation_rules.way(tried)


def _tried(running: HostFacts, off: HostFacts, peer: str) -> str:
    ports = f"{running.port_span[0]}-{running.port_span[1]} and {off.port_span[0]}-{off.port_span[1]}"
    text = f"{running.source.hostname} reaches libvirt by {peer}, and ports of {ports} at {running.address}"
    if running.clock is None:
        return f"{text}."
    return f"{text}; the clocks are {abs(running.clock.ahead):.1f} s apart."
