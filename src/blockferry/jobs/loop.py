"""The loop: observe, decide, act, until done. There is no second path for recovery; this is it."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from blockferry.base.errors import (
    BlockferryError,
    DestinationCutOff,
    HostCommandFailed,
    HostUnreachable,
    Interrupted,
    JournalFailed,
    LeaseLost,
    LibvirtFailed,
    MoveParked,
    OtherHost,
)
from blockferry.base.units import format_duration
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import image_users
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.libvirt import pools
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.events import DomainEvents
from blockferry.jobs import unexpected_errors
from blockferry.jobs.kill_points import PointFailed, point
from blockferry.safety import destination_watchdog
from blockferry.storage_move import actions, progress
from blockferry.storage_move import effects as storage_move_effects
from blockferry.storage_move.context import Context
from blockferry.storage_move.decide import decide
from blockferry.storage_move.firmware import rules as firmware_rules
from blockferry.storage_move.lost_vm import past_libvirt
from blockferry.storage_move.observation import DiskSide, Observation
from blockferry.storage_move.observe import Observer
from blockferry.storage_move.pace import throttle
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Outcome, Record
from blockferry.storage_move.summary import Progress, Report

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
RECONNECT_S = 2.0
JOURNAL_S = 1.0
"""Seconds between two attempts to reach a journal that is away."""

UNFORESEEN_S = 1.0
REFRESH_S = 20.0
TRIES = 8
"""How often an effect on the way back or after the switch is tried again before the move is parked."""


class Waiting(Exception):
    """Nothing is left to do until the VM has been powered off."""


@dataclass
class Loop:
    """One move in this process. `read` gives the record as the journal has it, with the user's wishes."""

    context: Context
    read: Callable[[], Record]
    publish: Callable[[Progress], None]
    finish: Callable[[Record, Report], None]
    park: Callable[[str], None]
    check_lease: Callable[[], None]  # raises LeaseLost
    follow: Callable[[Record, Report], None]  # all is done but the UEFI variables
    began_at: float  # wall time
    regain: Callable[[], None] = lambda: None  # renew the lease now; raises LeaseLost, JournalFailed
    away: Callable[[str], None] = lambda _: None  # show that the journal is away
    earlier: Report | None = None  # what an earlier process did of a move that had to wait
    phases: dict[str, float] = field(default_factory=dict)
    phase: str = "prepare"
    tries: int = 0
    _warned: bool = False
    _known: Record | None = None
    _published_at: float = 0.0
    _watch: DomainEvents | None = None
    _watched: Connection | None = None

    def __post_init__(self) -> None:
        write, read = self.context.note, self.read

        def note(record: Record) -> None:
            write(record)
            self._known = self.context.noted = record

        def known() -> Record:
            # The journal may have been away when a suspension ended: a pause from then on is its owner's.
            record = read()
            return replace(record, suspended=False) if self.context.memory.resumed and record.suspended else record

        self.context.note, self.read = note, known

    def run(self) -> Outcome:
        """Until the move is over. Raises MoveParked, LeaseLost, Interrupted, JournalFailed; Waiting."""
        observer = Observer(self.context.plan, self.context.runner)
        self.context.last_view = lambda: observer.last
        try:
            taken_up = False
            while True:
                if self.context.stop.is_set() and not self._holds_the_vm():
                    raise Interrupted("The move is left as it is; `blockferry resume` goes on with it.")
                try:
                    if not taken_up:
                        destination_watchdog.take_up(self.context, self.read())
                        taken_up = True
                    outcome = self._step(observer)
                except JournalFailed as error:
                    self._await_journal(error)
                    continue
                except (BlockferryError, Waiting):
                    raise
                except Exception as error:  # noqa: BLE001 - counted, and parked before it comes for ever
                    self._unforeseen(error)
                    continue
                if outcome is not None:
                    return outcome
        finally:
            self._unsubscribe()
            destination_watchdog.abandon(self.context)

    def _await_journal(self, error: JournalFailed) -> None:
        """The journal is away: nothing is begun until it is back and the lease is ours again; the copies go on.

        Raises LeaseLost when somebody else has taken over meanwhile; JournalFailed for what does not pass by itself.
        """
        self._let_run()
        if not error.passing:
            raise error
        began = time.monotonic()
        freed = self._free_guest()
        log.warning("move %s: %s It is waited for.", self.context.plan.move, error.sentence)
        while True:
            self.away(f"{error.sentence} The copy goes on; waiting for the journal")
            if self.context.stop.is_set():
                raise Interrupted("The move is left as it is; `blockferry resume` goes on with it.") from error
            try:
                self.regain()
                break
            except JournalFailed as again:
                if not again.passing:
                    raise
                error = again
            self.context.stop.wait(JOURNAL_S)
            self._let_run()
            freed = freed or self._free_guest()
        text = f"the journal did not answer for {format_duration(time.monotonic() - began)} ({error.problem})"
        log.info("move %s: %s", self.context.plan.move, text)
        self.context.tell("warning", f"{text}; it is back, and the move goes on")

    def _free_guest(self) -> bool:
        """Put the limits of a slowed guest back: nobody knows for how long. Whether that is done.

        The note of them stays. Once the journal answers again, the guest is slowed as it was (`throttle.see_to_it`).
        """
        if self._known is None or not self._known.throttled:
            return True
        try:
            throttle.free(self.context, self._known.throttled)
        except BlockferryError:
            return False  # libvirt does not answer: it is tried again
        return True

    def _unforeseen(self, error: Exception) -> None:
        """A bug: noted, tried again a few times, then parked. Raises MoveParked."""
        self._let_run()
        try:
            why = unexpected_errors.note(self.context.plan.move, error, self.read, self.context.note, self.context.tell)
        except JournalFailed as failed:
            self._await_journal(failed)
            return
        if why is not None:
            self._park(why)
        self.context.stop.wait(UNFORESEEN_S)
        self._let_run()

    def _let_run(self) -> None:
        """End a suspension of ours, before anything is waited for: each ms of it is guest downtime.

        That is safe at any instant: each disk is whole on the side that its XML names. While it is not known that the
        guest runs, the guard stays armed, and this is to be called again.
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
            return done or not past_libvirt.may_stand(context.control, context.runner)
        except BlockferryError:
            return False

    def _holds_the_vm(self) -> bool:
        """Whether it stands still by our doing. A host that cannot be reached is left to the guard."""
        memory = self.context.memory
        return memory.suspended_at is not None or (memory.held and self.tries == 0)

    def _step(self, observer: Observer) -> Outcome | None:
        context = self.context
        started = time.monotonic()
        action: actions.Action | None = None
        seen: Observation | None = None
        try:
            self._subscribe()
            record = self._record()
            context.memory.silence = destination_watchdog.silence(context)
            seen = observer.look(context.control, record, context.memory, started)
            action = decide(context.plan, seen)
            self.check_lease()
            _log_action(context.plan, action)
            destination_watchdog.keep_up(context, seen)
            self._enter(action.phase_after(self.phase))
            if isinstance(action, actions.Done):
                return action.outcome
            if isinstance(action, actions.Park):
                self._park(action.problem)
            if isinstance(action, actions.Finish):
                return self._finish(action, seen)
            if isinstance(action, actions.Follow):
                self._follow(seen)
                return None
            if isinstance(action, actions.AwaitPowerOff):
                raise Waiting
            self._publish(seen, isinstance(action, (actions.Suspend, actions.Resume, actions.Await)))
            now = seen
            context.show = lambda: self._publish(now, True)
            storage_move_effects.perform(context, action, seen)
            self.tries = 0 if not isinstance(action, actions.Await) else self.tries
        except ConversionStopped:
            return None
        except HostUnreachable as error:
            self._lost(error)
        except (LeaseLost, JournalFailed, Interrupted, MoveParked, OtherHost, Waiting):
            raise
        except (BlockferryError, PointFailed) as error:
            if (
                isinstance(error, (LibvirtFailed, HostCommandFailed))
                and seen is not None
                and (self._overtaken(observer, seen, action) or self._being_started(action))
            ):
                self.tries += 1
                self.context.tell("warning", f"{error.sentence}; the VM has changed meanwhile, looking again")
            else:
                self._stumble(action, seen, error)
        finally:
            self.phases[self.phase] = self.phases.get(self.phase, 0.0) + time.monotonic() - started
        if isinstance(action, actions.Await):
            self._wait(action.pause_s)
        return None

    def _record(self) -> Record:
        """The record; while the VM is suspended the one that we wrote ourselves, for the guest's milliseconds."""
        if self.context.memory.suspended_at is None or self._known is None:
            self._known = self.read()
        return self._known

    def _enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            if self.context.memory.suspended_at is None:
                self.context.tell("phase", phase)

    def _wait(self, seconds: float) -> None:
        started = time.monotonic()
        if self.context.memory.suspended_at is not None or self._watch is None:
            time.sleep(seconds)
        else:
            self._watch.wait(seconds)
        self.phases[self.phase] = self.phases.get(self.phase, 0.0) + time.monotonic() - started

    def _publish(self, seen: Observation, sparingly: bool) -> None:
        """Show the progress; `sparingly`: only now and then. Never while the VM is suspended."""
        now = time.monotonic()
        if self.context.memory.suspended_at is not None:
            return
        if now - self._published_at >= PROGRESS_EVERY_S or not sparingly:
            self._published_at = now
            note = progress.convergence(self.context, seen)
            if note and not self._warned:
                self.context.tell("warning", note)
            self._warned = bool(note)
            note = destination_watchdog.sentence(self.context, seen) or note  # the watch has told of that itself
            self.publish(progress.progress(self.context, seen, self.phase, note))

    def _finish(self, action: actions.Finish, seen: Observation) -> Outcome:
        if action.note and action.outcome is Outcome.MOVED:
            self.context.notes.append(action.note)
        point("finishing")
        if action.outcome is Outcome.MOVED:
            self._refresh_pools()
        seconds = max(0.0, time.time() - self.began_at)
        report = self._report(action.outcome, seconds, seen.record)
        self.publish(progress.progress(self.context, seen, action.outcome.value))
        self.context.tell("phase", action.outcome.value)
        self.finish(replace(seen.record, outcome=action.outcome), report)
        return action.outcome

    def _refresh_pools(self) -> None:
        """Have libvirt count both sides anew: it does so only when asked.

        Storage that hangs is not waited for: the move is over, and libvirt's answer is of no consequence for it.
        """
        disks = self.context.plan.disks
        names = [name for disk in disks for name in (disk.source_datastore, disk.datastore) if name]
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
        self.follow(replace(seen.record, following=True), self._report(Outcome.MOVED, seconds, seen.record))
        waits = seen.state.active and not firmware_rules.still_now(self.context.plan, seen.record)
        if waits:
            self.context.tell(
                "phase", f"the UEFI variables of {self.context.plan.vm} follow once it has been powered off"
            )
        note = "waits until the VM has been powered off" if waits else ""
        self.publish(progress.progress(self.context, seen, "firmware", note))
        point("following")

    def _report(self, outcome: Outcome, seconds: float, record: Record) -> Report:
        report = progress.report(self.context, outcome, seconds, self.phases, record)
        before = self.earlier
        if before is None:
            return report
        sources, notes = (*before.sources, *report.sources), (*before.notes, *report.notes)
        return replace(before, sources=sources, notes=notes, firmware_stall_s=report.firmware_stall_s)

    def _park(self, problem: str) -> None:
        self.context.tell("error", problem)
        self.park(problem)
        raise MoveParked(self.context.plan.move, self.context.plan.vm, problem)

    def _lost(self, error: HostUnreachable) -> None:
        """The way to the host is lost; what runs there goes on. Wait, connect again, look again."""
        if self.tries % 30 == 0:
            self.context.tell("warning", f"{error.sentence} The copy goes on without us; trying again")
        self.tries += 1
        self._unsubscribe()
        self.context.memory.suspended_at = None
        self.context.stop.wait(RECONNECT_S)

    def _overtaken(self, observer: Observer, seen: Observation, action: actions.Action | None) -> bool:
        """Whether the VM has changed since we looked (it went off, a job ended), so that an effect came too late.

        Then its failure says nothing about the move: `decide` has an answer to what is there now.
        """
        if self.tries >= TRIES:
            return False
        if self.context.memory.suspended_at is not None and not isinstance(action, actions.Suspend):
            return False
        try:
            now = observer.look(self.context.control, seen.record, self.context.memory, time.monotonic())
        except BlockferryError:
            return False

        def situation(one: Observation) -> object:
            return one.state, one.incarnation, [(view.side, view.job, view.ending) for view in one.disks]

        return situation(now) != situation(seen)

    def _being_started(self, action: actions.Action | None) -> bool:
        """Whether a cold copy failed because a QEMU has taken the disk: somebody starts the VM at this moment.

        libvirt may show it as off for a moment longer; once it runs, `decide` has its answer.
        """
        if not isinstance(action, actions.ColdCopy) or self.tries >= TRIES:
            return False
        disk = self.context.plan.disk(action.target)
        try:
            taken = image_users.in_use(self.context.runner, disk.source)
        except BlockferryError:
            return False
        if taken:
            self.context.stop.wait(min(10.0, 0.1 * 2**self.tries))
        return taken

    def _stumble(
        self, action: actions.Action | None, seen: Observation | None, error: BlockferryError | PointFailed
    ) -> None:
        """An effect failed. Before the switch that is a reason to go back; later it is tried again."""
        sentence = error.sentence if isinstance(error, BlockferryError) else str(error)
        self.tries += 1
        forward = seen is not None and not any(view.side is DiskSide.DESTINATION for view in seen.disks)
        turns_back = forward and action is not None and action.failure_turns_back
        if turns_back and seen is not None and seen.record.failure is None:
            self.context.tell("error", sentence)
            self.context.note(replace(self.read(), failure=sentence))
            return
        if isinstance(error, DestinationCutOff):
            self._park(f"{sentence}. {error.hint}")  # waiting does not bring it back
        self.context.tell("warning", sentence)
        if self.tries >= TRIES:
            if seen is not None and seen.record.throttled:
                with contextlib.suppress(BlockferryError):  # `decide` is not asked before it stands still
                    throttle.put_back(self.context, seen)
                    self.context.guard.limits_are_back()
            self._park(_with_the_guest(self.context.plan, action, sentence))
        if self.context.memory.suspended_at is None:
            self.context.stop.wait(min(10.0, 0.1 * 2**self.tries))

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


def _with_the_guest(plan: Plan, action: actions.Action | None, problem: str) -> str:
    """The problem, and what a person has to know first where a suspension of ours could not be ended."""
    if not isinstance(action, (actions.Resume, actions.LetLostRun)):
        return problem
    text = f"The guest of {plan.vm} may stand still: the move had suspended it, and could not let it run: {problem}"
    return f"{text.rstrip('.')}. `virsh resume {plan.vm}` lets it run" if isinstance(action, actions.Resume) else text


def _log_action(plan: Plan, action: actions.Action) -> None:
    level = logging.DEBUG if isinstance(action, actions.Await) else logging.INFO
    log.log(level, "move %s of %s: %s", plan.move, plan.vm, action)
