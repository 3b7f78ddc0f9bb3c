"""The loop of a storage move: what it observes, decides and does, beside what every job does (jobs/loop.py)."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from blockferry.base.errors import BlockferryError, DestinationFenced, HostCommandFailed, LibvirtFailed
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import host_guard, image_users
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt import pools
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.events import DomainEvents
from blockferry.jobs.action import Action, Finish
from blockferry.jobs.kill_points import PointFailed
from blockferry.jobs.loop import TRIES, EffectStopped, Loop, Waiting
from blockferry.jobs.outcome import Outcome
from blockferry.safety import lost_qemu
from blockferry.storage_move import actions, destination_watchdog, progress
from blockferry.storage_move import effects as storage_move_effects
from blockferry.storage_move.context import Context
from blockferry.storage_move.decide import decide
from blockferry.storage_move.firmware import rules as firmware_rules
from blockferry.storage_move.observation import DiskSide, Observation
from blockferry.storage_move.observe import Observer
from blockferry.storage_move.pace import throttle
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import Progress, Report

REFRESH_S = 20.0


@dataclass(kw_only=True)
class MoveLoop(Loop[Record, Observation, Progress, Report]):
    """One storage move in this process. `earlier`: what an earlier process did of a move that had to wait."""

    NOUN: ClassVar[str] = "move"
    GOES_ON: ClassVar[str] = "The copy goes on"

    context: Context
    earlier: Report | None = None
    _warned: bool = False
    _watch: DomainEvents | None = None
    _watched: Connection | None = None

    def __post_init__(self) -> None:
        self._write, self.context.save = self.context.save, self.save
        self.context.last_view = lambda: self.observer.last

    @cached_property
    def observer(self) -> Observer:
        return Observer(self.context.plan, self.context.runner)

    @property
    def id(self) -> str:
        return self.context.plan.move

    @property
    def subject(self) -> str:
        return self.context.plan.vm

    # ------------------------------------------------------------ the journal

    def read(self) -> Record:
        """The journal may have been away when a suspension ended: a pause from then on is its owner's."""
        record = self.job.read()
        return record.suspension_over() if self.context.memory.resumed and record.switch.suspended else record

    def save(self, record: Record) -> None:
        self._write(record)
        self._known = self.context.noted = record

    def log_event(self, kind: str, text: str) -> None:
        self.context.log_event(kind, text)

    # ------------------------------------------------------------ observe, decide, act

    def begin(self, record: Record) -> None:
        destination_watchdog.take_up(self.context, record)

    def end(self) -> None:
        self._unsubscribe()
        destination_watchdog.abandon(self.context)

    def observe(self, record: Record, now_s: float) -> Observation:
        self._subscribe()
        self.context.memory.health = destination_watchdog.health(self.context)
        seen = self.observer.look(self.context.control, record, self.context.memory, now_s)
        return replace(seen, record=self._without_an_ended_suspension(seen))

    def _without_an_ended_suspension(self, seen: Observation) -> Record:
        """The record without a suspension that a guard has ended: a pause that is seen now is its owner's.

        Raises HostUnreachable when the host cannot be asked: then nobody resumes the VM.
        """
        memory, switch = self.context.memory, seen.record.switch
        if seen.state is not PowerState.PAUSED or not switch.suspended or memory.suspended_at is not None:
            return seen.record
        if switch.name and memory.ended != switch.name:
            ended = host_guard.has_ended(self.context.runner, self.context.plan.uuid, switch.name)
            memory.ended = switch.name if ended else ""
        if not switch.name or memory.ended != switch.name:
            return seen.record
        return seen.record.suspension_over()

    def record_of(self, seen: Observation) -> Record:
        return seen.record

    def decide(self, seen: Observation) -> Action:
        return decide(self.context.plan, seen)

    def before_act(self, seen: Observation) -> None:
        destination_watchdog.keep_up(self.context, seen)

    def perform(self, action: Action, seen: Observation) -> None:
        self.context.show = lambda: self.publish(seen, sparingly=True)
        try:
            storage_move_effects.perform(self.context, action, seen)
        except ConversionStopped as error:
            raise EffectStopped from error

    def end_round(self, action: Action, seen: Observation) -> None:
        if isinstance(action, actions.AwaitPowerOff):
            raise Waiting
        if not isinstance(action, actions.Follow):
            raise AssertionError(f"{action} has no effect")
        self._follow(seen)

    def wait(self, seconds: float) -> None:
        if self.urgent or self._watch is None:
            time.sleep(seconds)
        else:
            self._watch.wait(seconds)

    # ------------------------------------------------------------ a VM that stands still

    @property
    def urgent(self) -> bool:
        """Whether the VM is suspended by us: each ms of that is guest downtime."""
        return self.context.memory.suspended_at is not None

    @property
    def held(self) -> bool:
        """Whether the VM stands still by our doing. A host that cannot be reached is left to the guard."""
        return self.urgent or (self.context.memory.held and self.tries == 0)

    def let_go(self) -> None:
        """End a suspension of ours. That is safe at any instant: each disk is whole on the side that its XML names.

        While it is not known that the guest runs, the guard stays armed, and this is to be called again.
        """
        memory = self.context.memory
        if memory.suspended_at is not None and self._runs():
            memory.suspended_at = memory.flushed_at = None
            memory.view_taken = memory.view_tried = False
            self.context.guard.disarm()
        if memory.held:  # saved for its UEFI variables: the guard has it go on from its memory
            self.context.guard.take_over()

    def _runs(self) -> bool:
        """End our suspension; whether it is known to be over. Not while libvirt does not answer, or has lost the VM."""
        context = self.context
        try:
            done = context.guard.let_run()
            done = context.control.resume() if done is None else done
            context.memory.resumed = context.memory.resumed or done
            return done or not lost_qemu.may_stand(context.control, context.runner)
        except BlockferryError:
            return False

    def bridge(self) -> bool:
        """Put the limits of a slowed guest back while the journal is away. Whether that is done.

        The note of them stays. Once the journal answers again, the guest is slowed as it was (`throttle.see_to_it`).
        """
        if self._known is None or not self._known.throttled:
            return True
        try:
            throttle.free(self.context, self._known.throttled)
        except BlockferryError:
            return False  # libvirt does not answer: it is tried again
        return True

    def host_lost(self) -> None:
        self._unsubscribe()
        self.context.memory.suspended_at = None

    # ------------------------------------------------------------ an effect that failed

    def overtaken(self, error: BlockferryError | PointFailed, action: Action | None, seen: Observation) -> bool:
        if not isinstance(error, (LibvirtFailed, HostCommandFailed)):
            return False
        return self._vm_changed(seen, action) or self._being_started(action)

    def _vm_changed(self, seen: Observation, action: Action | None) -> bool:
        """Whether the VM has changed since we looked (it went off, a job ended), so that an effect came too late."""
        if self.tries >= TRIES:
            return False
        if self.urgent and not isinstance(action, actions.Suspend):
            return False
        try:
            now = self.observer.look(self.context.control, seen.record, self.context.memory, time.monotonic())
        except BlockferryError:
            return False

        def situation(observation: Observation) -> object:
            return (
                observation.state,
                observation.incarnation,
                [(view.side, view.job, view.ending) for view in observation.disks],
            )

        return situation(now) != situation(seen)

    def _being_started(self, action: Action | None) -> bool:
        """Whether a cold copy failed because a QEMU has taken the disk: somebody starts the VM at this moment.

        libvirt may show it as off for a moment longer; once it runs, `decide` has its answer.
        """
        if not isinstance(action, actions.ColdCopy) or self.tries >= TRIES:
            return False
        disk = self.context.plan.disk(action.target)
        try:
            taken = image_users.in_use(self.context.runner, disk.source.path)
        except BlockferryError:
            return False
        if taken:
            self.context.stop.wait(min(10.0, 0.1 * 2**self.tries))
        return taken

    def can_turn_back(self, seen: Observation) -> bool:
        return not any(view.side is DiskSide.DESTINATION for view in seen.disks)

    def lasting(self, error: BlockferryError | PointFailed) -> str | None:
        return f"{error.sentence}. {error.hint}" if isinstance(error, DestinationFenced) else None

    def parking(self, action: Action | None, seen: Observation | None, problem: str) -> str:
        if seen is not None and seen.record.throttled:
            with contextlib.suppress(BlockferryError):  # `decide` is not asked before it stands still
                throttle.put_back(self.context, seen)
                self.context.guard.limits_are_back()
        return _with_the_guest(self.context.plan, action, problem)

    # ------------------------------------------------------------ what is shown, and the end

    def show(self, seen: Observation) -> Progress:
        note = progress.convergence(self.context, seen)
        if note and not self._warned:
            self.log_event("warning", note)
        self._warned = bool(note)
        note = destination_watchdog.sentence(self.context, seen) or note  # the watch has told of that itself
        return progress.progress(self.context, seen, self.phase, note)

    def before_finish(self, action: Finish, seen: Observation) -> None:
        if action.note and action.outcome is Outcome.MOVED:
            self.context.notes.append(action.note)
        point("finishing")
        if action.outcome is Outcome.MOVED:
            self._refresh_pools()

    def ended(self, outcome: Outcome, seen: Observation, seconds: float) -> tuple[Progress, Report]:
        report = self._report(outcome, seconds, seen.record)
        return progress.progress(self.context, seen, outcome.value), report

    def _refresh_pools(self) -> None:
        """Have libvirt count both sides anew: it does so only when asked.

        Storage that hangs is not waited for: the move is over, and libvirt's answer is of no consequence for it.
        """
        disks = self.context.plan.disks
        names = [name for disk in disks for name in (disk.source.datastore, disk.dest.datastore) if name]
        connection = self.context.site.connection

        def refresh() -> None:
            for name in dict.fromkeys(names):
                if not is_export(name):
                    pools.refresh_pool(connection, name)

        thread = threading.Thread(target=refresh, name="refresh-pools", daemon=True)
        thread.start()
        thread.join(REFRESH_S)

    def _follow(self, seen: Observation) -> None:
        """Only the UEFI variables are left. What was done so far is reported now: the rest may take weeks."""
        self._refresh_pools()
        seconds = max(0.0, time.time() - self.began_at)
        self.job.interim(
            replace(seen.record, nvram=replace(seen.record.nvram, pending=True)),
            self._report(Outcome.MOVED, seconds, seen.record),
        )
        waits = seen.state.active and not firmware_rules.still_now(self.context.plan, seen.record)
        if waits:
            self.log_event("phase", f"the UEFI variables of {self.subject} follow once it has been powered off")
        note = "waits until the VM has been powered off" if waits else ""
        self.job.publish(progress.progress(self.context, seen, "firmware", note))
        point("following")

    def _report(self, outcome: Outcome, seconds: float, record: Record) -> Report:
        report = progress.report(self.context, outcome, seconds, self.phases, record)
        before = self.earlier
        if before is None:
            return report
        sources, notes = (*before.sources, *report.sources), (*before.notes, *report.notes)
        return replace(before, sources=sources, notes=notes, firmware_stall_s=report.firmware_stall_s)

    # ------------------------------------------------------------ libvirt's events

    def _subscribe(self) -> None:
        connection = self.context.site.connection
        if self._watch is None or self._watched is not connection:
            self._unsubscribe()
            watch = DomainEvents(connection, self.context.plan.uuid)
            try:
                watch.__enter__()
            except BlockferryError:
                return  # the VM is not there: the next look says so
            self._watch, self._watched = watch, connection

    def _unsubscribe(self) -> None:
        if self._watch is not None:
            self._watch.__exit__(None, None, None)
            self._watch = self._watched = None


def _with_the_guest(plan: Plan, action: Action | None, problem: str) -> str:
    """The problem, and what a person has to know first where a suspension of ours could not be ended."""
    if not isinstance(action, (actions.Resume, actions.LetLostRun)):
        return problem
    text = f"The guest of {plan.vm} may stand still: the move had suspended it, and could not let it run: {problem}"
    return f"{text.rstrip('.')}. `virsh resume {plan.vm}` lets it run" if isinstance(action, actions.Resume) else text
