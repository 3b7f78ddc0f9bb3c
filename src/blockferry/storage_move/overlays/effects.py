"""Effects of the overlay way: overlays above the source, bases brought in step, overlays committed into their bases.

Why and in which order: overlays/rules.py and docs/design/resume.md. An overlay has the VM's writes meanwhile, so what
counts here: an overlay that holds anything is removed only with the proof that its base has it too.
"""

from __future__ import annotations

import posixpath
import time
from dataclasses import replace

from blockferry.base.errors import FileExists, LibvirtFailed, StillInUse
from blockferry.base.units import MiB, format_duration, format_size
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import comparison, files
from blockferry.hosts.images import qemu_img
from blockferry.safety import lost_qemu, proof
from blockferry.storage_move import actions, destination_watchdog, guarding
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.destination import kept_files, mount_check
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.disk_record import Copy, Stage
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.observe import layer_fingerprint, same_path
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.record import ComparedBase, OverlayState
from blockferry.storage_move.overlays.resume_rules import keeps
from blockferry.storage_move.pace import comparison_speed
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record

WORTH_GOING_ON = 64 * MiB
"""A broken copy with less than this is begun anew: the overlay way costs more than copying that much."""

NOT_RUNNING = "VIR_ERR_OPERATION_INVALID"
"""What libvirt says of a VM that is off, before it does anything (virDomainObjCheckActive)."""


def take_overlays(context: Context, action: actions.TakeOverlays, seen: Observation) -> None:
    """Overlays of ours, made and marked before libvirt hears of them, then put above all these disks in one instant."""
    record = seen.record
    overlays = {target: context.plan.disk(target).overlays.source for target in action.targets}
    for target, path in overlays.items():
        disk = context.plan.disk(target)
        _no_longer_needed(context, record, disk, path)
        record = destination_effects.name_paths(context, record, path, ours=[path]).without_sync(target)
        record = record.with_overlay(target, OverlayState.NAMED, at_source=True)
        context.save(record)
        point("overlay-named")
        destination_effects.mark_file(context, path)
        destination_effects.new_image(
            context,
            path,
            disk,
            "qcow2",
            disk.sizes.virtual,
            backing=(disk.source.path, disk.source.format),
            marked=False,  # a marker without an inode proves that libvirt was never told of it
        )
        destination_effects.mark_file(context, path, made=True)
    point("overlay-made")
    context.control.take_overlays(overlays, {target: context.plan.disk(target).source.path for target in overlays})
    point("overlay-taken")
    for target in overlays:
        record = record.with_overlay(target, OverlayState.USED, at_source=True)
    context.save(record)
    names = ", ".join(overlays)
    context.log_event("action", f"overlays take the writes of {names}; what is below them is immutable now")


def _no_longer_needed(context: Context, record: Record, disk: DiskPlan, overlay: str) -> None:
    """Raise StillInUse unless an overlay of ours can go: never used, or all of it proven to be in its base."""
    runner = context.runner
    if files.stat_one(runner, overlay) is None:
        return
    doubt = proof.blocker(
        context.site, overlay, context.claims(), going=record.created, patience_s=0, sure=False, is_base=False
    )
    if doubt is not None:
        raise StillInUse(overlay, doubt)
    at_source = same_path(overlay, disk.overlays.source)
    committed = record.commits.fingerprints.get(overlay)
    if (
        committed is not None
        and committed.split("|")[-1] == layer_fingerprint(runner, disk, at_source=at_source).split("|")[-1]
    ):
        return
    if destination_effects.unfinished(runner, overlay, context.plan.move):
        return  # we died while it was made, so it may be no image at all; libvirt hears of an overlay only afterwards
    if qemu_img.holds_data(runner, overlay):
        raise StillInUse(overlay, "it holds writes of which it is not proven that its base has them")


def remove_overlay(context: Context, record: Record, disk: DiskPlan) -> None:
    """Take away the overlay above the source, on the way back. Raises StillInUse while it may be needed."""
    _no_longer_needed(context, record, disk, disk.overlays.source)
    files.remove_file(context.runner, disk.overlays.source)


def settle(context: Context, target: str, seen: Observation) -> None:
    """The overlay at the destination goes, then the new image is settled. Raises StillInUse while it may be needed."""
    disk, record = context.plan.disk(target), seen.record
    overlay = disk.overlays.dest
    if overlay and overlay in record.created:
        if seen.state.active and record.graph.doubt:
            context.notes.append(f"{overlay} stays: it could not be told whether QEMU still uses it")
            context.log_event("warning", context.notes[-1])
        else:
            if overlays_rules.layer_of(record, target, at_source=False) is not None:  # else the VM never was on it
                _no_longer_needed(context, record, disk, overlay)
            context.check()
            files.remove_file(context.runner, overlay)
            files.remove_file(context.runner, overlay + destination_effects.MARKER)
    destination_effects.settle(context, target, seen)


