"""What the user wants of a job, and how a job ended. The values stand in the journal: they are promises."""

from __future__ import annotations

import enum


class Wanted(enum.Enum):
    """What the user wants now."""

    GO = "go"
    CANCEL = "cancel"


class Outcome(enum.Enum):
    """How a job ended."""

    MOVED = "moved"  # it has done what it was planned for: of a storage move, the VM's disks are at the destination
    CANCELLED = "cancelled"  # as asked; all is where it was, nothing of the job is left
    FAILED = "failed"  # it did not work; all is where it was, nothing of the job is left
