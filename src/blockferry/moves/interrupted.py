"""Moves that nobody runs: which of them are to be taken up here, and by whom."""

from __future__ import annotations

import time

from blockferry.base.errors import BlockferryError
from blockferry.moves import kinds
from blockferry.moves.environment import Environment
from blockferry.moves.kinds import AnyMove

GRACE_S = 10.0
"""For how long a planned move is left to the process that planned it."""


def interrupted_moves(env: Environment) -> tuple[AnyMove, ...]:
    """Moves that nobody runs, that are not parked, and that can be run from here."""
    if env.nothing_under_way():
        return ()
    return tuple(
        move_summary
        for move_summary in _left(env)
        if not _just_planned(move_summary) and kinds.of(move_summary).is_ours(env, move_summary)
    )


def resumable(env: Environment, move: str | None) -> tuple[AnyMove, ...]:
    """Return the moves to run again: the one named, unless it has ended; or all that nobody runs and are not parked.

    Of those that wait for a configured host which does not answer, whoever listens is told. Raises MoveNotFound,
    OtherHost; what that host has met when there are no others.
    """
    if move is not None:
        summary = env.every_move.get(move)
        if summary.finished is not None:
            return ()
        kinds.of(summary).reach(env, summary)
        return (summary,)
    found, silent = [], []
    for move_summary in left_here(env):
        waiting = kinds.of(move_summary).silent_host(env, move_summary)
        if waiting is None:
            found.append(move_summary)
        else:
            silent.append(waiting)
            tell_waiting(env, move_summary, *waiting)
    if silent and not found:
        raise silent[0][1]
    return tuple(found)


def left_here(env: Environment) -> tuple[AnyMove, ...]:
    """Return the moves that nobody runs, that are not parked, and that belong to the host of `env`."""
    return tuple(move_summary for move_summary in _left(env) if kinds.of(move_summary).is_ours(env, move_summary))


def tell_waiting(env: Environment, move_summary: AnyMove, host: str, error: BlockferryError) -> None:
    """Tell whoever listens that a move waits for a host."""
    env.say(f"move {move_summary.id} of {move_summary.plan.vm} waits for host {host}: {error.sentence}")


def _left(env: Environment) -> list[AnyMove]:
    return [
        move_summary
        for move_summary in env.every_move.unfinished()
        if not move_summary.owner_alive and move_summary.parked is None
    ]


def _just_planned(any_move: AnyMove) -> bool:
    """Whether the process that planned it is about to run it."""
    return (
        any_move.owner is None
        and any_move.deaths == 0
        and time.time() - any_move.created < GRACE_S
        and kinds.of(any_move).just_planned(any_move)
    )
