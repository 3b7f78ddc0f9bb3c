"""Disks behind a server, NBD, iSCSI or Ceph RBD, as places a disk can go to and come from. Pure.

An export is written as QEMU and qemu-img take it: nbd://HOST[:PORT]/NAME, nbd+unix:///NAME?socket=PATH
(https://github.com/NetworkBlockDevice/nbd/blob/master/doc/uri.md), iscsi://HOST[:PORT]/TARGET/LUN
(https://www.qemu.org/docs/master/system/qemu-block-drivers.html). An image of Ceph is rbd:///POOL/IMAGE[?conf=PATH],
with the monitors of that configuration on the VM's host, or rbd://MONITOR[:PORT]/POOL/IMAGE. What is behind it belongs
to the server: blockferry writes to it only where it is named, and never makes or removes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote, urlsplit

NBD, ISCSI, RBD = "nbd", "iscsi", "rbd"
PORTS = {NBD: 10809, ISCSI: 3260, RBD: 6789}
"""The registered ones (https://www.iana.org/assignments/service-names-port-numbers)."""

_LUN = re.compile(r"[^/]+/\d+\Z")
_IMAGE = re.compile(r"[^/@:\x00-\x1f]+/[^/@:\x00-\x1f]+\Z")
"""No namespace, no snapshot, no options."""

_EXAMPLE = (
    "write it like nbd://store1:10809/web01-vda, nbd+unix:///web01-vda?socket=/run/nbd.sock, "
    "iscsi://store1:3260/iqn.2026-11.example:disks/1 or rbd:///pool/web01-vda"
)


@dataclass(frozen=True, slots=True)
class NetworkExport:
    """One export of a server: by TCP (host, port), or by a socket (NBD) or a configuration (RBD) on the VM's host.

    `name`: of NBD any text; of iSCSI the target and the number of the LUN, TARGET/LUN; of RBD POOL/IMAGE; as in
    libvirt's XML.
    """

    name: str
    host: str = ""
    port: int = PORTS[NBD]
    socket: str = ""
    protocol: str = NBD
    conf: str = ""

    @property
    def uri(self) -> str:
        """Always written alike, so that two can be compared; qemu-img understands it."""
        if self.socket:
            return f"nbd+unix:///{quote(self.name)}?socket={quote(self.socket)}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        where = f"{host}:{self.port}" if host else ""
        conf = f"?conf={quote(self.conf)}" if self.conf else ""
        return f"{self.protocol}://{where}/{quote(self.name, safe='/:')}{conf}"

    @property
    def storage(self) -> str:
        """As `storage`: two addresses of one storage have the same."""
        return storage(self.protocol, self.name, self.socket or f"{self.host}:{self.port}")


def storage(protocol: str, name: str, where: str) -> str:
    """What tells the storage behind a server, whatever the way to it. Compared before something is overwritten.

    A LUN is named by its target, which is unique in the world (RFC 7143, 4.2.7), through whichever portal; an image of
    Ceph by pool and name, since one cluster has many monitors (so two clusters are taken for one: better refused than
    overwritten). An export of NBD is its server's: `where` is HOST:PORT or a socket.
    """
    if protocol == ISCSI and not _LUN.match(name):
        name += "/0"  # libvirt's default
    return f"{protocol} {where} {name}" if protocol == NBD else f"{protocol} {name}"


def is_export(place: str | None) -> bool:
    """Whether this names an export rather than a file or a datastore."""
    return place is not None and "://" in place


def parse(text: str) -> NetworkExport:
    """Raises ValueError with a sentence for people."""
    try:
        parts = urlsplit(text)
        port = parts.port
        query = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"{text!r} is no address of an export; {_EXAMPLE}") from None
    name = unquote(parts.path.removeprefix("/"))
    if parts.scheme == "nbd+unix":
        sockets = query.pop("socket", [])
        if query or parts.netloc or len(sockets) != 1 or not sockets[0].startswith("/"):
            raise ValueError(f"{text!r} names no socket by its absolute path, or more than that; {_EXAMPLE}")
        return NetworkExport(name, socket=sockets[0])
    if parts.scheme not in PORTS:
        raise ValueError(f"{text!r}: a disk can go to NBD, iSCSI or RBD, and to no other server; {_EXAMPLE}")
    confs = query.pop("conf", []) if parts.scheme == RBD else []
    hostless = parts.scheme == RBD and not parts.netloc
    if query or parts.username is not None or parts.fragment or not (parts.hostname or hostless):
        raise ValueError(f"{text!r} names no host, or more than host, port and name; {_EXAMPLE}")
    if parts.scheme == ISCSI and not _LUN.match(name):
        raise ValueError(f"{text!r} names no target and LUN; {_EXAMPLE}")
    if parts.scheme == RBD and not (_IMAGE.match(name) and confs == [conf for conf in confs[:1] if conf[0] == "/"]):
        raise ValueError(f"{text!r} names no pool and image, or no configuration by its absolute path; {_EXAMPLE}")
    port = PORTS[parts.scheme] if port is None else port
    return NetworkExport(name, parts.hostname or "", port, protocol=parts.scheme, conf="".join(confs))
