"""The handle of a job: the journal as the process uses it that runs the job; what may be missed while it is away.

The record has to be written, or the loop stops and waits (jobs/loop.py). Lines of the story are kept until they can
be told, the progress is only shown, and the user's wishes are as last read: a journal that is away for a moment breaks
off no copy. All that only as long as the lease holds: after it another process may run the job.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from blockferry.base.errors import JournalFailed
from blockferry.jobs.job_summary import JobProgress, JobReport, JobSummary
from blockferry.jobs.outcome import Wanted
from blockferry.jobs.record import JobRecord
from blockferry.store import Journal, Lease, LeaseKeeper

PlanT = TypeVar("PlanT")
RecordT = TypeVar("RecordT", bound=JobRecord)
ProgressT = TypeVar("ProgressT", bound=JobProgress)
ReportT = TypeVar("ReportT", bound=JobReport)
SummaryT = TypeVar("SummaryT", bound=JobSummary[Any, Any, Any, Any])

MAX_LINES = 1000

log = logging.getLogger(__name__)


@dataclass
class JobHandle(Generic[PlanT, RecordT, ProgressT, ReportT, SummaryT]):
    """`shown` is given the newest summary; `stop` is set when this process shall leave the job."""

    journal: Journal[PlanT, RecordT, ProgressT, ReportT, SummaryT]
    lease: Lease
    keeper: LeaseKeeper
    shown: Callable[[SummaryT], None]
    stop: threading.Event
    latest: SummaryT
    seen: Callable[[ProgressT], None] = lambda _progress: None  # told of each progress before it is shown
    _wishes: RecordT | None = None
    _untold: list[tuple[str, str]] = field(default_factory=list)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> RecordT:
        """The record with the user's wishes. Raises JournalFailed."""
        self._wishes = self.journal.read(self.lease.move)
        return self._wishes

    def save(self, record: RecordT) -> None:
        """Make a record durable. Raises LeaseLost, JournalFailed."""
        self.journal.write(self.lease, record)

    def check(self) -> None:
        """To be called before each act. Raises LeaseLost when somebody else has taken over, JournalFailed."""
        self.keeper.check()

    def regain(self) -> None:
        """Renew the lease now. Raises LeaseLost, JournalFailed."""
        self.keeper.regain()

    def park(self, problem: str) -> None:
        """The job stands still until its user decides. Raises LeaseLost, JournalFailed."""
        self.journal.park(self.lease, problem)

    def interim(self, record: RecordT, report: ReportT) -> None:
        """The report so far of a job that has yet to wait for something. Raises LeaseLost, JournalFailed."""
        self.journal.save_interim(self.lease, record, report)

    def finish(self, record: RecordT, report: ReportT) -> None:
        """The end: the record with its outcome, and the report. Raises LeaseLost, JournalFailed."""
        self.journal.finish(self.lease, record, report)

    def should_stop(self) -> bool:
        """Whether a long effect has to end: it is to be cancelled, or another process may run the job by now."""
        if self.stop.is_set() or self.keeper.lost.is_set():
            return True
        return self._wanted().wanted is Wanted.CANCEL or not self.keeper.holds

    def bandwidth(self) -> int:
        return self._wanted().bandwidth

    def _wanted(self) -> RecordT:
        try:
            return self.read()
        except JournalFailed:
            if self._wishes is None or not self.keeper.holds:
                raise
            return self._wishes

    def log_event(self, kind: str, text: str) -> None:
        """A line of the story; while the journal is away it is kept, and told later."""
        log.log(_LEVELS.get(kind, logging.INFO), "move %s: %s", self.lease.move, text)
        with self._telling:
            self._untold = [*self._untold[-MAX_LINES:], (kind, text)]
            try:
                while self._untold:
                    self.journal.event(self.lease.move, *self._untold[0])
                    del self._untold[0]
            except JournalFailed as error:
                if not error.passing:
                    raise

    def publish(self, progress: ProgressT) -> None:
        """Show the progress, and tell of it those who look at the journal."""
        self.seen(progress)
        try:
            self.journal.progress(self.lease, progress)
            self.latest = self.journal.get(self.lease.move)
        except JournalFailed as error:
            if not error.passing:
                raise
            return
        self.shown(self.latest)

    def away(self, text: str) -> None:
        """Show that the journal is away."""
        self.shown(replace(self.latest, progress=replace(self.latest.progress, note=text)))


_LEVELS = {"warning": logging.WARNING, "error": logging.ERROR}
