"""Acting: carries out one action. The intent is in the journal before the effect; every effect may be repeated."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import assert_never

from blockferry.engine import (
    cloning,
    firmware,
    footing,
    hanging,
    holding,
    home,
    layering,
    lost,
    making,
    past,
    release,
    throttle,
    trim,
    verify,
)
from blockferry.engine.context import Context
from blockferry.engine.observe import TemplateLook, layer_print, same_path
from blockferry.engine.points import point
from blockferry.errors import BlockferryError, CopyIncomplete, LibvirtFailed
from blockferry.hypervisor.control import Control, CopyOrder
from blockferry.hypervisor.diskxml import Before
from blockferry.images import exporting, files
from blockferry.images.copying import Stopped
from blockferry.model import action as act
from blockferry.model import layers, pace
from blockferry.model.decide import PIVOT_ATTEMPTS, retry_after_s
from blockferry.model.exports import is_export
from blockferry.model.inventory import Mirror, PowerState
from blockferry.model.observation import Job, Observation, Side
from blockferry.model.plan import DiskPlan
from blockferry.model.record import Copy, Layer, Record, Stage, View
from blockferry.units import MiB, format_duration, format_rate, format_size

GUARD_START_S = 10.0
GUARD_SWITCH_S = 3.0
"""For how long the guard lets a VM stay suspended. The drain limit of `decide` is 1 s, a switch takes 20 ms."""

PIVOT_PATIENCE_S = 1.5

GOING_OFF_S = 1.5
SHUTTING_DOWN_S = 60.0
"""For how long a VM is given to go off, once a copy has ended: when nothing shows it yet, when libvirt says so."""

TEMPLATE_LOOK_S = 1.0
"""So long storage may take, while the VM stands still, to say that a reused layer has not changed; else no switch."""

FRESH_S = 0.5
"""A flush that is older does not count as a look at the new images: somebody may have deleted them since."""

FLUSH_LOOK_S = 0.5
SILENT_S = 10.0
"""Storage that has said nothing for so long is worth a warning."""


def perform(context: Context, action: act.Action, seen: Observation) -> None:
    """Carry out one action. Raises BlockferryError when the host refuses; then look again and decide anew."""
    match action:
        case act.Mark():
            _mark(context, seen)
        case act.Unmark():
            _unmark(context, seen)
        case act.TrimGuest():
            trim.trim(context, seen)
        case act.TrimAgain():
            trim.trim_again(context, seen)
        case act.MeasureGuest():
            _measure_guest(context, seen)
        case act.GoSynchronous():
            _go_synchronous(context, action, seen)
        case act.LeaveSynchronous():
            hanging.leave_synchronous(context, action, seen)
        case act.NoteCutOff():
            hanging.note_cut_off(context, action, seen)
        case act.ThrottleGuest():
            throttle.throttle(context, action, seen)
        case act.UnthrottleGuest():
            throttle.unthrottle(context, seen)
        case act.Suspend():
            _suspend(context, action, seen)
        case act.Resume():
            _resume(context, action, seen)
        case act.StartCopy():
            _start_copy(context, action, seen)
        case act.NoteClean():
            _note_clean(context, action, seen)
        case act.Await():
            _await(context, action, seen)
        case act.FlushDestination():
            _flush(context, seen)
        case act.Pivot():
            _pivot(context, action, seen)
        case act.AbortCopy():
            _abort(context, action, seen)
        case act.ForgetCopy():
            layering.forget_copy(context, action.target, seen)
        case act.Fail():
            _fail(context, action, seen)
        case act.ResumeGuest():
            _resume_guest(context, seen)
        case act.NoteGraph():
            _note_graph(context, action, seen)
        case act.PointAtTruth():
            _point_at_truth(context, action, seen)
        case act.NoteSwitched():
            _note_switched(context, seen)
        case act.WriteConfig():
            _write_config(context, seen)
        case act.WriteSnapshots():
            _write_snapshots(context, seen)
        case act.MoveMedium():
            _move_medium(context, action, seen)
        case act.RevertConfig():
            _revert_config(context, seen)
        case act.CopyHome():
            home.copy_home(context, seen)
        case act.CopyLayers():
            making.copy_layers(context, action.target, seen)
        case act.CreateImage():
            if layers.layered(context.plan, seen.record, action.target):
                layering.create_overlay(context, action.target, seen)
            else:
                making.create_image(context, action.target, seen)
        case act.TakeOverlays():
            layering.take_overlays(context, action, seen)
        case act.NoteLayer():
            layering.note_layer(context, action, seen)
        case act.SyncBase():
            if context.plan.disk(action.target).clone:
                cloning.clone_base(context, action.target, seen)
            else:
                layering.sync_base(context, action.target, seen)
        case act.StartFold():
            layering.start_fold(context, action, seen, _speed(context, seen))
        case act.PivotFold():
            layering.pivot_fold(context, action, seen)
        case act.Fold():
            layering.fold_off(context, action, seen)
        case act.Checkpoint(_):
            layering.checkpoint(context, action, seen, GUARD_START_S)
        case act.ColdCopy():
            if context.plan.disk(action.target).clone:
                cloning.clone_off(context, action.target, seen)
            else:
                layering.cold_copy(context, action.target, seen)
        case act.PrepareView():
            verify.prepare_view(context, seen)
        case act.TakeView():
            verify.take_view(context, seen)
        case act.Verify():
            verify.verify(context, action.target, seen)
        case act.EndView():
            verify.end_view(context, action, seen)
        case act.Settle():
            making.settle(context, action.target, seen)
        case act.CopyNvram():
            with holding.or_back(context, seen):
                firmware.copy_nvram(context, seen)
        case act.PointNvram():
            firmware.point_nvram(context, action, seen)
        case act.SaveVm():
            holding.save_vm(context, seen)
        case act.NoteSaved():
            holding.note_saved(context, seen)
        case act.RestoreVm():
            with holding.or_back(context, seen):
                holding.restore_vm(context, action, seen.record)
        case act.LetGo():
            holding.let_go(context, seen)
        case act.NotNow():
            holding.not_now(context, action.why, seen.record)
        case act.ReleaseNvram():
            firmware.release_nvram(context, seen)
        case act.LeaveNvram():
            firmware.leave_nvram(context, action, seen)
        case act.LetLostRun():
            lost.let_run(context, seen)
        case act.NoteLost():
            lost.note_lost(context, seen)
        case act.PointToCurrent():
            lost.point_to_current(context, seen)
        case act.BarStart():
            lost.bar_start(context, action, seen)
        case act.EndLost():
            lost.end(context, seen)
        case act.NoteFound():
            lost.note_found(context, seen)
        case act.RemoveDestination():
            release.remove_destination(context, seen)
        case act.ReleaseSource():
            release.release_source(context, action.path, seen)
        case act.ReleaseHome():
            home.release_home(context, seen)
        case act.Finish() | act.Park() | act.Done() | act.Follow() | act.AwaitPowerOff():
            raise AssertionError("the loop ends a move, not an effect")
        case _:
            assert_never(action)


def _mark(context: Context, seen: Observation) -> None:
    for disk in context.plan.disks:
        if disk.target in seen.record.partial:  # what another move has left is this one's from now on
            making.mark_file(context, disk.dest, made=True)
    record = seen.record
    if not record.mounts:
        record = replace(record, mounts=footing.mounts(context))
    if context.plan.persistent and seen.mark is None:
        record = replace(record, bare=context.control.has_no_metadata())
    if record != seen.record:
        context.note(record)
    if not record.disks_before and not record.switched:
        found = context.control.config_disks(tuple(disk.target for disk in context.plan.disks))
        record = replace(record, disks_before=found)
        context.note(record)
    context.control.mark(context.plan.move, context.journal)
    context.note(replace(record, marked=True))
    point("marked")


def _unmark(context: Context, seen: Observation) -> None:
    context.control.unmark(bare=seen.record.bare)
    point("unmarked")


MEASURE_S = 3.0


def _measure_guest(context: Context, seen: Observation) -> None:
    """The guest's writes before there is a copy: what a slowdown is held against, and what the report compares."""
    contract, pacer = context.plan.contract, context.pacer
    before = None
    untouched = all(view.job is Job.NONE for view in seen.disks) and seen.state is PowerState.RUNNING
    if contract is not None and pacer is not None and untouched:
        before = pacer.measure(MEASURE_S, context.should_stop)
        limit = pace.limit_s(contract, before)
        found = f"{before.writes_per_s:.0f} writes/s, p50 {format_duration(before.p50_s)}"
        found += f", p99 {format_duration(before.p99_s)}"
        context.tell("action", f"before the copy: {found}; the contract is a p99 of {format_duration(limit)}")
        if pace.hopeless(limit, before):
            context.tell(
                "warning",
                f"the guest's writes are slower than the contract already (p99 {format_duration(before.p99_s)}, "
                f"contract {format_duration(limit)}); the copy will go at its least, {format_rate(pace.FLOOR)}",
            )
        elif contract.latency_s is None and before.writes < pace.BASELINE_WRITES:
            context.tell("warning", f"the guest writes too little to compare with; {format_duration(limit)} hold")
    context.note(replace(seen.record, guest_before=before, measured=True))
    point("measured")


