"""Effects of the switch: the VM is suspended, all its disks point to the destination, it resumes."""

from __future__ import annotations

import time
from dataclasses import replace

from blockferry.base.errors import CopyIncomplete, LibvirtFailed
from blockferry.base.units import format_duration
from blockferry.hosts.exports import is_export
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.safety import lost_qemu
from blockferry.storage_move import actions, destination_watchdog, guarding
from blockferry.storage_move.context import Context
from blockferry.storage_move.decide import PIVOT_ATTEMPTS, retry_after_s
from blockferry.storage_move.destination import mount_check
from blockferry.storage_move.observation import DiskJob, DiskSide, Observation
from blockferry.storage_move.observe import TemplateLook, same_path
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record
from blockferry.storage_move.verify.record import BackupExport

GUARD_START_S = 10.0

GUARD_SWITCH_S = 3.0
"""For how long the guard lets a VM stay suspended. The drain limit of `decide` is 1 s, a switch takes 20 ms."""

PIVOT_PATIENCE_S = 1.5

TEMPLATE_LOOK_S = 1.0
"""So long storage may take, while the VM stands still, to say that a reused layer has not changed; else no switch."""

FRESH_S = 0.5
"""A flush that is older does not count as a look at the new images: somebody may have deleted them since."""

FLUSH_LOOK_S = 0.5

SILENT_S = 10.0
"""Storage that has said nothing for so long is worth a warning."""


def suspend(context: Context, action: actions.Suspend, seen: Observation) -> None:
    """Suspend, with the guard armed. Noted before, so that whoever comes after knows that the pause is ours."""
    context.memory.resumed = True  # nothing is suspended by us, also where the note is made and not answered
    name = context.guard.name_suspension()
    record = replace(seen.record, switch=replace(seen.record.switch, suspended=True, name=name, begun=action.switch))
    if not action.switch:  # what was noted of commits that are no more counts for nothing
        live = [view.target for view in seen.disks if view.job is DiskJob.COMMIT]
        record = record.with_commits((target for target in record.disks if target not in live), None)
    context.save(record)
    point("suspending-to-switch" if action.switch else "suspending-to-start")
    control = context.control
    destination_watchdog.arm(context)
    guarding.arm(context, GUARD_SWITCH_S if action.switch else GUARD_START_S)
    context.memory.pivot_failures = 0
    # A guard let the VM run after a process died in the middle of its pivots: the guest has written to the disks that
    # were across, so no view is of the instant at which they switched.
    context.memory.view_tried = any(view.live is DiskSide.DESTINATION for view in seen.disks)
    context.memory.view_taken = False
    context.memory.suspended_at, context.memory.resumed = time.monotonic(), False
    # When this raises, the VM may stand still all the same (libvirt's answer came too late): the guard stays armed, the
    # record says that a pause is ours, and the next look tells.
    if not control.suspend():  # it went off, or its owner has paused it this moment: then it is not ours to resume
        context.memory.suspended_at, context.memory.resumed = None, True
        context.guard.disarm()
        context.save(seen.record)
        return
    point("suspended-to-switch" if action.switch else "suspended-to-start")


