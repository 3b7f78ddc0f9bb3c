"""What to do next in a move to another host. Pure: no clock, no libvirt.

Three times in the life of such a move (docs/design/host-move.md):

1. Not handed over: the source is the truth. Cancel is possible; what is at the destination is ours and goes.
2. Handed over (`record.handed`): the source's guest is old. We only go forward: the source's QEMU is ended and its
   definition removed; only when a look shows neither, the guest is let run at the destination.
3. Arrived: what is left is clearing up.
"""

from __future__ import annotations

import posixpath

from blockferry.host_move import host_actions as actions
from blockferry.host_move import overlay_rules
from blockferry.host_move.host_observation import HostObservation
from blockferry.host_move.host_plan import HostMovePlan
from blockferry.hosts.inventory import PowerState
from blockferry.jobs.action import Action, Done, Finish, LookAgain, Park
from blockferry.jobs.outcome import Outcome, Wanted

_KEPT = "/var/lib/blockferry/definitions"
_REMOVED = f"its definition was removed (what a move removes is kept on that host in {_KEPT} until the move is over)"


def decide(plan: HostMovePlan, seen: HostObservation) -> Action:
    """Return the next action."""
    if seen.record.outcome is not None:
        return Done(seen.record.outcome)
    if seen.record.handed:
        return _forward(plan, seen)
    return _cold(plan, seen) if plan.cold else _live(plan, seen)


def can_turn_back(plan: HostMovePlan, seen: HostObservation) -> bool:
    """Return whether the source is still the truth, and can be used as it is."""
    return not seen.record.handed and not seen.source.absent


def _turned(seen: HostObservation) -> bool:
    return seen.record.wanted is Wanted.CANCEL or seen.record.failure is not None


def _is_ours(plan: HostMovePlan, seen: HostObservation) -> bool:
    return seen.record.begun and seen.dest.mark == plan.move


def _has_all(plan: HostMovePlan, seen: HostObservation) -> bool:
    """Whether what the destination has of the VM is ours and whole: libvirt has finished taking it in."""
    dest = seen.dest
    whole = dest.complete or dest.state is PowerState.RUNNING or (dest.state is PowerState.OFF and dest.persistent)
    return _is_ours(plan, seen) and whole


# ------------------------------------------------------------ running and paused VMs, before they are handed over


def _live(plan: HostMovePlan, seen: HostObservation) -> Action:
    record, source, dest = seen.record, seen.source, seen.dest
    if record.begun and (seen.calling or source.migrating):
        return actions.StopMigration() if _turned(seen) else LookAgain("migrate", 0.5)
    if source.foreign and source.state is PowerState.PAUSED and not dest.absent:
        return LookAgain("migrate", 0.5)  # a save, say: whether it has handed its guest over shows only after that
    if source.absent:
        if _has_all(plan, seen):
            return actions.SaveHanded()  # libvirt removes the definition only after the destination has all
        if _is_ours(plan, seen):
            return LookAgain("migrate", 0.5)  # it comes in yet; libvirt ends it if the source has failed
        return Park(_lost(plan, f"neither host has it with the mark of this move{_kept(plan)}"))
    if source.state is PowerState.OFF:
        return _went_off(plan, seen)
    if record.begun and seen.handed_over:
        if _has_all(plan, seen) and dest.active:
            return actions.SaveHanded()
        if _may_have_run(plan, seen):
            return Park(_ran(plan, f"stands still at {plan.host_name}"))
        # The guest stopped here with all its memory, and never ran elsewhere: only a `handed` VM is let run there.
        return actions.RunAtSource() if dest.absent else _away(plan, seen)
    if dest.state is PowerState.RUNNING:
        return Park(
            f"{plan.vm} runs on both hosts. Nothing is touched. Decide which one is right, end the other "
            f"(`virsh destroy`), then resume this move"
        )
    if not dest.absent:
        return _away(plan, seen)
    if _turned(seen):
        return _back(plan, seen)
    if seen.problem is not None:
        return actions.TurnBack(seen.problem)
    ready = _prepare(plan, seen) or _changed(plan, seen) or _renewed(plan, seen)
    return ready or _first(plan, seen) or actions.Migrate()


