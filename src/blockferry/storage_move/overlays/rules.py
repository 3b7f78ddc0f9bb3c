"""The overlay way: an overlay takes the guest's writes, so that the base below it can be copied by anything. Pure.

In order: an overlay above the source's base; the base at the destination brought in step with it; an overlay there,
filled by a shallow block copy (with the start race that copy begins before the base is brought in step); the switch
from overlay to overlay; the destination's overlay committed into its base. Back: the source's overlay committed
into the source's base. Method snapshot does that with every disk, method clone too (there the file system clones the
base, docs/clone.md), a live move whose copy broke with the disks that have something to go on from
(docs/design/resume.md), and any background copy with disks whose start would be long (docs/design/start-race.md).

What may never happen here: a base written to while its overlay is in use; an overlay lost that holds what its base
lacks; a base taken for the truth while an overlay holds newer writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from blockferry.base.units import format_rate
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move import actions
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.overlays import commit_steps
from blockferry.storage_move.overlays.commit_steps import COMMIT_ATTEMPTS, Overlaid, Step
from blockferry.storage_move.overlays.convergence import Divergence
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, OnBreak

START_LIMITS_S = (0.08, 0.3)
"""For how long the VM may stand still until a job that is started meanwhile has looked at the disk, by attempt.

An attempt that takes longer is given up, and the VM runs. docs/design/start-race.md.
"""

LAST_COPY_S = 3.0
"""The same for the last attempt to start a copy: a busy host must not keep a move from its end."""

LAST_COMMIT_LOOK_S = 8.0
"""And to start a commit, which has to be done. Less than the guard's 10 s, after which the VM runs in any case."""

CHECKPOINT_SHARE = 0.05
CHECKPOINT_PAUSE_S = 30.0
"""A checkpoint once per so much of the disk, and not more often than that (unless the copy is to be kept)."""


def layered(plan: Plan, record: Record, target: str) -> bool:
    """Whether this disk goes across, while the VM runs, by way of overlays. Never in a mirror's move."""
    if not plan.disk(target).overlays.source:
        return False
    return (
        plan.method is Method.SNAPSHOT
        or plan.disk(target).copy.clone
        or (
            (record.disk(target).partial or plan.disk(target).overlays.first)
            and not plan.synchronous
            and not record.mirror.wanted
        )
    )


def synchronous(plan: Plan, record: Record, target: str) -> bool:
    """Whether the copy of this disk to the destination is to write to both sides at once.

    Never by way of an overlay: a synchronous write to a shallow copy loses data (docs/measured.md, 10).
    """
    return (
        (plan.synchronous or record.mirror.wanted) and not record.mirror.forbidden and not layered(plan, record, target)
    )


def suspended_start(plan: Plan, record: Record, target: str) -> bool:
    disk = plan.disk(target)
    return disk.start.overlay_suspended if layered(plan, record, target) else disk.start.suspended


def start_limit_s(attempts: int, last_s: float) -> float:
    """Return for how many seconds the VM may stand still for the start of a job, with this attempt counted."""
    return START_LIMITS_S[attempts - 1] if 1 <= attempts <= len(START_LIMITS_S) else last_s


def copy_limit_s(plan: Plan, record: Record, targets: Sequence[str]) -> float:
    """The same for copies that are started together; more where the plan has said that it takes longer."""
    for target in targets:
        disk = plan.disk(target)
        if not layered(plan, record, target) and disk.start.pause_s > START_LIMITS_S[0]:
            return LAST_COMMIT_LOOK_S
    return start_limit_s(min(record.copy(target).attempts for target in targets), LAST_COPY_S)


def overlay_before_base(plan: Plan, target: str) -> bool:
    """Whether the copy of the overlay begins before its base is copied.

    Where the start is in a suspension, its length is that of a look at what the overlay holds: right after it was put
    above the disk that is next to nothing, after the copy of a large base it may be very much. libvirt opens the
    backing chain of such a copy at the pivot only, so the base may be written until then (docs/design/start-race.md).
    """
    disk = plan.disk(target)
    return disk.start.overlay_suspended and not disk.copy.clone


def base_to_sync(plan: Plan, record: Record, targets: Sequence[str]) -> str | None:
    """The first of these disks whose base at the destination is not in step yet; None when all are."""
    return next(
        (target for target in targets if layered(plan, record, target) and record.disk(target).synced is None), None
    )


