"""Moves to another host among the kinds of moves: run from anywhere that reaches both hosts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from blockferry.base.errors import BlockferryError
from blockferry.host_move import run_host_move
from blockferry.host_move.host_summary import HostMoveSummary
from blockferry.hosts.host import Host
from blockferry.jobs.conclusion import conclude
from blockferry.moves import host_finding
from blockferry.moves.environment import Environment
from blockferry.moves.kinds import MoveUseCases
from blockferry.store import AnyJournal


class HostMoves(MoveUseCases):
    """See MoveUseCases."""

    def journal(self, env: Environment) -> AnyJournal:
        return env.host_moves

    def run(
        self,
        env: Environment,
        host_move_summary: HostMoveSummary,
        on_change: Callable[[Any], None],
        stop: threading.Event,
    ) -> HostMoveSummary:
        if host_move_summary.finished is not None:
            return conclude(host_move_summary)
        source, dest = _uris(env, host_move_summary)
        env.uris[host_move_summary.id] = source
        done = run_host_move.run(
            env.host_moves,
            env.journal,
            host_move_summary.id,
            Host(source, others=env.hosts),
            Host(dest, others=env.hosts),
            shown=on_change,
            stop=stop,
            others=env.hosts,
        )
        on_change(done)
        return conclude(done)

    def reach(self, env: Environment, host_move_summary: HostMoveSummary) -> str:
        """The source's; the destination is found by the configuration again."""
        return _uris(env, host_move_summary)[0]

    def is_ours(self, env: Environment, host_move_summary: HostMoveSummary) -> bool:
        """Whether one of its hosts is ours; a source that is not configured may be any configured host by another URI.

        Quick: no host is waited for but our own.
        """
        plan = host_move_summary.plan
        if env.uri in (plan.uri, plan.dest_uri):
            return True
        configured = {host.uri for host in env.hosts}
        if plan.uri not in configured and plan.dest_uri in configured:
            return True
        try:
            return env.site.connection.host_id() in (plan.host, plan.dest_host)
        except BlockferryError:
            return False

    def silent_host(self, env: Environment, host_move_summary: HostMoveSummary) -> tuple[str, BlockferryError] | None:
        """Either host's: nothing is decided without a look at both."""
        plan = host_move_summary.plan
        for host in env.hosts:
            if host.uri in (plan.uri, plan.dest_uri):
                try:
                    host.connected()
                except BlockferryError as error:
                    return host.name, error
        return None

    def just_planned(self, host_move_summary: HostMoveSummary) -> bool:
        return not host_move_summary.record.marked


def _uris(env: Environment, host_move_summary: HostMoveSummary) -> tuple[str, str]:
    """By which source and destination are reached now. Raises OtherHost, BlockferryError."""
    plan = host_move_summary.plan
    return (
        host_finding.uri_of(env, host_move_summary.id, plan.vm, plan.host, plan.host_name, plan.uri),
        host_finding.uri_of(env, host_move_summary.id, plan.vm, plan.dest_host, plan.dest_host_name, plan.dest_uri),
    )