def resume(context: Context, action: actions.Resume, seen: Observation) -> None:
    """Resume first, remember afterwards: every millisecond before is the guest's."""
    point("resuming" if seen.record.switch.begun else "resuming-from-start")
    done = context.guard.let_run()
    was_suspended = context.control.resume() if done is None else done
    if not was_suspended and lost_qemu.may_stand(context.control, context.runner):
        context.memory.suspended_at = None
        return  # libvirt has lost it, or that cannot be told: it may still stand still; the next look says so
    stall_s = None
    if context.memory.suspended_at is not None:
        stall_s = time.monotonic() - context.memory.suspended_at
    context.memory.suspended_at = None
    context.memory.resumed = True  # by whomever: a pause from now on is its owner's
    context.guard.disarm()
    point("resumed")
    record = seen.record
    kind = "switch" if record.switch.begun else "start"
    if stall_s is not None:
        context.stalls[kind] = max(stall_s, context.stalls.get(kind, 0.0))
        context.log_event("action", f"{context.plan.vm} was suspended for {format_duration(stall_s)} ({kind})")
    # A process that has taken over cannot know whether the guest ran in between: what it finds begun is begun anew.
    clean = was_suspended and stall_s is not None
    record = record.started_clean(action.clean if clean else (), action.commits if clean else ())
    if action.switch_failed:
        record = replace(record, switch=replace(record.switch, attempts=record.switch.attempts + 1))
        context.memory.retry_at = time.monotonic() + retry_after_s(record.switch.attempts)
        context.log_event("warning", "the switch could not be made this time; the VM runs on, the copies stay ready")
    context.memory.flushed_at = None
    # With a disk across, only `switched` may take its place: until then this is all that tells of the switch.
    across = any(view.side is DiskSide.DESTINATION for view in seen.disks)
    if context.memory.view_taken:
        record = replace(record, export=replace(record.export, state=BackupExport.READY))
    context.save(replace(record, switch=replace(record.switch, suspended=False, begun=record.switch.begun and across)))


def flush_destination(context: Context, seen: Observation) -> None:
    """Stopping the VM and switching both flush; do that before, while the guest runs. No limit from here on.

    That holds under a latency contract, too: what is left is a few milliseconds' work, and from now on only what the
    guest writes is copied.
    """
    point("in-step")
    for view in seen.disks:
        if view.info is not None and context.applied.get(view.target, -1) != 0:
            context.control.set_speed(view.target, 0)
            context.applied[view.target] = 0
    started = time.monotonic()
    for _round in range(4):  # what was dirtied during a long flush makes the next one, until it is short
        before = time.monotonic()
        for disk in context.plan.disks:
            over = overlays_rules.layered(context.plan, seen.record, disk.target)
            for place in (disk.overlays.source, disk.overlays.dest) if over else (disk.source.path, disk.dest.path):
                if not is_export(place):  # QEMU flushes that
                    _flush_file(context, place)
        mount_check.check(context, seen.record.mounts)
        if gone := mount_check.deleted(
            context
        ):  # a base below its overlay is not flushed here, and needed all the same
            raise CopyIncomplete(gone[0], f"{context.plan.disk(gone[0]).dest.path} is gone, somebody has deleted it")
        if time.monotonic() - before < 0.15 or time.monotonic() - started > 20:
            break
    context.guard.prepare()
    context.memory.flushed_at = time.monotonic()
    point("flushed")


def _flush_file(context: Context, path: str) -> None:
    """Flush one file: storage that hangs holds up no wish to cancel, and no exit.

    Raises what the flush raises, and Stopped when somebody wants us to; the flush is then left to end by itself.
    """
    pending = context.runner.begin("files.flush", path=path)
    began = time.monotonic()
    told = False
    while not pending.wait(FLUSH_LOOK_S):
        if not told and time.monotonic() - began > SILENT_S:
            told = True
            context.log_event("warning", f"the storage of {path} has not answered for {SILENT_S:g} s; waiting for it")
        if context.should_stop():
            pending.leave()
            raise ConversionStopped
    pending.result()


