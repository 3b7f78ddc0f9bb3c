"""Which effect carries out which action. The intent is in the journal before it; every effect may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blockferry.engine import (
    block_jobs,
    cloning,
    configuration,
    firmware,
    hanging,
    holding,
    home,
    layering,
    lost,
    making,
    release,
    switch,
    throttle,
    trim,
    verify,
)
from blockferry.engine.context import Context
from blockferry.model import action as act
from blockferry.model import layers
from blockferry.model.observation import Observation

Effect = Callable[[Context, Any, Observation], None]
"""What an action does to the host: (the move, the action, what was seen). Raises BlockferryError when it fails."""


def perform(context: Context, action: act.Action, seen: Observation) -> None:
    """Carry out one action. Raises BlockferryError when the host refuses; then look again and decide anew."""
    EFFECTS[type(action)](context, action, seen)


def _plain(effect: Callable[[Context, Observation], None]) -> Effect:
    """The effect of an action that carries nothing."""
    return lambda context, _action, seen: effect(context, seen)


def _of_disk(effect: Callable[[Context, str, Observation], None]) -> Effect:
    """The effect of an action that carries only the target of a disk."""
    return lambda context, action, seen: effect(context, action.target, seen)


def _create_image(context: Context, action: act.CreateImage, seen: Observation) -> None:
    if layers.layered(context.plan, seen.record, action.target):
        layering.create_overlay(context, action.target, seen)
    else:
        making.create_image(context, action.target, seen)


def _sync_base(context: Context, action: act.SyncBase, seen: Observation) -> None:
    if context.plan.disk(action.target).clone:
        cloning.clone_base(context, action.target, seen)
    else:
        layering.sync_base(context, action.target, seen)


def _cold_copy(context: Context, action: act.ColdCopy, seen: Observation) -> None:
    if context.plan.disk(action.target).clone:
        cloning.clone_off(context, action.target, seen)
    else:
        layering.cold_copy(context, action.target, seen)


def _start_fold(context: Context, action: act.StartFold, seen: Observation) -> None:
    layering.start_fold(context, action, seen, block_jobs.speed(context, seen))


def _checkpoint(context: Context, action: act.Checkpoint, seen: Observation) -> None:
    layering.checkpoint(context, action, seen, switch.GUARD_START_S)


def _copy_nvram(context: Context, _action: act.CopyNvram, seen: Observation) -> None:
    with holding.or_back(context, seen):
        firmware.copy_nvram(context, seen)


def _restore_vm(context: Context, action: act.RestoreVm, seen: Observation) -> None:
    with holding.or_back(context, seen):
        holding.restore_vm(context, action, seen.record)


def _not_now(context: Context, action: act.NotNow, seen: Observation) -> None:
    holding.not_now(context, action.why, seen.record)


def _release_source(context: Context, action: act.ReleaseSource, seen: Observation) -> None:
    release.release_source(context, action.path, seen)


EFFECTS: dict[type[act.Action], Effect] = {
    act.Mark: _plain(configuration.mark),
    act.Unmark: _plain(configuration.unmark),
    act.MeasureGuest: _plain(block_jobs.measure_guest),
    act.TrimGuest: _plain(trim.trim),
    act.TrimAgain: _plain(trim.trim_again),
    # what is made at the destination
    act.CopyHome: _plain(home.copy_home),
    act.CopyLayers: _of_disk(making.copy_layers),
    act.CreateImage: _create_image,
    act.ColdCopy: _cold_copy,
    act.Settle: _of_disk(making.settle),
    # copies of a running VM's disks
    act.StartCopy: block_jobs.start_copy,
    act.NoteClean: block_jobs.note_clean,
    act.Await: block_jobs.look_again,
    act.AbortCopy: block_jobs.abort_copy,
    act.ForgetCopy: _of_disk(layering.forget_copy),
    act.Fail: block_jobs.note_failure,
    act.GoSynchronous: block_jobs.go_synchronous,
    act.LeaveSynchronous: hanging.leave_synchronous,
    act.NoteCutOff: hanging.note_cut_off,
    act.ThrottleGuest: throttle.throttle,
    act.UnthrottleGuest: _plain(throttle.unthrottle),
    # overlays
    act.TakeOverlays: layering.take_overlays,
    act.NoteLayer: layering.note_layer,
    act.SyncBase: _sync_base,
    act.StartFold: _start_fold,
    act.PivotFold: layering.pivot_fold,
    act.Fold: layering.fold_off,
    act.Checkpoint: _checkpoint,
    # the switch
    act.FlushDestination: _plain(switch.flush_destination),
    act.Suspend: switch.suspend,
    act.Pivot: switch.pivot,
    act.Resume: switch.resume,
    act.NoteSwitched: _plain(switch.note_switched),
    act.NoteGraph: switch.note_graph,
    act.PointAtTruth: switch.point_at_truth,
    act.ResumeGuest: _plain(switch.resume_guest),
    # libvirt's configuration
    act.WriteConfig: _plain(configuration.write_config),
    act.WriteSnapshots: _plain(configuration.write_snapshots),
    act.MoveMedium: configuration.move_medium,
    act.RevertConfig: _plain(configuration.revert_config),
    # verification
    act.PrepareView: _plain(verify.prepare_view),
    act.TakeView: _plain(verify.take_view),
    act.Verify: _of_disk(verify.verify),
    act.EndView: verify.end_view,
    # UEFI variables
    act.CopyNvram: _copy_nvram,
    act.PointNvram: firmware.point_nvram,
    act.SaveVm: _plain(holding.save_vm),
    act.NoteSaved: _plain(holding.note_saved),
    act.RestoreVm: _restore_vm,
    act.LetGo: _plain(holding.let_go),
    act.NotNow: _not_now,
    act.ReleaseNvram: _plain(firmware.release_nvram),
    act.LeaveNvram: firmware.leave_nvram,
    # a VM that libvirt has lost
    act.LetLostRun: _plain(lost.let_run),
    act.NoteLost: _plain(lost.note_lost),
    act.PointToCurrent: _plain(lost.point_to_current),
    act.BarStart: lost.bar_start,
    act.EndLost: _plain(lost.end),
    act.NoteFound: _plain(lost.note_found),
    # what is taken away
    act.ReleaseSource: _release_source,
    act.ReleaseHome: _plain(home.release_home),
    act.RemoveDestination: _plain(release.remove_destination),
}
"""One for each action but those that end a round of the loop (Action.ends_round); tests/unit/test_act.py sees to it."""
