"""When a copy is compared with its source. Pure, like all of decide.

A running guest writes on after the switch. So a view of the new disks is frozen in the suspension of the switch (a
pull-mode backup, docs/design/verify.md) and compared afterwards with the old ones, which nobody writes to any more.
A view counts only when it is known to be of that instant: noted by the process that took it while the VM stood still.
After any doubt (a death, another QEMU) nothing is verified, and what is not verified is not removed.
"""

from __future__ import annotations

from blockferry.base.errors import CopyDiffers, NotVerified
from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.observation import DiskSide, Observation
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import COMPARISON_CANCELLED, BackupExport
from blockferry.storage_move.summary import MoveSummary


def to_be_prepared(plan: Plan, seen: Observation) -> bool:
    """Whether the scratch files of a view have yet to be made, for this run of the VM."""
    record = seen.record
    return plan.verify and (
        record.view is BackupExport.NONE
        or (record.view is BackupExport.PREPARED and record.view_of != seen.incarnation)
    )


def to_be_taken(plan: Plan, seen: Observation) -> bool:
    """Whether this is the instant to freeze: all disks are across, nobody has written since. Once."""
    record = seen.record
    return (
        plan.verify
        and record.view is BackupExport.PREPARED
        and record.view_of == seen.incarnation
        and not record.switched
        and not seen.view_tried
        and seen.state is PowerState.PAUSED
        and all(view.live is DiskSide.DESTINATION for view in seen.disks)
    )


def cold(plan: Plan, seen: Observation) -> actions.Action | None:
    """The VM is off and all is copied: compare the files before the configuration names the new ones."""
    if not plan.verify:
        return None
    for view in seen.disks:
        if view.side is not DiskSide.SOURCE:
            continue
        if view.target in seen.record.differences:
            offsets = ", ".join(str(one) for one in seen.record.differences[view.target])
            return actions.Fail(f"the copy of {view.target} differs from its source, first at byte {offsets}")
        if view.target in seen.record.unverified:
            return actions.Fail(
                f"the copy of {view.target} could not be verified: {seen.record.unverified[view.target]}"
            )
        if view.target not in seen.record.verified:
            return actions.Verify(view.target)
    return None


def after_switch(plan: Plan, seen: Observation) -> actions.Action | None:
    """Compare what is to be compared, then let go of the view. None: there is nothing more to do."""
    record = seen.record
    if not plan.verify or record.view is BackupExport.ENDED:
        return None
    waiting = [disk.target for disk in plan.disks if not record.judged(disk.target)]
    if not waiting:
        return None if record.view is BackupExport.NONE else actions.EndExport()
    if record.view is not BackupExport.HELD:
        return actions.EndExport("no view of the new disks could be frozen at the switch")
    if not seen.state.active or seen.incarnation != record.view_of:
        return actions.EndExport("the VM went off (or was started anew) before the comparison was over")
    if record.wanted is Wanted.CANCEL:
        return actions.EndExport(COMPARISON_CANCELLED)
    if seen.view_trouble:
        return actions.EndExport(seen.view_trouble)
    return actions.Verify(waiting[0])


def see_verified(done: MoveSummary) -> None:
    """Raise CopyDiffers or NotVerified if a move that went through was to be verified and not all was the same."""
    record = done.record
    if not (record.outcome is Outcome.MOVED or record.following) or not done.plan.verify:
        return
    if record.differences:
        where = "; ".join(
            f"{target} first at byte {', '.join(str(one) for one in offsets[:4])}"
            for target, offsets in record.differences.items()
        )
        raise CopyDiffers(done.id, done.plan.vm, where)
    missing = [disk.target for disk in done.plan.disks if disk.target not in record.verified]
    if missing:
        why = "; ".join(dict.fromkeys(record.unverified.get(one, "it did not come to that") for one in missing))
        raise NotVerified(done.id, done.plan.vm, ", ".join(missing), why)
