"""Whether memory and disks of a move to another host go encrypted, and by which certificates. Pure."""

from __future__ import annotations

import errno
import posixpath
from collections.abc import Sequence

from blockferry.host_move.host_plan import PlannedTls
from blockferry.host_move.precheck.host_move_facts import TlsSeen
from blockferry.hosts.neighbour_facts import Certificate

SERVER = "server-cert.pem"


def has_files(certificates: Sequence[Certificate]) -> bool:
    """Return whether a host has every file that TLS takes. The pre-check says whether they are good."""
    return bool(certificates) and all(file.errno not in (errno.ENOENT, errno.ENOTDIR) for file in certificates)


def is_equipped(seen: TlsSeen) -> bool:
    """Return whether both hosts have every file that TLS takes."""
    return has_files(seen.source) and has_files(seen.destination)


def wanted(seen: TlsSeen | None, *, mode: str, require: bool) -> bool:
    """Return whether a move is to use TLS. `mode`: "auto" or "off" (base/config.py).

    Hosts that have certificates are meant to use them: one that has expired or cannot be read is refused, not passed
    over in plain.
    """
    if mode == "off":
        return False
    return require or (seen is not None and is_equipped(seen))


def certificate_name(seen: TlsSeen, address: str, hostname: str) -> str | None:
    """Return the name that the destination's certificate has to be asked for; None when it is for none of both.

    `address`: by which the source reaches the destination, which is what QEMU asks for by itself: then "".
    """
    names = next(
        (certificate.names for certificate in seen.destination if posixpath.basename(certificate.path) == SERVER), ()
    )
    if not names or address in names:
        return ""
    return hostname if hostname in names else None


def planned(seen: TlsSeen, address: str, hostname: str) -> PlannedTls:
    """Return what the plan says of it; the pre-check has found no fault."""
    return PlannedTls(
        posixpath.dirname(seen.source[0].path),
        posixpath.dirname(seen.destination[0].path),
        certificate_name(seen, address, hostname) or "",
    )
