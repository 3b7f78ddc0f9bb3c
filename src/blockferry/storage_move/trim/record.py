"""What a move remembers of asking the guest to trim. What each disk gave back is in DiskRecord."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrimRecord:
    """Whether the guest was asked, however much it gave back."""

    asked: bool = False  # before the copy
    asked_again: bool = False  # at the destination, after the switch
