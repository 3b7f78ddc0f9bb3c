"""Checking a move to another host, and writing it into the journal."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator

import msgspec
import tenacity

from blockferry.base.errors import DestinationTaken, RoomTaken
from blockferry.host_move import planning
from blockferry.host_move.host_move_options import entry_of
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.host_move.host_summary import HostCheckResult, HostMoveSummary
from blockferry.hosts.host import Host
from blockferry.hosts.identity import may_be_here
from blockferry.moves.environment import Environment, acting_user
from blockferry.storage_move.precheck.finding import Severity

PLAN_ATTEMPTS = 20
"""So often a move is planned anew because others took what its plan counted on. Each time one of them was planned."""


def check(env: Environment, request: HostMoveRequest) -> HostCheckResult:
    """Every reason for and against, and the plan. Nothing is touched."""
    with _destination(env, request) as dest:
        return planning.check(request, env.site, dest, _beside(env, dest))[0]


def move(env: Environment, request: HostMoveRequest) -> HostMoveSummary:
    """Pre-check and write the move into the journal. Raises Refused, MoveBusy."""
    with _destination(env, request) as dest:
        for attempt in tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((RoomTaken, DestinationTaken)),
            stop=tenacity.stop_after_attempt(PLAN_ATTEMPTS),
            reraise=True,
        ):
            with attempt:
                summary = _plan(env, request, dest)
    return summary


def _plan(env: Environment, request: HostMoveRequest, dest: Host) -> HostMoveSummary:
    """One attempt. Raises Refused, MoveBusy, RoomTaken, DestinationTaken."""
    plan, result, room = planning.plan(request, env.site, dest, _beside(env, dest))
    env.made_journal()
    record = HostMoveRecord(bandwidth=request.bandwidth)
    summary = env.host_moves.add(plan, record, msgspec.json.encode(request).decode(), acting_user(), room)
    env.uris[summary.id] = env.site.uri
    for finding in result.findings:
        if finding.severity is Severity.WARNING:
            env.journal.event(plan.move, "warning", f"[{finding.code}] {finding.text}")
    env.journal.event(plan.move, "phase", f"planned: from {plan.host_name} to {plan.destination}")
    return summary


@contextlib.contextmanager
def _destination(env: Environment, request: HostMoveRequest) -> Iterator[Host]:
    """The host that a request names, by the kept connection of the configuration where it is one of that."""
    uri = entry_of(env.config, request.to_host).uri
    if uri == env.site.uri:
        yield env.site
        return
    for configured_host in env.hosts:
        if configured_host.uri == uri:
            yield configured_host.awaited(functools.partial(_tell_waiting, env, configured_host.name))
            return
    host = Host(uri, others=env.hosts)
    try:
        yield host
    finally:
        host.close()


def _tell_waiting(env: Environment, host: str, seconds: float) -> None:
    env.say(f"waiting for {host} to answer, {seconds:.0f} s")


def _beside(env: Environment, dest: Host) -> planning.JournalFacts:
    """What the journal knows, as seen from the destination. What is known is read before the free space is."""
    since, seen = time.time(), env.journal.known()
    uri, host = dest.connection.uri, dest.connection.host_id()
    every = env.every_move
    taken: set[str] = set()
    under_way = {}
    for move_summary in every.unfinished():
        under_way[move_summary.plan.uuid] = move_summary.id
        made = every.kind_of(move_summary).made(move_summary.plan)
        if made is not None and may_be_here(made.where, uri, host):
            taken |= made.paths
    return planning.JournalFacts(
        env.shared, env.journal.reservations(uri, host), frozenset(taken), under_way, seen, since
    )
