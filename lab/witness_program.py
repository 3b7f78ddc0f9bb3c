"""Runs in the namespace of the lab's switch: writes down each datagram of a guest that comes in from a host's port.

Arguments: the file to append to. A line: monotonic nanoseconds, port, guest, run, number. It hears a host also while
its link is cut: what the host sends still comes to its port, and goes no further. Only the standard library.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import sys
import time

PORT = 7001
MAGIC = 0x314E4342
_DATAGRAM = struct.Struct("<IIQQ")
_HEADERS = 14 + 20 + 8
"""Ethernet, IPv4 without options, UDP."""

_SO_ATTACH_FILTER = 26
_FILTER = (
    (0x28, 0, 0, 12), (0x15, 0, 5, 0x0800), (0x30, 0, 0, 23), (0x15, 0, 3, 17), (0x28, 0, 0, 36), (0x15, 0, 1, PORT),
    (0x06, 0, 0, 0x40000), (0x06, 0, 0, 0),
)  # fmt: skip
"""The kernel's packet filter for UDP to PORT: a migration's data is not to pass through this process."""


def listen() -> socket.socket:
    """A socket that hears all ports."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in _FILTER))
    program = struct.pack("HL", len(_FILTER), ctypes.addressof(code))
    link.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    return link


def main() -> None:
    """Until it is killed."""
    link = listen()
    with open(sys.argv[1], "a", buffering=1) as file:
        file.write("ready\n")
        while True:
            try:
                frame, (port, _, kind, _, _) = link.recvfrom(200)
            except OSError:  # a port went away with its host
                continue
            if kind == socket.PACKET_OUTGOING or not port.startswith("port") or len(frame) < _HEADERS + _DATAGRAM.size:
                continue
            magic, guest, run, number = _DATAGRAM.unpack_from(frame, _HEADERS)
            if magic == MAGIC:
                file.write(f"{time.monotonic_ns()} {port} {guest} {run} {number}\n")


if __name__ == "__main__":
    main()
