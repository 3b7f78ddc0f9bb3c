"""How a move ended: its finished summary, or the error that says why it did not go through."""

from __future__ import annotations

from typing import TYPE_CHECKING

from blockferry.base import lazy
from blockferry.base.errors import MoveCancelled, MoveFailed
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.summary import MoveSummary

if TYPE_CHECKING:
    from blockferry.storage_move.verify import rules as verify_rules
else:  # with all actions: what only looks does without
    verify_rules = lazy.module("blockferry.storage_move.verify.rules")


def conclude(done: MoveSummary) -> MoveSummary:
    """Return the summary of a move that went through.

    Raises MoveCancelled, MoveFailed; NotVerified or CopyDiffers where it was to be verified and was not, or not alike.
    """
    outcome = done.record.outcome
    if outcome is Outcome.CANCELLED:
        raise MoveCancelled(done.id, done.plan.vm, done.holds)
    if outcome is Outcome.FAILED:
        problem = (done.record.failure or "no reason was written down").rstrip(".") + "."
        raise MoveFailed(done.id, done.plan.vm, problem, done.holds)
    verify_rules.see_verified(done)
    return done
