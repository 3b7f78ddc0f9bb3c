"""What a move remembers of one disk."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from blockferry.storage_move.overlays.record import ComparedBase, OverlayState
from blockferry.storage_move.pace.record import Throttle


class Stage(enum.Enum):
    """How far the copy of one disk is. The source is the truth in all of them."""

    NONE = "none"  # nothing at the destination that counts
    IMAGE = "image"  # an empty image of the right size is there
    STARTING = "starting"  # intent: the next thing is the call that starts the block job
    STARTED = "started"  # the job is there, but it may have missed writes of its first moments (start race)
    CLEAN = "clean"  # the job is there and has seen every write since it looked at the disk


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy of one disk, and of which run of the VM it belongs to: a job dies with its QEMU process."""

    stage: Stage = Stage.NONE
    incarnation: int = -1  # libvirt's domain id at the start of the job
    attempts: int = 0
    reverse: bool = False  # back from the destination to the source, after a switch that broke in the middle
    synchronous: bool = False  # started so; of a copy of an older version's record: as the plan says
    missed: bool = False  # the guest has run since it began, or may have, and it was not clean: it is begun anew


@dataclass(frozen=True, slots=True)
class DiskRecord:
    """The memory of one disk of the move. Fingerprints: hosts/fingerprint.py. Sizes are bytes."""

    copy: Copy = field(default_factory=Copy)
    layers_copied: bool = False  # its lower layers are across
    cold_copied: str | None = None  # fingerprint of the source that was copied while the VM was off
    partial: bool = False  # its image at the destination holds a broken copy, to be gone on with
    taken_over: bool = False  # intent: the old disk that lay there (`DiskPlan.partial.old`) is written to from here on
    synced: ComparedBase | None = None  # the base is across
    source_overlay: OverlayState | None = None  # the overlay of ours above the source
    dest_overlay: OverlayState | None = None
    commit: Stage | None = None  # how the block commit of its overlay began (start race)
    settled: bool = False  # the new image is complete on stable storage (and thick if asked)
    verified: bool = False  # its copy was compared with the source and is the same
    differences: tuple[int, ...] | None = None  # the first offsets that differ
    unverified: str | None = None  # why it could not be compared, a clause
    throttle: Throttle | None = None
    trimmed: int | None = None  # given back before the copy
    trimmed_again: int | None = None  # and at the destination, after the switch
    xml_before: str | None = None  # its <disk> in the persistent XML at first

    @property
    def judged(self) -> bool:
        """Whether the verification of this disk is over, one way or the other."""
        return self.verified or self.differences is not None or self.unverified is not None

    def overlay(self, *, at_source: bool) -> OverlayState | None:
        return self.source_overlay if at_source else self.dest_overlay
