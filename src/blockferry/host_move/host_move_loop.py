"""The loop of a move to another host: what it observes, decides and does, beside what every job does (jobs/loop.py)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from blockferry.base.errors import BlockferryError
from blockferry.base.units import format_rate
from blockferry.host_move import decide as host_decide
from blockferry.host_move import effects, migration_guarding, state_files
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_observation import HostObservation
from blockferry.host_move.host_plan import HostMovePlan
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.host_summary import HostMoveProgress, HostMoveReport
from blockferry.host_move.observe import observe
from blockferry.host_move.points import point
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.libvirt import migration
from blockferry.hosts.migrating import MigrationStats
from blockferry.jobs.action import Action, Finish
from blockferry.jobs.loop import EffectStopped, Loop
from blockferry.jobs.outcome import Outcome


@dataclass(kw_only=True)
class HostMoveLoop(Loop[HostMoveRecord, HostObservation, HostMoveProgress, HostMoveReport]):
    """One move to another host in this process."""

    NOUN: ClassVar[str] = "move"
    GOES_ON: ClassVar[str] = "The migration goes on"

    context: HostMoveContext

    def __post_init__(self) -> None:
        self.context.save = self.save

    @property
    def id(self) -> str:
        return self.context.plan.move

    @property
    def subject(self) -> str:
        return self.context.plan.vm

    def observe(self, record: HostMoveRecord, now_s: float) -> HostObservation:
        context = self.context
        context.holding.ensure(context.source.runner, context.dest.runner)
        return observe(context, record)

    def end(self) -> None:
        migration_guarding.leave(self.context)

    def record_of(self, seen: HostObservation) -> HostMoveRecord:
        return seen.record

    def decide(self, seen: HostObservation) -> Action:
        return host_decide.decide(self.context.plan, seen)

    def perform(self, action: Action, seen: HostObservation) -> None:
        self.context.show = lambda: self.publish(seen, sparingly=True)
        try:
            effects.perform(self.context, action, seen)
        except ConversionStopped as error:
            raise EffectStopped from error

    def can_turn_back(self, seen: HostObservation) -> bool:
        return host_decide.can_turn_back(self.context.plan, seen)

    def wait(self, seconds: float) -> None:
        """The end of our own call is worth a look at once: the guest stands still until then."""
        call = self.context.migration
        if call is not None and not call.over.is_set():
            call.over.wait(seconds)
        else:
            self.job.stop.wait(seconds)

    def before_finish(self, action: Finish, seen: HostObservation) -> None:
        point("finishing")
        self.context.holding.forget(self.context.source.runner, self.context.dest.runner)

    def show(self, seen: HostObservation) -> HostMoveProgress:
        plan = self.context.plan
        sizes = {disk.target: disk.virtual_size for disk in (plan.disks if plan.cold else plan.first)}
        return HostMoveProgress(
            self.phase, time.time(), _waited_for(plan, seen), seen.stats, dict(self.context.cold), sizes
        )

    def ended(self, outcome: Outcome, seen: HostObservation, seconds: float) -> tuple[HostMoveProgress, HostMoveReport]:
        plan, record = self.context.plan, seen.record
        stats = record.stats or (None if plan.cold or not record.handed else self._completed())
        report = HostMoveReport(
            outcome=outcome,
            seconds=seconds,
            phases=dict(self.phases),
            switch_stall_s=None if record.downtime_ms is None else record.downtime_ms / 1000,
            qemu_downtime_ms=None if stats is None else stats.downtime_ms,
            bulk_bytes=sum(plan.disk(one).allocation for one in record.copied)
            + (0 if stats is None else stats.disk_done),
            memory_bytes=0 if stats is None else stats.memory_done,
            passes=0 if stats is None else stats.passes,
            sources=record.sources,
            notes=record.notes,
            verified=_verified(plan, record),
            networks=plan.networks if outcome is Outcome.MOVED else {},
        )
        return HostMoveProgress(outcome.value, time.time(), "", stats), report

    def _completed(self) -> MigrationStats | None:
        """The statistics of a migration whose end another process has seen: the destination's libvirt has them, too."""
        plan = self.context.plan
        try:
            return migration.completed(self.context.dest.connection, plan.uuid, plan.vm)
        except BlockferryError:
            return None


def _waited_for(plan: HostMovePlan, seen: HostObservation) -> str:
    """What a migration that runs is at, a clause; "" while nothing is under way."""
    stats = seen.stats
    if stats is None:
        return ""
    if stats.disk_done < stats.disk_total:
        return "the disks are copied; the memory follows"
    if stats.outrun:
        slowed = f"; QEMU slows it by {stats.throttle} %" if stats.throttle else ""
        hint = "" if plan.auto_converge or slowed else "; --auto-converge would slow it"
        return f"the guest changes {format_rate(stats.dirty_rate)} of its memory, more than is sent{slowed or hint}"
    return f"memory, pass {stats.passes}" if stats.passes else "memory"


def _verified(plan: HostMovePlan, record: HostMoveRecord) -> tuple[str, ...]:
    """A sentence for each proof that the move rests on."""
    found = []
    if record.alone:
        found.append(f"{plan.host_name} had neither a QEMU nor a definition of {plan.vm} before it could run again.")
    if record.handed and record.copied:
        found.append(f"Not written to since the copy: {', '.join(sorted(record.copied))}.")
    for file in plan.state_files:
        if file.source in record.proven:
            words = state_files.WORDS[file.role]
            how = "sent by libvirt" if file.sent else f"which held what {file.source} did"
            found.append(f"{words[0].upper()}{words[1:]} went to {file.dest}, {how}.")
    return tuple(found)
