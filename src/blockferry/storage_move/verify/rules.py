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
from blockferry.storage_move.summary import MoveSummary
from blockferry.storage_move.verify.record import COMPARISON_CANCELLED, BackupExport


def to_be_prepared(plan: Plan, seen: Observation) -> bool:
    """Whether the scratch files of a view have yet to be made, for this run of the VM."""
    record = seen.record
    return plan.verify and (
        record.export.state is BackupExport.NONE
        or (record.export.state is BackupExport.PREPARED and record.export.incarnation != seen.incarnation)
    )


def to_be_taken(plan: Plan, seen: Observation) -> bool:
    """Whether this is the instant to freeze: all disks are across, nobody has written since. Once."""
    record = seen.record
    return (
        plan.verify
        and record.export.state is BackupExport.PREPARED
        and record.export.incarnation == seen.incarnation
        and not record.switch.done
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
        if (different := seen.record.disk(view.target).differences) is not None:
            offsets = ", ".join(str(one) for one in different)
            return actions.Fail(f"the copy of {view.target} differs from its source, first at byte {offsets}")
        if seen.record.disk(view.target).unverified is not None:
            return actions.Fail(
                f"the copy of {view.target} could not be verified: {seen.record.disk(view.target).unverified}"
            )
        if not seen.record.disk(view.target).verified:
            return actions.Verify(view.target)
    return None


def after_switch(plan: Plan, seen: Observation) -> actions.Action | None:
    """Compare what is to be compared, then let go of the view. None: there is nothing more to do."""
    record = seen.record
    if not plan.verify or record.export.state is BackupExport.ENDED:
        return None
    waiting = [disk.target for disk in plan.disks if not record.disk(disk.target).judged]
    if not waiting:
        # With a socket named, files of a view may have been made, also by a process that died before it said so.
        made = record.export.state is not BackupExport.NONE or record.export.socket
        return actions.EndExport() if made else None
    if record.export.state is not BackupExport.READY:
        return actions.EndExport("no view of the new disks could be frozen at the switch")
    if not seen.state.active or seen.incarnation != record.export.incarnation:
        return actions.EndExport("the VM went off (or was started anew) before the comparison was over")
    if record.wanted is Wanted.CANCEL:
        return actions.EndExport(COMPARISON_CANCELLED)
    if seen.view_trouble:
        return actions.EndExport(seen.view_trouble)
    return actions.Verify(waiting[0])


def see_verified(done: MoveSummary) -> None:
    """Raise CopyDiffers or NotVerified if a move that went through was to be verified and not all was the same."""
    record = done.record
    if not (record.outcome is Outcome.MOVED or record.nvram.pending) or not done.plan.verify:
        return
    if record.differences:
        where = "; ".join(
            f"{target} first at byte {', '.join(str(offset) for offset in offsets[:4])}"
            for target, offsets in record.differences.items()
        )
        raise CopyDiffers(done.id, done.plan.vm, where)
    missing = [disk.target for disk in done.plan.disks if not record.disk(disk.target).verified]
    if missing:
        why = "; ".join(dict.fromkeys(record.unverified.get(one, "it did not come to that") for one in missing))
        raise NotVerified(done.id, done.plan.vm, ", ".join(missing), why)
