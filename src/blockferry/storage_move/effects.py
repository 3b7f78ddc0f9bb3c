"""Which effect carries out which action. The intent is in the journal before it; every effect may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from blockferry.storage_move import actions, destination_watchdog
from blockferry.storage_move.clone import effects as clone_effects
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.destination import release
from blockferry.storage_move.firmware import effects as firmware_effects
from blockferry.storage_move.firmware import managed_save
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.lost_vm import effects as lost_vm_effects
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.overlays import effects as overlays_effects
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.pace import throttle
from blockferry.storage_move.switch import block_jobs, configuration
from blockferry.storage_move.switch import effects as switch_effects
from blockferry.storage_move.trim import effects as trim_effects
from blockferry.storage_move.verify import effects as verify_effects

Effect = Callable[[Context, Any, Observation], None]
"""What an action does to the host: (the move, the action, what was seen). Raises BlockferryError when it fails."""


def perform(context: Context, action: actions.Action, seen: Observation) -> None:
    """Carry out one action. Raises BlockferryError when the host refuses; then look again and decide anew."""
    EFFECTS[type(action)](context, action, seen)


def _plain(effect: Callable[[Context, Observation], None]) -> Effect:
    """The effect of an action that carries nothing."""
    return lambda context, _action, seen: effect(context, seen)


def _of_disk(effect: Callable[[Context, str, Observation], None]) -> Effect:
    """The effect of an action that carries only the target of a disk."""
    return lambda context, action, seen: effect(context, action.target, seen)


def _create_image(context: Context, action: actions.CreateImage, seen: Observation) -> None:
    if overlays_rules.layered(context.plan, seen.record, action.target):
        overlays_effects.create_overlay(context, action.target, seen)
    else:
        destination_effects.create_image(context, action.target, seen)


def _sync_base(context: Context, action: actions.SyncBase, seen: Observation) -> None:
    if context.plan.disk(action.target).copy.clone:
        clone_effects.clone_base(context, action.target, seen)
    else:
        overlays_effects.sync_base(context, action.target, seen)


def _cold_copy(context: Context, action: actions.ColdCopy, seen: Observation) -> None:
    if context.plan.disk(action.target).copy.clone:
        clone_effects.clone_off(context, action.target, seen)
    else:
        overlays_effects.cold_copy(context, action.target, seen)


def _start_commit(context: Context, action: actions.StartCommit, seen: Observation) -> None:
    overlays_effects.start_commit(context, action, seen, block_jobs.speed(context, seen))


def _checkpoint(context: Context, action: actions.Checkpoint, seen: Observation) -> None:
    overlays_effects.checkpoint(context, action, seen, switch_effects.GUARD_START_S)


def _copy_nvram(context: Context, _action: actions.CopyNvram, seen: Observation) -> None:
    with managed_save.or_back(context, seen):
        firmware_effects.copy_nvram(context, seen)


def _restore_vm(context: Context, action: actions.RestoreVm, seen: Observation) -> None:
    with managed_save.or_back(context, seen):
        managed_save.restore_vm(context, action, seen.record)


def _not_now(context: Context, action: actions.NotNow, seen: Observation) -> None:
    managed_save.not_now(context, action.why, seen.record)


def _release_source(context: Context, action: actions.ReleaseSource, seen: Observation) -> None:
    release.release_source(context, action.path, seen)


EFFECTS: dict[type[actions.Action], Effect] = {
    actions.Mark: _plain(configuration.mark),
    actions.Unmark: _plain(configuration.unmark),
    actions.MeasureGuest: _plain(block_jobs.measure_guest),
    actions.TrimGuest: _plain(trim_effects.trim),
    actions.TrimAgain: _plain(trim_effects.trim_again),
    # what is made at the destination
    actions.CopyHome: _plain(home_effects.copy_home),
    actions.CopyLayers: _of_disk(destination_effects.copy_layers),
    actions.CreateImage: _create_image,
    actions.ColdCopy: _cold_copy,
    actions.Settle: _of_disk(overlays_effects.settle),
    # copies of a running VM's disks
    actions.StartCopy: block_jobs.start_copy,
    actions.SaveClean: block_jobs.note_clean,
    actions.Await: block_jobs.look_again,
    actions.AbortCopy: block_jobs.abort_copy,
    actions.ForgetCopy: _of_disk(overlays_effects.forget_copy),
    actions.Fail: block_jobs.note_failure,
    actions.GoSynchronous: block_jobs.go_synchronous,
    actions.LeaveSynchronous: destination_watchdog.leave_synchronous,
    actions.SaveFenced: destination_watchdog.save_fenced,
    actions.ThrottleGuest: throttle.throttle,
    actions.UnthrottleGuest: _plain(throttle.unthrottle),
    # overlays
    actions.TakeOverlays: overlays_effects.take_overlays,
    actions.SaveLayer: overlays_effects.note_layer,
    actions.SyncBase: _sync_base,
    actions.StartCommit: _start_commit,
    actions.PivotCommit: overlays_effects.pivot_commit,
    actions.CommitOff: overlays_effects.commit_off,
    actions.Checkpoint: _checkpoint,
    # the switch
    actions.FlushDestination: _plain(switch_effects.flush_destination),
    actions.Suspend: switch_effects.suspend,
    actions.Pivot: switch_effects.pivot,
    actions.Resume: switch_effects.resume,
    actions.SaveSwitched: _plain(switch_effects.note_switched),
    actions.SaveGraph: switch_effects.note_graph,
    actions.PointAtTruth: switch_effects.point_at_truth,
    actions.ResumeGuest: _plain(switch_effects.resume_guest),
    # libvirt's configuration
    actions.WriteConfig: _plain(configuration.write_config),
    actions.WriteSnapshots: _plain(configuration.write_snapshots),
    actions.MoveMedium: configuration.move_medium,
    actions.RevertConfig: _plain(configuration.revert_config),
    # verification
    actions.PrepareExport: _plain(verify_effects.prepare_view),
    actions.StartExport: _plain(verify_effects.take_view),
    actions.Verify: _of_disk(verify_effects.verify),
    actions.EndExport: verify_effects.end_view,
    # UEFI variables
    actions.CopyNvram: _copy_nvram,
    actions.PointNvram: firmware_effects.point_nvram,
    actions.SaveVm: _plain(managed_save.save_vm),
    actions.SaveManagedSave: _plain(managed_save.note_saved),
    actions.RestoreVm: _restore_vm,
    actions.EndManagedSave: _plain(managed_save.let_go),
    actions.NotNow: _not_now,
    actions.ReleaseNvram: _plain(firmware_effects.release_nvram),
    actions.KeepNvram: firmware_effects.leave_nvram,
    # a VM that libvirt has lost
    actions.LetLostRun: _plain(lost_vm_effects.let_run),
    actions.SaveLost: _plain(lost_vm_effects.note_lost),
    actions.PointToCurrent: _plain(lost_vm_effects.point_to_current),
    actions.BarStart: lost_vm_effects.bar_start,
    actions.EndLost: _plain(lost_vm_effects.end),
    actions.SaveFound: _plain(lost_vm_effects.note_found),
    # what is taken away
    actions.ReleaseSource: _release_source,
    actions.ReleaseHome: _plain(home_effects.release_home),
    actions.RemoveDestination: _plain(release.remove_destination),
}
"""One for each action but those that end a round of the loop (Action.ends_round); tests/unit/test_act.py sees to it."""