def note_layer(context: Context, action: actions.SaveLayer, seen: Observation) -> None:
    disk = context.plan.disk(action.target)
    record = seen.record.with_overlay(action.target, action.layer, at_source=action.at_source)
    if action.layer is OverlayState.COMMITTED:
        overlay = disk.overlays.source if action.at_source else disk.overlays.dest
        state = layer_fingerprint(context.runner, disk, at_source=action.at_source)
        record = replace(
            record, commits=replace(record.commits, fingerprints={**record.commits.fingerprints, overlay: state})
        )
        if not action.at_source:  # libvirt has pointed the persistent XML to the base, without what it drops
            record = replace(record, configuration=replace(record.configuration, written=False))
    if action.at_source:
        # The base at the source was, or may be, written to: what was brought in step with it is not any more.
        record = record if action.layer is OverlayState.USED else record.without_sync(action.target)
    context.save(record)


def sync_base(context: Context, target: str, seen: Observation) -> None:
    """The base at the destination like the immutable one at the source, by comparing what is there already."""
    disk = context.plan.disk(target)
    record = _destination(context, disk, seen.record)
    done = bring_in_step(context, disk, disk.source.path, disk.source.format, record)
    point("base-synced")
    context.resynced[target] = done
    record = record.with_disk(target, replace(record.disk(target), synced=done))
    context.save(record)


def create_overlay(context: Context, target: str, seen: Observation) -> None:
    """An empty overlay at the destination, above the base that is in step, or is to be."""
    disk = context.plan.disk(target)
    mount_check.check(context, seen.record.mounts)
    record = seen.record if seen.record.disk(target).synced is not None else _destination(context, disk, seen.record)
    record = destination_effects.name_paths(context, record, disk.overlays.dest)
    point("image-named")
    destination_effects.mark_file(context, disk.overlays.dest)
    base = (disk.dest.path, disk.dest.format)
    destination_effects.new_image(context, disk.overlays.dest, disk, "qcow2", disk.sizes.virtual, backing=base)
    destination_effects.mark_file(context, disk.overlays.dest, made=True)
    point("image-made")
    context.save(record.with_copy(target, Copy(Stage.IMAGE, -1, record.copy(target).attempts)))


def cold_copy(context: Context, target: str, seen: Observation) -> None:
    """The disk of a VM that is off, going on from what a broken copy has left at the destination."""
    disk, view, record = context.plan.disk(target), seen.disk(target), seen.record
    source = (disk.overlays.source, "qcow2") if view.config_overlay else (disk.source.path, disk.source.format)
    # From here on the image at the destination may hold more than the source's base.
    record = record.without_sync(target).without_verdict(target).without_cold_copy(target)
    if record != seen.record:
        context.save(record)
    if not worth_going_on(context, disk, record):
        destination_effects.cold_copy(context, target, replace(seen, record=record), source)
        return
    record = record.with_disk(target, replace(record.disk(target), partial=True))
    context.save(record)
    record = _destination(context, disk, record)
    point("cold-copying")
    done = bring_in_step(context, disk, *source, record)
    context.resynced[target] = done
    destination_effects.note_cold(context, record, target, view.fingerprint)


def forget_copy(context: Context, target: str, seen: Observation) -> None:
    """The block job is gone with its QEMU. What it has copied is gone on with, where that is possible and worth it."""
    disk, record = context.plan.disk(target), seen.record
    context.memory.progress.pop(target, None)
    context.memory.flushed_bytes.pop(target, None)
    again = disk.overlays.source and keeps(context.plan.outage.on_break, context.plan.method, cancelled=False)
    if not record.disk(target).partial and again and worth_going_on(context, disk, record):
        record = record.with_disk(target, replace(record.disk(target), partial=True))
    word = "gone on with by comparing" if record.disk(target).partial else "begun anew"
    context.log_event("warning", f"the copy of {target} broke with its QEMU; it is {word}")
    context.save(record.with_copy(target, Copy(Stage.NONE, -1, record.copy(target).attempts)))


