"""What `hosts prepare` says of a host that is to take VMs, and the commands that mend what is missing. Pure."""

from __future__ import annotations

import os
import posixpath
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from blockferry.base.units import format_time
from blockferry.doctor.rules import HostCheck, Level, Verdict
from blockferry.host_move.precheck.host_move_facts import TlsSeen
from blockferry.hosts.neighbour_facts import Certificate
from blockferry.storage_move.precheck.finding import Finding, Severity

_LEVELS = {Severity.ERROR: Level.ERROR, Severity.WARNING: Level.WARNING, Severity.INFO: Level.OK}

PROGRAMS = ("qemu-io", "qemu-nbd", "virsh")
"""What a move to another host runs on the host, beside what any move runs there."""


@dataclass(frozen=True, slots=True)
class HostPreparation(Verdict):
    """What was looked at, in the order in which it is shown, and the commands that mend what is missing.

    `commands`: for a shell on the machine where blockferry runs; a line that begins with # says what the next ones do.
    """

    host: str
    uri: str
    checks: tuple[HostCheck, ...]
    commands: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedHost:
    """A host as the configuration calls it. `ssh`: what ssh is given, "" for the machine itself; `port`: 0: its own."""

    name: str
    hostname: str
    ssh: str = ""
    port: int = 0

    def on(self, command: str) -> str:
        """Return the command as it is typed where blockferry runs."""
        port = f"-p {self.port} " if self.port else ""
        return f"ssh {port}{self.ssh} {shlex.quote(command)}" if self.ssh else command

    def copied(self, file: str, path: str) -> str:
        """Return the command that copies a file from where blockferry runs."""
        user, at, address = self.ssh.rpartition("@")
        host = f"{user}{at}[{address}]" if ":" in address else self.ssh
        port = f"-P {self.port} " if self.port else ""
        return f"scp {port}{file} {host}:{path}" if self.ssh else f"cp {file} {path}"


@dataclass(frozen=True, slots=True)
class WayTried:
    """What came of trying the way from one host to another. `tried`: a clause that says what has worked.

    `connected`: the number of the address to which a connection was made; "" when none was.
    """

    source: NamedHost
    destination: NamedHost
    findings: tuple[Finding, ...]
    address: str
    peer: str
    tried: str = ""
    connected: str = ""


def way(tried: WayTried) -> list[HostCheck]:
    """The checks of one direction."""
    area = f"{tried.source.name} to {tried.destination.name}"
    checks = [
        HostCheck(area, _LEVELS[finding.severity], f"{finding.text} [{finding.code}]", finding.remedy)
        for finding in tried.findings
    ]
    if not any(check.level is Level.ERROR for check in checks):
        checks.append(HostCheck(area, Level.OK, tried.tried))
    return checks


def programs(missing: Sequence[str]) -> list[HostCheck]:
    """Of PROGRAMS, those that the host does not have."""
    if not missing:
        return []
    text = f"Not found on the host: {', '.join(missing)}, which VMs from other hosts need."
    return [HostCheck("tools", Level.ERROR, text, "Install qemu-utils and libvirt-clients (qemu-img, libvirt-client).")]


def same_uuids(uuid: str, host: NamedHost, others: Iterable[tuple[NamedHost, str]]) -> list[HostCheck]:
    """`others`: hosts with libvirt's UUID of each, which stands in the SMBIOS of many cheap boards."""
    twins = [other.name for other, other_uuid in others if other_uuid == uuid and other.hostname != host.hostname]
    if not twins:
        return []
    text = f"{host.name} and {', '.join(twins)} have the same libvirt UUID {uuid}: libvirt takes them for one host."
    remedy = "Give each its own: host_uuid in /etc/libvirt/libvirtd.conf (uuidgen), then restart libvirtd."
    return [HostCheck("identity", Level.ERROR, text, remedy)]


def vms_twice(host: NamedHost, vms: Mapping[str, str], other: NamedHost, theirs: Mapping[str, str]) -> list[HostCheck]:
    """VMs (UUID -> name) that both hosts have. Both must never run."""
    both = sorted(vms[uuid] for uuid in vms.keys() & theirs.keys())
    if not both:
        return []
    text = f"Defined on {host.name} and on {other.name} with one UUID: {', '.join(both)}."
    return [HostCheck("identity", Level.WARNING, text, "`virsh undefine --keep-nvram NAME` where it is not needed.")]


# ------------------------------------------------------------ TLS


def has_certificates(seen: TlsSeen) -> bool:
    """Whether one of both hosts has any of the files, so that TLS is meant to work."""
    return any(certificate.errno == 0 for certificate in (*seen.source, *seen.destination))


def tls_of(host: NamedHost, files: Sequence[Certificate], now: float) -> list[HostCheck]:
    """Which certificates a host has, until when they are valid, and for which names. `now`: by its own clock."""
    present = [certificate for certificate in files if certificate.errno == 0]
    if not present:
        where = posixpath.dirname(files[0].path)
        text = f"{host.name} has no certificates in {where}: memory and disks would go unencrypted."
        return [HostCheck("tls", Level.WARNING, text, "docs/host-tls.md has the five commands.")]
    valid = [certificate for certificate in present if certificate.until >= now >= certificate.since >= 0]
    checks = []
    for certificate in valid:
        until = format_time(certificate.until)
        names = f", for {', '.join(certificate.names)}" if certificate.names else ""
        checks.append(HostCheck("tls", Level.OK, f"{certificate.path} on {host.name} is valid until {until}{names}."))
    missing = [certificate for certificate in files if certificate.errno]
    for certificate in missing:
        text = f"{certificate.path} on {host.name} cannot be used: {os.strerror(certificate.errno)}."
        checks.append(HostCheck("tls", Level.ERROR, text, "docs/host-tls.md has the five commands."))
    return checks


