"""Room for a frozen view: what QEMU keeps for it must not be the death of the guest.

While a view is held, the guest's first write to each cluster waits for a copy of the old content to a scratch file. If
that finds no room, QEMU fails the guest's write (`on-cbw-error`, which libvirt leaves at "break-guest-write":
https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html#object-QMP-block-core.OnCbwError) and stops the VM, also one
whose own disk is allocated in full and would never have needed any. So the view is given up while there is room; and if
QEMU was quicker, the VM is let run once the scratch files are gone.
"""

from __future__ import annotations

import posixpath
import time

from blockferry.base.errors import BlockferryError
from blockferry.base.units import MiB, format_size
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt.domain import Control
from blockferry.storage_move.context import Context

LOOK_S = 0.5
LEAST = 16 * MiB
AHEAD_S = 3.0
"""What is used up in so long at the present rate has to be left."""


class ScratchSpace:
    """Looks now and then whether a held view may be held on."""

    def __init__(self, context: Context) -> None:
        self._context = context
        scratch = [context.plan.scratch(disk.target) for disk in context.plan.disks]
        self._places = sorted({posixpath.dirname(path) for path in scratch if not is_export(path)})
        self._looked: dict[str, tuple[float, int]] = {}
        self._due = 0.0
        self.trouble = ""

    def lacks(self) -> bool:
        """Whether the view has to be given up; `trouble` says why. A look that fails says nothing."""
        now = time.monotonic()
        if not self.trouble and now >= self._due:
            try:
                self.trouble = self._look()
            except BlockferryError:
                self.trouble = ""
            self._due = time.monotonic() + LOOK_S
        return bool(self.trouble)

    def _look(self) -> str:
        context = self._context
        if stopped_by_an_error(context.control):
            return f"QEMU has stopped {context.plan.vm} with an I/O error: no room for what a frozen view has to keep"
        for place in self._places:
            free = files.free_bytes(context.runner, place)
            now = time.monotonic()
            before_s, before = self._looked.get(place, (now, free))
            self._looked[place] = now, free
            rate = max(0.0, (before - free) / (now - before_s)) if now > before_s else 0.0
            if free < max(LEAST, rate * AHEAD_S):
                return (
                    f"there is too little room left in {place} ({format_size(free)}) for what a frozen view has to keep"
                )
        return ""


def stopped_by_an_error(control: Control) -> bool:
    """Whether QEMU has stopped the VM because of a failed request."""
    view = control.look(())
    return view.state is PowerState.PAUSED and view.pause_reason == "ioerror"


def let_run(control: Control) -> bool:
    """After the view, and its files, are gone: have QEMU repeat what it has stopped the VM for."""
    return stopped_by_an_error(control) and control.resume()
