"""Trimming before the bulk: what the guest's file systems do not use is given back, so that it is not copied.

And once more at the end, at the destination: what the guest deletes during the copy is across by then, and what it
discards then is dropped by QEMU (docs/measured.md, 13).

An agent that fails or hangs never hurts the move: libvirt gives it up after a while, and the copy is only larger.
Killed in between, it is simply done again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from blockferry.base.errors import BlockferryError, HostCommandFailed, LibvirtFailed
from blockferry.base.units import KiB, format_duration, format_size
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.storage_move.context import Context
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.points import point

LIMIT_S = 180
"""For how long the agent may work. Its file systems are large, or its storage slow, if it needs longer than this."""

LEAST = 64 * KiB
"""Smaller stretches are left to the second time: the usual cluster of a qcow2, which gives nothing smaller back.

ext4 passes over what it thinks is trimmed already, unless smaller stretches are asked for than the last time
(fs/ext4/mballoc.c, s_last_trim_minblks): so the second time, which asks for all, has it go over everything.
"""

LOOK_S = 0.2


def trim(context: Context, seen: Observation) -> None:
    """Ask the agent, wait for it, note what the old images have become smaller by.

    Raises Stopped when somebody wants us to stop: the agent is then left to end by itself, or by libvirt's limit.
    """
    point("trimming")
    sources = {disk.target: disk.source.path for disk in context.plan.disks if disk.source.kind == "file"}
    freed = _give_back(context, sources, LEAST, "its old disks", "all that its disks hold is copied")
    record = replace(seen.record, trim=replace(seen.record.trim, asked=True))
    for target, size in freed.items():
        record = record.with_disk(target, replace(record.disk(target), trimmed=size))
    context.save(record)
    point("trimmed")


def trim_again(context: Context, seen: Observation) -> None:
    """The same on the new images. All else is done: whatever fails here costs bytes."""
    point("trimming-again")
    new = {disk.target: disk.dest.path for disk in context.plan.disks if not is_export(disk.dest.path)}
    freed = _give_back(context, new, 0, "its new disks", "what it deleted during the copy takes space")
    record = replace(seen.record, trim=replace(seen.record.trim, asked_again=True))
    for target, size in freed.items():
        record = record.with_disk(target, replace(record.disk(target), trimmed_again=size))
    context.save(record)
    point("trimmed-again")


def _give_back(context: Context, paths: Mapping[str, str], least: int, where: str, instead: str) -> dict[str, int]:
    """Target -> bytes by which its file has become smaller; empty, and told, when that did not work."""
    try:
        before = _allocated(context, paths)
        began = time.monotonic()
        _ask(context, least)
        took = format_duration(time.monotonic() - began)
        after = _allocated(context, paths)
    except (LibvirtFailed, HostCommandFailed) as error:
        text = f"{context.plan.vm} was not trimmed, {instead} ({error.sentence})"
        context.notes.append(text)
        context.log_event("warning", text)
        return {}
    freed = {target: max(0, size - after.get(target, size)) for target, size in before.items()}
    context.log_event("action", f"the guest gave back {format_size(sum(freed.values()))} of {where} in {took}")
    return freed


def _ask(context: Context, least: int) -> None:
    """The call, in a thread of its own: an agent that hangs holds up no wish to cancel, and no exit."""
    failed: list[BlockferryError] = []

    def ask() -> None:
        try:
            context.control.trim(LIMIT_S, least)
        except BlockferryError as error:
            failed.append(error)

    thread = threading.Thread(target=ask, name=f"trim-{context.plan.vm}", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(LOOK_S)
        if thread.is_alive() and context.should_stop():
            raise ConversionStopped
    if failed:
        raise failed[0]


def _allocated(context: Context, paths: Mapping[str, str]) -> dict[str, int]:
    """Target -> bytes that the file it stands on takes now; a block device takes all of itself and is left out."""
    stats = files.stat_many(context.runner, paths.values())
    return {target: stat.allocated for target, path in paths.items() if (stat := stats[path]) is not None}