def _destination(context: Context, disk: DiskPlan, record: Record) -> Record:
    """The image at the destination that is to be brought in step: the broken copy if it is sound, else a new one."""
    if record.disk(disk.target).partial:
        record = kept_files.take_over(context, record, disk)
        if destination_effects.is_somebody_s(context.runner, disk.dest.path):
            raise FileExists(disk.dest.path)
        doubt = _unfit(context, disk)
        if doubt is None:
            # It is this move's from now on, whoever made it: an old disk, or the broken copy of an earlier move.
            destination_effects.mark_file(context, disk.dest.path, made=True)
            if disk.dest.format == "qcow2":
                qemu_img.repair_leaks(context.runner, disk.dest.path)
            return record
        context.log_event("warning", f"the broken copy of {disk.target} is of no use ({doubt}); it is begun anew")
    mount_check.check(context, record.mounts)
    record = destination_effects.make_home(context, record, posixpath.dirname(disk.dest.path))
    record = destination_effects.name_paths(context, record, disk.dest.path)
    destination_effects.mark_file(context, disk.dest.path)
    destination_effects.new_image(
        context,
        disk.dest.path,
        disk,
        disk.dest.format,
        disk.sizes.virtual,
        cluster_size=disk.dest.cluster_size,
        extended_l2=disk.dest.extended_l2,
    )
    destination_effects.mark_file(context, disk.dest.path, made=True)
    if not record.disk(disk.target).partial:
        record = record.with_disk(disk.target, replace(record.disk(disk.target), partial=True))
    context.save(record)
    return record


def _unfit(context: Context, disk: DiskPlan) -> str | None:
    file_stat = files.stat_one(context.runner, disk.dest.path)
    if file_stat is None:
        return f"{disk.dest.path} is gone"
    if (other := destination_effects.why_not_ours(context, disk.dest.path)) is not None:
        return other
    return comparison.usable(context.runner, disk.dest.path, disk.dest.format, disk.sizes.virtual)


