"""Tracking of changed blocks and its points."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.errors.error import BlockferryError, suggest


@dataclass(eq=False, repr=False)
class TrackingLost(BlockferryError):
    """What has changed since that point cannot be told any more; the sentence says why. Nothing was touched.

    Since that point everything may have changed: treat the whole disk as changed (a full backup, a full copy), and make
    a new point. There is never a list that may be too short. docs/changed-blocks-tracking.md tells what loses the
    tracking, and what cannot be noticed.
    """

    code = "TRACKING_LOST"
    exit_status = 12
    sentence_form = "tracking lost: since {since} everything on {disk} of {vm} may have changed; {why}."
    hint_form = "Treat the whole disk as changed, and make a new point: `blockferry cbt point {vm}`."
    vm: str
    disk: str
    since: str
    why: str


@dataclass(eq=False, repr=False)
class PointNotFound(BlockferryError):
    """The VM has no such point (it was dropped, or never made): since then everything may have changed."""

    code = "POINT_NOT_FOUND"
    exit_status = 3
    sentence_form = "VM {vm} has no point {point}."
    vm: str
    point: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return suggest(self.nearest) + f"`blockferry cbt status {self.vm}` lists its points."


@dataclass(eq=False, repr=False)
class NotTrackable(BlockferryError):
    """The changes of that VM or disk cannot be tracked, or not asked for now; the sentence says why. Nothing was
    touched."""

    code = "NOT_TRACKABLE"
    exit_status = 4
    sentence_form = "{what} of {vm} cannot be tracked: {why}."
    vm: str
    what: str
    why: str


@dataclass(eq=False, repr=False)
class TooManyPoints(BlockferryError):
    """The VM has as many points as it may have. Each is a bitmap that QEMU keeps up at every write."""

    code = "TOO_MANY_POINTS"
    exit_status = 4
    sentence_form = "{vm} has {number} points already, which is the limit."
    hint_form = "`blockferry cbt drop {vm} ID` drops one, `--keep N` drops the oldest."
    vm: str
    number: int


@dataclass(eq=False, repr=False)
class TrackingBusy(BlockferryError):
    """Something else is going on with the VM that does not let its changes be asked for now. Nothing was touched."""

    code = "TRACKING_BUSY"
    exit_status = 9
    sentence_form = "{vm} cannot be asked for changes now: {problem}."
    hint_form = "Try again when that is over."
    vm: str
    problem: str
