"""The actions of a move to another host whose disks go before their running VM (overlay_rules.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from blockferry.jobs.action import Action
from blockferry.storage_move.overlays.record import OverlayState


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PutOverlaysAbove(Action):
    """Overlays above these disks at the source, all in one instant: what is below is immutable from then on."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True

    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class MakeNewOverlay(Action):
    """Make the empty overlay above the copied image at the destination."""

    phase: ClassVar[str] = "prepare"
    failure_turns_back: ClassVar[bool] = True

    target: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class NoteOverlay(Action):
    """Remember what was seen of an overlay: in use, or all of it in its base."""

    target: str
    at_source: bool
    state: OverlayState


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PointConfig(Action):
    """Have the persistent XML name what the VM runs on, or what has all of its writes."""

    at_source: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BeginCommit(Action):
    """Start the block job that commits the overlay in use into its base."""

    phase: ClassVar[str] = "commit"

    target: str
    at_source: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class PivotToBase(Action):
    """The base has all: let the VM go on with it."""

    phase: ClassVar[str] = "commit"

    target: str
    at_source: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CommitWhileOff(Action):
    """Commit the overlay of a VM that is off into its base."""

    phase: ClassVar[str] = "commit"

    target: str
    at_source: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RemoveNewOverlays(Action):
    """Take away the overlays at the destination whose bases have all."""

    phase: ClassVar[str] = "clean up"


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class RemoveOverlays(Action):
    """Take away the overlays at the source, on the way back."""

    phase: ClassVar[str] = "roll back"
