"""What to do next. Pure: a plan and an observation in, one action out; no clock, no libvirt, no file.

There is one way through: the same function decides on a quiet day, after a crash, after somebody else has
changed the VM. What may never happen is written in tests/unit/test_decide.py as properties:

- before the switch the source is the truth, nothing on it is changed, cancel is always possible;
- pivots happen only while the VM is suspended (by us or by its owner) and every copy is complete;
- after the switch we only go forward;
- live and persistent configuration agree before any source is released.
"""

from __future__ import annotations

from collections.abc import Mapping

from blockferry.base.units import format_duration
from blockferry.hosts.exports import is_export
from blockferry.hosts.fencing import USUAL
from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.firmware import rules as firmware_rules
from blockferry.storage_move.lost_vm import rules as lost_vm_rules
from blockferry.storage_move.observation import UNKNOWABLE, DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.pace.throttle_rules import AMPLIFICATION, LEAST
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import IfNotConverging
from blockferry.storage_move.switch.graph_proof import old_images
from blockferry.storage_move.trim import rules as trim_rules
from blockferry.storage_move.verify import rules as verify_rules

START_ATTEMPTS = 3
"""How often the copy of a disk is begun before we give up: a start that failed, or was not clean."""

PIVOT_ATTEMPTS = 3
"""How often QEMU may refuse a pivot before the VM runs on."""

THROTTLE_STEP = 0.5
"""A guest that is slowed may change half of what is copied at the same time; if that is not enough, half of that."""

MORE_S = 0.03
"""A VM that stands still for longer already runs before the copy of its next disk is started, in another suspension."""

DRAIN_LIMIT_S = 1.0
"""How long the VM may stay suspended for the last changed regions before it runs on and we try again later."""

RETRY_LIMIT_S = 60.0

BACK_ATTEMPTS = 10
"""How often it is tried to switch the disks back of a switch that broke in the middle, before somebody has to look."""


def decide(plan: Plan, seen: Observation) -> actions.Action:
    """The next action for this move. Total: every observation has an answer."""
    if (first := _lost(plan, seen)) is not None:
        return first
    if _was_fenced(seen) and not _ours_suspended(seen):
        assert seen.health.fenced is not None
        return actions.SaveFenced(seen.health.fenced, seen.health.fenced_after or 0.0)
    action = _decide(plan, seen)
    if seen.record.throttled and _throttle_is_over(seen, action):
        action = actions.UnthrottleGuest()
    return _hands_off(seen, action) if seen.health.hanging or _was_fenced(seen) else action


def _lost(plan: Plan, seen: Observation) -> actions.Action | None:
    """Before anything else: "off" is believed only of a VM of which no QEMU lives."""
    if seen.record.outcome is not None:
        return None
    if seen.state is PowerState.LOST:
        return lost_vm_rules.decide(plan, seen)
    if seen.off_doubt and not seen.state.active:
        return lost_vm_rules.doubt(plan, seen)
    return lost_vm_rules.found(plan, seen) if seen.record.lost is not None else None


def _hands_off(seen: Observation, action: actions.Action) -> actions.Action:
    """The destination hangs: nothing that waits for it is begun, until it answers or has been fenced."""
    if not seen.state.active or all(view.side is DiskSide.DESTINATION for view in seen.disks):
        return action
    if not action.waits_for_destination:
        return action
    if _ours_suspended(seen):
        return actions.Resume(switch_failed=seen.record.switch.begun)
    return actions.Await("hang", 0.25)


def _was_fenced(seen: Observation) -> bool:
    """Whether the destination has been fenced, and nobody has written it down yet."""
    record = seen.record
    over = record.switch.done or record.outcome is not None or record.fencing.fenced is not None
    return seen.health.fenced is not None and not over


def _throttle_is_over(seen: Observation, action: actions.Action) -> bool:
    """Whether the guest's own limits are due: once switched, on the way back, and before anything that ends here."""
    if isinstance(action, actions.Done) or _ours_suspended(seen):
        return False
    across = all(view.side is DiskSide.DESTINATION for view in seen.disks)
    return isinstance(action, (actions.Park, actions.Finish)) or not seen.state.active or across or _going_back(seen)