def worth_going_on(context: Context, disk: DiskPlan, record: Record) -> bool:
    """Whether the image at the destination holds enough to compare rather than to copy anew."""
    if not disk.copy.resumable or disk.dest.path not in record.created:
        return False
    file_stat = files.stat_one(context.runner, disk.dest.path)
    if (
        file_stat is None
        or file_stat.kind != "file"
        or file_stat.allocated < min(WORTH_GOING_ON, disk.sizes.allocation // 4)
    ):
        return False
    return comparison.problem(context.runner) is None and _unfit(context, disk) is None


def bring_in_step(context: Context, disk: DiskPlan, source: str, source_format: str, record: Record) -> ComparedBase:
    """Compare and copy with progress; the figures, which also go into the story. Nobody writes to `source`."""
    point("syncing-base")
    began = time.monotonic()
    context.memory.progress.pop(disk.target, None)
    done = comparison.sync(
        context.runner,
        source,
        source_format,
        disk.dest.path,
        disk.dest.format,
        speed=comparison_speed.speed(context, record),
        progress=lambda state: destination_effects.show_cold(context, disk, state.fraction),
        should_stop=context.should_stop,
    )
    seconds = time.monotonic() - began
    read, written = done.source_read + done.dest_read, done.written
    share = 100 * written / max(1, disk.sizes.virtual)
    context.log_event(
        "action",
        f"{disk.target}: {disk.dest.path} was brought in step in {format_duration(seconds)}: {format_size(read)} read "
        f"on both sides, {format_size(written)} written ({share:.1f} % of the disk)",
    )
    fingerprint = layer_fingerprint(context.runner, disk, at_source=True).split("|")[0]
    return ComparedBase(fingerprint, read, written, disk.sizes.virtual, round(seconds, 3))


def start_commit(context: Context, action: actions.StartCommit, seen: Observation, speed: int) -> None:
    """`speed`: bytes/s that the user and the guest's contract allow now, 0 for no limit."""
    before, target = seen.record, action.target
    record = replace(
        before.with_commits((target,), Stage.STARTING),
        commits=replace(before.commits, attempts=before.commits.attempts + 1),
    )
    context.save(record)
    point("commit-starting")
    context.memory.commits.pop(action.target, None)
    share = overlays_rules.commit_speed(seen.disk(action.target), speed, outrun=action.target in context.memory.outrun)
    context.control.start_commit(action.target, share)
    context.applied[action.target] = share
    point("commit-called")
    context.save(record.with_commits((action.target,), Stage.STARTED))
    point("commit-started")
    context.log_event("action", f"the overlay of {action.target} is being committed into its base")


def outrun(context: Context, seen: Observation) -> None:
    """Tell of overlays that grow faster than they are committed; from now on nothing limits that."""
    contract = context.plan.pace.contract is not None
    for divergence in seen.outrun:
        if divergence.target in context.memory.outrun or not overlays_rules.lifted(divergence, contract=contract):
            continue
        context.memory.outrun.add(divergence.target)
        context.memory.commits.pop(divergence.target, None)  # with another limit it is another copy
        text = overlays_rules.outrun_words(divergence, context.applied.get(divergence.target, 0), contract=contract)
        context.notes.append(text)
        context.log_event("warning", text)


def pivot_commit(context: Context, action: actions.PivotCommit, seen: Observation) -> None:
    """From the overlay to its base, under the running guest: one disk, so no suspension is needed."""
    asked_before = (
        overlays_rules.layer_of(seen.record, action.target, at_source=action.at_source) is OverlayState.PIVOTING
    )
    record = seen.record.with_overlay(action.target, OverlayState.PIVOTING, at_source=action.at_source)
    if action.at_source:
        record = record.without_sync(action.target)
    record = replace(record, commits=replace(record.commits, attempts=0))
    context.save(record)
    point("commit-pivoting")
    try:
        context.control.pivot(action.target)
    except LibvirtFailed as error:
        if error.libvirt_code == NOT_RUNNING and not asked_before and not context.control.look(()).state.active:
            # libvirt looks whether the VM runs before it asks QEMU for anything: so the overlay was written last.
            context.save(record.with_overlay(action.target, OverlayState.USED, at_source=action.at_source))
        raise
    point("commit-pivoted")


def commit_off(context: Context, action: actions.CommitOff, seen: Observation) -> None:
    """The same for a VM that is off. QEMU's image lock keeps it from starting meanwhile."""
    disk = context.plan.disk(action.target)
    overlay = disk.overlays.source if action.at_source else disk.overlays.dest
    point("committing-off")
    record = seen.record.with_overlay(action.target, OverlayState.USED, at_source=action.at_source)
    if action.at_source:
        record = record.without_sync(action.target)
    context.save(record)
    # The overlay's before: the VM may be started on it as soon as the commit is over, and then it holds more.
    above = layer_fingerprint(context.runner, disk, at_source=action.at_source).split("|")[1]
    qemu_img.commit(context.runner, overlay)
    point("committed-off")
    state = layer_fingerprint(context.runner, disk, at_source=action.at_source).split("|")[0] + "|" + above
    record = record.with_overlay(action.target, OverlayState.COMMITTED, at_source=action.at_source)
    context.save(
        replace(record, commits=replace(record.commits, fingerprints={**record.commits.fingerprints, overlay: state}))
    )
    context.log_event("action", f"the overlay of {action.target} was committed into its base")


def keep_old_base_whole(context: Context, disk: DiskPlan) -> None:
    """Before an old disk is kept: what its overlay holds belongs into it. Nobody uses either any more."""
    if files.stat_one(context.runner, disk.overlays.source) is not None:
        qemu_img.commit(context.runner, disk.overlays.source)


def checkpoint(context: Context, action: actions.Checkpoint, seen: Observation, guard_s: float) -> None:
    """Write out the destination; and have QEMU flush its own part, by a suspension of milliseconds."""
    before = time.monotonic()
    copied = {target: one.cur for target, one in context.memory.progress.items()}
    for disk in context.plan.disks:  # what is in the page cache would have to be written in the suspension
        for place in (disk.source.path, disk.dest.path) if action.suspend else (disk.dest.path,):
            if not is_export(place):
                files.flush(context.runner, place)
    context.memory.flushed_bytes.update(copied)  # also when the rest does not work: the next try is the next checkpoint
    context.memory.checkpoint_at = time.monotonic()
    took = f"{format_duration(context.memory.checkpoint_at - before)} of writing out"
    share = ", ".join(f"{target} {format_size(size)}" for target, size in copied.items())
    if not action.suspend:
        context.log_event("action", f"what is copied ({share}) is on stable storage, after {took}")
        return
    stall_s = _hold_for_flush(context, seen.record, guard_s)
    if stall_s is not None:
        context.stalls["checkpoint"] = max(stall_s, context.stalls.get("checkpoint", 0.0))
        text = f"what is copied ({share}) was flushed; the VM was suspended for {format_duration(stall_s)} for it"
        context.log_event("action", f"{text}, after {took}")


def _hold_for_flush(context: Context, record: Record, guard_s: float) -> float | None:
    """How long the VM was suspended, in seconds; None when libvirt refused, or its owner had paused the VM.

    A VM that its owner has paused while the files were written out stays paused: then nothing is flushed in QEMU, and
    the next checkpoint tries again.
    """
    context.memory.resumed = True  # nothing is suspended by us, also where the note is made and not answered
    name = context.guard.name_suspension()
    context.save(replace(record, switch=replace(record.switch, suspended=True, name=name, begun=False)))
    point("checkpoint-suspending")
    destination_watchdog.arm(context)
    guarding.arm(context, guard_s)
    began = time.monotonic()
    ours = True  # also when libvirt does not say whether it was done
    context.memory.resumed = False
    try:
        ours = context.control.suspend()
        point("checkpoint-suspended")
    except LibvirtFailed as error:
        context.log_event("warning", error.sentence)
        return None
    finally:
        try:
            runs = True
            if ours:
                done = context.guard.let_run()
                runs = context.control.resume() if done is None else done
            stands = not runs and lost_qemu.may_stand(context.control, context.runner)
        finally:
            stall_s = time.monotonic() - began
        if not stands:
            context.memory.resumed = runs
            context.guard.disarm()
            context.save(replace(record, switch=replace(record.switch, suspended=False)))
    return stall_s if ours else None
