"""The small effects of a move. Each may be repeated; `storage_move/effects.py` tells what carries them out.

Action, Done, Finish and Park are those of every job (jobs/action.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from blockferry.jobs import action as jobs_action
from blockferry.jobs.action import Action as Action
from blockferry.jobs.action import Done as Done
from blockferry.jobs.action import Finish as Finish
from blockferry.jobs.action import Park as Park
from blockferry.storage_move.overlays.record import OverlayState


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Mark(Action):
    """Put the move's id into the domain's metadata, so that a sweep can tell what is ours."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CopyHome(Action):
    """Copy the metadata and the small files of the VM's home to the destination."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CopyLayers(Action):
    """Copy the lower layers of a disk's backing chain."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CreateImage(Action):
    """Make an empty image at the destination; one of ours that is there already is made anew."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MeasureGuest(Action):
    """See how long the guest's writes take before there is a copy."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrimGuest(Action):
    """Have the guest's agent give back what its file systems do not use, so that it is not copied."""

    phase: ClassVar[str] = "trim"
    failure_turns_back: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TrimAgain(Action):
    """The same at the destination, when all else is done: what the guest deleted or discarded during the copy."""

    phase: ClassVar[str] = "trim"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class GoSynchronous(Action):
    """Remember that the copies are to be made anew as a mirror: they do not get in step in the background."""

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True

    why: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LeaveSynchronous(Action):
    """Remember that the copies are to be made anew in the background: the destination has hung, and may again."""

    phase: ClassVar[str] = "copy"

    why: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveFenced(Action):
    """Remember that the destination was fenced, because it hung; from now on the way is back."""

    phase: ClassVar[str] = "roll back"

    directory: str
    after_s: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ThrottleGuest(Action):
    """Slow the guest's writes to this disk (further), so that its copy gets in step. `share`: of its present rate.

    `least`: bytes/s below which it is not slowed the first time, however little it was seen to write.
    """

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True

    target: str
    share: float
    why: str
    least: int


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnthrottleGuest(Action):
    """Put all disks' limits back as they were."""

    waits_for_destination: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TakeOverlays(Action):
    """Put an overlay above each of these disks at the source: it takes the writes, what is below is immutable."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveLayer(Action):
    """Remember what was seen of an overlay: that it is in use, or that it is not needed any more."""

    target: str
    at_source: bool
    layer: OverlayState


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SyncBase(Action):
    """Bring the base at the destination in step with the immutable one at the source, whatever it holds already."""

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StartCommit(Action):
    """Start the block job that commits the overlay in use into its base."""

    waits_for_destination: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PivotCommit(Action):
    """The base has all: let the VM go on with it."""

    waits_for_destination: ClassVar[bool] = True

    target: str
    at_source: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CommitOff(Action):
    """Commit the overlay of a VM that is off into its base."""

    target: str
    at_source: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Checkpoint(Action):
    """Have what was copied up to now on stable storage. `suspend` the VM for the milliseconds of QEMU's own flush."""

    phase: ClassVar[str] = "copy"
    waits_for_destination: ClassVar[bool] = True

    suspend: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Suspend(Action):
    """Stop the guest's processors for a moment. `switch`: for the switch; else for a clean start of a job."""

    failure_turns_back: ClassVar[bool] = True
    routine: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True

    switch: bool

    def phase_after(self, before: str) -> str:
        return "switch" if self.switch else "copy"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StartCopy(Action):
    """Start the block job of a disk; `reverse`: from the destination back to the source."""

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True

    target: str
    reverse: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveClean(Action):
    """Remember that these copies, and these commits of overlays, were started without missing a write."""

    phase: ClassVar[str] = "copy"

    targets: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Resume(Action):
    """Let the guest run on. `clean`: the copies that were started in this suspension and missed nothing.

    `commits`: the same of commits of overlays.
    """

    routine: ClassVar[bool] = True

    clean: tuple[str, ...] = ()
    switch_failed: bool = False
    commits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Await(jobs_action.LookAgain):
    """Nothing to do but to look again. `why`: "initialise", "copy", "drain", "abort", "retry", "hang", "lost"."""

    failure_turns_back: ClassVar[bool] = True

    def phase_after(self, before: str) -> str:
        return "copy" if self.why in ("copy", "initialise", "retry", "hang") else before


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FlushDestination(Action):
    """Have the destination on stable storage before the suspension, so that nothing is left to flush in it."""

    phase: ClassVar[str] = "switch"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Pivot(Action):
    """Point these disks to the other side of their jobs. The VM is suspended and the sides are equal."""

    phase: ClassVar[str] = "switch"
    waits_for_destination: ClassVar[bool] = True

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AbortCopy(Action):
    """End a block job of ours; the disk stays where it is."""

    phase: ClassVar[str] = "roll back"
    waits_for_destination: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ForgetCopy(Action):
    """The copy of this disk does not count any more (its QEMU is gone, its start was not clean)."""

    phase: ClassVar[str] = "copy"

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Fail(Action):
    """Remember what went wrong; from now on the way is back. `disk`: whose copy it was, to look for the cause."""

    phase: ClassVar[str] = "roll back"

    problem: str
    disk: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ColdCopy(Action):
    """Copy the disk of a VM that is off."""

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WriteConfig(Action):
    """Make the persistent XML point to the destination, all disks and home files in one write."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class WriteSnapshots(Action):
    """Make the snapshots' metadata name the files at the destination."""

    phase: ClassVar[str] = "clean up"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MoveMedium(Action):
    """Point a running VM's CD drive to the copy of its ISO in the new home."""

    phase: ClassVar[str] = "clean up"

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RevertConfig(Action):
    """Make the persistent XML point to the source again: that is where the VM runs. A disk that is across stays so."""

    phase: ClassVar[str] = "roll back"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ResumeGuest(Action):
    """Let a VM run again that QEMU had paused because its old storage failed: it repeats the failed requests here."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveGraph(Action):
    """Remember what QEMU's own block graph says of the new images. `committed`: also that no overlay is left."""

    phase: ClassVar[str] = "switch"

    committed: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PointAtTruth(Action):
    """Let the configuration name the old images again, which QEMU still writes to although libvirt has switched."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveSwitched(Action):
    """Remember the proof that all disks were seen at the destination."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PrepareExport(Action):
    """Make the scratch files of the frozen view, so that taking it in the suspension is short."""

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True
    waits_for_destination: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class StartExport(Action):
    """The VM stands still with all disks at the destination: freeze a view of them at this instant."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Verify(Action):
    """Compare the copy of this disk with its source: a frozen view while the VM runs, the files when it is off."""

    phase: ClassVar[str] = "verify"

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EndExport(Action):
    """Give the frozen view up and take its files away. What was not compared by then is noted as unverified."""

    phase: ClassVar[str] = "verify"

    why: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Settle(Action):
    """Have the new image of this disk on stable storage, allocated in full if thick was asked."""

    phase: ClassVar[str] = "clean up"

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReleaseSource(Action):
    """Prove that nothing needs this old file, then remove or keep it as asked."""

    phase: ClassVar[str] = "clean up"

    path: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReleaseHome(Action):
    """The same for the old home's metadata and its directory."""

    phase: ClassVar[str] = "clean up"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Follow(Action):
    """All is done but the UEFI variables: remember that, with the report so far."""

    phase: ClassVar[str] = "firmware"
    ends_round: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class AwaitPowerOff(Action):
    """Leave the move until the VM has been powered off: it holds its UEFI variables open until then."""

    phase: ClassVar[str] = "firmware"
    ends_round: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CopyNvram(Action):
    """Copy the UEFI variables of a VM that is off."""

    phase: ClassVar[str] = "firmware"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PointNvram(Action):
    """Point the persistent XML to the new UEFI variables; `back`: to the old ones, which the VM has used since."""

    phase: ClassVar[str] = "firmware"

    back: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveVm(Action):
    """Save the VM's memory to libvirt's managed save image; its QEMU ends."""

    phase: ClassVar[str] = "firmware"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveManagedSave(Action):
    """Have that image on stable storage, and remember that its memory is safe there."""

    phase: ClassVar[str] = "firmware"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RestoreVm(Action):
    """Load the saved VM's memory into a QEMU, still standing still. `new`: with the new UEFI variables."""

    phase: ClassVar[str] = "firmware"

    new: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EndManagedSave(Action):
    """The VM is not held any more: no image of its memory stays behind, and its guest runs if it ran before."""

    phase: ClassVar[str] = "firmware"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NotNow(Action):
    """The UEFI variables do not move now, and why; they follow once the VM has been powered off."""

    phase: ClassVar[str] = "firmware"

    why: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReleaseNvram(Action):
    """Prove that nothing needs the old UEFI variables, then remove or keep them as asked."""

    phase: ClassVar[str] = "firmware"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class KeepNvram(Action):
    """The UEFI variables stay where they are, and why."""

    phase: ClassVar[str] = "firmware"

    why: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LetLostRun(Action):
    """libvirt has lost the VM while we had it suspended: let its guest run, by its QEMU's own monitor."""

    phase: ClassVar[str] = "lost"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveLost(Action):
    """Remember that libvirt has lost the VM, and which images its QEMU says that it writes to."""

    phase: ClassVar[str] = "lost"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PointToCurrent(Action):
    """Make the persistent XML of a lost VM name the images that its QEMU writes to."""

    phase: ClassVar[str] = "lost"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BarStart(Action):
    """It cannot be told which images these disks are on: keep the VM from starting with old ones, autostart too."""

    phase: ClassVar[str] = "lost"

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class EndLost(Action):
    """The guest of a lost VM has powered off, and its QEMU waits to be ended as libvirt would do it: end it."""

    phase: ClassVar[str] = "lost"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SaveFound(Action):
    """It is over that libvirt had lost the VM: put its autostart back, go on from what is known of its images."""

    phase: ClassVar[str] = "lost"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RemoveDestination(Action):
    """Remove all that we made at the destination. The VM does not use it."""

    phase: ClassVar[str] = "roll back"
    waits_for_destination: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Unmark(Action):
    """Take our mark off the domain."""
