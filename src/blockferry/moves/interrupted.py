"""Moves that nobody runs: which of them are to be taken up here, and by whom."""

from __future__ import annotations

import time

from blockferry.base.errors import BlockferryError, OtherHost
from blockferry.jobs.outcome import Wanted
from blockferry.moves import move_host
from blockferry.moves.environment import Environment
from blockferry.storage_move.summary import MoveSummary

GRACE_S = 10.0
"""For how long a planned move is left to the process that planned it."""


def interrupted_moves(env: Environment) -> tuple[MoveSummary, ...]:
    """Moves of this host that nobody runs and that are not parked."""
    if env.nothing_under_way():
        return ()
    return tuple(
        move_summary
        for move_summary in env.journal.unfinished()
        if not move_summary.owner_alive
        and move_summary.parked is None
        and not _just_planned(move_summary)
        and is_ours(env, move_summary)
    )


def resumable(env: Environment, move: str | None) -> tuple[MoveSummary, ...]:
    """Return the moves to run again: the one named, unless it has ended; or all that nobody runs and are not parked.

    Raises MoveNotFound, OtherHost.
    """
    if move is not None:
        summary = env.journal.get(move)
        if summary.finished is not None:
            return ()
        env.release(move_host.site_of(env, summary))
        return (summary,)
    return tuple(
        move_summary
        for move_summary in env.journal.unfinished()
        if not move_summary.owner_alive and move_summary.parked is None and is_ours(env, move_summary)
    )


def is_ours(env: Environment, move_summary: MoveSummary) -> bool:
    """Whether a move that nobody runs is to be taken up here: it is of this host, and there is something to do."""
    try:
        move_host.expect_host(env, move_summary, env.site.connection)
    except OtherHost:
        return False
    except BlockferryError:  # libvirt does not answer: whoever runs it waits for it, and asks then
        if env.journal.path is None or move_summary.plan.uri != env.uri:
            return False
    return _is_due(env, move_summary)


def _is_due(env: Environment, move_summary: MoveSummary) -> bool:
    """Whether there is something to do: a move that waits for a power-off has to be told of it by somebody."""
    if move_summary.state != "waiting" or move_summary.record.wanted is Wanted.CANCEL:
        return True
    try:
        view = env.site.control(move_summary.plan.uuid, move_summary.plan.vm).look(())
    except BlockferryError:
        return False
    moved_on = move_summary.plan.nvram is None or view.nvram != move_summary.plan.nvram.source
    return not view.saved and (not view.state.active or moved_on)


def _just_planned(move_summary: MoveSummary) -> bool:
    """Whether the process that planned it is about to run it."""
    return (
        move_summary.owner is None
        and move_summary.deaths == 0
        and not move_summary.record.configuration.marked
        and time.time() - move_summary.created < GRACE_S
    )