def authorities(digests: Mapping[str, str]) -> list[HostCheck]:
    """Name of each host that has a ca-cert.pem -> SHA-256 of that file."""
    if len(digests) < 2:
        return []
    if len(set(digests.values())) == 1:
        return [HostCheck("tls", Level.OK, f"{_and(digests)} trust the same certificate authority.")]
    text = f"{_and(digests)} do not have the same ca-cert.pem: one may not trust the other's certificates."
    return [HostCheck("tls", Level.ERROR, text, "Sign all certificates with one authority: docs/host-tls.md.")]


def _and(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


# ------------------------------------------------------------ commands


def commands(
    ways: Sequence[WayTried], tools: Mapping[NamedHost, Sequence[str]], unequipped: Sequence[NamedHost]
) -> tuple[str, ...]:
    """Return what mends the faults that were found, each once."""
    lines: list[str] = []
    for host, missing in tools.items():
        if missing:
            lines.append(f"# programs on {host.name}: {', '.join(missing)}")
            packages = "apt-get install -y qemu-utils libvirt-clients || dnf install -y qemu-img libvirt-client"
            lines.append(host.on(packages))
    for tried in ways:
        for finding in tried.findings:
            lines += _mending(tried, finding.code)
    lines += _tls_commands(unequipped)
    return tuple(dict.fromkeys(lines))


def _mending(tried: WayTried, code: str) -> Iterator[str]:
    source, destination = tried.source, tried.destination
    if code == "PEER_UNREACHABLE" and tried.peer.startswith("qemu+ssh://"):
        peer = urlsplit(tried.peer)
        port = f"-p {peer.port} " if peer.port else ""
        yield f"# root on {source.name} logs in to {destination.name} without a password"
        yield source.on('test -e ~/.ssh/id_ed25519 || ssh-keygen -q -t ed25519 -N "" -f ~/.ssh/id_ed25519')
        yield f"{source.on('cat ~/.ssh/id_ed25519.pub')} | {destination.on('cat >> ~/.ssh/authorized_keys')}"
        yield source.on(f"ssh-keyscan {port}{peer.hostname} >> ~/.ssh/known_hosts")
    elif code == "PORT_CLOSED":
        ports = "--add-port=49152-49215/tcp --add-port=49216-49343/tcp"
        yield f"# migration ports of {destination.name}"
        yield destination.on(f"firewall-cmd --permanent {ports} && firewall-cmd --reload")
    elif code == "CLOCKS_APART":
        yield "# clocks by NTP"
        yield source.on("timedatectl set-ntp true")
        yield destination.on("timedatectl set-ntp true")
    elif code == "OWN_NAME_UNKNOWN":
        place = "" if tried.connected else "; put its address in the place of ADDRESS"
        yield f"# {destination.name} resolves its own name{place}"
        yield destination.on(f"echo '{tried.connected or 'ADDRESS'} {destination.hostname}' >> /etc/hosts")
    elif code == "ADDRESS_UNKNOWN":
        yield f"# {source.name} resolves {tried.address}; put its address in the place of ADDRESS"
        yield source.on(f"echo 'ADDRESS {tried.address}' >> /etc/hosts")


def _tls_commands(hosts: Sequence[NamedHost]) -> Iterator[str]:
    """The commands of docs/host-tls.md for these hosts."""
    if not hosts:
        return
    yield "# TLS: the authority once, in a directory that stays safe (docs/host-tls.md)"
    yield (
        "test -e ca-key.pem || openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj /CN=hosts-ca "
        "-keyout ca-key.pem -out ca-cert.pem"
    )
    for host in hosts:
        name, place = host.name, "/etc/pki/qemu"
        yield f"# TLS: a certificate for {name}"
        yield (
            f"openssl req -newkey rsa:3072 -nodes -subj /CN={name} -addext subjectAltName=DNS:{name} "
            f"-keyout {name}-key.pem -out {name}.csr"
        )
        yield (
            f"openssl x509 -req -in {name}.csr -copy_extensions copy -CA ca-cert.pem -CAkey ca-key.pem -days 825 "
            f"-out {name}-cert.pem"
        )
        yield host.on(f"mkdir -p {place}")
        copies = [("ca-cert.pem", "ca-cert.pem")]
        for side in ("server", "client"):
            copies += [(f"{name}-cert.pem", f"{side}-cert.pem"), (f"{name}-key.pem", f"{side}-key.pem")]
        yield " && ".join(host.copied(file, f"{place}/{name_there}") for file, name_there in copies)
        group = "chgrp libvirt-qemu {0}/*-key.pem || chgrp qemu {0}/*-key.pem; chmod 640 {0}/*-key.pem"
        yield host.on(group.format(place))