def _decide(plan: Plan, seen: Observation) -> actions.Action:
    if seen.record.outcome is not None:
        return actions.Done(seen.record.outcome)
    if seen.record.nvram.pending:
        return firmware_rules.next_action(plan, seen)
    if seen.state is PowerState.ABSENT:
        return _without_domain(seen)
    if any(view.ending for view in seen.disks):
        return actions.Await("settle", 0.002)
    strays = [view.target for view in seen.disks if DiskSide.ELSEWHERE in (view.live, view.config, view.side)]
    if strays:
        return _stray(plan, seen, strays)
    if below := overlays_rules.below_its_overlay(seen):
        return _below(plan, seen, below)
    if (stop := _template_changed(plan, seen)) is not None:
        return stop
    if all(view.side is DiskSide.DESTINATION for view in seen.disks):
        return _after_switch(plan, seen) if _proven_across(seen) else _not_proven(plan)
    if seen.record.switch.done:
        return _switched_back(plan, seen)
    if seen.state.active:
        if plan.stays_shut and (stop := _started_sealed(plan, seen)) is not None:
            return stop
        if _going_back(seen):
            return _back_live(plan, seen)
        return _forward_live(plan, seen)
    if _going_back(seen):
        return _back_off(plan, seen)
    return _forward_off(plan, seen)


def _going_back(seen: Observation) -> bool:
    """Whether the way is back to the source.

    A wish to cancel counts until the first disk has switched; then only a failure does: with every copy
    complete, going on is the shorter and safer way.
    """
    if seen.record.failure is not None:
        return True
    mixed = any(view.side is DiskSide.DESTINATION for view in seen.disks)
    return seen.record.wanted is Wanted.CANCEL and not mixed


def _ours_suspended(seen: Observation) -> bool:
    return seen.state is PowerState.PAUSED and seen.record.switch.suspended


# ---------------------------------------------------------------- somebody else was here


def _without_domain(seen: Observation) -> actions.Action:
    """libvirt does not know the VM any more: a transient VM that went off, or an undefined one."""
    record = seen.record
    if record.switch.done:
        return actions.Finish(
            Outcome.MOVED, "the VM is not defined any more; its disks are at the destination, the old ones are kept"
        )
    if overlays_rules.unfinished(record):
        return actions.Park(
            "the VM is not defined any more, and what it wrote last is in overlays at the source, above the disks that "
            "it had before. Nothing is removed; put the overlays into its definition to start it"
        )
    if record.switch.begun or record.any_cold_copied:
        return actions.Park(
            "the VM is gone, and it cannot be told any more which of its disks were already switched. Both sides are "
            "kept: the copies are complete, so the newer file of each disk is the right one"
        )
    if record.created:
        return actions.RemoveDestination()
    if record.failure is None and record.wanted is Wanted.GO:
        return actions.Fail("the VM is not there any more (a transient VM that went off, or it was undefined or moved)")
    return _finish_back(seen)


def _started_sealed(plan: Plan, seen: Observation) -> actions.Action | None:
    """A QEMU runs with an encrypted disk that was to be copied as it is: a copy by that QEMU would not be encrypted."""
    if any(view.side is DiskSide.DESTINATION for view in seen.disks):
        return actions.Park(
            f"{plan.vm} runs with some of its disks at either side, and one of them is encrypted: QEMU would copy it "
            "decrypted. Nothing is removed; power it off and resume the move"
        )
    if _going_back(seen):
        return None
    return actions.Fail(
        f"{plan.vm} was started meanwhile, and an encrypted disk of a running VM would be copied decrypted"
    )


def _stray(plan: Plan, seen: Observation, strays: list[str]) -> actions.Action:
    if _ours_suspended(seen):
        return actions.Resume()
    for view in seen.disks:
        if view.live is DiskSide.ELSEWHERE and view.job is DiskJob.OURS:
            return actions.AbortCopy(view.target)  # in the way of whoever puts that right
    return actions.Park(
        f"disk {', '.join(strays)} points to a file that is neither the old nor the new one; somebody has changed "
        f"{plan.vm} during the move. Nothing is removed"
    )


def _template_changed(plan: Plan, seen: Observation) -> actions.Action | None:
    """A layer that was to be reused is not what it was: no disk goes onto it any more, and none is copied from it."""
    here = [view for view in seen.disks if view.template_changed and view.side is DiskSide.SOURCE]
    across = [view for view in seen.disks if view.template_changed and view.side is DiskSide.DESTINATION]
    if len(across) < len(seen.disks) and across and (here or _going_back(seen)):
        if _ours_suspended(seen):
            return actions.Resume()
        return actions.Park(
            f"{across[0].template_changed} has changed while the switch was under way, or it cannot be looked at any "
            f"more; {plan.vm} has disks at either side. Nothing is removed"
        )
    if not here or _going_back(seen) or seen.record.switch.done:
        return None
    return actions.Fail(
        f"{here[0].template_changed} has changed since it was compared for the disk {here[0].target} to stand on, or "
        "it cannot be looked at any more"
    )


def _below(plan: Plan, seen: Observation, below: list[str]) -> actions.Action:
    if _ours_suspended(seen):
        return actions.Resume()
    names = ", ".join(f"{target} ({plan.disk(target).overlays.source})" for target in below)
    return actions.Park(
        f"{plan.vm} uses the base of {names} although the overlay above it holds newer writes; somebody has changed "
        "it. Nothing is removed"
    )