def _go_synchronous(context: Context, action: act.GoSynchronous, seen: Observation) -> None:
    context.tell("warning", f"{action.why}; the copy is made anew as a mirror, which gets in step by construction")
    context.note(replace(seen.record, synchronous=True))
    point("going-synchronous")


def _suspend(context: Context, action: act.Suspend, seen: Observation) -> None:
    """Suspend, with the guard armed. Noted before, so that whoever comes after knows that the pause is ours."""
    context.memory.resumed = True  # nothing is suspended by us, also where the note is made and not answered
    context.note(replace(seen.record, suspended=True, switching=action.switch))
    point("suspending-to-switch" if action.switch else "suspending-to-start")
    control = context.control
    hanging.arm(context)
    if not context.guard.arm(GUARD_SWITCH_S if action.switch else GUARD_START_S):
        context.tell("warning", "no guard could be started; if blockferry dies now, the VM stays suspended")
    context.memory.pivot_failures = 0
    context.memory.view_tried = context.memory.view_taken = False
    context.memory.suspended_at, context.memory.resumed = time.monotonic(), False
    # When this raises, the VM may stand still all the same (libvirt's answer came too late): the guard stays armed, the
    # record says that a pause is ours, and the next look tells.
    if not control.suspend():  # it went off, or its owner has paused it this moment: then it is not ours to resume
        context.memory.suspended_at, context.memory.resumed = None, True
        context.guard.disarm()
        context.note(seen.record)
        return
    point("suspended-to-switch" if action.switch else "suspended-to-start")


