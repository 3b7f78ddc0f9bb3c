"""The UEFI variables (NVRAM) of a VM, after its disks: what to do next. Pure.

libvirt 9 cannot point a running VM to another NVRAM file, and one that the persistent XML names and that is not there
is made from the template at the next start: the variables would be wiped (docs/firmware.md). So nothing is changed
while the VM runs or has a saved state; once it is off the file is copied, then the XML is changed, then the old file
goes. A start in between shows in the old file's fingerprint or in the live XML.

With `--firmware now` the VM is held for that: saved to libvirt's managed save image and restored. Whatever happens
then, it is let go again: with the new file if all went well, else with the old one, and always from its memory.
"""

from __future__ import annotations

from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.firmware.record import ManagedSave
from blockferry.storage_move.observation import MISSING, DiskSide, NvramView, Observation
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.verify.record import COMPARISON_CANCELLED

RELEASED = "nvram"
"""In `Record.released`: the UEFI variables were dealt with, one way or the other."""

CHANGED = "somebody has changed the VM's configuration meanwhile"

HOLD_ATTEMPTS = 2
"""How often the VM is held at most: each time costs its guest the whole pause."""


def next_action(plan: Plan, seen: Observation) -> actions.Action:
    """The next action of a move of which only the UEFI variables are left. The VM's disks do not matter any more."""
    record, view = seen.record, seen.nvram
    if view is not None and record.managed_save.state is not ManagedSave.NONE:
        return _held(seen, view)
    if RELEASED in record.released or view is None:
        return actions.Finish(Outcome.MOVED)
    if seen.state is PowerState.ABSENT:
        return actions.KeepNvram("the VM is not defined any more")
    used = view.live or view.saved
    if not seen.persistent or DiskSide.ELSEWHERE in (used, view.config):
        return actions.KeepNvram(CHANGED)
    if used is not None:
        if used is DiskSide.DESTINATION and view.config is DiskSide.DESTINATION:
            return actions.ReleaseNvram()
        if view.config is DiskSide.DESTINATION and record.nvram.copied:
            # Started (or saved) on the old file in the moment before the configuration was written.
            return actions.PointNvram(back=True)
        if DiskSide.DESTINATION in (used, view.config):
            return actions.KeepNvram(CHANGED)
        return _left(seen) or _now(plan, seen, view)
    copied = bool(record.nvram.copied) and record.nvram.copied == view.fingerprint
    if view.config is DiskSide.DESTINATION and not record.nvram.copied:
        return actions.KeepNvram(CHANGED)
    if view.config is DiskSide.DESTINATION:
        # Written to after it was copied, it is the truth, unless the VM has run on the copy, too: then both are kept.
        run = view.made != record.nvram.made
        gone = view.fingerprint == MISSING  # removed by us, and killed before that was noted
        return actions.ReleaseNvram() if copied or run or gone else actions.PointNvram(back=True)
    return _left(seen) or (actions.PointNvram() if copied else actions.CopyNvram())


def _left(seen: Observation) -> actions.Action | None:
    """A wish to cancel leaves the variables where they are; unless it came to end a comparison, and has done so."""
    ended_comparison = COMPARISON_CANCELLED in seen.record.unverified.values()
    cancelled = seen.record.wanted is Wanted.CANCEL and not ended_comparison
    return actions.KeepNvram("it was cancelled") if cancelled else None


# ---------------------------------------------------------------- now: the VM is held for it


def still_now(plan: Plan, record: Record) -> bool:
    """Whether a move of which only the variables are left does something about them while the VM runs."""
    if record.managed_save.state is not ManagedSave.NONE:
        return True
    return plan.firmware.nvram is not None and plan.firmware.nvram.now is not None and not record.managed_save.failed


def _now(plan: Plan, seen: Observation, view: NvramView) -> actions.Action:
    """The VM uses the old file, live or saved by its owner, and so does its configuration."""
    if not still_now(plan, seen.record) or not seen.state.active:
        return actions.AwaitPowerOff()
    if seen.state is PowerState.CRASHED:
        return actions.NotNow("its guest has crashed")
    if view.busy:
        return actions.NotNow(f"it is busy: {view.busy}")
    if view.image:
        return actions.NotNow("it runs, and a saved state of it is there all the same, which is not ours")
    if seen.record.managed_save.attempts >= HOLD_ATTEMPTS:
        return actions.NotNow(f"{HOLD_ATTEMPTS} attempts were broken off")
    return actions.SaveVm()


def _held(seen: Observation, view: NvramView) -> actions.Action:
    """We have saved the VM, or were about to."""
    record = seen.record
    if not seen.state.active:
        foreign = (
            record.managed_save.state is ManagedSave.SAVED and view.image_fingerprint != record.managed_save.fingerprint
        )
        # Not saved any more, or by somebody else since: it was let go, and has gone its way.
        return _down(seen, view) if seen.saved and not foreign else actions.EndManagedSave()
    return actions.Await("firmware", 0.1) if view.busy else actions.EndManagedSave()


def _down(seen: Observation, view: NvramView) -> actions.Action:
    """The VM is in the image. Every step from here is short; whatever fails, it is let go with the old file.

    Image and configuration name the old file all the time: whoever starts the VM, has it go on with that.
    """
    record = seen.record
    if record.managed_save.state is ManagedSave.SAVING:
        return actions.SaveManagedSave()
    as_it_was = view.saved is DiskSide.SOURCE and view.config is DiskSide.SOURCE
    if record.managed_save.failed or record.wanted is Wanted.CANCEL or not as_it_was:
        return actions.RestoreVm(new=False)
    same = view.made == record.nvram.made
    if record.nvram.copied and not same and view.made != MISSING:
        # It has run on the copy, and then on the old file again: somebody has to say which of them it is to have.
        return actions.NotNow("both the old file and its copy were written to")
    copied = bool(record.nvram.copied) and record.nvram.copied == view.fingerprint and same
    return actions.RestoreVm(new=True) if copied else actions.CopyNvram()