def _proven_across(seen: Observation) -> bool:
    """Whether the new images are complete, all disks being at the destination.

    A running VM uses them. Of one that is off, only the configuration points there: it was switched while it ran
    (that is noted before the first pivot), or copied cold, and nobody has written to the old disks since. It may
    have been started on them in the moment before the configuration was written.
    """
    record = seen.record
    if seen.state.active or record.switch.done or record.switch.begun:
        return True
    return all(record.disk(view.target).cold_copied == view.fingerprint for view in seen.disks)


def _not_proven(plan: Plan) -> actions.Action:
    return actions.Park(
        f"the configuration of {plan.vm} names the new disks, but the old ones were written to after they were "
        "copied: the VM was started on them meanwhile. Nothing is removed"
    )


def _switched_back(plan: Plan, seen: Observation) -> actions.Action:
    """The destination was the truth, and now the VM is seen at the source: that was not us."""
    if _ours_suspended(seen):
        return actions.Resume()
    return actions.Park(
        f"{plan.vm} had all its disks at the destination and now names old ones again; somebody has changed it. The "
        "newer content is at the destination. Nothing is removed"
    )


# ---------------------------------------------------------------- forward, the VM has a QEMU


def _forward_live(plan: Plan, seen: Observation) -> actions.Action:
    record = seen.record
    for view in seen.disks:
        if view.job is DiskJob.OURS and plan.disk(view.target).encryption.luks is not None and not view.encrypted:
            return actions.Fail(
                f"libvirt did not encrypt the copy of {view.target}, which is encrypted; it is thrown away"
            )
    if _ours_suspended(seen):
        return _switching(plan, seen) if record.switch.begun else _starting(plan, seen)
    if any(view.side is DiskSide.DESTINATION for view in seen.disks):
        # Half a switch, and the VM runs (it was resumed by the guard after a crash of the manager): each disk
        # is whole on its side, so go on with the rest.
        return _copying(plan, seen)
    for view in seen.disks:
        if view.job is DiskJob.FOREIGN:
            return actions.Fail(f"somebody else runs a block job on {view.target} ({view.foreign})")
    if filtered := [view.target for view in seen.disks if view.copy_on_read]:
        return actions.Fail(
            f"{plan.vm} runs with copy_on_read='on' for {', '.join(filtered)}: a live copy would leave QEMU's filter "
            "above the old image"
        )
    if any(disk.copy.as_is for disk in plan.disks):
        return actions.Fail(
            f"{plan.vm} was started during the move; its internal snapshots can only be carried while it is off"
        )
    if any(view.config is DiskSide.DESTINATION for view in seen.disks):
        # Started on the old disks in the moment before a cold move wrote its configuration. What is copied from
        # now on must not be what the next start uses.
        return actions.RevertConfig()
    prepared = _prepare(plan, seen)
    if prepared is None and plan.trim and not record.trim.asked:
        return actions.TrimGuest()
    if prepared is None and plan.pace.contract is not None and not record.measured.done:
        return actions.MeasureGuest()
    return prepared or _copying(plan, seen)


def _prepare(plan: Plan, seen: Observation) -> actions.Action | None:
    """Mark, home, lower layers: what comes before the first block job, for a live and a cold move alike."""
    record = seen.record
    if seen.mark is None and not record.configuration.marked:
        return actions.Mark()
    if not record.home.copied:
        return actions.CopyHome()
    for disk in plan.disks:
        if disk.chain.layers and not record.disk(disk.target).layers_copied:
            return actions.CopyLayers(disk.target)
    return None


def _copying(plan: Plan, seen: Observation) -> actions.Action:
    """Get a clean copy of every disk under way, wait until they are in step, then suspend for the switch."""
    record = seen.record
    outstanding = [view for view in seen.disks if view.side is DiskSide.SOURCE]
    for view in outstanding:
        copy = record.copy(view.target)
        if copy.stage in (Stage.STARTED, Stage.CLEAN) and copy.incarnation != seen.incarnation:
            return actions.ForgetCopy(view.target)
        if copy.stage in (Stage.STARTING, Stage.STARTED) and _may_have_missed_writes(plan, seen, view):
            return _start_again(view, copy.attempts)
        if copy.stage is Stage.STARTED and view.job is DiskJob.NONE:
            return actions.Fail(f"the copy of {view.target} ended before it was complete", view.target)
        if copy.stage is Stage.CLEAN and view.job is not DiskJob.OURS:
            return actions.Fail(f"the copy of {view.target} ended before the switch", view.target)
        if copy.stage is Stage.NONE and view.job is DiskJob.OURS:
            return actions.AbortCopy(view.target)
        synchronous = overlays_rules.synchronous(plan, record, view.target)
        if view.job is DiskJob.OURS and record.mirror.wanted and synchronous and not copy.synchronous:
            return actions.AbortCopy(view.target)
        if view.job is DiskJob.OURS and record.mirror.forbidden and copy.synchronous and not copy.reverse:
            return actions.AbortCopy(view.target)
    overlays = overlays_rules.forward(plan, seen, outstanding)
    if overlays is not None:
        return overlays
    for view in outstanding:
        if record.copy(view.target).stage is Stage.NONE:
            return actions.CreateImage(view.target)
    started = _start(plan, seen, outstanding)
    if started is not None:
        return started
    unsynced = overlays_rules.base_to_sync(plan, record, [view.target for view in outstanding])
    return actions.SyncBase(unsynced) if unsynced is not None else _await_or_suspend(plan, seen, outstanding)


