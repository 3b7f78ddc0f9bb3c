"""What every job remembers of itself, whatever its kind."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.jobs.outcome import Outcome, Wanted


@dataclass(frozen=True, slots=True)
class JobRecord:
    """The record of a kind of job is a subclass. `wanted` and `bandwidth` are as the user has said last."""

    wanted: Wanted = Wanted.GO
    bandwidth: int = 0  # bytes/s, as last asked; 0: no limit
    unexpected: int = 0  # errors that nobody has foreseen, since the user last looked (jobs/unexpected_errors.py)
    failure: str | None = None  # the first thing that went wrong, a sentence
    outcome: Outcome | None = None
