"""What is shown of a job of any kind: its progress, its report, its line in a list. A kind of job adds to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from blockferry.jobs.outcome import Outcome
from blockferry.jobs.record import JobRecord

PlanT = TypeVar("PlanT")
RecordT = TypeVar("RecordT", bound=JobRecord)
ProgressT = TypeVar("ProgressT", bound="JobProgress")
ReportT = TypeVar("ReportT", bound="JobReport")


@dataclass(frozen=True, slots=True)
class JobProgress:
    """A running job as last seen. `updated` is wall time, seconds since the epoch."""

    phase: str = "queued"
    updated: float = 0.0
    note: str = ""  # what it waits for, when it waits


@dataclass(frozen=True, slots=True)
class JobReport:
    """What a finished job did."""

    outcome: Outcome
    seconds: float
    phases: dict[str, float] = field(default_factory=dict)  # phase -> seconds


@dataclass(frozen=True, slots=True)
class JobSummary(Generic[PlanT, RecordT, ProgressT, ReportT]):
    """One job as the journal knows it. Times are wall time, seconds since the epoch."""

    kind: ClassVar[str] = ""  # as in the journal's column

    id: str
    plan: PlanT
    record: RecordT
    progress: ProgressT
    created: float
    finished: float | None
    owner: str | None  # who runs it: "user@host pid N"; None: nobody at present
    owner_alive: bool = False
    parked: str | None = None  # why it stands still
    report: ReportT | None = None
    deaths: int = 0  # how often the process that ran it died

    @property
    def waits(self) -> bool:
        """Whether nobody runs it because nothing can be done until something happens."""
        return False

    @property
    def over(self) -> bool:
        """Whether nothing is left that a person would wait for."""
        return self.finished is not None

    @property
    def holds(self) -> str:
        """What is true after a job that did not succeed, in a sentence."""
        return ""

    @property
    def too_late_to_cancel(self) -> bool:
        """Whether there is only the way forward by now."""
        return self.record.outcome is Outcome.MOVED

    def see_verified(self) -> None:
        """Raise NotVerified or CopyDiffers for a job that went through and was not found alike as asked."""

    @property
    def state(self) -> str:
        """One word for listings: running, interrupted, waiting, parked, or its outcome."""
        if self.record.outcome is not None and self.finished is not None:
            return self.record.outcome.value
        if self.parked is not None:
            return "parked"
        if self.owner_alive:
            return "running"
        return "waiting" if self.waits else "interrupted"