def _may_have_missed_writes(plan: Plan, seen: Observation, view: DiskView) -> bool:
    """Whether the guest ran before the copy had seen the whole disk, or the start never came to be.

    See docs/design/start-race.md. A call that was announced (STARTING) and of which no job is to be seen is
    simply made again.
    """
    if seen.record.copy(view.target).stage is Stage.STARTING and view.job is DiskJob.NONE:
        return True
    ran = seen.state is PowerState.RUNNING or seen.record.copy(view.target).missed
    return view.job is DiskJob.OURS and overlays_rules.suspended_start(plan, seen.record, view.target) and ran


def _start_again(view: DiskView, attempts: int) -> actions.Action:
    if attempts >= START_ATTEMPTS:
        return actions.Fail(f"the copy of {view.target} could not be started cleanly in {attempts} attempts")
    return actions.AbortCopy(view.target) if view.job is DiskJob.OURS else actions.ForgetCopy(view.target)


def _start(plan: Plan, seen: Observation, views: list[DiskView]) -> actions.Action | None:
    """Start the jobs of these disks, in one suspension where the source's format asks for it."""
    record = seen.record
    waiting = [view for view in views if view.job is not DiskJob.OURS and record.copy(view.target).stage is Stage.IMAGE]
    if waiting:
        needs = any(overlays_rules.suspended_start(plan, record, view.target) for view in waiting)
        if needs and seen.state is PowerState.RUNNING:
            return actions.Suspend(switch=False)
        return actions.StartCopy(waiting[0].target)
    fresh = [view for view in views if record.copy(view.target).stage in (Stage.STARTING, Stage.STARTED)]
    if fresh and all(view.initialised for view in fresh):
        return actions.SaveClean(tuple(view.target for view in fresh))
    if fresh:
        return actions.Await("initialise", 0.1)
    return None


def _starting(plan: Plan, seen: Observation) -> actions.Action:
    """Suspended by us for a clean start: start what is to be started, see it through, let the guest run."""
    outstanding = [view for view in seen.disks if view.side is DiskSide.SOURCE]
    record = seen.record
    if any(record.copy(view.target).stage is Stage.NONE for view in outstanding):
        return actions.Resume()
    for view in outstanding:
        stage = record.copy(view.target).stage
        if stage in (Stage.STARTED, Stage.CLEAN) and view.job is not DiskJob.OURS:
            return actions.Resume()
    begun = [view for view in outstanding if record.copy(view.target).stage is Stage.IMAGE]
    pending = [view for view in outstanding if record.copy(view.target).stage in (Stage.STARTING, Stage.STARTED)]
    for view in pending:
        if record.copy(view.target).stage is Stage.STARTING and view.job is DiskJob.NONE:
            return actions.Resume()  # the call failed: let the guest run while we think
    if begun and (not pending or seen.suspended_s < MORE_S):
        return actions.StartCopy(begun[0].target)
    if pending and not all(view.initialised for view in pending):
        if seen.suspended_s <= overlays_rules.copy_limit_s(plan, record, [view.target for view in pending]):
            return actions.Await("initialise", 0.002)
        return actions.Resume()  # once the guest runs they are given up, and begun anew
    return actions.Resume(clean=tuple(view.target for view in pending))


def _change_course(plan: Plan, seen: Observation) -> actions.Action | None:
    """The guest outruns a copy in the background: what the user wants done about that. None: wait."""
    record = seen.record
    found = next((divergence for divergence in seen.diverging if divergence.sure), None)
    at_once = record.mirror.wanted or (plan.synchronous and not record.mirror.forbidden)
    if found is None or at_once or len({view.side for view in seen.disks}) > 1:
        return None
    match plan.pace.if_not_converging:
        case IfNotConverging.MIRROR if (
            plan.can_be_synchronous and not record.mirror.forbidden and not _layered(plan, record)
        ):
            return actions.GoSynchronous(found.sentence)
        case IfNotConverging.THROTTLE:
            share = min(1.0, found.copy_rate / found.dirty_rate) * THROTTLE_STEP
            least = max(LEAST, int(found.copy_rate * THROTTLE_STEP / AMPLIFICATION))
            return actions.ThrottleGuest(found.target, share, found.sentence, least)
        case IfNotConverging.STOP:
            return actions.Fail(found.sentence)
        case _:
            return None


