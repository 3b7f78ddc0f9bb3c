"""Rows and JSON to frozen data, and back. The JSON forms are promises: docs/journal.md.

Unknown fields are ignored, missing ones take their default; a value that this version does not know (a method, an
outcome) makes the job unreadable, because guessing would be worse.
"""

from __future__ import annotations

from typing import Any

import msgspec

from blockferry.base.errors import JournalFailed
from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.store.kind import JobRow, Kind, NewerPlan, PlanT, ProgressT, RecordT, ReportT, SummaryT
from blockferry.store.process_identity import Owner


def encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def plain(text: str) -> str:
    """Text as every database takes it: what is no character (from a program's output) is written as an escape."""
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def owner(text: str | None) -> Owner | None:
    """None, too, for what cannot be read: then the lease's end alone decides."""
    if not text:
        return None
    try:
        return msgspec.json.decode(text, type=Owner)
    except msgspec.DecodeError:
        return Owner("a host unknown", "", 0, 0, "somebody", "unknown")


def record(kind: Kind[Any, RecordT, Any, Any, Any], row: Any, journal: str) -> RecordT:
    """The memory of a job, with what its user wants now. Raises JournalFailed."""
    try:
        return kind.with_wishes(kind.read_record(row.record), row.wanted, row.bandwidth)
    except (msgspec.DecodeError, ValueError) as error:
        raise _unreadable(row.id, journal, error) from error


def plan(kind: Kind[PlanT, Any, Any, Any, Any], row: Any, journal: str) -> PlanT:
    """Raises JournalFailed, also for a plan of a version that we do not know how to carry out."""
    try:
        return kind.read_plan(row.plan)
    except NewerPlan as error:
        raise JournalFailed(journal, f"move {row.id} was planned by a newer blockferry ({error})") from error
    except (msgspec.DecodeError, ValueError) as error:
        raise _unreadable(row.id, journal, error) from error


def progress(kind: Kind[Any, Any, ProgressT, Any, Any], text: str) -> ProgressT:
    """What is only for show never stands in the way: unreadable progress is no progress."""
    try:
        return msgspec.json.decode(text, type=kind.progress_type)
    except msgspec.DecodeError:
        return kind.first_progress(0.0)


def summary(kind: Kind[PlanT, RecordT, ProgressT, ReportT, SummaryT], row: Any, journal: str) -> SummaryT:
    """A whole row of `moves`, and `now`, the database's clock. Raises JournalFailed."""
    runs = owner(row.owner)
    held = row.lease_expires is not None and row.lease_expires > row.now
    try:
        report = msgspec.json.decode(row.report, type=kind.report_type) if row.report else None
    except msgspec.DecodeError as error:
        raise _unreadable(row.id, journal, error) from error
    return kind.summary(
        JobRow(
            id=row.id,
            plan=plan(kind, row, journal),
            record=record(kind, row, journal),
            progress=progress(kind, row.progress),
            report=report,
            created=row.created,
            finished=row.finished,
            owner=None if runs is None else str(runs),
            owner_alive=runs is not None and held and not runs.surely_dead,
            parked=row.parked,
            deaths=row.deaths,
        )
    )


def file_id(place: str, path: str) -> FileId | None:
    """Return what the columns `place` and `place_path` tell; None where that is no more than the host and the path."""
    file = FileId(place, path)
    return file if place and file.known else None


def kept(row: Any) -> Kept:
    """A row of `kept`. A fingerprint that cannot be read is none: then nothing is taken for unaltered."""
    values = dict(row._mapping)
    values["file"] = file_id(values.pop("place"), values.pop("place_path"))
    try:
        text = values["fingerprint"]
        values["fingerprint"] = None if text is None else msgspec.json.decode(text, type=KeptFingerprint)
    except msgspec.DecodeError:
        values["fingerprint"] = None
    return Kept(**values)


def _unreadable(move: str, journal: str, error: Exception) -> JournalFailed:
    return JournalFailed(journal, f"move {move} cannot be read, perhaps a newer blockferry wrote it ({error})")
