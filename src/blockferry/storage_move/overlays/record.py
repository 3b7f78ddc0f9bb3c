"""What a move remembers of the overlays that it puts above a disk's base."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class OverlayState(enum.Enum):
    """An overlay of ours above a disk's base, at the source or at the destination.

    In use, the overlay holds what was written last and the base is immutable.
    """

    NAMED = "named"  # intent: it is made and put above the base; it may be in use already
    USED = "used"  # the VM was seen on it: it must never be lost from now on
    PIVOTING = "pivoting"  # intent: all is in the base, and the VM's next step is onto it
    COMMITTED = "committed"  # proof: all is in the base, which is what VM and configuration name


@dataclass(frozen=True, slots=True)
class ComparedBase:
    """A base at the destination that was brought in step, and what that took. Bytes, seconds."""

    fingerprint: str  # of the source's base
    compared: int = 0
    written: int = 0
    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CommitsRecord:
    """The block commits of overlays, of all disks together."""

    attempts: int = 0
    fingerprints: dict[str, str] = field(default_factory=dict)  # overlay -> its own when its content was in the base
