"""The small effects of a move. Each may be repeated; `engine/act.py` carries them out.

An action says what is to be done, never how; none of them holds a libvirt object or a file handle.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.model.record import Layer, Outcome


@dataclass(frozen=True, slots=True)
class Mark:
    """Put the move's id into the domain's metadata, so that a sweep can tell what is ours."""


@dataclass(frozen=True, slots=True)
class CopyHome:
    """Copy the metadata and the small files of the VM's home to the destination."""


@dataclass(frozen=True, slots=True)
class CopyLayers:
    """Copy the lower layers of a disk's backing chain."""

    target: str


@dataclass(frozen=True, slots=True)
class CreateImage:
    """Make an empty image at the destination; one of ours that is there already is made anew."""

    target: str


@dataclass(frozen=True, slots=True)
class MeasureGuest:
    """See how long the guest's writes take before there is a copy."""


@dataclass(frozen=True, slots=True)
class TrimGuest:
    """Have the guest's agent give back what its file systems do not use, so that it is not copied."""


@dataclass(frozen=True, slots=True)
class TrimAgain:
    """The same at the destination, when all else is done: what the guest deleted or discarded during the copy."""


@dataclass(frozen=True, slots=True)
class GoSynchronous:
    """Remember that the copies are to be made anew as a mirror: they do not get in step in the background."""

    why: str


@dataclass(frozen=True, slots=True)
class LeaveSynchronous:
    """Remember that the copies are to be made anew in the background: the destination has hung, and may again."""

    why: str


@dataclass(frozen=True, slots=True)
class NoteCutOff:
    """Remember that the destination was cut off, because it hung; from now on the way is back."""

    directory: str
    after_s: float


@dataclass(frozen=True, slots=True)
class ThrottleGuest:
    """Slow the guest's writes to this disk (further), so that its copy gets in step. `share`: of its present rate.

    `least`: bytes/s below which it is not slowed the first time, however little it was seen to write.
    """

    target: str
    share: float
    why: str
    least: int


@dataclass(frozen=True, slots=True)
class UnthrottleGuest:
    """Put all disks' limits back as they were."""


@dataclass(frozen=True, slots=True)
class TakeOverlays:
    """Put an overlay above each of these disks at the source: it takes the writes, what is below is immutable."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoteLayer:
    """Remember what was seen of an overlay: that it is in use, or that it is not needed any more."""

    target: str
    at_source: bool
    layer: Layer


@dataclass(frozen=True, slots=True)
class SyncBase:
    """Bring the base at the destination in step with the immutable one at the source, whatever it holds already."""

    target: str


@dataclass(frozen=True, slots=True)
class StartFold:
    """Start the block job that commits the overlay in use into its base."""

    target: str


@dataclass(frozen=True, slots=True)
class PivotFold:
    """The base has all: let the VM go on with it."""

    target: str
    at_source: bool


@dataclass(frozen=True, slots=True)
class Fold:
    """Commit the overlay of a VM that is off into its base."""

    target: str
    at_source: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Have what was copied up to now on stable storage. `suspend` the VM for the milliseconds of QEMU's own flush."""

    suspend: bool


@dataclass(frozen=True, slots=True)
class Suspend:
    """Stop the guest's processors for a moment. `switch`: for the switch; else for a clean start of copies."""

    switch: bool


@dataclass(frozen=True, slots=True)
class StartCopy:
    """Start the block job of a disk; `reverse`: from the destination back to the source."""

    target: str
    reverse: bool = False


@dataclass(frozen=True, slots=True)
class NoteClean:
    """Remember that these copies were started without missing a write."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Resume:
    """Let the guest run on. `clean`: the copies that were started in this suspension and missed nothing."""

    clean: tuple[str, ...] = ()
    switch_failed: bool = False


@dataclass(frozen=True, slots=True)
class Await:
    """Nothing to do but to look again. `why` is a word for the phase, `pause_s` how long to wait at most."""

    why: str  # "initialise", "copy", "drain", "abort", "retry", "hang", "lost"
    pause_s: float


@dataclass(frozen=True, slots=True)
class FlushDestination:
    """Have the destination on stable storage before the suspension, so that nothing is left to flush in it."""


@dataclass(frozen=True, slots=True)
class Pivot:
    """Point these disks to the other side of their jobs. The VM is suspended and the sides are equal."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AbortCopy:
    """End a block job of ours; the disk stays where it is."""

    target: str


@dataclass(frozen=True, slots=True)
class ForgetCopy:
    """The copy of this disk does not count any more (its QEMU is gone, its start was not clean)."""

    target: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Remember what went wrong; from now on the way is back. `disk`: whose copy it was, to look for the cause."""

    problem: str
    disk: str | None = None


@dataclass(frozen=True, slots=True)
class ColdCopy:
    """Copy the disk of a VM that is off."""

    target: str


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Make the persistent XML point to the destination, all disks and home files in one write."""


@dataclass(frozen=True, slots=True)
class WriteSnapshots:
    """Make the snapshots' metadata name the files at the destination."""


@dataclass(frozen=True, slots=True)
class MoveMedium:
    """Point a running VM's CD drive to the copy of its ISO in the new home."""

    target: str


@dataclass(frozen=True, slots=True)
class RevertConfig:
    """Make the persistent XML point to the source again: that is where the VM runs. A disk that is across stays so."""


@dataclass(frozen=True, slots=True)
class ResumeGuest:
    """Let a VM run again that QEMU had paused because its old storage failed: it repeats the failed requests here."""


@dataclass(frozen=True, slots=True)
class NoteGraph:
    """Remember what QEMU's own block graph says of the new images. `folded`: also that no overlay is left."""

    folded: bool = False