def _resume(context: Context, action: act.Resume, seen: Observation) -> None:
    """Resume first, remember afterwards: every millisecond before is the guest's."""
    point("resuming" if seen.record.switching else "resuming-from-start")
    done = context.guard.let_run()
    was_suspended = context.control.resume() if done is None else done
    if not was_suspended and past.may_stand(context.control, context.runner):
        context.memory.suspended_at = None
        return  # libvirt has lost it, or that cannot be told: it may still stand still; the next look says so
    stall_s = None
    if context.memory.suspended_at is not None:
        stall_s = time.monotonic() - context.memory.suspended_at
    context.memory.suspended_at = None
    context.memory.resumed = context.memory.resumed or was_suspended
    context.guard.disarm()
    point("resumed")
    record = seen.record
    kind = "switch" if record.switching else "start"
    if stall_s is not None:
        context.stalls[kind] = max(stall_s, context.stalls.get(kind, 0.0))
        context.tell("action", f"{context.plan.vm} was suspended for {format_duration(stall_s)} ({kind})")
    if was_suspended:
        for target in action.clean:
            record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
    if action.switch_failed:
        record = replace(record, switch_attempts=record.switch_attempts + 1)
        context.memory.retry_at = time.monotonic() + retry_after_s(record.switch_attempts)
        context.tell("warning", "the switch could not be made this time; the VM runs on, the copies stay ready")
    context.memory.flushed_at = None
    # With a disk across, only `switched` may take its place: until then this is all that tells of the switch.
    across = any(view.side is Side.DESTINATION for view in seen.disks)
    if context.memory.view_taken:
        record = replace(record, view=View.HELD)
    context.note(replace(record, suspended=False, switching=record.switching and across))


