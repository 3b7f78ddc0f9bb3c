"""What a plan says of the overlays that a move puts above a disk's base."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.names import cut
from blockferry.hosts.kept import Kept
from blockferry.storage_move.destination.placement import LONGEST_STEM


@dataclass(frozen=True, slots=True)
class OverlaysPlan:
    """The paths of a disk's two overlays."""

    source: str = ""  # where the writes go while the base is immutable; "": that way is not open
    dest: str = ""
    first: bool = False  # the copy begins with an overlay, because a suspended start would take long


@dataclass(frozen=True, slots=True)
class PartialPlan:
    """The broken copy of an earlier move, or the old disk, that lies where the new image is to be."""

    move: str | None = None  # the move that left it; None: there is none
    allocated: int = 0  # bytes of it that are used; 0: it is replaced by an empty image
    old: Kept | None = None  # an old disk: its row of the quarantine, which it left with this plan; None: a broken copy


def overlay_stem(vm: str, target: str, move: str) -> str:
    """Return the beginning of the names of a disk's overlays: no other move makes them."""
    return f"{cut(vm, LONGEST_STEM)}-{target}.{move}".replace("/", "_")
