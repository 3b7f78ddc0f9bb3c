"""The loop of every job: observe, decide, act, until done. There is no second path for recovery; this is it."""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar, Generic, Protocol, TypeVar

from blockferry.base.errors import (
    BlockferryError,
    HostUnreachable,
    Interrupted,
    JournalFailed,
    LeaseLost,
    MoveParked,
    OtherHost,
)
from blockferry.base.units import format_duration
from blockferry.jobs import unexpected_errors
from blockferry.jobs.action import Action, Done, Finish, LookAgain, Park
from blockferry.jobs.kill_points import PointFailed
from blockferry.jobs.outcome import Outcome
from blockferry.jobs.record import JobRecord

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 0.5
RECONNECT_S = 2.0
JOURNAL_S = 1.0
"""Seconds between two attempts to reach a journal that is away."""

UNFORESEEN_S = 1.0
TRIES = 8
"""How often an effect on the way back or after the switch is tried again before the job is parked."""


class Waiting(Exception):
    """Nothing is left to do until something happens that no job can bring about (a VM is powered off)."""


class EffectStopped(Exception):
    """A long effect has ended before its time, because the user's wish or the lease says so: look again."""


RecordT = TypeVar("RecordT", bound=JobRecord)
ObservedT = TypeVar("ObservedT")
ProgressT = TypeVar("ProgressT")
ReportT = TypeVar("ReportT")
ShownT = TypeVar("ShownT", contravariant=True)
ReportedT = TypeVar("ReportedT", contravariant=True)


class JobInJournal(Protocol[RecordT, ShownT, ReportedT]):
    """The job in the journal, as its loop uses it (jobs/handle.py). All may raise JournalFailed and LeaseLost."""

    @property
    def stop(self) -> threading.Event: ...  # set when this process shall leave the job as it is

    def read(self) -> RecordT: ...

    def save(self, record: RecordT) -> None: ...

    def log_event(self, kind: str, text: str) -> None: ...

    def publish(self, progress: ShownT) -> None: ...

    def park(self, problem: str) -> None: ...

    def finish(self, record: RecordT, report: ReportedT) -> None: ...

    def interim(self, record: RecordT, report: ReportedT) -> None: ...  # the report so far of one that has yet to wait

    def check(self) -> None: ...  # raises LeaseLost

    def regain(self) -> None: ...  # renew the lease now

    def away(self, text: str) -> None: ...  # show that the journal is away


