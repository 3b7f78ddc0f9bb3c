"""What a dirty bitmap holds, read from an NBD export on the host itself; bitmaps in images of VMs that are off."""

from __future__ import annotations

import json

from blockferry.errors import HostCommandFailed
from blockferry.images.files import absolute
from blockferry.images.runner import Runner
from blockferry.images.shipping import PYTHON, program

_PROGRAM = program("changes_program")

Extent = tuple[int, int, bool]
"""Start and length in bytes, and whether it is dirty."""


def read(runner: Runner, socket: str, export: str, bitmap: str) -> tuple[int, tuple[Extent, ...]]:
    """(size of the export, extents that cover it in order) of `qemu:dirty-bitmap:BITMAP`.

    Raises HostCommandFailed if anything of it could not be read: there is no half of an answer.
    """
    absolute(socket)
    wish = {"socket": socket, "export": export, "context": f"qemu:dirty-bitmap:{bitmap}"}
    result = runner.run([PYTHON, "-I", "-c", _PROGRAM, json.dumps(wish)])
    extents: list[Extent] = []
    size = None
    for line in result.text.splitlines():
        try:
            found = json.loads(line)
        except ValueError:
            raise HostCommandFailed("reading the bitmap", result.status, f"it said {line[:200]!r}") from None
        extents.extend((start, length, dirty) for start, length, dirty in found.get("extents", ()))
        size = found.get("done", size)
    if size is None:
        raise HostCommandFailed("reading the bitmap", result.status, "it ended before it was done")
    return size, tuple(extents)


def remove_bitmap(runner: Runner, path: str, name: str) -> None:
    """Take a bitmap out of a qcow2 that nobody has open. Raises HostCommandFailed."""
    absolute(path)
    runner.run(["qemu-img", "bitmap", "--remove", "-f", "qcow2", "--", path, name])
