"""Disks that go before their running VM: what is next for their overlays. Pure.

In order: overlays above the old images take the guest's writes, all in one instant; the old images, immutable now, go
to the other host in parts, as those of a VM that is off; overlays stand above the new images there; the migration
carries memory and overlays; and each overlay is committed into the new image. Back: each overlay at the source is
committed into the old image, while the VM runs there or is off. How a commit goes, and what is never done
meanwhile: storage_move/overlays/commit_steps.py, which the storage moves share.
"""

from __future__ import annotations

from blockferry.host_move import host_actions, overlay_actions
from blockferry.host_move.host_observation import HostObservation, OverlayLook
from blockferry.host_move.host_plan import HostMovePlan, TravellingDisk
from blockferry.hosts.inventory import PowerState
from blockferry.jobs.action import Action, LookAgain, Park
from blockferry.storage_move.observation import DiskJob, DiskView
from blockferry.storage_move.overlays import commit_steps
from blockferry.storage_move.overlays.commit_steps import Overlaid, Step
from blockferry.storage_move.overlays.record import OverlayState

NOT_LOOKED_S = 0.2


def below(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """On the way across, the source running: the old images are immutable below overlays. None when all are."""
    look, record = seen.overlays, seen.record.first
    if not plan.first:
        return None
    if look is None or not look.state.active:
        return LookAgain("copy", NOT_LOOKED_S)
    for disk in plan.first:
        view, stage = look.disks[disk.target], record.source.get(disk.target)
        if problem := _disturbed(plan, disk, view, stage):
            return host_actions.TurnBack(problem)
        if view.live_overlay and stage is not OverlayState.USED:
            return overlay_actions.NoteOverlay(disk.target, True, OverlayState.USED)
    if look.persistent and any(view.live_overlay != view.config_overlay for view in look.disks.values()):
        return overlay_actions.PointConfig(True)
    bare = tuple(disk.target for disk in plan.first if not look.disks[disk.target].live_overlay)
    return overlay_actions.PutOverlaysAbove(bare) if bare else None


def _disturbed(plan: HostMovePlan, disk: TravellingDisk, view: DiskView, stage: OverlayState | None) -> str:
    """Why this disk cannot go on before its VM, a sentence without its end; "" when it can."""
    if view.foreign_base:
        return (
            f"somebody has made a snapshot of {plan.vm} at the same moment: the overlay of {disk.target} stands on "
            f"{view.foreign_base} and not on {disk.source}, so a copy of that would lack writes"
        )
    if view.job is not DiskJob.NONE:
        return f"a block job runs on {disk.target} of {plan.vm} ({view.foreign or 'a commit of its overlay'})"
    if not view.live_overlay and stage not in (None, OverlayState.NAMED):
        return f"{plan.vm} does not run on the overlay {disk.overlay} any more"
    return ""


def above(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """The overlays at the destination, once what is below them is there."""
    made = seen.record.first.made
    missing = next((disk.target for disk in plan.first if disk.target not in made), None)
    return None if missing is None else overlay_actions.MakeNewOverlay(missing)


def back(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """The VM stays at the source: all that its overlays hold into the old images. None when no overlay is needed."""
    record, look = seen.record.first, seen.overlays
    if not record.files:
        return None
    if look is None:
        return LookAgain("roll back", NOT_LOOKED_S)
    for disk in plan.first:
        stage, view = record.source.get(disk.target), look.disks[disk.target]
        on_it = view.live_overlay if look.state.active else view.config_overlay
        if not on_it and stage is OverlayState.USED:
            return Park(_passed_by(plan, disk.target, disk.overlay, disk.source))
        if step := _step(plan, seen, disk, look, at_source=True):
            return step
    return overlay_actions.RemoveOverlays()


def settle(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """At the destination, where the guest has arrived: each overlay into its base. None when none is left."""
    record, look = seen.record.first, seen.overlays
    if not plan.first or not record.made:
        return None
    if seen.dest.absent:
        return Park(
            f"{plan.dest_host_name} has lost {plan.vm} before what it wrote last was in its new images. Nothing is "
            "removed; its overlays there have these writes"
        )
    if look is None:
        return LookAgain("commit", NOT_LOOKED_S)
    for disk in plan.first:
        stage, view = record.dest.get(disk.target), look.disks[disk.target]
        on_it = view.live_overlay if look.state.active else view.config_overlay
        if not on_it and stage in (None, OverlayState.USED):
            return Park(_passed_by(plan, disk.target, disk.new_overlay, disk.dest))
        if step := _step(plan, seen, disk, look, at_source=False):
            return step
    return overlay_actions.RemoveNewOverlays()


def _passed_by(plan: HostMovePlan, target: str, overlay: str, base: str) -> str:
    return (
        f"{plan.vm} does not use the overlay {overlay} of {target} any more, which holds what its guest wrote last and "
        f"was not seen to be committed into {base}. Nothing is removed. If a snapshot stands on the overlay, take it "
        f"away (`virsh blockcommit`); then resume this move"
    )


def _step(
    plan: HostMovePlan, seen: HostObservation, disk: TravellingDisk, look: OverlayLook, *, at_source: bool
) -> Action | None:
    record, view = seen.record.first, look.disks[disk.target]
    overlay = disk.overlay if at_source else disk.new_overlay
    one = Overlaid(
        vm=plan.vm,
        move=plan.move,
        overlay=overlay,
        base=disk.source if at_source else disk.dest,
        stage=record.at(source=at_source).get(disk.target),
        persistent=look.persistent,
        noted=record.committed.get(overlay, ""),
        attempts=record.attempts,
        saved=look.saved,
        running=look.state is PowerState.RUNNING,
    )
    step = commit_steps.live(one, view) if look.state.active else commit_steps.off(one, view)
    if step is None:
        return None
    return Park(step) if isinstance(step, str) else _action(step, disk.target, at_source=at_source)


def _action(step: Step, target: str, *, at_source: bool) -> Action:
    found: dict[Step, Action] = {
        Step.WRITE_CONFIG: overlay_actions.PointConfig(at_source),
        Step.NOTE_USED: overlay_actions.NoteOverlay(target, at_source, OverlayState.USED),
        Step.NOTE_COMMITTED: overlay_actions.NoteOverlay(target, at_source, OverlayState.COMMITTED),
        Step.START: overlay_actions.BeginCommit(target, at_source),
        Step.AWAIT: LookAgain("commit", 0.1),
        Step.PIVOT: overlay_actions.PivotToBase(target, at_source),
        Step.COMMIT_OFF: overlay_actions.CommitWhileOff(target, at_source),
    }
    return found[step]  # a clean start is asked for nowhere: with such a QEMU no disk goes before its VM