@dataclass(kw_only=True)
class Loop(ABC, Generic[RecordT, ObservedT, ProgressT, ReportT]):
    """One job in this process. A kind of job is a subclass: it says what is seen, what is to be done, and does it."""

    NOUN: ClassVar[str] = "job"
    GOES_ON: ClassVar[str] = "What runs goes on"  # while a host or the journal is away

    job: JobInJournal[RecordT, ProgressT, ReportT]
    began_at: float  # wall time
    phases: dict[str, float] = field(default_factory=dict)
    phase: str = "prepare"
    tries: int = 0
    _known: RecordT | None = None
    _published_at: float = 0.0

    # ------------------------------------------------------------ what a kind of job brings

    @property
    @abstractmethod
    def id(self) -> str:
        """The job's id."""

    @property
    @abstractmethod
    def subject(self) -> str:
        """What it is about, for people: a VM's name."""

    @abstractmethod
    def observe(self, record: RecordT, now_s: float) -> ObservedT:
        """Look at what is really there. `now_s`: monotonic seconds. Raises BlockferryError."""

    @abstractmethod
    def record_of(self, seen: ObservedT) -> RecordT:
        """Return the record that a look was made with."""

    @abstractmethod
    def decide(self, seen: ObservedT) -> Action:
        """Return the next action. Pure."""

    @abstractmethod
    def perform(self, action: Action, seen: ObservedT) -> None:
        """Carry out an action. It may be repeated. Raises BlockferryError, EffectStopped."""

    @abstractmethod
    def show(self, seen: ObservedT) -> ProgressT:
        """Return the progress as it is now. What its user has to be warned of is logged."""

    @abstractmethod
    def ended(self, outcome: Outcome, seen: ObservedT, seconds: float) -> tuple[ProgressT, ReportT]:
        """Return the last progress, and the report."""

    def begin(self, record: RecordT) -> None:
        """The job was taken up by this process; called once, before the first look."""

    def end(self) -> None:
        """This process leaves the job, whatever the reason."""

    def before_act(self, seen: ObservedT) -> None:
        """An action was decided on, and the lease is held."""

    def end_round(self, action: Action, seen: ObservedT) -> None:
        """Carry out an action of the kind that has no effect on the host (`Action.ends_round`). May raise Waiting."""
        raise AssertionError(f"{action} has no effect")

    def before_finish(self, action: Finish, seen: ObservedT) -> None:
        """The job is about to end so."""

    @property
    def urgent(self) -> bool:
        """Whether something stands still by our doing: nothing is read, shown or waited for that may take time."""
        return False

    @property
    def held(self) -> bool:
        """Whether something stands still that is to go on before this process leaves the job."""
        return self.urgent

    def let_go(self) -> None:
        """Have all go on that stands still by our doing: it is about to be waited for something. Repeatable."""

    def bridge(self) -> bool:
        """The journal is away, for how long nobody knows: take back what cannot last. Whether that is done."""
        return True

    def host_lost(self) -> None:
        """The way to the host is lost; what runs there goes on."""

    def overtaken(self, error: BlockferryError | PointFailed, action: Action | None, seen: ObservedT) -> bool:
        """Whether an effect has failed because the world has changed since the look: `decide` has an answer to that."""
        return False

    def can_turn_back(self, seen: ObservedT) -> bool:
        """Whether the job has not yet passed the point from which it only goes forward."""
        return True

    def lasting(self, error: BlockferryError | PointFailed) -> str | None:
        """Why the job is parked with this error at once, for it does not pass by itself; None: it may pass."""
        return None

    def parking(self, action: Action | None, seen: ObservedT | None, problem: str) -> str:
        """The job is about to be parked: leave it so that it may stand. Return what its user is told."""
        return problem

    # ------------------------------------------------------------ the journal

    def read(self) -> RecordT:
        """The record as the journal has it, with the user's wishes."""
        return self.job.read()

    def save(self, record: RecordT) -> None:
        """Make a record durable. Raises LeaseLost, JournalFailed."""
        self.job.save(record)
        self._known = record

    def log_event(self, kind: str, text: str) -> None:
        """Add a line to the job's story."""
        self.job.log_event(kind, text)

    # ------------------------------------------------------------ the loop

    def run(self) -> Outcome:
        """Until the job is over. Raises MoveParked, LeaseLost, Interrupted, JournalFailed; Waiting."""
        try:
            begun = False
            while True:
                if self.job.stop.is_set() and not self.held:
                    raise self._interrupted()
                try:
                    if not begun:
                        self.begin(self.read())
                        begun = True
                    outcome = self._step()
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
            self.end()

    def _interrupted(self) -> Interrupted:
        return Interrupted(f"The {self.NOUN} is left as it is; `blockferry resume` goes on with it.")

    def _await_journal(self, error: JournalFailed) -> None:
        """The journal is away: nothing is begun until it is back and the lease is ours again; what runs goes on.

        Raises LeaseLost when somebody else has taken over meanwhile; JournalFailed for what does not pass by itself.
        """
        self.let_go()
        if not error.passing:
            raise error
        began = time.monotonic()
        bridged = self.bridge()
        log.warning("%s %s: %s It is waited for.", self.NOUN, self.id, error.sentence)
        while True:
            self.job.away(f"{error.sentence} {self.GOES_ON}; waiting for the journal")
            if self.job.stop.is_set():
                raise self._interrupted() from error
            try:
                self.job.regain()
                break
            except JournalFailed as again:
                if not again.passing:
                    raise
                error = again
            self.job.stop.wait(JOURNAL_S)
            self.let_go()
            bridged = bridged or self.bridge()
        text = f"the journal did not answer for {format_duration(time.monotonic() - began)} ({error.problem})"
        log.info("%s %s: %s", self.NOUN, self.id, text)
        self.log_event("warning", f"{text}; it is back, and the {self.NOUN} goes on")

    def _unforeseen(self, error: Exception) -> None:
        """A bug: noted, tried again a few times, then parked. Raises MoveParked."""
        self.let_go()
        try:
            why = unexpected_errors.note(f"{self.NOUN} {self.id}", error, self.read, self.save, self.log_event)
        except JournalFailed as failed:
            self._await_journal(failed)
            return
        if why is not None:
            self._park(why)
        self.job.stop.wait(UNFORESEEN_S)
        self.let_go()

    def _step(self) -> Outcome | None:
        started = time.monotonic()
        action: Action | None = None
        seen: ObservedT | None = None
        try:
            seen = self.observe(self._record(), started)
            action = self.decide(seen)
            self.job.check()
            self._log_action(action)
            self.before_act(seen)
            self._enter(action.phase_after(self.phase))
            if action.ends_round:
                return self._end_round(action, seen)
            self.publish(seen, sparingly=action.routine)
            self.perform(action, seen)
            self.tries = 0 if not isinstance(action, LookAgain) else self.tries
        except EffectStopped:
            return None
        except HostUnreachable as error:
            self._lost(error)
        except (LeaseLost, JournalFailed, Interrupted, MoveParked, OtherHost, Waiting):
            raise
        except (BlockferryError, PointFailed) as error:
            if isinstance(error, BlockferryError) and seen is not None and self.overtaken(error, action, seen):
                self.tries += 1
                self.log_event("warning", f"{error.sentence}; {self.subject} has changed meanwhile, looking again")
            else:
                self._stumble(action, seen, error)
        finally:
            self.phases[self.phase] = self.phases.get(self.phase, 0.0) + time.monotonic() - started
        if isinstance(action, LookAgain):
            started = time.monotonic()
            self.wait(action.pause_s)
            self.phases[self.phase] = self.phases.get(self.phase, 0.0) + time.monotonic() - started
        return None

    def _end_round(self, action: Action, seen: ObservedT) -> Outcome | None:
        if isinstance(action, Done):
            return action.outcome
        if isinstance(action, Park):
            self._park(action.problem)
        if isinstance(action, Finish):
            return self._finish(action, seen)
        self.end_round(action, seen)
        return None

    def _record(self) -> RecordT:
        """The record; while it is urgent the one that we wrote ourselves: each ms is downtime of somebody."""
        if not self.urgent or self._known is None:
            self._known = self.read()
        return self._known

    def _enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            if not self.urgent:
                self.log_event("phase", phase)

    def wait(self, seconds: float) -> None:
        """Wait for so long, or until something has happened."""
        self.job.stop.wait(seconds)

    def publish(self, seen: ObservedT, *, sparingly: bool) -> None:
        """Show the progress; `sparingly`: only now and then. Never while it is urgent."""
        now = time.monotonic()
        if self.urgent:
            return
        if now - self._published_at >= PROGRESS_EVERY_S or not sparingly:
            self._published_at = now
            self.job.publish(self.show(seen))

    def _finish(self, action: Finish, seen: ObservedT) -> Outcome:
        self.before_finish(action, seen)
        progress, report = self.ended(action.outcome, seen, max(0.0, time.time() - self.began_at))
        self.job.publish(progress)
        self.log_event("phase", action.outcome.value)
        self.job.finish(replace(self.record_of(seen), outcome=action.outcome), report)
        return action.outcome

    def _park(self, problem: str) -> None:
        self.log_event("error", problem)
        self.job.park(problem)
        raise MoveParked(self.id, self.subject, problem)

    def _lost(self, error: HostUnreachable) -> None:
        """The way to the host is lost; what runs there goes on. Wait, connect again, look again."""
        if self.tries % 30 == 0:
            self.log_event("warning", f"{error.sentence} {self.GOES_ON} without us; trying again")
        self.tries += 1
        self.host_lost()
        self.job.stop.wait(RECONNECT_S)

    def _stumble(self, action: Action | None, seen: ObservedT | None, error: BlockferryError | PointFailed) -> None:
        """An effect failed. Before the switch that is a reason to go back; later it is tried again."""
        sentence = error.sentence if isinstance(error, BlockferryError) else str(error)
        self.tries += 1
        if (
            seen is not None
            and action is not None
            and action.failure_turns_back
            and self.record_of(seen).failure is None
            and self.can_turn_back(seen)
        ):
            self.log_event("error", sentence)
            self.save(replace(self.read(), failure=sentence))
            return
        if (why := self.lasting(error)) is not None:
            self._park(why)
        self.log_event("warning", sentence)
        if self.tries >= TRIES:
            self._park(self.parking(action, seen, sentence))
        if not self.urgent:
            self.job.stop.wait(min(10.0, 0.1 * 2**self.tries))

    def _log_action(self, action: Action) -> None:
        level = logging.DEBUG if isinstance(action, LookAgain) else logging.INFO
        log.log(level, "%s %s of %s: %s", self.NOUN, self.id, self.subject, action)
