"""Trimming before the bulk: what the guest's file systems do not use is given back, so that it is not copied.

An agent that fails or hangs never hurts the move: libvirt gives it up after a while, and the copy is only larger.
Killed in between, it is simply done again.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from blockferry.engine.context import Context
from blockferry.engine.points import point
from blockferry.errors import BlockferryError, LibvirtFailed
from blockferry.images import files
from blockferry.images.copying import Stopped
from blockferry.model.observation import Observation
from blockferry.units import format_duration, format_size

LIMIT_S = 180
"""For how long the agent may work. Its file systems are large, or its storage slow, if it needs longer than this."""

LOOK_S = 0.2


def trim(context: Context, seen: Observation) -> None:
    """Ask the agent, wait for it, note what the old images have become smaller by.

    Raises Stopped when somebody wants us to stop: the agent is then left to end by itself, or by libvirt's limit.
    """
    point("trimming")
    before = _allocated(context)
    began = time.monotonic()
    freed: dict[str, int] = {}
    try:
        _ask(context)
    except LibvirtFailed as error:
        text = f"{context.plan.vm} was not trimmed, all that its disks hold is copied ({error.sentence})"
        context.notes.append(text)
        context.tell("warning", text)
    else:
        after = _allocated(context)
        freed = {target: max(0, size - after.get(target, size)) for target, size in before.items()}
        took = format_duration(time.monotonic() - began)
        context.tell("action", f"the guest gave back {format_size(sum(freed.values()))} of its old disks in {took}")
    context.note(replace(seen.record, trimmed=freed))
    point("trimmed")


def _ask(context: Context) -> None:
    """The call, in a thread of its own: an agent that hangs holds up no wish to cancel, and no exit."""
    failed: list[BlockferryError] = []

    def ask() -> None:
        try:
            context.control.trim(LIMIT_S)
        except BlockferryError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name=f"trim-{context.plan.vm}", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_S)
        if thread.is_alive() and context.should_stop():
            raise Stopped
    if failed:
        raise failed[0]


def _allocated(context: Context) -> dict[str, int]:
    """Target -> bytes that the file it stands on takes now; a block device takes all of itself and is left out."""
    sources = {disk.target: disk.source for disk in context.plan.disks if disk.source_kind == "file"}
    stats = files.stat_many(context.runner, sources.values())
    return {target: stat.allocated for target, path in sources.items() if (stat := stats[path]) is not None}
