"""Disks behind an NBD server, as places a disk can go to and come from. Pure.

An export is written as QEMU and qemu-img take it: nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH
(https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md). What is behind it belongs to the server: blockferry
writes to it only where it is named, and never makes or removes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

PORT = 10809
"""The registered port (https://www.iana.org/assignments/service-names-port-numbers)."""

_SCHEMES = ("nbd", "nbd+unix")


@dataclass(frozen=True, slots=True)
class Export:
    """One export of an NBD server, by TCP (host, port) or by a socket on the VM's host."""

    name: str
    host: str = ""
    port: int = PORT
    socket: str = ""

    @property
    def uri(self) -> str:
        """Always written alike, so that two can be compared; qemu-img understands it."""
        if self.socket:
            return f"nbd+unix:///{quote(self.name)}?socket={quote(self.socket)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"nbd://{host}:{self.port}/{quote(self.name)}"


def is_export(place: str | None) -> bool:
    """Whether this names an export rather than a file or a datastore."""
    return place is not None and "://" in place


def parse(text: str) -> Export:
    """Raises ValueError with a sentence for people."""
    example = "write it like nbd://store1:10809/web01-vda or nbd+unix:///web01-vda?socket=/run/nbd.sock"
    try:
        parts = urlsplit(text)
        port = PORT if parts.port is None else parts.port
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"{text!r} is no address of an export; {example}") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"{text!r}: exports of {parts.scheme} are not written to, only those of nbd; {example}")
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        (socket,) = query.pop("socket", [""])
        if query or parts.netloc or not socket.startswith("/"):
            raise ValueError(f"{text!r} names no socket by its absolute path, or more than that; {example}")
        return Export(name, socket=socket)
    if not parts.hostname or query or parts.username is not None or parts.fragment:
        raise ValueError(f"{text!r} names no host, or more than host, port and name; {example}")
    return Export(name, parts.hostname, port)
