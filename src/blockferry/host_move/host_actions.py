"""The actions of a move to another host. See jobs/action.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from blockferry.jobs.action import Action


@dataclass(frozen=True, slots=True)
class MarkVm(Action):
    """Put our mark on the VM at the source; it goes along, and tells at the destination whose the VM is."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class MakeImage(Action):
    """Make the empty image of a disk at the destination, of exactly its size; one of ours is made anew."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True)
class Migrate(Action):
    """Begin the migration. The guest is stopped at the destination when it has arrived there."""

    phase: ClassVar[str] = "migrate"
    failure_turns_back: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class StopMigration(Action):
    """End the migration that is under way; the guest runs on at the source."""

    phase: ClassVar[str] = "roll back"


@dataclass(frozen=True, slots=True)
class RunAtSource(Action):
    """A migration has broken between the stop at the source and the end; nothing is at the destination: go on here."""

    phase: ClassVar[str] = "roll back"


@dataclass(frozen=True, slots=True)
class CopyImage(Action):
    """Copy the disk of a VM that is off, from host to host."""

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True)
class CopyStateFile(Action):
    """Copy a small file of the VM (its UEFI variables) to the destination, and compare the copy."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True

    path: str


@dataclass(frozen=True, slots=True)
class ProveStateFile(Action):
    """See whether what the destination has of a small file is what the source had; on the destination's storage."""

    phase: ClassVar[str] = "clean up"

    path: str


@dataclass(frozen=True, slots=True)
class ReleaseStateFile(Action):
    """Prove that nothing needs this small file at the source, then remove or keep it as asked."""

    phase: ClassVar[str] = "clean up"

    path: str


@dataclass(frozen=True, slots=True)
class DefineBarred(Action):
    """Define the VM that is off at the destination; its images have other names yet, so that it cannot start there."""

    phase: ClassVar[str] = "switch"
    failure_turns_back: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class ForgetCopies(Action):
    """The source was written to after it was copied: copy it again."""

    phase: ClassVar[str] = "copy"

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DefineAtSource(Action):
    """Give the source its definition back: the VM was started while it was taken, or the move is cancelled.

    From now on the way is back.
    """

    phase: ClassVar[str] = "roll back"


@dataclass(frozen=True, slots=True)
class SaveHanded(Action):
    """Remember the proof that the guest is handed over: what the source has of it is old."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True)
class EndAtSource(Action):
    """End the source's QEMU, which has handed its guest over."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True)
class UndefineAtSource(Action):
    """Remove the definition at the source, so that the VM cannot start there."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True)
class SaveAlone(Action):
    """Remember the proof that the source has neither QEMU nor definition."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True)
class RunAtDestination(Action):
    """The fence is passed: let the guest run at the destination."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True)
class NameImages(Action):
    """Give the images of a VM that is off the names that its definition says."""

    phase: ClassVar[str] = "switch"


@dataclass(frozen=True, slots=True)
class SaveArrived(Action):
    """Remember that the VM is at the destination as it is to be."""

    phase: ClassVar[str] = "switch"

    note: str = ""


@dataclass(frozen=True, slots=True)
class SaveUnproven(Action):
    """Remember that the new images are not known to be whole: the old ones are kept."""

    phase: ClassVar[str] = "clean up"

    why: str


@dataclass(frozen=True, slots=True)
class FlushImages(Action):
    """Have what was written to the new images on the destination's disks, before anything at the source goes."""

    phase: ClassVar[str] = "clean up"


@dataclass(frozen=True, slots=True)
class SettleDefinition(Action):
    """Take our mark off, put autostart as it was, and take the markers beside the images away."""

    phase: ClassVar[str] = "clean up"


@dataclass(frozen=True, slots=True)
class ReleaseImage(Action):
    """Prove that nothing needs this old image at the source, then remove or keep it as asked."""

    phase: ClassVar[str] = "clean up"

    path: str


@dataclass(frozen=True, slots=True)
class TurnBack(Action):
    """Remember what went wrong; from now on the way is back."""

    phase: ClassVar[str] = "roll back"

    problem: str


@dataclass(frozen=True, slots=True)
class EndAtDestination(Action):
    """End the half-made instance, or remove the definition, at the destination that has our mark."""

    phase: ClassVar[str] = "roll back"


@dataclass(frozen=True, slots=True)
class RemoveImages(Action):
    """Remove what we made at the destination."""

    phase: ClassVar[str] = "roll back"


@dataclass(frozen=True, slots=True)
class UnmarkVm(Action):
    """Take our mark off the VM at the source."""

    phase: ClassVar[str] = "roll back"
