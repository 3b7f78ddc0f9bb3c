"""A line of a job's story."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is wall time, seconds since the epoch."""

    at: float
    kind: str  # "phase", "action", "warning", "error", "user"
    text: str