def layer_of(record: Record, target: str, *, at_source: bool) -> OverlayState | None:
    return record.disk(target).overlay(at_source=at_source)


def overlay_path(disk: DiskPlan, *, at_source: bool) -> str:
    return disk.overlays.source if at_source else disk.overlays.dest


def below_its_overlay(seen: Observation) -> list[str]:
    """Disks whose VM uses the base although the overlay holds newer writes: that was not us."""
    return [
        view.target
        for view in seen.disks
        if view.side is DiskSide.SOURCE
        and not view.overlay
        and seen.record.disk(view.target).source_overlay is OverlayState.USED
        and not seen.record.copy(view.target).reverse
    ]


def unfinished(record: Record) -> bool:
    """Whether an overlay at the source may hold what nothing else has."""
    return any(disk.source_overlay in (OverlayState.USED, OverlayState.PIVOTING) for disk in record.disks.values())


def forward(plan: Plan, seen: Observation, views: list[DiskView]) -> actions.Action | None:
    """Running, on the way across: overlays above the source, then the bases. None when both are done."""
    record = seen.record
    mine = [view for view in views if layered(plan, record, view.target)]
    for view in mine:
        stage = layer_of(record, view.target, at_source=True)
        if view.foreign_base:
            return actions.Fail(
                f"somebody has made a snapshot of {plan.vm} at the same moment: the overlay of {view.target} stands on "
                f"{view.foreign_base} and not on {plan.disk(view.target).source.path}, "
                "so a copy of that would lack writes"
            )
        if view.job is DiskJob.COMMIT:
            return actions.AbortCopy(view.target)
        if view.live_overlay and stage is not OverlayState.USED:
            step = commit_steps.in_use(_overlaid(plan, seen, view, at_source=True), view)
            return _action(step, view.target, at_source=True)
        if seen.persistent and view.live_overlay != view.config_overlay:
            return actions.RevertConfig()
        if not view.live_overlay and stage is OverlayState.PIVOTING:
            return actions.SaveLayer(view.target, True, OverlayState.COMMITTED)
    bare = tuple(view.target for view in mine if not view.live_overlay)
    if bare:
        return actions.TakeOverlays(bare)
    for view in mine:
        if record.disk(view.target).synced is None and not overlay_before_base(plan, view.target):
            return actions.SyncBase(view.target)
    return None


def commit(plan: Plan, seen: Observation, *, at_source: bool) -> actions.Action | None:
    """Get rid of the overlays that are in use on one side; None when none is left. Not while we hold the VM."""
    side = DiskSide.SOURCE if at_source else DiskSide.DESTINATION
    for view in seen.disks:
        if view.side is not side:
            continue
        step = _step(plan, seen, view, at_source=at_source)
        if step is not None:
            return step
    return None


def _step(plan: Plan, seen: Observation, view: DiskView, *, at_source: bool) -> actions.Action | None:
    """The next step for one overlay, as an action of this kind of move."""
    one, target = _overlaid(plan, seen, view, at_source=at_source), view.target
    step = commit_steps.live(one, view) if seen.state.active else commit_steps.off(one, view)
    return None if step is None else _action(step, target, at_source=at_source)


def _action(step: Step | str, target: str, *, at_source: bool) -> actions.Action:
    """`step`: or why the move has to be parked."""
    if isinstance(step, str):
        return actions.Park(step)
    found: dict[Step, actions.Action] = {
        Step.WRITE_CONFIG: actions.RevertConfig() if at_source else actions.WriteConfig(),
        Step.NOTE_USED: actions.SaveLayer(target, at_source, OverlayState.USED),
        Step.NOTE_COMMITTED: actions.SaveLayer(target, at_source, OverlayState.COMMITTED),
        Step.START: actions.StartCommit(target),
        Step.START_SUSPENDED: actions.Suspend(switch=False),
        Step.AWAIT_LOOK: actions.Await("initialise", 0.1),
        Step.NOTE_CLEAN: actions.SaveClean(commits=(target,)),
        Step.ABORT: actions.AbortCopy(target),
        Step.AWAIT: actions.Await("commit", 0.1),
        Step.PIVOT: actions.PivotCommit(target, at_source),
        Step.COMMIT_OFF: actions.CommitOff(target, at_source),
    }
    return found[step]


