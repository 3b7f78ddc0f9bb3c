"""A second kind of job, for the tests: boxes are moved from one shelf to another. Shelves are directories, boxes files.

It shows what a kind of job brings, and that jobs/ and store/ know no storage move.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import msgspec

from blockferry.base.errors import HostCommandFailed
from blockferry.jobs import lease_keeping
from blockferry.jobs.action import Action, Done, Finish
from blockferry.jobs.handle import JobHandle
from blockferry.jobs.job_kind import JobKind
from blockferry.jobs.job_summary import JobProgress, JobReport, JobSummary
from blockferry.jobs.kill_points import KillPoints
from blockferry.jobs.loop import Loop
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.jobs.record import JobRecord
from blockferry.store import Journal, LeaseKeeper
from blockferry.store.kind import Head

point = KillPoints("box-named", "box-copied", "box-removed", "box-taken-back", "boxes-done")


@dataclass(frozen=True, slots=True)
class BoxPlan:
    """Which boxes, from which shelf to which. Version 1 had one `box` only."""

    job: str
    boxes: tuple[str, ...]
    source: str
    dest: str
    version: int = 2


@dataclass(frozen=True, slots=True)
class BoxRecord(JobRecord):
    named: tuple[str, ...] = ()  # intent: boxes of which a copy of ours may lie on the new shelf
    copied: tuple[str, ...] = ()  # proof: that copy is whole


@dataclass(frozen=True, slots=True)
class BoxReport(JobReport):
    boxes: int = 0


@dataclass(frozen=True, slots=True)
class BoxSummary(JobSummary[BoxPlan, BoxRecord, JobProgress, BoxReport]):
    """One such job."""


class BoxKind(JobKind[BoxPlan, BoxRecord, JobProgress, BoxReport, BoxSummary]):
    name = "boxes"
    plan_type, record_type, progress_type, report_type = BoxPlan, BoxRecord, JobProgress, BoxReport
    summary_type = BoxSummary

    def read_plan(self, text: str) -> BoxPlan:
        found = msgspec.json.decode(text)
        if found["version"] == 1:
            found = {**found, "boxes": [found.pop("box")]}
        return msgspec.convert(found, BoxPlan)

    def head(self, plan: BoxPlan) -> Head:
        return Head(plan.job, plan.source[-36:], Path(plan.source).name)  # one job for each shelf


class BoxJournal(Journal[BoxPlan, BoxRecord, JobProgress, BoxReport, BoxSummary]):
    kind = BoxKind()


@dataclass(frozen=True, slots=True)
class Shelves:
    """What is seen: which boxes are on either shelf, whole or not."""

    record: BoxRecord
    here: frozenset[str]
    there: frozenset[str]


@dataclass(frozen=True, slots=True)
class NameBox(Action):
    """Write down that a copy of this box is to be made."""

    phase: ClassVar[str] = "copy"

    box: str


@dataclass(frozen=True, slots=True)
class CopyBox(Action):
    """Put a copy of this box on the new shelf."""

    phase: ClassVar[str] = "copy"
    failure_turns_back: ClassVar[bool] = True

    box: str


@dataclass(frozen=True, slots=True)
class RemoveBox(Action):
    """All are copied: take this box off the old shelf."""

    phase: ClassVar[str] = "clean up"

    box: str


@dataclass(frozen=True, slots=True)
class TakeBack(Action):
    """Take the copy of this box off the new shelf."""

    phase: ClassVar[str] = "roll back"

    box: str


def decide(plan: BoxPlan, seen: Shelves) -> Action:
    """Copies first, then the old boxes go; before the first of them has gone, the way back is open. Pure."""
    record, whole = seen.record, set(seen.record.copied)
    if record.outcome is not None:
        return Done(record.outcome)
    if (record.wanted is Wanted.CANCEL or record.failure) and seen.here >= set(plan.boxes):
        for box in plan.boxes:
            if box in record.named and box in seen.there:
                return TakeBack(box)
        return Finish(Outcome.FAILED if record.failure else Outcome.CANCELLED)
    for box in plan.boxes:
        if box not in whole:
            return CopyBox(box) if box in record.named else NameBox(box)
    for box in plan.boxes:
        if box in seen.here:
            return RemoveBox(box)
    return Finish(Outcome.MOVED)


@dataclass(kw_only=True)
class BoxLoop(Loop[BoxRecord, Shelves, JobProgress, BoxReport]):
    plan: BoxPlan
    after_copy: Callable[[], None]

    @property
    def id(self) -> str:
        return self.plan.job

    @property
    def subject(self) -> str:
        return self.plan.source

    def observe(self, record: BoxRecord, now_s: float) -> Shelves:
        here, there = (frozenset(path.name for path in Path(shelf).iterdir()) for shelf in self._shelves)
        return Shelves(record, here, there)

    @property
    def _shelves(self) -> tuple[str, str]:
        return self.plan.source, self.plan.dest

    def record_of(self, seen: Shelves) -> BoxRecord:
        return seen.record

    def decide(self, seen: Shelves) -> Action:
        return decide(self.plan, seen)

    def perform(self, action: Action, seen: Shelves) -> None:
        record, (source, dest) = seen.record, map(Path, self._shelves)
        match action:
            case NameBox(box):
                self.save(replace(record, named=(*record.named, box)))
                point("box-named")
            case CopyBox(box):
                if box == "too heavy":
                    raise HostCommandFailed("carry", 1, f"{box} cannot be carried")
                shutil.copyfile(source / box, dest / box)
                point("box-copied")
                self.save(replace(record, copied=(*record.copied, box)))
                self.after_copy()
            case RemoveBox(box):
                (source / box).unlink()
                point("box-removed")
            case TakeBack(box):
                (dest / box).unlink()
                point("box-taken-back")
            case _:
                raise AssertionError(action)

    def before_finish(self, action: Finish, seen: Shelves) -> None:
        point("boxes-done")

    def show(self, seen: Shelves) -> JobProgress:
        return JobProgress(self.phase, time.time(), f"{len(seen.there)} of {len(self.plan.boxes)}")

    def ended(self, outcome: Outcome, seen: Shelves, seconds: float) -> tuple[JobProgress, BoxReport]:
        return JobProgress(outcome.value, time.time()), BoxReport(outcome, seconds, self.phases, len(seen.there))


def run(
    journal: BoxJournal,
    job: str,
    shown: Callable[[BoxSummary], None] = lambda _summary: None,
    after_copy: Callable[[], None] = lambda: None,
) -> Outcome:
    """Run a job in this process, as a command does it."""
    lease = lease_keeping.claim(journal, job)
    with lease_keeping.parking_bugs(journal, lease), LeaseKeeper(journal, lease) as keeper:
        summary = journal.unpark(lease)
        handle = JobHandle(journal, lease, keeper, shown, threading.Event(), summary)
        return BoxLoop(job=handle, began_at=summary.created, plan=summary.plan, after_copy=after_copy).run()
