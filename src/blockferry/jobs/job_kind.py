"""A kind of job whose record is a JobRecord: what the store has to be told of it, in its generic parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from blockferry.jobs.job_summary import JobProgress, JobReport, JobSummary
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.jobs.record import JobRecord
from blockferry.store.kind import JobRow, Kind

PlanT = TypeVar("PlanT")
RecordT = TypeVar("RecordT", bound=JobRecord)
ProgressT = TypeVar("ProgressT", bound=JobProgress)
ReportT = TypeVar("ReportT", bound=JobReport)
SummaryT = TypeVar("SummaryT", bound=JobSummary[Any, Any, Any, Any])


class JobKind(Kind[PlanT, RecordT, ProgressT, ReportT, SummaryT]):
    """A kind of job. What is left to say: its name, its types, the head of a plan."""

    summary_type: type[SummaryT]

    def wishes(self, record: RecordT) -> tuple[str, int]:
        return record.wanted.value, record.bandwidth

    def with_wishes(self, record: RecordT, wanted: str, bandwidth: int) -> RecordT:
        return replace(record, wanted=Wanted(wanted), bandwidth=bandwidth)

    def outcome(self, record: RecordT) -> str:
        return (record.outcome or Outcome.FAILED).value

    def first_progress(self, now: float) -> ProgressT:
        return self.progress_type(updated=now)

    def summary(self, row: JobRow[PlanT, RecordT, ProgressT, ReportT]) -> SummaryT:
        return self.summary_type(
            id=row.id,
            plan=row.plan,
            record=row.record,
            progress=row.progress,
            created=row.created,
            finished=row.finished,
            owner=row.owner,
            owner_alive=row.owner_alive,
            parked=row.parked,
            report=row.report,
            deaths=row.deaths,
        )