def _start_copy(context: Context, action: act.StartCopy, seen: Observation) -> None:
    disk = context.plan.disk(action.target)
    before = seen.record.copy(disk.target)
    if not action.reverse:
        seen = replace(seen, record=hanging.begin(context, seen.record))
    attempts = before.attempts + 1 if before.reverse == action.reverse else 1
    layered = layers.layered(context.plan, seen.record, disk.target)
    if action.reverse:
        synchronous = not context.plan.background_only
    else:
        synchronous = layers.synchronous(context.plan, seen.record, disk.target)
    copy = Copy(Stage.STARTING, seen.incarnation, attempts, action.reverse, synchronous)
    record = seen.record.with_copy(disk.target, copy)
    if action.reverse:
        record = replace(record, switch_attempts=0)  # those were on the way across
    if action.reverse and layered:
        # The old base becomes the whole disk again; the overlay that stood on it is of no more use.
        state = layer_print(context.runner, disk, True)
        record = record.with_layer(disk.target, True, Layer.FOLDED)
        record = replace(record, folded_as={**record.folded_as, disk.source_overlay: state})
    context.note(record)
    point("starting-copy")
    context.memory.progress.pop(disk.target, None)
    context.memory.flushed_bytes.pop(disk.target, None)
    context.cold.pop(disk.target, None)
    speed = _speed(context, seen)
    share = max(1, speed // len(context.plan.disks)) if speed else 0
    context.control.start_copy(disk.target, _order(context, disk, copy, layered, share))
    context.applied[disk.target] = share
    point("copy-called")
    context.note(record.with_copy(disk.target, replace(copy, stage=Stage.STARTED)))
    point("copy-started")
    way = (disk.dest, disk.source) if action.reverse else (disk.source, disk.dest)
    back = " back" if action.reverse else ""
    context.tell("action", f"the copy{back} of {disk.target} began: {way[0]} -> {way[1]}")


def _order(context: Context, disk: DiskPlan, copy: Copy, layered: bool, bandwidth: int) -> CopyOrder:
    if copy.reverse:
        return CopyOrder(
            dest=disk.source,
            dest_format=disk.source_format,
            block=disk.source_kind == "block",
            backing=None,
            synchronous=copy.synchronous,
            bandwidth=bandwidth,
            buffer=context.plan.buffer,
            secret=None if disk.luks is None else disk.luks.secret,
        )
    if layered:
        # Only in the background: a synchronous write to a shallow copy loses data (docs/measured.md, 10).
        return CopyOrder(
            dest=disk.dest_overlay,
            dest_format="qcow2",
            backing=(disk.dest, disk.dest_format),
            synchronous=False,
            bandwidth=bandwidth,
            buffer=context.plan.buffer,
        )
    return CopyOrder(
        dest=disk.dest,
        dest_format=disk.dest_format,
        backing=disk.backing,
        synchronous=copy.synchronous,
        bandwidth=bandwidth,
        granularity=disk.granularity,
        buffer=context.plan.buffer,
        secret=None if disk.luks is None else disk.luks.secret,
    )


def _note_clean(context: Context, action: act.NoteClean, seen: Observation) -> None:
    record = seen.record
    for target in action.targets:
        record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
    context.note(record)


def _await(context: Context, action: act.Await, seen: Observation) -> None:
    """Nothing but to look again; the loop waits. A changed bandwidth is applied here."""
    if action.why == "fold":
        layering.outrun(context, seen)
    if action.why in ("copy", "fold"):
        apply_bandwidth(context, seen)
    if action.why == "copy":
        throttle.count(context)
        throttle.see_to_it(context, seen)
        point("copying")


def apply_bandwidth(context: Context, seen: Observation) -> None:
    """Give each running job its share of the bandwidth that the user wants now, or that the guest can bear.

    Once a copy is in step QEMU applies no limit to it (docs/measured.md): the others have its share.
    """
    running = [view for view in seen.disks if view.info is not None]
    limited = sum(not view.ready for view in running) or len(running) if context.pacer else len(running)
    speed = _speed(context, seen) if running else 0
    usual = max(1, speed // limited) if speed else 0
    for view in running:
        outrun = view.target in context.memory.outrun
        share = layers.fold_speed(view, usual, outrun=outrun) if view.job is Job.FOLD else usual
        applied = context.applied.get(view.target, -1)
        if applied != share and not (context.pacer and 0.97 * share < applied <= share):  # not worth a call
            context.control.set_speed(view.target, share)
            context.applied[view.target] = share


def _speed(context: Context, seen: Observation) -> int:
    """Bytes/s for all copies and commits together, 0 for no limit."""
    contract, pacer, wanted = context.plan.contract, context.pacer, seen.record.bandwidth
    if contract is None or pacer is None or seen.record.failure is not None:
        return wanted
    if pacer.pace is None:
        pacer.begin(pace.limit_s(contract, seen.record.guest_before))
    return pacer.speed(time.monotonic(), context.memory.made, wanted)


def _flush(context: Context, seen: Observation) -> None:
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
            over = layers.layered(context.plan, seen.record, disk.target)
            for place in (disk.source_overlay, disk.dest_overlay) if over else (disk.source, disk.dest):
                if not is_export(place):  # QEMU flushes that
                    _flush_file(context, place)
        footing.check(context, seen.record.mounts)
        if gone := footing.deleted(context):  # a base below its overlay is not flushed here, and needed all the same
            raise CopyIncomplete(gone[0], f"{context.plan.disk(gone[0]).dest} is gone, somebody has deleted it")
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
            context.tell("warning", f"the storage of {path} has not answered for {SILENT_S:g} s; waiting for it")
        if context.should_stop():
            pending.leave()
            raise Stopped
    pending.result()


def _pivot(context: Context, action: act.Pivot, seen: Observation) -> None:
    """Switch all disks, then see it through: what is asked of libvirt here is over when this returns.

    The intent is in the record since our suspension; when the VM stands still by its owner's will, it is noted here.
    """
    if not seen.record.switching:
        context.note(replace(seen.record, switching=True))
    point("pivoting")
    flushed_at = context.memory.flushed_at
    fresh = flushed_at is not None and time.monotonic() - flushed_at <= FRESH_S
    back = [view.target for view in seen.disks if view.target in action.targets and view.side is Side.DESTINATION]
    if back and footing.deleted(context, back, at_source=True):
        context.memory.pivot_failures += 1
        return
    if not back and not fresh and footing.deleted(context):
        context.memory.pivot_failures += 1
        return
    changes = TemplateLook(context.runner, context.plan).look(TEMPLATE_LOOK_S)
    if changes is None or changes:
        context.memory.templates = changes or {}
        mixed = any(view.side is Side.DESTINATION for view in seen.disks)
        context.memory.pivot_failures += 1 if changes or mixed else PIVOT_ATTEMPTS  # no answer: the VM does not wait
        return
    if not hanging.disarm(context, seen.record):
        context.memory.pivot_failures += 1
        context.tell("warning", "the destination hangs, or its watch could not be told of the switch; not switched now")
        return
    began = context.memory.suspended_at
    control = context.control
    asked = []
    try:
        for target in action.targets:
            if began is not None and time.monotonic() - began > GUARD_SWITCH_S * 0.8:
                # We were frozen: the guard has let the VM run, or is about to. Look again before more is switched.
                context.memory.suspended_at = None
                return
            control.pivot(target)
            asked.append(target)
            if len(asked) < len(action.targets):
                point("pivoted-one")
    except LibvirtFailed as error:
        context.memory.pivot_failures += 1
        context.tell("warning", error.sentence)
    point("pivots-asked")
    deadline = time.monotonic() + PIVOT_PATIENCE_S
    while asked and time.monotonic() < deadline:
        view = control.look((), context.last_view())
        asked = [one.target for one in view.disks if one.target in asked and one.mirror is not None]
        context.memory.just_seen = None if asked else view
        if asked:
            time.sleep(0.0005)
    if asked:
        context.memory.pivot_failures += 1
    point("pivoted")


def _abort(context: Context, action: act.AbortCopy, seen: Observation) -> None:
    point("aborting")
    record = seen.record
    if not record.copy(action.target).reverse:
        hanging.arm(context)
    context.control.abort(action.target)
    point("abort-asked")
    copy = record.copy(action.target)
    context.note(record.with_copy(action.target, Copy(Stage.NONE, -1, copy.attempts, copy.reverse)))


def _fail(context: Context, action: act.Fail, seen: Observation) -> None:
    problem = action.problem
    if action.disk is not None and _went_off(context):
        context.tell("action", f"{problem}: {context.plan.vm} went off; looking again")
        return
    if action.disk is not None and not seen.silence.hanging and seen.record.cut_off is None:
        problem += _cause(context, context.plan.disk(action.disk))
    context.tell("error", problem)
    context.note(replace(seen.record, failure=seen.record.failure or problem))


def _went_off(context: Context) -> bool:
    """Whether a copy has ended because the VM goes off: then `decide` has a better answer than to fail.

    QEMU ends its block jobs before it ends itself, and libvirt shows the VM as running for a moment longer: seen for
    40 ms on a busy machine. While it is shown as shutting down it is waited for.
    """
    began = time.monotonic()
    limit = GOING_OFF_S if context.memory.suspended_at is None else 0.0
    while time.monotonic() - began < limit and not context.should_stop():
        off = context.control.goes_off()
        if off is None:
            return True
        limit = SHUTTING_DOWN_S if off else GOING_OFF_S
        time.sleep(0.05)
    return False


def _cause(context: Context, disk: DiskPlan) -> str:
    """What may have ended a copy: libvirt says that a job has failed, never why. Looked at now, in a sentence."""
    directory = posixpath.dirname(disk.dest)
    try:
        if is_export(disk.dest):
            exporting.size(context.runner, disk.dest)
            return ": it failed, or somebody else ended it; QEMU's log of the VM, and the server's, may tell more"
        if files.stat_one(context.runner, disk.dest) is None:
            return f": the new image {disk.dest} is gone"
        free = files.free_bytes(context.runner, directory)
        if not files.writable_directory(context.runner, directory):
            return f": {directory} cannot be written any more"
    except BlockferryError as error:
        return f": the destination cannot be looked at ({error.sentence})"
    if free < 64 * MiB:
        return f": the destination {disk.datastore} is full ({format_size(free)} free)"
    return ": it failed, or somebody else ended it; QEMU's log of the VM may tell more"


def _note_switched(context: Context, seen: Observation) -> None:
    assert all(view.side is Side.DESTINATION for view in seen.disks)
    context.note(replace(_with_graph(context, seen), switched=True, switching=False))
    hanging.end(context)
    context.tell("phase", "all disks are at the destination")
    point("switched-noted")


def _resume_guest(context: Context, seen: Observation) -> None:
    """Once: a VM that is paused by an error again, at its new place, stays so."""
    if context.control.resume():
        context.tell("action", f"{context.plan.vm} runs again, as asked; QEMU repeats what had failed")
    point("guest-resumed")
    context.note(replace(seen.record, let_run=True))


def _note_graph(context: Context, action: act.NoteGraph, seen: Observation) -> None:
    record = _with_graph(context, seen)
    context.note(replace(record, graph_folded=record.graph_proven and action.folded))
    point("graph-noted")


def _with_graph(context: Context, seen: Observation) -> Record:
    """The record with what QEMU's block graph has shown; of a VM that is off there is none."""
    graph = seen.graph
    if not seen.state.active or graph is None:
        return seen.record
    if graph.doubt:
        text = f"it is not proven that QEMU uses the new images only ({graph.doubt}); the old files are kept"
        context.notes.append(text)
        context.tell("warning", text)
    return replace(seen.record, graph_proven=graph.proven, graph_doubt=graph.doubt)


def _point_at_truth(context: Context, action: act.PointAtTruth, seen: Observation) -> None:
    """The record says from now on that the switch is not over: off, these disks are copied from their old images."""
    graph = seen.graph
    assert graph is not None
    wanted = {}
    for target in action.targets:
        disk = context.plan.disk(target)
        overlay = same_path(graph.wrong[target], disk.source_overlay)
        wanted[target] = (disk.source_overlay, "qcow2") if overlay else (disk.source, disk.source_format)
        context.tell("error", f"QEMU still writes {target} to {graph.wrong[target]}; the configuration names it again")
    context.note(replace(seen.record, switched=False, switching=True, config_written=False))
    context.control.write_config(wanted, {})
    point("truth-named")


def _write_config(context: Context, seen: Observation) -> None:
    """Persistent XML to the destination, disks and home files in one write.

    A cold copy that somebody has deleted by now is made anew first; no name of what is not there is written down.
    """
    plan, record = context.plan, seen.record
    gone = () if record.switched or seen.state.active else footing.deleted(context)
    if gone:
        context.tell("warning", f"the new image of {', '.join(gone)} is gone; it is copied again")
        left = {target: of for target, of in record.cold_copied.items() if target not in gone}
        context.note(replace(record, cold_copied=left))
        return
    record = home.refresh(context, seen)
    small = home.new_names(plan.home, record)
    wanted = {}
    for disk in plan.disks:
        over = _stays_on_overlay(seen, disk.target, at_source=False)
        wanted[disk.target] = (disk.dest_overlay, "qcow2") if over else (disk.dest, disk.dest_format)
    context.control.write_config(wanted, small, _before(context, record, wanted, at_source=False))
    point("config-written")
    context.note(replace(record, config_written=True))


def _before(
    context: Context, record: Record, wanted: Mapping[str, tuple[str, str]], at_source: bool
) -> dict[str, Before]:
    """The disks of the persistent XML as they were, and under which names the images below them are to stand there."""
    names = {} if at_source else context.plan.new_names
    kept = {disk.target for disk in context.plan.disks if at_source or disk.backing is not None}
    overlays = {path for disk in context.plan.disks for path in (disk.source_overlay, disk.dest_overlay) if path}
    return {
        target: Before(xml, names if target in kept else None, wanted[target][0] in overlays)
        for target, xml in record.disks_before.items()
        if target in wanted
    }


def _write_snapshots(context: Context, seen: Observation) -> None:
    """The snapshots' metadata names the new files; until then the proof keeps the old ones."""
    left = seen.record.home_left
    names = {old: new for old, new in context.plan.new_names.items() if old not in left}
    changed = context.control.write_snapshots(names)
    if changed:
        context.tell("action", f"the metadata of the snapshots {', '.join(changed)} names the new files")
    point("snapshots-written")
    context.note(replace(seen.record, snapshots_written=True))


def _move_medium(context: Context, action: act.MoveMedium, seen: Observation) -> None:
    """A block copy of the read-only medium: the guest notices nothing, even with the ISO mounted.

    Changing the medium would time out on a locked tray, or give the guest I/O errors (docs/measured.md, 5). If it
    does not work, the old ISO is kept until the next power cycle, and the report says so.
    """
    plan, target = context.plan, action.target
    assert plan.home is not None
    file = next(one for one in plan.home.files if one.target == target)
    control = context.control
    try:
        if _medium(control, target) is None:
            control.start_copy(target, CopyOrder(file.dest, "raw"))
        deadline = time.monotonic() + 60 + file.size / MiB
        while (mirror := _medium(control, target)) is not None and time.monotonic() < deadline:
            if mirror.ready and not mirror.ending:
                control.pivot(target)
            time.sleep(0.05)
    except LibvirtFailed as error:
        context.tell("warning", error.sentence)
    context.note(replace(seen.record, media_tried=(*seen.record.media_tried, target)))


def _medium(control: Control, target: str) -> Mirror | None:
    return next((one.mirror for one in control.look(()).disks if one.target == target), None)


def _stays_on_overlay(seen: Observation, target: str, at_source: bool) -> bool:
    """Whether the next start must use the overlay of a side: the VM runs on it, or it holds what its base lacks."""
    view = seen.disk(target)
    if view.side is not (Side.SOURCE if at_source else Side.DESTINATION) or not view.overlay:
        return False
    return view.live is not None or layers.layer_of(seen.record, target, at_source) is not Layer.FOLDED


def _revert_config(context: Context, seen: Observation) -> None:
    plan = context.plan
    small = {new: old for old, new in home.new_names(plan.home, seen.record).items()}
    wanted = {}
    for disk in plan.disks:
        view = seen.disk(disk.target)
        if view.side is Side.DESTINATION:
            # Half a switch: the source of this disk is stale, its next start must not use it.
            wanted[disk.target] = (disk.dest_overlay, "qcow2") if view.overlay else (disk.dest, disk.dest_format)
            continue
        over = _stays_on_overlay(seen, disk.target, at_source=True)
        wanted[disk.target] = (disk.source_overlay, "qcow2") if over else (disk.source, disk.source_format)
    context.control.write_config(wanted, small, _before(context, seen.record, wanted, at_source=True))
