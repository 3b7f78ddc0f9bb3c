"""How an overlay is got rid of: committed into its base, of a VM that runs or that is off. One disk at a time. Pure.

Both kinds of moves do that, at whichever side the VM is by then; what a step means in either is theirs to say
(overlays/rules.py, host_move/overlay_rules.py). Why in this order: docs/design/resume.md.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.observation import DiskJob, DiskView
from blockferry.storage_move.overlays.record import OverlayState

COMMIT_ATTEMPTS = 3
"""How often one process begins a commit before somebody has to look; `blockferry resume` begins to count anew."""


class Step(enum.Enum):
    """What is next for one overlay."""

    WRITE_CONFIG = "write config"  # the persistent XML is to name what the VM runs on
    NOTE_USED = "note used"
    NOTE_COMMITTED = "note committed"
    START = "start"
    START_SUSPENDED = "start suspended"
    AWAIT_LOOK = "await look"  # until the job has seen what is allocated
    NOTE_CLEAN = "note clean"  # it has, with the guest standing still
    ABORT = "abort"  # it may have missed a write
    AWAIT = "await"
    PIVOT = "pivot"
    COMMIT_OFF = "commit off"


@dataclass(frozen=True, slots=True)
class Overlaid:
    """One disk that is, or was, on an overlay of ours. `stage`: what the record knows of that.

    `noted`: fingerprint of base and overlay when its content was in the base ("": not noted); `attempts`: commits that
    were begun, of all disks; `saved`: the VM is off, with a saved state. `clean_start`: its commit has to begin while
    the guest stands still; `begun`: how far that is. `running`: not paused.
    """

    vm: str
    move: str
    overlay: str
    base: str
    stage: OverlayState | None
    persistent: bool
    noted: str = ""
    attempts: int = 0
    saved: bool = False
    running: bool = False
    clean_start: bool = False
    begun: Stage | None = None

    @property
    def holds(self) -> str:
        return f"{self.vm} runs on {self.overlay}, which stands on {self.base}"


def live(one: Overlaid, view: DiskView) -> Step | str | None:
    """The next step while there is a QEMU: a step, why the move has to be parked (a sentence without its end), or None
    when the overlay is not in use."""
    if not view.live_overlay:
        if one.persistent and view.config_overlay:
            return Step.WRITE_CONFIG
        return Step.NOTE_COMMITTED if one.stage is OverlayState.PIVOTING else None
    if view.job is DiskJob.FOREIGN:
        return f"somebody else runs a block job on {view.target} ({view.foreign}); {one.holds}"
    if view.job is DiskJob.COMMIT:
        return _running(one, view)
    if one.stage is not OverlayState.USED:
        return in_use(one, view)
    if one.persistent and not view.config_overlay:
        return Step.WRITE_CONFIG
    if one.attempts >= COMMIT_ATTEMPTS:
        return (
            f"the overlay of {view.target} could not be committed into its base in {one.attempts} attempts; "
            f"{one.holds}. `blockferry resume {one.move}` tries again; once {one.vm} is off, that is done without QEMU"
        )
    return Step.START_SUSPENDED if one.clean_start and one.running else Step.START


def _running(one: Overlaid, view: DiskView) -> Step:
    if one.clean_start and one.begun is not Stage.CLEAN:
        if one.running or one.begun not in (Stage.STARTING, Stage.STARTED):
            return Step.ABORT  # it may have missed a write: whoever pauses the VM now
        return Step.NOTE_CLEAN if view.initialised else Step.AWAIT_LOOK
    return Step.PIVOT if view.ready else Step.AWAIT


def off(one: Overlaid, view: DiskView) -> Step | str | None:
    """The same while there is no QEMU."""
    if not view.config_overlay:
        return Step.NOTE_COMMITTED if one.stage is OverlayState.PIVOTING else None
    if one.saved:
        return (
            f"{one.vm} was saved with its state, which names the overlay {one.overlay}: its next start uses it. "
            f"Start it (or discard the state: `virsh managedsave-remove {one.vm}`), then "
            f"`blockferry resume {one.move}` goes on"
        )
    if one.stage is OverlayState.PIVOTING:
        return (
            f"{one.vm} went off in the instant in which {view.target} went from its overlay to its base, and it "
            f"cannot be told which of the two was written last. Nothing is removed; {one.holds}. "
            f"If `qemu-img compare` finds both the same, or the overlay is the newer one: start {one.vm}, and "
            f"`blockferry resume {one.move}` goes on"
        )
    if one.stage is OverlayState.COMMITTED:
        return Step.WRITE_CONFIG if one.noted == view.overlay_fingerprint else in_use(one, view)
    return Step.COMMIT_OFF


def in_use(one: Overlaid, view: DiskView) -> Step | str:
    """The overlay is what the VM uses: note it. One that was committed before is all right if its base is untouched."""
    untouched = one.noted and one.noted.split("|")[0] == view.overlay_fingerprint.split("|")[0]
    if one.stage is OverlayState.COMMITTED and not untouched:
        return (
            f"{one.vm} uses the overlay of {view.target} again, whose base was written to after the overlay was "
            "committed into it; somebody has changed the VM. Nothing is removed"
        )
    return Step.NOTE_USED
