"""Letting a VM go that is held in a saved state (`--firmware now`): what the move and its guard do alike.

A managed save image must be gone for good before the guest runs: libvirt removes it when the VM is restored, but does
not wait for the disk, so that after a power loss it would be there again, and with it a memory that is older than the
disks. So the VM is restored with its processors stopped, the directory is synced, and only then the guest runs.
"""

from __future__ import annotations

import enum
import posixpath
import time
from dataclasses import dataclass

from blockferry.hosts.helper import files
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt.domain import Control, DomainView
from blockferry.hosts.runner import Runner

BUSY_S = 0.1


@dataclass(frozen=True, slots=True)
class SavedVm:
    """How the VM was before it was saved, and where its memory is."""

    running: bool
    incarnation: int  # libvirt's domain id
    image: str
    files: tuple[str, str]  # its UEFI variables: the old file, the new one


class RecoveryStep(enum.Enum):
    """How far letting go has come."""

    BUSY = "busy"
    DOWN = "down"  # it was down, and has been restored
    UP = "up"  # it was not down, as far as can be seen: a call that saves it may still be on its way
    OVER = "over"  # it goes on; or it is off, and its memory is not held any more


def step(control: Control, runner: Runner, before: SavedVm, *, was_down: bool) -> RecoveryStep:
    """One step towards a VM that is held no more. `was_down`: it was seen so.

    Safe at any moment, and whoever does it: a VM that is down and saved is restored from its memory, never booted;
    while libvirt is at work on it, nothing is done. Raises HostUnreachable, LibvirtFailed, HostCommandFailed.
    """
    view = control.look((), closely=True)
    if not view.state.active:
        if not view.saved:
            return RecoveryStep.OVER
        control.restore()
        return RecoveryStep.DOWN
    if view.busy:
        time.sleep(BUSY_S)
        return RecoveryStep.BUSY
    finish(control, runner, before, view, was_down=was_down)
    return RecoveryStep.OVER if restored(before, view, was_down=was_down) else RecoveryStep.UP


def restored(before: SavedVm, view: DomainView, *, was_down: bool) -> bool:
    """Whether a VM that is there is so by a restore. libvirt's ids begin anew with libvirtd when no VM runs."""
    return was_down or view.incarnation != before.incarnation or view.pause_reason == "migration"


def finish(control: Control, runner: Runner, before: SavedVm, view: DomainView, *, was_down: bool) -> bool:
    """The VM has a QEMU with which nothing is being done: no image stays, then the guest runs; whether it was resumed.

    An image beside a VM that runs is of no use, and a danger at its next start: ours of a restore with other files, or
    one that libvirtd left when it died in the middle of a save or a restore. What the next start uses is what the VM
    has now, before the guest runs.
    """
    if view.image:
        control.drop_saved()
    files.flush(runner, posixpath.dirname(before.image))
    if view.nvram in before.files and view.config_nvram in before.files and view.nvram != view.config_nvram:
        control.write_config({}, {view.config_nvram: view.nvram})
    stopped_by_us = restored(before, view, was_down=was_down) or view.pause_reason == "save"
    if view.state is not PowerState.PAUSED or not before.running or not stopped_by_us:
        return False
    return control.resume()
