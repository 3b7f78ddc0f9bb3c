"""How a job ended: its finished summary, or the error that says why it did not go through."""

from __future__ import annotations

from typing import Any, TypeVar

from blockferry.base.errors import MoveCancelled, MoveFailed
from blockferry.jobs.job_summary import JobSummary
from blockferry.jobs.outcome import Outcome

SummaryT = TypeVar("SummaryT", bound=JobSummary[Any, Any, Any, Any])


def conclude(done: SummaryT) -> SummaryT:
    """Return the summary of a move that went through.

    Raises MoveCancelled, MoveFailed; NotVerified or CopyDiffers where it was to be verified and was not, or not alike.
    """
    outcome = done.record.outcome
    if outcome is Outcome.CANCELLED:
        raise MoveCancelled(done.id, done.plan.vm, done.holds)
    if outcome is Outcome.FAILED:
        problem = (done.record.failure or "no reason was written down").rstrip(".") + "."
        raise MoveFailed(done.id, done.plan.vm, problem, done.holds)
    done.see_verified()
    return done
