"""Running a move to another host in this process: claim it, keep the lease, drive the loop to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from blockferry.base.errors import OtherHost
from blockferry.base.host_entries import HostEntry
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_move_journal import HostMoveJournal
from blockferry.host_move.host_move_loop import HostMoveLoop
from blockferry.host_move.host_plan import HostMovePlan
from blockferry.host_move.host_summary import HostMoveSummary
from blockferry.host_move.points import point
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.helper.holding import Holding
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt.connection import Connection
from blockferry.jobs import lease_keeping
from blockferry.jobs.handle import JobHandle
from blockferry.jobs.slow_calls import SlowCalls
from blockferry.storage_move import claims
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.store import Lease, LeaseKeeper


def run(
    journal: HostMoveJournal,
    storage_moves: MoveJournal,
    move: str,
    source: Host,
    dest: Host,
    *,
    shown: Callable[[HostMoveSummary], None] = lambda _summary: None,
    stop: threading.Event | None = None,
    others: tuple[ConfiguredHost, ...] = (),
) -> HostMoveSummary:
    """Drive a move to its end in this thread. `source`, `dest`: by whatever URIs they are reached; closed at the end.

    `others`: the configured hosts, for the proof before a removal.
    Raises MoveParked, LeaseLost, MoveBusy, OtherHost, Interrupted."""
    summary = journal.get(move)
    plan = summary.plan
    # The destination may reach the source's datastores: the proof before a removal asks it, too.
    source.others = (*others, ConfiguredHost(HostEntry(plan.dest_host_name, dest.uri), Host))
    if plan.first:  # what is removed at the destination has held the guest's writes
        dest.others = (*others, ConfiguredHost(HostEntry(plan.host_name, source.uri), Host))
    try:
        if summary.finished is not None:
            return summary
        lease = lease_keeping.claim(journal, move)
        with lease_keeping.parking_bugs(journal, lease), LeaseKeeper(journal, lease) as keeper:
            source.expect(lambda connection: _expect(plan, connection, plan.host))
            dest.expect(lambda connection: _expect(plan, connection, plan.dest_host))
            summary = take_up(journal, lease, summary)
            handle = JobHandle(journal, lease, keeper, shown, stop or threading.Event(), summary)
            context = HostMoveContext(
                plan=plan,
                source=source,
                dest=dest,
                save=handle.save,
                log_event=handle.log_event,
                check=handle.check,
                should_stop=handle.should_stop,
                bandwidth=handle.bandwidth,
                claims=lambda: claims.claims(storage_moves, source.uri, plan.host, plan.move),
                dest_claims=lambda: claims.claims(storage_moves, dest.uri, plan.dest_host, plan.move),
                quarantine=journal.add_kept,
                holding=Holding(move, lease.token, handle.check, point),
                journal=journal.identity(),
            )
            with SlowCalls(lambda: _slowest(source, dest), handle.publish, lambda: False) as slow:
                handle.seen = slow.seen
                HostMoveLoop(context=context, job=handle, began_at=summary.created).run()
    finally:
        source.close()
        dest.close()
    return journal.get(move)


def take_up(journal: HostMoveJournal, lease: Lease, before: HostMoveSummary) -> HostMoveSummary:
    """Go on with the move, and begin its counts anew if it was parked: then its user has looked.

    `before`: as it was read before the lease was had. Raises LeaseLost.
    """
    summary = journal.unpark(lease)
    if before.parked is None:
        return summary
    record = journal.read(lease.move)
    journal.write(lease, replace(record, unexpected=0, first=replace(record.first, attempts=0)))
    return journal.get(lease.move)


def _slowest(source: Host, dest: Host) -> tuple[str, float] | None:
    """What libvirt, on either host, has owed an answer to for the longest, and for how many seconds."""
    calls = [call for call in (source.slowest_call(), dest.slowest_call()) if call is not None]
    return max(calls, key=lambda call: call[1], default=None)


def _expect(plan: HostMovePlan, connection: Connection, uuid: str) -> None:
    """Raise OtherHost when a URI leads to another host than the one that was planned with."""
    if connection.host_id() != uuid:
        raise OtherHost(plan.move, plan.vm, f"the host with UUID {uuid}", connection.hostname(), noted=True)
