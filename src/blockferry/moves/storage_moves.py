"""Storage moves among the kinds of moves: which host one is run on, and what is left of one to do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from blockferry.base.errors import BlockferryError, OtherHost
from blockferry.jobs.outcome import Wanted
from blockferry.moves import move_host, run_storage_move
from blockferry.moves.environment import Environment
from blockferry.moves.kinds import MoveUseCases
from blockferry.storage_move.summary import MoveSummary
from blockferry.store import AnyJournal


class StorageMoves(MoveUseCases):
    """See MoveUseCases. A storage move is run on its own host only."""

    def journal(self, env: Environment) -> AnyJournal:
        return env.journal

    def run(
        self, env: Environment, move_summary: MoveSummary, on_change: Callable[[Any], None], stop: threading.Event
    ) -> MoveSummary:
        return run_storage_move.run(env, move_summary.id, on_change, stop)

    def reach(self, env: Environment, move_summary: MoveSummary) -> str:
        site = move_host.site_of(env, move_summary)
        env.release(site)
        return site.uri

    def is_ours(self, env: Environment, move_summary: MoveSummary) -> bool:
        try:
            move_host.expect_host(env, move_summary, env.site.connection)
        except OtherHost:
            return False
        except BlockferryError:  # libvirt does not answer: whoever runs it waits for it, and asks then
            if env.journal.path is None or move_summary.plan.uri != env.uri:
                return False
        return _is_due(env, move_summary)

    def just_planned(self, move_summary: MoveSummary) -> bool:
        return not move_summary.record.configuration.marked

    def adopt(self, env: Environment, move_summary: MoveSummary) -> MoveSummary:
        if move_summary.plan.host or move_summary.finished is not None or move_summary.owner_alive:
            return move_summary
        return move_host.adopt(env, move_summary)


def _is_due(env: Environment, move_summary: MoveSummary) -> bool:
    """Whether there is something to do: a move that waits for a power-off has to be told of it by somebody."""
    if move_summary.state != "waiting" or move_summary.record.wanted is Wanted.CANCEL:
        return True
    try:
        view = env.site.control(move_summary.plan.uuid, move_summary.plan.vm).look(())
    except BlockferryError:
        return False
    moved_on = move_summary.plan.firmware.nvram is None or view.nvram != move_summary.plan.firmware.nvram.source
    return not view.saved and (not view.state.active or moved_on)
