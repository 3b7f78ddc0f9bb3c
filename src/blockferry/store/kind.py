"""What a kind of job tells the store: how its JSON is read and written, and what of it stands in columns and tables.

The store knows no kind of job. A kind of job is a subclass of Kind; a journal of it is a Journal with that kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from blockferry.hosts.datastore_id import FileId
from blockferry.store.uses import ClaimedPaths, Made

Prints = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
"""The fingerprints of two images that were compared: (path, fingerprint) of all files that each consists of."""

PlanT = TypeVar("PlanT")
RecordT = TypeVar("RecordT")
ProgressT = TypeVar("ProgressT")
ReportT = TypeVar("ReportT")
SummaryT = TypeVar("SummaryT")


class NewerPlan(Exception):
    """The plan is of a version that this program does not know how to carry out. Its text: which, a clause."""


@dataclass(frozen=True, slots=True)
class Head:
    """What every plan has. `vm_uuid`: what it is about; at most one job that is not over is about it."""

    id: str
    vm_uuid: str
    vm: str  # for people
    host: str = ""  # libvirt's UUID of it; "": not known
    host_name: str = ""
    uri: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """A datastore that a job copies from or to."""

    role: str  # "source", "destination"
    name: str  # as its host calls it
    identity: str = ""  # hosts.datastore_id.DatastoreId.text; "": not known


@dataclass(frozen=True, slots=True)
class Listed:
    """What lists and searches need of a plan."""

    places: tuple[Place, ...] = ()
    compared: tuple[Prints, ...] = ()  # images that were compared, and read the same
    compared_files: tuple[Prints, ...] = ()  # such in datastores that several hosts have; FileId.text for path


@dataclass(frozen=True, slots=True)
class PartialCopy:
    """A broken copy that is kept, to be gone on with. Bytes."""

    path: str
    target: str
    format: str
    virtual_size: int
    job: str = ""  # the latest that left it
    file: FileId | None = None  # which file it is, for every host; None: not known


@dataclass(frozen=True, slots=True)
class Left:
    """What a job has left: broken copies, and such copies (file, path) that are none any more."""

    partial: tuple[PartialCopy, ...] = ()
    used: tuple[tuple[FileId, str], ...] = ()


@dataclass(frozen=True, slots=True)
class JobRow(Generic[PlanT, RecordT, ProgressT, ReportT]):
    """A job as it stands in the journal. Times are wall time, seconds since the epoch."""

    id: str
    plan: PlanT
    record: RecordT
    progress: ProgressT
    report: ReportT | None
    created: float
    finished: float | None
    owner: str | None  # who runs it: "user@host pid N"; None: nobody at present
    owner_alive: bool
    parked: str | None  # why it stands still
    deaths: int  # how often the process that ran it died


class Kind(ABC, Generic[PlanT, RecordT, ProgressT, ReportT, SummaryT]):
    """A kind of job. The JSON forms are promises: what an older version wrote is read (`read_plan`, `read_record`)."""

    name: str  # the column `kind`
    plan_type: type[PlanT]
    record_type: type[RecordT]
    progress_type: type[ProgressT]
    report_type: type[ReportT]

    def read_plan(self, text: str) -> PlanT:
        """Return a plan of any version. Raises msgspec.DecodeError, NewerPlan."""
        return msgspec.json.decode(text, type=self.plan_type)

    def read_record(self, text: str) -> RecordT:
        """Return a record of any version. Raises msgspec.DecodeError."""
        return msgspec.json.decode(text, type=self.record_type)

    def with_host(self, plan: str, host: str, host_name: str) -> str:
        """Return a plan's JSON, whatever version wrote it, with its host noted."""
        found = {**msgspec.json.decode(plan), "host": host, "host_name": host_name}
        return msgspec.json.encode(found).decode()

    @abstractmethod
    def head(self, plan: PlanT) -> Head:
        """Return what the store has to know of every plan."""

    @abstractmethod
    def wishes(self, record: RecordT) -> tuple[str, int]:
        """Return the columns `wanted` and `bandwidth` of a new job."""

    @abstractmethod
    def with_wishes(self, record: RecordT, wanted: str, bandwidth: int) -> RecordT:
        """Return the record with what its user wants now. Raises ValueError for a wish that is not known."""

    @abstractmethod
    def outcome(self, record: RecordT) -> str:
        """Return the column `state` of a job that has ended with this record."""

    @abstractmethod
    def first_progress(self, now: float) -> ProgressT:
        """Return the progress of a job that was planned at `now`, wall time."""

    @abstractmethod
    def summary(self, row: JobRow[PlanT, RecordT, ProgressT, ReportT]) -> SummaryT:
        """Return the job as people are shown it."""

    def listed(self, plan: PlanT) -> Listed:
        """Return what lists and searches need of a plan."""
        return Listed()

    def left(self, plan: PlanT, record: RecordT) -> Left:
        """Return what a job has left that ended with this record."""
        return Left()

    def made(self, plan: PlanT) -> Made | None:
        """Return what a job makes at its destination; None: nothing."""
        return None

    def claimed(self, summary: SummaryT) -> tuple[ClaimedPaths, ...]:
        """Return the paths, host by host, that a job which is not over makes, writes to or removes."""
        return ()
