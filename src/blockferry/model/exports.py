"""Disks behind a server, NBD or iSCSI, as places a disk can go to and come from. Pure.

An export is written as QEMU and qemu-img take it: nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH
(https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md), iscsi://HOST[:PORT]/TARGET/LUN
(https://www.qemu.org/docs/master/system/qemu-block-drivers.html). What is behind it belongs to the server: blockferry
writes to it only where it is named, and never makes or removes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

NBD, ISCSI = "nbd", "iscsi"
PORTS = {NBD: 10809, ISCSI: 3260}
"""The registered ones (https://www.iana.org/assignments/service-names-port-numbers)."""

_LUN = re.compile(r"[^/]+/\d+$")
_EXAMPLE = (
    "write it like nbd://store1:10809/web01-vda, nbd+unix:///web01-vda?socket=/run/nbd.sock or "
    "iscsi://store1:3260/iqn.2026-11.example:disks/1"
)


@dataclass(frozen=True, slots=True)
class Export:
    """One export of a server: by TCP (host, port), or of NBD by a socket on the VM's host.

    `name`: of NBD any text; of iSCSI the target and the number of the LUN, TARGET/LUN, as in libvirt's XML.
    """

    name: str
    host: str = ""
    port: int = PORTS[NBD]
    socket: str = ""
    protocol: str = NBD

    @property
    def uri(self) -> str:
        """Always written alike, so that two can be compared; qemu-img understands it."""
        if self.socket:
            return f"nbd+unix:///{quote(self.name)}?socket={quote(self.socket)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}/{quote(self.name, safe='/:')}"


def is_export(place: str | None) -> bool:
    """Whether this names an export rather than a file or a datastore."""
    return place is not None and "://" in place


def parse(text: str) -> Export:
    """Raises ValueError with a sentence for people."""
    try:
        parts = urlsplit(text)
        port = parts.port
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"{text!r} is no address of an export; {_EXAMPLE}") from None
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        (socket,) = query.pop("socket", [""])
        if query or parts.netloc or not socket.startswith("/"):
            raise ValueError(f"{text!r} names no socket by its absolute path, or more than that; {_EXAMPLE}")
        return Export(name, socket=socket)
    if parts.scheme not in PORTS:
        raise ValueError(f"{text!r}: a disk can go to an export of NBD or iSCSI, and to nothing else; {_EXAMPLE}")
    if not parts.hostname or query or parts.username is not None or parts.fragment:
        raise ValueError(f"{text!r} names no host, or more than host, port and name; {_EXAMPLE}")
    if parts.scheme == ISCSI and not _LUN.match(name):
        raise ValueError(f"{text!r} names no target and LUN; {_EXAMPLE}")
    return Export(name, parts.hostname, PORTS[parts.scheme] if port is None else port, protocol=parts.scheme)