@dataclass(frozen=True, slots=True)
class PointAtTruth:
    """Let the configuration name the old images again, which QEMU still writes to although libvirt has switched."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoteSwitched:
    """Remember the proof that all disks were seen at the destination."""


@dataclass(frozen=True, slots=True)
class PrepareView:
    """Make the scratch files of the frozen view, so that taking it in the suspension is short."""


@dataclass(frozen=True, slots=True)
class TakeView:
    """The VM stands still with all disks at the destination: freeze a view of them at this instant."""


@dataclass(frozen=True, slots=True)
class Verify:
    """Compare the copy of this disk with its source: a frozen view while the VM runs, the files when it is off."""

    target: str


@dataclass(frozen=True, slots=True)
class EndView:
    """Give the frozen view up and take its files away. What was not compared by then is noted as unverified."""

    why: str = ""


@dataclass(frozen=True, slots=True)
class Settle:
    """Have the new image of this disk on stable storage, allocated in full if thick was asked."""

    target: str


@dataclass(frozen=True, slots=True)
class ReleaseSource:
    """Prove that nothing needs this old file, then remove or keep it as asked."""

    path: str


@dataclass(frozen=True, slots=True)
class ReleaseHome:
    """The same for the old home's metadata and its directory."""


@dataclass(frozen=True, slots=True)
class Follow:
    """All is done but the UEFI variables: remember that, with the report so far."""


@dataclass(frozen=True, slots=True)
class AwaitPowerOff:
    """Leave the move until the VM has been powered off: it holds its UEFI variables open until then."""


@dataclass(frozen=True, slots=True)
class CopyNvram:
    """Copy the UEFI variables of a VM that is off."""


@dataclass(frozen=True, slots=True)
class PointNvram:
    """Point the persistent XML to the new UEFI variables; `back`: to the old ones, which the VM has used since."""

    back: bool = False


@dataclass(frozen=True, slots=True)
class SaveVm:
    """Save the VM's memory to libvirt's managed save image; its QEMU ends."""


@dataclass(frozen=True, slots=True)
class NoteSaved:
    """Have that image on stable storage, and remember that its memory is safe there."""


@dataclass(frozen=True, slots=True)
class RestoreVm:
    """Load the saved VM's memory into a QEMU, still standing still. `new`: with the new UEFI variables."""

    new: bool


@dataclass(frozen=True, slots=True)
class LetGo:
    """The VM is not held any more: no image of its memory stays behind, and its guest runs if it ran before."""


@dataclass(frozen=True, slots=True)
class NotNow:
    """The UEFI variables do not move now, and why; they follow once the VM has been powered off."""

    why: str


@dataclass(frozen=True, slots=True)
class ReleaseNvram:
    """Prove that nothing needs the old UEFI variables, then remove or keep them as asked."""


@dataclass(frozen=True, slots=True)
class LeaveNvram:
    """The UEFI variables stay where they are, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class LetLostRun:
    """libvirt has lost the VM while we had it suspended: let its guest run, by its QEMU's own monitor."""


@dataclass(frozen=True, slots=True)
class NoteLost:
    """Remember that libvirt has lost the VM, and which images its QEMU says that it writes to."""


@dataclass(frozen=True, slots=True)
class PointToCurrent:
    """Make the persistent XML of a lost VM name the images that its QEMU writes to."""


@dataclass(frozen=True, slots=True)
class BarStart:
    """It cannot be told which images these disks are on: keep the VM from starting with old ones, autostart too."""

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EndLost:
    """The guest of a lost VM has powered off, and its QEMU waits to be ended as libvirt would do it: end it."""


@dataclass(frozen=True, slots=True)
class NoteFound:
    """It is over that libvirt had lost the VM: put its autostart back, go on from what is known of its images."""


@dataclass(frozen=True, slots=True)
class RemoveDestination:
    """Remove all that we made at the destination. The VM does not use it."""


@dataclass(frozen=True, slots=True)
class Unmark:
    """Take our mark off the domain."""


@dataclass(frozen=True, slots=True)
class Finish:
    """The move is over."""

    outcome: Outcome
    note: str = ""


@dataclass(frozen=True, slots=True)
class Park:
    """Stand still and say why: going on could hurt."""

    problem: str


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing is left to do."""

    outcome: Outcome


Action = (
    Mark
    | CopyHome
    | CopyLayers
    | CreateImage
    | MeasureGuest
    | TrimGuest
    | TrimAgain
    | GoSynchronous
    | LeaveSynchronous
    | NoteCutOff
    | ThrottleGuest
    | UnthrottleGuest
    | TakeOverlays
    | NoteLayer
    | SyncBase
    | StartFold
    | PivotFold
    | Fold
    | Checkpoint
    | Suspend
    | StartCopy
    | NoteClean
    | Resume
    | Await
    | FlushDestination
    | Pivot
    | AbortCopy
    | ForgetCopy
    | Fail
    | ColdCopy
    | WriteConfig
    | WriteSnapshots
    | MoveMedium
    | RevertConfig
    | ResumeGuest
    | NoteGraph
    | PointAtTruth
    | NoteSwitched
    | PrepareView
    | TakeView
    | Verify
    | EndView
    | Settle
    | ReleaseSource
    | ReleaseHome
    | Follow
    | AwaitPowerOff
    | CopyNvram
    | PointNvram
    | SaveVm
    | NoteSaved
    | RestoreVm
    | LetGo
    | NotNow
    | ReleaseNvram
    | LeaveNvram
    | LetLostRun
    | NoteLost
    | PointToCurrent
    | BarStart
    | EndLost
    | NoteFound
    | RemoveDestination
    | Unmark
    | Finish
    | Park
    | Done
)
