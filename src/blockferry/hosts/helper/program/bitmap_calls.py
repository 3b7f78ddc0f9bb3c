"""What a dirty bitmap holds that an NBD server shows on a socket of the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program import nbd_binding
from blockferry.hosts.helper.program.refusing import CallRefused

WINDOW = 1024 * 1024 * 1024
DIRTY = 1  # the one flag of qemu:dirty-bitmap, docs/interop/nbd.txt of QEMU


def read(socket: str, export: str, context: str) -> dict[str, Any]:
    """The export's size, and its extents in order: [start, length, whether it is dirty]. `context`: NBD's meta context.

    Raises Refused when anything of it cannot be read.
    """
    nbd = nbd_binding.load()
    try:
        return _read(nbd, socket, export, context)
    except nbd.Error as error:
        raise CallRefused(str(error)) from None


def _read(nbd: Any, socket: str, export: str, context: str) -> dict[str, Any]:
    handle = nbd.NBD()
    handle.add_meta_context(context)
    handle.set_export_name(export)
    handle.connect_unix(socket)
    if not handle.can_meta_context(context):
        raise CallRefused("the server does not offer " + context)
    size, at = handle.get_size(), 0
    extents: list[tuple[int, int, bool]] = []
    while at < size:
        got: list[int] = []

        def keep(name: str, offset: int, entries: list[int], error: Any, got: list[int] = got, at: int = at) -> int:
            if name == context and offset == at:
                got.extend(entries)
            return 0

        handle.block_status(min(WINDOW, size - at), at, keep)
        before = at
        for length, flags in zip(got[::2], got[1::2]):  # noqa: B905 - Python 3.10
            if length > 0:
                extents.append((at, min(length, size - at), bool(flags & DIRTY)))
                at += min(length, size - at)
        if at == before:
            raise CallRefused(f"the server tells nothing of byte {at}")
    handle.shutdown()
    return {"size": size, "extents": extents}


def usable() -> bool:
    """Whether NBD exports can be read on this host. Raises Refused when not."""
    nbd_binding.load()
    return True


CALLS: dict[str, Callable[..., Any]] = {"read": read, "usable": usable}