def pivot(context: Context, action: actions.Pivot, seen: Observation) -> None:
    """Switch all disks, then see it through: what is asked of libvirt here is over when this returns.

    The intent is in the record since our suspension; when the VM stands still by its owner's will, it is noted here.
    """
    if not seen.record.switch.begun:
        context.save(replace(seen.record, switch=replace(seen.record.switch, begun=True)))
    point("pivoting")
    flushed_at = context.memory.flushed_at
    fresh = flushed_at is not None and time.monotonic() - flushed_at <= FRESH_S
    back = [view.target for view in seen.disks if view.target in action.targets and view.side is DiskSide.DESTINATION]
    if back and mount_check.deleted(context, back, at_source=True):
        context.memory.pivot_failures += 1
        return
    if not back and not fresh and mount_check.deleted(context):
        context.memory.pivot_failures += 1
        return
    changes = TemplateLook(context.runner, context.plan).look(TEMPLATE_LOOK_S)
    if changes is None or changes:
        context.memory.templates = changes or {}
        mixed = any(view.side is DiskSide.DESTINATION for view in seen.disks)
        context.memory.pivot_failures += 1 if changes or mixed else PIVOT_ATTEMPTS  # no answer: the VM does not wait
        return
    if not destination_watchdog.disarm(context, seen.record):
        context.memory.pivot_failures += 1
        context.log_event(
            "warning", "the destination hangs, or its watch could not be told of the switch; not switched now"
        )
        return
    began = context.memory.suspended_at
    control = context.control
    asked = []
    try:
        for target in action.targets:
            frozen = began is not None and time.monotonic() - began > GUARD_SWITCH_S * 0.8
            if frozen or (began is not None and context.guard.may_be_over):
                # We were frozen: the guard has let the VM run, or is about to. Look again before more is switched.
                context.memory.suspended_at = None
                return
            control.pivot(target)
            asked.append(target)
            if len(asked) < len(action.targets):
                point("pivoted-one")
    except LibvirtFailed as error:
        context.memory.pivot_failures += 1
        context.log_event("warning", error.sentence)
    point("pivots-asked")
    deadline = time.monotonic() + PIVOT_PATIENCE_S
    while asked and time.monotonic() < deadline:
        view = control.look((), context.last_view())
        asked = [disk.target for disk in view.disks if disk.target in asked and disk.mirror is not None]
        context.memory.just_seen = None if asked else view
        if asked:
            time.sleep(0.0005)
    if asked:
        context.memory.pivot_failures += 1
    point("pivoted")


def note_switched(context: Context, seen: Observation) -> None:
    assert all(view.side is DiskSide.DESTINATION for view in seen.disks)
    record = _with_graph(context, seen)
    context.save(replace(record, switch=replace(record.switch, done=True, begun=False)))
    destination_watchdog.end(context)
    context.log_event("phase", "all disks are at the destination")
    point("switched-noted")


def resume_guest(context: Context, seen: Observation) -> None:
    """Once: a VM that is paused by an error again, at its new place, stays so."""
    if context.control.resume():
        context.log_event("action", f"{context.plan.vm} runs again, as asked; QEMU repeats what had failed")
    point("guest-resumed")
    context.save(replace(seen.record, switch=replace(seen.record.switch, let_run=True)))


def note_graph(context: Context, action: actions.SaveGraph, seen: Observation) -> None:
    record = _with_graph(context, seen)
    context.save(replace(record, graph=replace(record.graph, committed=record.graph.proven and action.committed)))
    point("graph-noted")


def _with_graph(context: Context, seen: Observation) -> Record:
    """The record with what QEMU's block graph has shown; of a VM that is off there is none."""
    graph = seen.graph
    if not seen.state.active or graph is None:
        return seen.record
    if graph.doubt:
        text = f"it is not proven that QEMU uses the new images only ({graph.doubt}); the old files are kept"
        context.notes.append(text)
        context.log_event("warning", text)
    return replace(seen.record, graph=replace(seen.record.graph, proven=graph.proven, doubt=graph.doubt))


def point_at_truth(context: Context, action: actions.PointAtTruth, seen: Observation) -> None:
    """The record says from now on that the switch is not over: off, these disks are copied from their old images."""
    graph = seen.graph
    assert graph is not None
    wanted = {}
    for target in action.targets:
        disk = context.plan.disk(target)
        overlay = same_path(graph.wrong[target], disk.overlays.source)
        wanted[target] = (disk.overlays.source, "qcow2") if overlay else (disk.source.path, disk.source.format)
        context.log_event(
            "error", f"QEMU still writes {target} to {graph.wrong[target]}; the configuration names it again"
        )
    context.save(
        replace(
            seen.record,
            switch=replace(seen.record.switch, done=False, begun=True),
            configuration=replace(seen.record.configuration, written=False),
        )
    )
    context.control.write_config(wanted, {})
    point("truth-named")