def _first(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """What goes before the running VM: old images below overlays, their copies, and overlays above these."""
    if not plan.first:
        return None
    return overlay_rules.below(plan, seen) or _copies(plan, seen) or overlay_rules.above(plan, seen)


def _went_off(plan: HostMovePlan, seen: HostObservation) -> Action:
    """The source's QEMU has ended: because the guest went over, or because it was powered off here."""
    if seen.source.migrated and _has_all(plan, seen):
        return actions.SaveHanded()
    if seen.dest.active and (seen.dest.complete or seen.dest.state is PowerState.RUNNING):
        return Park(
            f"{plan.vm} is off at {plan.host_name} and stands still at {plan.dest_host_name}, and libvirt does not say "
            "whether it ran at the source after it was copied. Nothing is touched. End the one that is older"
        )
    if _may_have_run(plan, seen):
        return Park(_ran(plan, f"is off at {plan.host_name}"))
    if not seen.dest.absent:
        return _away(plan, seen)
    if not _turned(seen):
        return actions.TurnBack(f"{plan.vm} was powered off during the move")
    return _back(plan, seen)


def _may_have_run(plan: HostMovePlan, seen: HostObservation) -> bool:
    """Whether the destination took all of the VM in, and its QEMU has ended since: somebody may have let it run there.

    libvirt writes the definition down there only once it has all.
    """
    dest = seen.dest
    return _is_ours(plan, seen) and dest.state is PowerState.OFF and dest.persistent


def _ran(plan: HostMovePlan, there: str) -> str:
    return (
        f"{plan.vm} {there} and is off at {plan.dest_host_name}, where it had arrived as a whole; it may have run "
        "there. Nothing is touched. Remove the definition of the older one (`virsh undefine --keep-nvram`), then "
        "resume this move"
    )


def _away(plan: HostMovePlan, seen: HostObservation) -> Action:
    """Something of this VM is at the destination that has to go, if it is ours."""
    if _is_ours(plan, seen):
        return actions.EndAtDestination()
    if seen.record.begun:
        return Park(f"{plan.dest_host_name} has a VM {plan.vm} without the mark of this move; it is left alone")
    return (
        _back(plan, seen)
        if _turned(seen)
        else actions.TurnBack(f"{plan.dest_host_name} has a VM with this UUID already")
    )


def _changed(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """Turn back when the VM has other disks than those that were planned for: a snapshot, a disk that was attached."""
    paths = dict(seen.source.paths)
    ours = {disk.target: (disk.source, *((disk.overlay,) if disk.overlay else ())) for disk in plan.disks}
    other = [target for target, known in ours.items() if posixpath.normpath(paths.get(target, "")) not in known]
    new = sorted(set(paths) - {disk.target for disk in plan.disks} - set(plan.staying))
    variables = next((file.source for file in plan.state_files if file.role == "nvram"), seen.source.nvram)
    if posixpath.normpath(variables) != posixpath.normpath(seen.source.nvram):
        return actions.TurnBack(f"the UEFI variables of {plan.vm} are not in {variables} any more")
    if seen.unplanned:
        found = ", ".join(seen.unplanned)
        return actions.TurnBack(f"{plan.vm} was started since the move was planned: there was no {found} then")
    if not other and not new:
        return None
    return actions.TurnBack(f"the disks of {plan.vm} have changed since the move was planned: {', '.join(other + new)}")


def _renewed(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """A VM without our mark is not the one that we began with, and would be nobody's at the destination."""
    if not seen.record.marked or seen.source.mark == plan.move:
        return None
    return Park(
        f"{plan.vm} at {plan.host_name} does not bear the mark of this move any more: somebody has defined it anew. "
        "Nothing is touched; cancel this move, then move the VM as it is now"
    )


def _prepare(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    if not seen.record.marked:
        return actions.MarkVm()
    missing = next((disk.target for disk in plan.disks if disk.target not in seen.record.made), None)
    if missing is not None:
        return actions.MakeImage(missing)
    return _state_file(plan, seen)


def _state_file(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """The next small file that has to be copied; of a VM that is off, also one that was written to since."""
    copied = seen.record.state_copied
    for file in plan.copied_files:
        found = copied.get(file.source)
        if found is None or (plan.cold and seen.state_prints.get(file.source) != found):
            return actions.CopyStateFile(file.source)
    return None


def _back(plan: HostMovePlan, seen: HostObservation) -> Action:
    """The VM is at the source alone: take away what we made."""
    record = seen.record
    if step := overlay_rules.back(plan, seen):
        return step
    if record.created:
        return actions.RemoveImages()
    if record.marked or seen.source.mark == plan.move:  # who has marked it may have been killed before the note
        return actions.UnmarkVm()
    return Finish(Outcome.FAILED if record.failure is not None else Outcome.CANCELLED)


# ------------------------------------------------------------ VMs that are off, before they are handed over


def _cold(plan: HostMovePlan, seen: HostObservation) -> Action:
    record, source, dest = seen.record, seen.source, seen.dest
    if dest.active:
        return Park(f"{plan.vm} runs at {plan.dest_host_name} before this move is done; nothing is touched")
    if source.active:
        if not source.persistent:
            return actions.DefineAtSource() if record.defined else Park(_lost(plan, _REMOVED))
        if not dest.absent:
            return _away(plan, seen)
        return _back(plan, seen) if _turned(seen) else actions.TurnBack(f"{plan.vm} was started during the move")
    if source.absent:
        if not record.defined or dest.mark != plan.move:
            return Park(_lost(plan, _REMOVED))
        copy = _copies(plan, seen)
        if seen.unplanned or (copy is not None and _turned(seen)):  # no copy is made after a cancel
            return actions.DefineAtSource()
        return copy or actions.SaveHanded()
    if _turned(seen):
        return _back(plan, seen) if dest.absent else _away(plan, seen)
    if not dest.absent and dest.mark != plan.move:
        return _away(plan, seen)
    first = _changed(plan, seen) or _renewed(plan, seen) or _prepare(plan, seen) or _copies(plan, seen)
    if first is not None:
        return first
    if not record.defined or dest.absent:
        return actions.DefineBarred()
    return actions.UndefineAtSource()


def _copies(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    copied = seen.record.copied
    stale = tuple(target for target, print_ in copied.items() if seen.prints.get(target) != print_)
    if stale:
        return actions.ForgetCopies(stale)
    missing = next((disk.target for disk in plan.disks if disk.target not in copied), None)
    return _state_file(plan, seen) if missing is None else actions.CopyImage(missing)


# ------------------------------------------------------------ handed over: only forward


def _forward(plan: HostMovePlan, seen: HostObservation) -> Action:
    record = seen.record
    if seen.missing:
        return Park(
            f"{plan.dest_host_name} does not have {', '.join(seen.missing)}: is its file system mounted? Nothing is "
            f"removed; the old images are at {plan.host_name}. Put it right, then resume this move"
        )
    if not record.arrived:
        return _fence(plan, seen) or _arrive(plan, seen)
    if seen.dest.absent and plan.persistent and not record.settled:
        return Park(_lost(plan, f"{plan.dest_host_name} has lost it{_kept(plan)}"))
    if step := overlay_rules.settle(plan, seen):
        return step
    if (plan.disks or plan.state_files) and not record.flushed:
        if not plan.cold and not seen.dest.active and not record.unproven:
            return actions.SaveUnproven(f"the QEMU of {plan.vm} has ended before its new images were flushed")
        return actions.FlushImages()
    for file in plan.state_files:
        if file.source not in record.proven and file.source not in record.doubted:
            return actions.ProveStateFile(file.source)
    if not record.settled:
        return actions.SettleDefinition()
    for file in plan.state_files:
        if file.source not in record.released:
            return actions.ReleaseStateFile(file.source)
    for disk in plan.disks:
        if disk.source not in record.released:
            return actions.ReleaseImage(disk.source)
    return Finish(Outcome.MOVED)


def _fence(plan: HostMovePlan, seen: HostObservation) -> Action | None:
    """None once the source has neither QEMU nor definition in this very look, and that is noted."""
    source = seen.source
    if source.active:
        if seen.handed_over and not seen.record.alone and source.mark == plan.move:
            return actions.EndAtSource()
        return Park(
            f"{plan.vm} was started at {plan.host_name} after it had gone to {plan.dest_host_name}. It is not let run "
            f"there. Nothing is touched; end it at {plan.host_name} (`virsh destroy`), then resume this move"
        )
    if not source.absent and seen.record.alone:
        return Park(
            f"{plan.vm} was defined at {plan.host_name} again after it had gone to {plan.dest_host_name}. It is not "
            "let run there. Nothing is touched; remove the older one (`virsh undefine --keep-nvram`), then resume this "
            "move"
        )
    if not source.absent and source.mark != plan.move:
        return Park(
            f"{plan.vm} at {plan.host_name} does not bear the mark of this move: somebody has defined it there since "
            f"it went to {plan.dest_host_name}, perhaps from a backup. It is not let run there. Nothing is touched; "
            "remove the older one (`virsh undefine --keep-nvram`), then resume this move"
        )
    if not source.absent:
        return actions.UndefineAtSource()
    return None if seen.record.alone else actions.SaveAlone()


def _arrive(plan: HostMovePlan, seen: HostObservation) -> Action:
    dest = seen.dest
    if dest.absent:
        return Park(_lost(plan, f"{plan.dest_host_name} has lost it before its guest ran there{_kept(plan)}"))
    waits = dest.state is PowerState.OFF if plan.cold else dest.state is PowerState.PAUSED and plan.was_running
    if waits and dest.mark != plan.move:
        return Park(_lost(plan, f"{plan.dest_host_name} has one without the mark of this move, which is left alone"))
    if plan.cold and (seen.unnamed or dest.barred):
        return actions.NameImages()
    if dest.state is PowerState.PAUSED and plan.was_running:
        if dest.complete and dest.reason != "ioerror":
            return actions.RunAtDestination()
        if dest.reason != "ioerror":
            return LookAgain("migrate", 0.2)
        return actions.SaveArrived(f"{plan.vm} has stopped at {plan.dest_host_name} because of an I/O error")
    if dest.state is PowerState.OFF and not plan.cold:
        return actions.SaveArrived(f"the QEMU of {plan.vm} has ended at {plan.dest_host_name}; the VM is off")
    return actions.SaveArrived()


def _kept(plan: HostMovePlan) -> str:
    return f" (its definition is kept at {plan.host_name} in {_KEPT})" if plan.persistent else ""


def _lost(plan: HostMovePlan, why: str) -> str:
    return (
        f"{plan.vm} is not where this move expects it: {why}. Nothing is removed: its old images are at "
        f"{plan.host_name}, the new ones at {plan.dest_host_name}"
    )
