"""Running a move in this process: claim it, keep the lease, drive the loop to its end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from blockferry.base.errors import LeaseLost, UsageError
from blockferry.hosts.helper import host_guard
from blockferry.hosts.host import Host
from blockferry.jobs import lease_keeping
from blockferry.jobs.conclusion import conclude
from blockferry.jobs.handle import JobHandle
from blockferry.jobs.loop import Waiting
from blockferry.jobs.slow_calls import SlowCalls
from blockferry.leftovers import quarantine
from blockferry.moves import move_host
from blockferry.moves.environment import Environment
from blockferry.safety.guard import Guard
from blockferry.storage_move import claims
from blockferry.storage_move.context import Context
from blockferry.storage_move.firmware import rules as firmware_rules
from blockferry.storage_move.move_loop import MoveLoop
from blockferry.storage_move.pace.effects import Pacer
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import MoveSummary, Progress, Report
from blockferry.store import Lease, LeaseKeeper


def run(
    env: Environment, move_id: str, on_progress: Callable[[MoveSummary], None], stop: threading.Event
) -> MoveSummary:
    """Drive a move to its end in this thread; the finished summary.

    Raises MoveFailed, MoveCancelled, MoveParked, LeaseLost, MoveBusy, ...; Interrupted once `stop` is set: the move
    is then left in place and free for another process.
    """
    summary = env.journal.get(move_id)
    if summary.finished is not None:
        return conclude(summary)
    site = move_host.site_of(env, summary)
    env.uris[summary.id] = site.uri
    try:
        lease = lease_keeping.claim(env.journal, summary.id)
    except UsageError:
        done = env.journal.get(summary.id)
        if done.finished is None:
            raise
        on_progress(done)  # it has ended this moment, in another process
        return conclude(done)
    # From here on whatever goes wrong gives the claim back, and the lease is renewed whatever takes long.
    with lease_keeping.parking_bugs(env.journal, lease), LeaseKeeper(env.journal, lease) as keeper:
        try:
            site.expect(lambda connection: move_host.expect_host(env, summary, connection, asked=True))
            _Drive(env, summary, site, lease, keeper, on_progress, stop).run()
        except LeaseLost:
            # The connection may have broken in the very commit that ended the move.
            if env.journal.get(summary.id).finished is None:
                raise
        finally:
            site.expect(None)
            env.release(site)
    done = env.journal.get(summary.id)
    on_progress(done)
    return conclude(done)


@dataclass
class _Drive:
    """The loop of a move that this process has claimed, and what it is tied to."""

    env: Environment
    summary: MoveSummary
    site: Host
    lease: Lease
    keeper: LeaseKeeper
    on_progress: Callable[[MoveSummary], None]
    stop: threading.Event

    def run(self) -> None:
        plan = self.summary.plan
        self._forget_attempts()
        live = (plan.domain.was.active and not self.summary.record.nvram.pending) or firmware_rules.still_now(
            plan, self.summary.record
        )
        on_host = host_guard.beside(self.site.runner, self.site.uri, plan.uuid)
        with (
            contextlib.ExitStack() as stack,
            Guard(self.site.uri, plan.uuid, plan.vm, start=live, on_host=on_host) as guard,
        ):
            journal = self.env.journal
            job = JobHandle(journal, self.lease, self.keeper, self.on_progress, self.stop, journal.get(self.summary.id))
            context = self._context(guard, job)

            def suspended() -> bool:
                return context.memory.suspended_at is not None

            if live:
                targets = tuple(disk.target for disk in plan.disks)
                context.pacer = stack.enter_context(
                    Pacer(lambda: self.site.control(plan.uuid, plan.vm).counters(targets), suspended)
                )
            slow = stack.enter_context(SlowCalls(self.site.slowest_call, job.publish, suspended))
            job.seen = slow.seen
            began_at, earlier = self.summary.created, self.summary.report
            with contextlib.suppress(Waiting):
                MoveLoop(context=context, job=job, began_at=began_at, earlier=earlier).run()

    def _forget_attempts(self) -> None:
        """Begin the counts of attempts anew: what hindered the processes before may be put right."""
        journal, move = self.env.journal, self.summary.id
        journal.unpark(self.lease)
        tried = journal.read(move)
        known = tried.unexpected if self.summary.parked is None else 0  # else its user has looked
        fresh = replace(
            tried,
            unexpected=known,
            commits=replace(tried.commits, attempts=0),
            switch=replace(tried.switch, attempts=0),
        )
        if fresh != tried:
            journal.write(self.lease, fresh)

    def _context(self, guard: Guard, job: JobHandle[Plan, Record, Progress, Report, MoveSummary]) -> Context:
        journal, site, plan = self.env.journal, self.site, self.summary.plan
        return Context(
            plan=plan,
            site=site,
            guard=guard,
            save=job.save,
            log_event=job.log_event,
            quarantine=lambda *words, **more: journal.add_kept(quarantine.row(site, plan, *words, **more)),
            keep_again=journal.add_kept,
            claims=lambda: claims.claims(journal, site.uri, site.connection.host_id(), plan.move),
            journal=journal.identity(),
            check=job.check,
            should_stop=job.should_stop,
            bandwidth=job.bandwidth,
            stop=self.stop,
        )