def _layered(plan: Plan, record: Record) -> bool:
    return any(overlays_rules.layered(plan, record, disk.target) for disk in plan.disks)


def _leave_synchronous(plan: Plan, seen: Observation, outstanding: list[DiskView]) -> actions.Action | None:
    """The destination has hung and answers again: go over to the background, where the guest does not wait for it.

    That costs a new copy, so a short hang is forgiven once; and copies that are in step are switched instead, which
    is over sooner than anything else.
    """
    record, silence = seen.record, seen.health
    if (
        plan.outage.hang is None
        or record.mirror.forbidden
        or silence.hanging
        or all(view.ready for view in outstanding)
    ):
        return None
    if len(outstanding) < len(seen.disks) or not any(record.copy(view.target).synchronous for view in outstanding):
        return None
    limit = plan.outage.hang.wanted.limit_s or USUAL.limit_s or 0.0
    if silence.times < 2 and silence.longest <= limit / 2:
        return None
    often = f"{silence.times} times" if silence.times > 1 else "once"
    return actions.LeaveSynchronous(f"the destination has hung {often}, for up to {format_duration(silence.longest)}")


def _await_or_suspend(plan: Plan, seen: Observation, outstanding: list[DiskView]) -> actions.Action:
    course = _leave_synchronous(plan, seen, outstanding) or _change_course(plan, seen)
    if course is not None:
        return course
    if not all(view.ready and view.remaining is not None for view in outstanding):
        if overlays_rules.checkpoint_due(plan, seen):
            return actions.Checkpoint(suspend=overlays_rules.stops_for_checkpoint(plan))
        return actions.Await("copy", 0.1 if plan.pace.contract is not None or plan.synchronous else 0.25)
    if seen.expected_drain_s > allowed_pause_s(seen.passes):
        return actions.Await("copy", 0.05)
    if verify_rules.to_be_prepared(plan, seen):
        return actions.PrepareExport()
    if seen.retry_s and seen.state is PowerState.RUNNING:
        return actions.Await("retry", min(seen.retry_s, 0.25))
    if not seen.flushed:
        return actions.FlushDestination()
    if seen.state is PowerState.RUNNING:
        return actions.Suspend(switch=True)
    # Paused by its owner: nothing writes, so this is the switch, without a suspension of ours.
    return _switching(plan, seen)


