"""Reads a dirty bitmap that an NBD server shows. Runs by itself on the host that has the socket.

This file is sent to the host's own python3 as it is (`images/changes.py` does that), so it imports nothing of
blockferry, and needs libnbd's binding for Python there (Debian and Fedora: python3-libnbd).

argv[1] is JSON: socket, export, context (the NBD meta context). Standard output is JSON, one object a line: "extents"
as [start, length, whether it is dirty], and at the end "done" with the export's size. Without "done" it is no answer.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import nbd

WINDOW = 1024 * 1024 * 1024
DIRTY = 1  # the one flag of qemu:dirty-bitmap, docs/interop/nbd.txt of QEMU


def tell(found: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(found) + "\n")


def main(wish: dict[str, Any]) -> None:
    context = wish["context"]
    handle = nbd.NBD()
    handle.add_meta_context(context)
    handle.set_export_name(wish["export"])
    handle.connect_unix(wish["socket"])
    if not handle.can_meta_context(context):
        raise SystemExit(f"the server does not offer {context}")
    size, at = handle.get_size(), 0
    while at < size:
        got: list[int] = []

        def keep(name: str, offset: int, entries: list[int], error: Any, got: list[int] = got, at: int = at) -> int:
            if name == context and offset == at:
                got.extend(entries)
            return 0

        handle.block_status(min(WINDOW, size - at), at, keep)
        extents = []
        for length, flags in zip(got[::2], got[1::2]):  # noqa: B905 - Python 3.10
            extents.append([at, min(length, size - at), bool(flags & DIRTY)])
            at += min(length, size - at)
        if not extents or any(length <= 0 for _, length, _ in extents):
            raise SystemExit(f"the server tells nothing of byte {at}")
        tell({"extents": extents})
    handle.shutdown()
    tell({"done": size})


main(json.loads(sys.argv[1]))
