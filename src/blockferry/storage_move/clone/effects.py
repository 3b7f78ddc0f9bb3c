"""Clones of images by their file system: the immutable base below an overlay, and the disk of a VM that is off."""

from __future__ import annotations

import posixpath
import time
from dataclasses import replace

from blockferry.base.errors import CloneFailed, HostCommandFailed
from blockferry.base.units import format_duration, format_size
from blockferry.hosts.helper import files, image_users
from blockferry.hosts.images import reflink
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.destination import mount_check, owner_and_labels
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.observe import fingerprint
from blockferry.storage_move.overlays.record import ComparedBase
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record


def clone_base(context: Context, target: str, seen: Observation) -> None:
    """The base at the destination, cloned from the one below the overlay that is in use at the source.

    Why it is whole: QEMU flushes a disk and opens it anew read-only before its writes go to an overlay (qcow2 tables
    included), and that was seen; the clone is of one instant; and nobody wrote to the file before or behind it.
    """
    disk = context.plan.disk(target)
    before = fingerprint(context.runner, disk.source.path)
    record = _clone(context, disk, seen.record)
    if fingerprint(context.runner, disk.source.path) != before:
        raise CloneFailed(disk.source.path, disk.dest.path, "somebody wrote to it meanwhile, below its overlay")
    point("base-synced")
    done = ComparedBase(before, size=disk.sizes.virtual)
    context.save(record.with_disk(target, replace(record.disk(target), synced=done)))


def clone_off(context: Context, target: str, seen: Observation) -> None:
    """The disk of a VM that is off. A QEMU that starts meanwhile is noticed, and the clone does not count then.

    Nor does it when the old image was written to since it was looked at: `decide` compares its fingerprint.
    """
    disk = context.plan.disk(target)
    record = seen.record.without_verdict(target).without_sync(target).without_cold_copy(target)
    if record != seen.record:
        context.save(record)
    context.cold[target] = 0.0
    context.memory.progress.pop(target, None)
    _nobody_has(context, disk)
    point("cold-copying")
    record = _clone(context, disk, record)
    _nobody_has(context, disk)
    context.cold[target] = 1.0
    destination_effects.note_cold(context, record, target, seen.disk(target).fingerprint)


def _clone(context: Context, disk: DiskPlan, record: Record) -> Record:
    """A clone of the old image under a name that is in the record. Whatever was there of ours is replaced."""
    runner = context.runner
    mount_check.check(context, record.mounts)
    record = destination_effects.make_home(context, record, posixpath.dirname(disk.dest.path))
    record = destination_effects.name_paths(context, record, disk.dest.path)
    destination_effects.mark_file(context, disk.dest.path)
    point("cloning")
    began = time.monotonic()
    # The marker says which file it is before that appears, so that no other one is ever taken for it.
    reflink.clone(
        runner,
        disk.source.path,
        disk.dest.path,
        lambda path: destination_effects.mark_file(context, disk.dest.path, made=path),
    )
    seconds = time.monotonic() - began
    owner_and_labels.give_as(context, owner_and_labels.old_image(context, disk, disk.dest.path), disk.dest.path)
    point("cloned")
    made = files.stat_one(runner, disk.dest.path)
    size = format_size(0 if made is None else made.size)
    took = format_duration(seconds)
    context.log_event("action", f"{disk.target}: {disk.source.path} was cloned to {disk.dest.path} ({size}) in {took}")
    return record


def _nobody_has(context: Context, disk: DiskPlan) -> None:
    """Raise HostCommandFailed when a QEMU has the old image: the loop looks again, and the VM may run by then."""
    if image_users.in_use(context.runner, disk.source.path):
        raise HostCommandFailed(f"cp --reflink=always {disk.source.path}", 1, "a QEMU has it open")
