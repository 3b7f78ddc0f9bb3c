"""Whether what a QEMU sends to another host still arrives there; and ending its migration when it does not.

A link that is cut stalls the migration. The guest runs on at first, but QEMU stands still in a blocking send once
libvirt's keepalive or an abort has it end the migration, and the guest with it, until the link is back. QMP's `yank`
before that ends the connection, and the guest runs on (docs/design/host-move.md).

Seen by the kernel's table of connections: what is not acknowledged is sent again, and the table counts how often. Under
loss that happens on a link that works, too. So the destination is asked by probes of our own, and only when none of
many is answered the link is taken for cut. No libvirt is asked until then.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

SILENT_S = 1.0
"""So long no probe is answered while QEMU's own data is not acknowledged: the link is cut. The kernel sends anew after
0.2 s and a round trip, so that the guest waits less than 2 s in all."""

DISKS_SILENT_S = 10.0
"""The same while only disks are copied: the guest runs on meanwhile, and a short break is no reason to begin anew. It
has to be less than the time of libvirt's keepalive (30 s)."""

RESEND_S = 0.5
"""By then the kernel has sent anew what was not acknowledged, on links with a round trip of up to 0.3 s."""

PROBE_S = 0.1
PROBE_LIFE_S = 2.0
YANK_S = 1.5
AGAIN_S = 1.0


@dataclass
class UnacknowledgedConnection:
    """A connection of QEMU's whose data is not acknowledged."""

    remote: tuple[str, int]
    since: float  # monotonic seconds of the first look that saw it so


def encoded(address: str) -> str:
    """An address as /proc/net/tcp writes it: words of the machine's own byte order."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def resolved(name: str) -> dict[str, str]:
    """The host's addresses: as the table writes them -> as people do. Raises OSError."""
    found = {}
    for one in socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM):
        address = str(one[4][0]).partition("%")[0]
        found[encoded(address)] = address
        if ":" not in address:  # from a socket of both families
            found["0000000000000000FFFF0000" + encoded(address)] = address
    return found


def resending(pid: int, addresses: dict[str, str]) -> dict[str, tuple[str, int]]:
    """Inode -> remote of this process's connections to these addresses that wait for an acknowledgement in vain."""
    rows: dict[str, tuple[str, int]] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}") as file:
            for words in map(str.split, file):
                host, _, port = words[2].partition(":")
                if host in addresses and len(words) > 9 and int(words[6], 16) > 0 and words[9] != "0":
                    rows[words[9]] = addresses[host], int(port, 16)
    if not rows:
        return {}
    own = sockets(pid)
    return {inode: remote for inode, remote in rows.items() if inode in own}


def sockets(pid: int) -> set[str]:
    """The inodes of a process's sockets."""
    found = set()
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{name}")
                if link.startswith("socket:["):
                    found.add(link[8:-1])
    return found


class Probes:
    """Short connections to a port of the destination. A refusal is an answer, too: it comes from there."""

    def __init__(self) -> None:
        self.under_way: list[tuple[socket.socket, float]] = []
        self.answered_at = 0.0
        self.next_at = 0.0

    def look(self, now: float) -> None:
        """Note those that were answered."""
        left = []
        for link, began in self.under_way:
            number = link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number == 0 and not connected(link) and now - began < PROBE_LIFE_S:
                left.append((link, began))
                continue
            if number == errno.ECONNREFUSED or (number == 0 and connected(link)):
                self.answered_at = now
            close(link)
        self.under_way = left

    def send(self, remote: tuple[str, int], now: float) -> None:
        if now < self.next_at:
            return
        self.next_at = now + PROBE_S
        link = socket.socket(socket.AF_INET6 if ":" in remote[0] else socket.AF_INET)
        link.setblocking(False)
        number = link.connect_ex(remote)
        if number in (0, errno.ECONNREFUSED):
            self.answered_at = now
        if number == errno.EINPROGRESS:
            self.under_way.append((link, now))
        else:
            close(link)

    def end(self) -> None:
        for link, _ in self.under_way:
            close(link)
        self.under_way = []


def connected(link: socket.socket) -> bool:
    try:
        link.getpeername()
    except OSError:
        return False
    return True


def close(link: socket.socket) -> None:
    """At once, and without a word that the other side would wait for."""
    with contextlib.suppress(OSError):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()


@dataclass
class StallWatch:
    """`query`: a QMP command by way of libvirt, its answer or None. `addresses`: of the destination."""

    addresses: dict[str, str]
    query: Callable[[dict[str, Any], float], Any]
    stalled: dict[str, UnacknowledgedConnection] = field(default_factory=dict)  # inode -> connection
    probes: Probes = field(default_factory=Probes)
    ask_at: float = 0.0

    def look(self, pid: int) -> float | None:
        """End the migration when its link is cut. Seconds for which it was stalled when that was done, else None."""
        now = time.monotonic()
        found = resending(pid, self.addresses)
        self.stalled = {
            inode: UnacknowledgedConnection(remote, self.stalled[inode].since if inode in self.stalled else now)
            for inode, remote in found.items()
        }
        if not self.stalled:
            self.probes.end()
            return None
        self.probes.look(now)
        oldest = min(self.stalled.values(), key=lambda sent: sent.since)
        self.probes.send(oldest.remote, now)
        silent = now - max(oldest.since, self.probes.answered_at)
        if silent < SILENT_S or now < self.ask_at:
            return None
        self.ask_at = now + AGAIN_S
        return now - oldest.since if self.end(all_of_it=silent >= DISKS_SILENT_S) else None

    def end_if_stalled(self, pid: int) -> bool:
        """Before an abort: end what waits for an acknowledgement, however short. Whether that was done.

        Of a link that was cut right now the kernel knows after its first time-out only.
        """
        stalled = bool(resending(pid, self.addresses))
        if not stalled:
            time.sleep(RESEND_S)
            stalled = bool(resending(pid, self.addresses))
        return stalled and self.end(all_of_it=True)

    def end(self, *, all_of_it: bool) -> bool:
        """Yank the migration; one that copies disks only when `all_of_it`. Whether QEMU has done it."""
        known = self.query({"execute": "query-yank"}, YANK_S)
        if known is None:
            return False
        wanted = [one for one in known if one.get("type") == "migration"]
        if not wanted and not all_of_it:
            return False
        wanted += copies(known)
        return bool(wanted) and self.query({"execute": "yank", "arguments": {"instances": wanted}}, YANK_S) is not None


def copies(known: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of what can be yanked, the connections to which a migration copies disks (libvirt names them so)."""
    return [
        one for one in known if one.get("type") == "block-node" and str(one.get("node-name")).startswith("migration-")
    ]


def answered(text: str | None) -> Any:
    """What a QMP command has returned, from what virsh prints; None when it was refused or not answered."""
    try:
        said = json.loads(text or "")
    except ValueError:
        return None
    return said.get("return") if isinstance(said, dict) else None
