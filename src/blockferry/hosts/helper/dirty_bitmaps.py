"""What a dirty bitmap holds, read from an NBD export on the host itself; bitmaps in images of VMs that are off."""

from __future__ import annotations

from blockferry.hosts.helper.files import absolute
from blockferry.hosts.runner import Runner

Extent = tuple[int, int, bool]
"""Start and length in bytes, and whether it is dirty."""


def read(runner: Runner, socket: str, export: str, bitmap: str) -> tuple[int, tuple[Extent, ...]]:
    """(size of the export, extents that cover it in order) of `qemu:dirty-bitmap:BITMAP`.

    Raises HostCommandFailed if anything of it could not be read: there is no half of an answer.
    """
    absolute(socket)
    found = runner.call("bitmaps.read", socket=socket, export=export, context=f"qemu:dirty-bitmap:{bitmap}")
    return int(found["size"]), tuple((start, length, dirty) for start, length, dirty in found["extents"])


def remove_bitmap(runner: Runner, path: str, name: str) -> None:
    """Take a bitmap out of a qcow2 that nobody has open. Raises HostCommandFailed."""
    absolute(path)
    runner.run(["qemu-img", "bitmap", "--remove", "-f", "qcow2", "--", path, name])
