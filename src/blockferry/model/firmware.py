"""The UEFI variables (NVRAM) of a VM, after its disks: what to do next. Pure.

libvirt 9 cannot point a running VM to another NVRAM file, and one that the persistent XML names and that is not there
is made from the template at the next start: the variables would be wiped (docs/firmware.md). So nothing is changed
while the VM runs or has a saved state; once it is off the file is copied, then the XML is changed, then the old file
goes. A start in between shows in the old file's fingerprint or in the live XML.
"""

from __future__ import annotations

from blockferry.model import action as act
from blockferry.model.inventory import PowerState
from blockferry.model.observation import MISSING, Observation, Side
from blockferry.model.record import Outcome, Wanted

RELEASED = "nvram"
"""In `Record.released`: the UEFI variables were dealt with, one way or the other."""

CHANGED = "somebody has changed the VM's configuration meanwhile"


def follow(seen: Observation) -> act.Action:
    """The next action of a move of which only the UEFI variables are left. The VM's disks do not matter any more."""
    record, view = seen.record, seen.nvram
    if RELEASED in record.released or view is None:
        return act.Finish(Outcome.MOVED)
    if seen.state is PowerState.ABSENT:
        return act.LeaveNvram("the VM is not defined any more")
    used = view.live or view.saved
    if not seen.persistent or Side.ELSEWHERE in (used, view.config):
        return act.LeaveNvram(CHANGED)
    if used is not None:
        if used is Side.DESTINATION and view.config is Side.DESTINATION:
            return act.ReleaseNvram()
        if view.config is Side.DESTINATION and record.nvram_copied:
            # Started (or saved) on the old file in the moment before the configuration was written.
            return act.PointNvram(back=True)
        if Side.DESTINATION in (used, view.config):
            return act.LeaveNvram(CHANGED)
        return _left(seen) or act.AwaitPowerOff()
    copied = bool(record.nvram_copied) and record.nvram_copied == view.fingerprint
    if view.config is Side.DESTINATION and not record.nvram_copied:
        return act.LeaveNvram(CHANGED)
    if view.config is Side.DESTINATION:
        # Written to after it was copied, it is the truth, unless the VM has run on the copy, too: then both are kept.
        run = view.made != record.nvram_made
        gone = view.fingerprint == MISSING  # removed by us, and killed before that was noted
        return act.ReleaseNvram() if copied or run or gone else act.PointNvram(back=True)
    return _left(seen) or (act.PointNvram() if copied else act.CopyNvram())


def _left(seen: Observation) -> act.Action | None:
    return act.LeaveNvram("it was cancelled") if seen.record.wanted is Wanted.CANCEL else None