def _overlaid(plan: Plan, seen: Observation, view: DiskView, *, at_source: bool) -> Overlaid:
    disk, record = plan.disk(view.target), seen.record
    overlay = overlay_path(disk, at_source=at_source)
    return Overlaid(
        vm=plan.vm,
        move=plan.move,
        overlay=overlay,
        base=disk.source.path if at_source else disk.dest.path,
        stage=layer_of(record, view.target, at_source=at_source),
        persistent=seen.persistent,
        noted=record.commits.fingerprints.get(overlay, ""),
        attempts=record.commits.attempts,
        saved=seen.saved,
        running=seen.state is PowerState.RUNNING,
        clean_start=disk.start.overlay_suspended,
        begun=record.disk(view.target).commit,
    )


def starting_commit(plan: Plan, seen: Observation, *, at_source: bool) -> actions.Action:
    """Suspended by us for the clean start of a commit: start it, see its first look through, let the guest run.

    A commit of an overlay that is in use is a mirror job, with the same start race as a copy. One for each suspension.
    """
    record, side = seen.record, DiskSide.SOURCE if at_source else DiskSide.DESTINATION
    for view in seen.disks:
        if view.side is not side or not view.live_overlay or view.job not in (DiskJob.NONE, DiskJob.COMMIT):
            continue
        begun = record.disk(view.target).commit
        if view.job is DiskJob.NONE and begun is None:
            fits = layer_of(record, view.target, at_source=at_source) is OverlayState.USED
            fits = fits and (view.config_overlay or not seen.persistent) and record.commits.attempts < COMMIT_ATTEMPTS
            return actions.StartCommit(view.target) if fits else actions.Resume()
        if view.job is DiskJob.COMMIT and begun in (Stage.STARTING, Stage.STARTED):
            if view.initialised:
                return actions.Resume(commits=(view.target,))
            if seen.suspended_s <= start_limit_s(record.commits.attempts, LAST_COMMIT_LOOK_S):
                return actions.Await("initialise", 0.002)
            return actions.Resume()  # it is given up once the guest runs
    return actions.Resume()


def commit_speed(view: DiskView, share: int, *, outrun: bool) -> int:
    """The limit of a commit in bytes/s, 0 for none; `share` is what a copy of this disk would have.

    On the way back there is none: whoever has cancelled wants to be out. Nor when the guest was seen to outrun it: the
    overlay would grow for ever.
    """
    return 0 if outrun or view.side is DiskSide.SOURCE else share


def lifted(outrun: Divergence, *, contract: bool) -> bool:
    """Whether the limit of a commit is lifted now. A speed that follows the guest needs time to show itself."""
    return outrun.sure or not contract


def outrun_words(outrun: Divergence, limit: int, *, contract: bool) -> str:
    """What is told of a commit that the guest outruns; `limit`: bytes/s that it had, 0 for none."""
    under = f" under a limit of {format_rate(limit)}" if limit else ""
    grows = (
        f"the overlay of {outrun.target} grows as fast as it is committed (the guest changes "
        f"{format_rate(outrun.dirty_rate)} of it, and {format_rate(outrun.copy_rate)} are committed{under})"
    )
    if not limit:
        return f"{grows}; it ends when the guest writes less"
    then = ", and the contract of the guest's writes does not hold until it is done" if contract else ""
    return f"{grows}; its limit is lifted{then}"


def stops_for_checkpoint(plan: Plan) -> bool:
    """Whether a checkpoint holds the guest for a moment.

    QEMU keeps a qcow2 destination's tables in memory until it flushes, and it does not flush before the copy is
    in step: killed at 95 %, the file reads as empty (measured). libvirt's only way to a flush is a suspension. What
    was written to a raw file is written out from outside: so the loss of its device or host costs no more, either.
    """
    return any(
        disk.copy.resumable and disk.dest.format == "qcow2" and not (disk.overlays.first or disk.copy.clone)
        for disk in plan.disks
    )


def checkpoint_due(plan: Plan, seen: Observation) -> bool:
    """Whether the destination should be flushed now, so that a death would cost no more than this share."""
    return (
        plan.method is Method.CHANGED_BLOCKS
        and plan.outage.on_break is not OnBreak.REMOVE
        and (plan.pace.contract is None or plan.outage.on_break is OnBreak.KEEP or not stops_for_checkpoint(plan))
        and seen.state is PowerState.RUNNING
        and seen.unflushed >= CHECKPOINT_SHARE
        and (plan.outage.on_break is OnBreak.KEEP or seen.unflushed_s >= CHECKPOINT_PAUSE_S)
    )