def allowed_pause_s(passes: int) -> float:
    """How long the suspended pass over the last changed regions may be expected to take, to suspend now.

    At first only what is not felt (10 ms); when pass after pass leaves more than that, the guest writes too
    fast for it, and the limit doubles every four passes up to half a second. Never a time-out: a copy that is
    not in step yet is waited for.
    """
    return float(min(0.5, 0.010 * 2 ** max(0, (passes - 4) // 4)))


def _switching(plan: Plan, seen: Observation) -> actions.Action:
    """The VM stands still: copy the last regions, point all disks to the other side, run."""
    outstanding = [view for view in seen.disks if view.side is DiskSide.SOURCE]
    mixed = len(outstanding) < len(seen.disks)
    broken = [view for view in outstanding if view.job is not DiskJob.OURS]
    if broken and mixed:
        names = ", ".join(view.target for view in broken)
        return actions.Fail(
            f"the switch broke in the middle: the copy of {names} ended when others were switched already"
        )
    if broken or not all(view.ready for view in outstanding):
        return _not_now(seen)
    if overlays_rules.base_to_sync(plan, seen.record, [view.target for view in outstanding]) is not None:
        return _not_now(seen)  # the base below the new overlay is not whole
    if seen.pivot_failures >= PIVOT_ATTEMPTS:
        return actions.Fail("the switch broke in the middle: QEMU refused it") if mixed else _not_now(seen)
    if any(view.remaining for view in outstanding):  # unknown: both sides are written at once, nothing can remain
        if seen.suspended_s > DRAIN_LIMIT_S and not mixed:
            return _not_now(seen)
        return actions.Await("drain", 0.001)
    return actions.Pivot(tuple(view.target for view in outstanding))


def retry_after_s(attempts: int) -> float:
    """How long after so many switches that could not be made the next one is tried, in seconds.

    Each costs the guest up to DRAIN_LIMIT_S; so it runs for longer and longer in between.
    """
    return float(min(RETRY_LIMIT_S, 0.25 * 2 ** min(attempts, 10)))


def _not_now(seen: Observation) -> actions.Action:
    """The switch cannot be made at this moment: the VM runs on at the source, the copies stay."""
    if _ours_suspended(seen):
        return actions.Resume(switch_failed=True)
    return actions.Await("retry", retry_after_s(seen.record.switch.attempts))


# ---------------------------------------------------------------- back, the VM has a QEMU


def _back_live(plan: Plan, seen: Observation) -> actions.Action:
    across = [view for view in seen.disks if view.side is DiskSide.DESTINATION]
    for view in seen.disks:
        # A job of ours on a disk that is still at the source can only be the copy that we give up.
        if view.side is DiskSide.SOURCE and view.job is DiskJob.OURS:
            return actions.Resume() if _ours_suspended(seen) else actions.AbortCopy(view.target)
    if across:
        return _bring_back(plan, seen, across)
    if _ours_suspended(seen):
        return (
            actions.Resume() if seen.record.switch.begun else overlays_rules.starting_commit(plan, seen, at_source=True)
        )
    commit_action = overlays_rules.commit(plan, seen, at_source=True)
    if commit_action is not None:
        return commit_action
    return _back_off(plan, seen)


def _bring_back(plan: Plan, seen: Observation, across: list[DiskView]) -> actions.Action:
    """A switch broke in the middle: copy the disks that are across back to their old files and switch them back.

    The destination is the truth of those disks meanwhile; the guest runs on with every disk whole.
    """
    return (
        _copy_back_hopeless(plan, seen, across)
        or _start_copy_back(plan, seen, across)
        or _complete_first_pass_back(plan, seen, across)
        or _switch_back(plan, seen, across)
    )


def _copy_back_hopeless(plan: Plan, seen: Observation, across: list[DiskView]) -> actions.Action | None:
    """Stop where a disk cannot be copied back: its copy failed too often, or a foreign block job occupies it."""
    suspended = _ours_suspended(seen)
    for view in across:
        copy = seen.record.copy(view.target)
        if view.job is DiskJob.NONE and copy.reverse and copy.attempts >= START_ATTEMPTS:
            if suspended:
                return actions.Resume()
            return actions.Park(
                f"the switch broke in the middle and {view.target} could not be brought back. {plan.vm} runs partly on "
                "its new and partly on its old disks; each is whole. Nothing is removed"
            )
        if view.job is DiskJob.FOREIGN:
            return actions.Resume() if suspended else actions.Park(f"somebody else runs a block job on {view.target}")
    return None


def _start_copy_back(plan: Plan, seen: Observation, across: list[DiskView]) -> actions.Action | None:
    """Start the copy back of the next disk that has none; None when all run."""
    to_start = [view for view in across if view.job is DiskJob.NONE]
    if not to_start:
        return None
    needs_suspension = any(plan.disk(view.target).start.suspended for view in to_start)
    if needs_suspension and seen.state is PowerState.RUNNING:
        return actions.Suspend(switch=False)
    if not needs_suspension and _ours_suspended(seen):
        return actions.Resume()
    return actions.StartCopy(to_start[0].target, reverse=True)


def _complete_first_pass_back(plan: Plan, seen: Observation, across: list[DiskView]) -> actions.Action | None:
    """Wait until the copies back have been started cleanly, and record that; None when all of them have."""
    suspended = _ours_suspended(seen)
    fresh = [view for view in across if seen.record.copy(view.target).stage is not Stage.CLEAN]
    if not fresh:
        return None
    for view in fresh:
        ran = seen.state is PowerState.RUNNING or seen.record.copy(view.target).missed
        if ran and not suspended and plan.disk(view.target).start.suspended:
            return actions.AbortCopy(view.target)
    if not all(view.initialised for view in fresh):
        return actions.Await("initialise", 0.002 if suspended else 0.1)
    names = tuple(view.target for view in fresh)
    return actions.Resume(clean=names) if suspended else actions.SaveClean(names)


def _switch_back(plan: Plan, seen: Observation, across: list[DiskView]) -> actions.Action:
    """All copies back run: when they are in step, suspend the VM and point its disks to the old files again."""
    record, suspended = seen.record, _ours_suspended(seen)
    ready = all(view.ready for view in across)
    refused = seen.pivot_failures >= PIVOT_ATTEMPTS
    if suspended and (not record.switch.begun or not ready or refused or seen.suspended_s > DRAIN_LIMIT_S):
        return actions.Resume(switch_failed=record.switch.begun)
    if record.switch.attempts >= BACK_ATTEMPTS or (refused and seen.state is PowerState.PAUSED):
        which = ", ".join(view.target for view in across)
        return actions.Park(
            f"the switch broke in the middle, and {which} could not be switched back after several "
            f"attempts. {plan.vm} runs partly on its new and partly on its old disks; each is whole. Nothing is removed"
        )
    if not ready or (not suspended and seen.expected_drain_s > allowed_pause_s(seen.passes)):
        return actions.Await("copy", 0.1)
    if seen.state is PowerState.RUNNING:
        return actions.Await("retry", min(seen.retry_s, 0.25)) if seen.retry_s else actions.Suspend(switch=True)
    if not any(view.remaining for view in across):
        return actions.Pivot(tuple(view.target for view in across))
    return actions.Await("drain", 0.001)


# ---------------------------------------------------------------- the VM is off


_UNSETTLED = (OverlayState.PIVOTING, OverlayState.COMMITTED)


def _forward_off(plan: Plan, seen: Observation) -> actions.Action:
    if seen.saved:
        return actions.Park(
            f"{plan.vm} was saved with its state, which names the old disks: its next start uses them. Start it (or "
            f"discard the state: `virsh managedsave-remove {plan.vm}`), then `blockferry resume {plan.move}` goes on"
        )
    prepared = _prepare(plan, seen)
    if prepared is not None:
        return prepared
    for view in seen.disks:
        unsettled = overlays_rules.layer_of(seen.record, view.target, at_source=True) in _UNSETTLED
        cloned = plan.disk(view.target).copy.clone and view.config_overlay
        if view.side is DiskSide.SOURCE and (unsettled or cloned):
            # What the configuration names must be known to be the newest before it is copied; and a clone is of one
            # file, where a copy would need space for the whole disk.
            commit_action = overlays_rules.commit(plan, seen, at_source=True)
            if commit_action is not None:
                return commit_action
    for view in seen.disks:
        if view.side is DiskSide.SOURCE and view.fingerprint == UNKNOWABLE:
            return actions.Fail(_cannot_be_watched(plan, view.target))
        if view.side is DiskSide.SOURCE and seen.record.disk(view.target).cold_copied != view.fingerprint:
            return actions.ColdCopy(view.target)
    return verify_rules.cold(plan, seen) or actions.WriteConfig()


def _cannot_be_watched(plan: Plan, target: str) -> str:
    """Why a disk of a VM that is off cannot be copied: nothing would show that somebody wrote to it meanwhile."""
    path = plan.disk(target).source.path
    if is_export(path):
        return (
            f"{plan.vm} went off, and its disk {target} is a network block device: nothing would keep others "
            "from writing there while it is copied"
        )
    return (
        f"{plan.vm} is off, and the kernel does not count what is written to {path}, its disk {target}: nothing would "
        f"show that {plan.vm} was started while it is copied. Start the VM and move it while it runs, or have the "
        "kernel count (`echo 1 > /sys/block/DEVICE/queue/iostats`)"
    )


def _back_off(plan: Plan, seen: Observation) -> actions.Action:
    """No job of ours runs and no disk of a running VM is across: take away what we made, then finish."""
    if any(view.config is DiskSide.DESTINATION for view in seen.disks):
        # The VM runs (or was last run) at the source, or its switch broke and QEMU died in the middle.
        if seen.state.active:
            return actions.RevertConfig()
        return actions.Park(
            f"{plan.vm} went off in the middle of a switch that broke: some disks are at the destination, some at the "
            "source; each file is whole. Nothing is removed"
        )
    if not seen.state.active:
        commit_action = overlays_rules.commit(plan, seen, at_source=True)
        if commit_action is not None:
            return commit_action
    if seen.record.created:
        return actions.RemoveDestination()
    if seen.mark == plan.move:
        return actions.Unmark()
    return _finish_back(seen)


def _finish_back(seen: Observation) -> actions.Action:
    if seen.record.failure is not None:
        return actions.Finish(Outcome.FAILED, seen.record.failure)
    return actions.Finish(Outcome.CANCELLED)


# ---------------------------------------------------------------- after the switch


def _by_the_graph(plan: Plan, seen: Observation, *, proven: bool) -> actions.Action | None:
    """What QEMU's own block graph, rather than libvirt's XML, makes necessary; None when it agrees, or is not asked.

    The configuration is made to name what QEMU writes to, for its next start would use it; then somebody has to look.
    """
    if not seen.state.active or proven:
        return None
    if seen.graph is None:
        return None if seen.record.graph.doubt else actions.Await("graph", 0.05)
    if not seen.graph.wrong:
        return None
    known = {disk.target for disk in plan.disks if seen.graph.wrong.get(disk.target) in old_images(disk)}
    named = [view.target for view in seen.disks if view.target in known and view.config is DiskSide.DESTINATION]
    if named and seen.persistent:
        return actions.PointAtTruth(tuple(named))
    return actions.Park(_alarm(plan, seen, seen.graph.wrong, known))


def _alarm(plan: Plan, seen: Observation, wrong: Mapping[str, str], known: set[str]) -> str:
    which = "; ".join(
        f"{target} to {path} "
        f"(libvirt says {plan.disk(target).dest.path}, which lacks what was written since the switch)"
        for target, path in wrong.items()
    )
    text = f"ALARM: QEMU still writes {which}. What QEMU writes to is the truth. Nothing is removed"
    if not seen.persistent:
        return (
            f"{text}. {plan.vm} is transient: shut it down from inside, then define it with the images named here, and "
            f"end this move with `blockferry cancel {plan.move}`"
        )
    if known == set(wrong):
        return (
            f"{text}, and the configuration of {plan.vm} names the old image again. Shut it down "
            f"(`virsh shutdown {plan.vm}`); then `blockferry resume {plan.move}` copies it while it is off"
        )
    return (
        f"{text}. Before {plan.vm} goes off, let its configuration name the images named here "
        f"(`virsh edit {plan.vm}`); do not start it from another one"
    )


def _after_switch(plan: Plan, seen: Observation) -> actions.Action:
    """All disks are at the destination, which is now the truth. Only forward from here."""
    verify = verify_rules.after_switch(plan, seen)
    return (
        _record_switch(plan, seen)
        or _complete_switch(plan, seen)
        # before the overlays are committed: a backup and an active commit exclude each other
        or (verify if any(view.overlay for view in seen.disks) else None)
        or _commit_overlays(plan, seen)
        or _settle_disks(plan, seen)
        or verify
        # a backup excludes it, and one is open until the comparison is over
        or (
            actions.WriteSnapshots()
            if plan.domain.snapshots and not seen.record.configuration.snapshots_written
            else None
        )
        or _release_old_files(plan, seen)
        or _end_of_move(plan, seen)
    )


def _record_switch(plan: Plan, seen: Observation) -> actions.Action | None:
    """Let the VM run again, prove by QEMU's block graph where it writes, and record the switch."""
    record = seen.record
    if verify_rules.to_be_taken(plan, seen):
        return actions.StartExport()
    if _ours_suspended(seen):
        if record.switch.done and not record.switch.begun:
            return overlays_rules.starting_commit(plan, seen, at_source=False)
        return actions.Resume()
    for view in seen.disks:
        if view.job is DiskJob.OURS:
            return actions.AbortCopy(view.target)
    if (disagreement := _by_the_graph(plan, seen, proven=record.graph.proven)) is not None:
        return disagreement
    if not record.switch.done:
        return actions.SaveSwitched()
    if seen.state.active and not record.graph.proven and not record.graph.doubt:
        return actions.SaveGraph()
    return None


def _complete_switch(plan: Plan, seen: Observation) -> actions.Action | None:
    """What else of the VM follows its disks: media of drives, the configuration, a guest that had stopped on errors."""
    record = seen.record
    for target in seen.media:
        if target not in record.configuration.media_tried:
            return actions.MoveMedium(target)
    if seen.persistent and not (record.configuration.written and seen.config_agrees):
        return actions.WriteConfig()
    if plan.domain.resume_after and not record.switch.let_run and seen.pause_reason == "ioerror":
        return actions.ResumeGuest()
    return None


def _commit_overlays(plan: Plan, seen: Observation) -> actions.Action | None:
    """Commit our overlays at the destination into their images, and prove by the block graph that they are."""
    record = seen.record
    if (commit := overlays_rules.commit(plan, seen, at_source=False)) is not None:
        return commit
    if not record.has_dest_overlay:
        return None
    if (disagreement := _by_the_graph(plan, seen, proven=record.graph.committed)) is not None:
        return disagreement
    if seen.state.active and not record.graph.committed and not record.graph.doubt:
        return actions.SaveGraph(committed=True)
    return None


def _settle_disks(plan: Plan, seen: Observation) -> actions.Action | None:
    for disk in plan.disks:
        if not seen.record.disk(disk.target).settled:
            return actions.Settle(disk.target)
    return None


def _release_old_files(plan: Plan, seen: Observation) -> actions.Action | None:
    """Release the old images, one after the other, then the old home; None when all are released."""
    record = seen.record
    for disk in plan.disks:
        above = (disk.overlays.source,) if record.disk(disk.target).source_overlay is not None else ()
        for path in (*above, *disk.release.files):
            if path not in record.released:
                return actions.ReleaseSource(path)
    return actions.ReleaseHome() if "home" not in record.released else None


def _end_of_move(plan: Plan, seen: Observation) -> actions.Action:
    if trim_rules.again(plan, seen):
        return actions.TrimAgain()
    if seen.mark == plan.move:
        return actions.Unmark()
    return actions.Finish(Outcome.MOVED) if plan.firmware.nvram is None else actions.Follow()
