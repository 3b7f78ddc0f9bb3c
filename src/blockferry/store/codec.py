"""Rows and JSON to our frozen data, and back. The JSON forms are promises: docs/journal.md.

Unknown fields are ignored, missing ones take their default; a value that this version does not know (a method, an
outcome) makes the move unreadable, because guessing would be worse.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

import msgspec

from blockferry.base.errors import JournalFailed
from blockferry.hosts import fingerprint
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.jobs.outcome import Wanted
from blockferry.storage_move.plan import PLAN_VERSION, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import MoveSummary, Progress, Report
from blockferry.store.process_identity import Owner

T = TypeVar("T")


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


def record(row: Any, journal: str) -> Record:
    """The memory of a move, with what its user wants now. Raises JournalFailed."""
    found = fingerprint.current_record(_decode(row.record, Record, row.id, journal))
    try:
        return replace(found, wanted=Wanted(row.wanted), bandwidth=row.bandwidth)
    except ValueError as error:
        raise _unreadable(row.id, journal, error) from error


def plan(row: Any, journal: str) -> Plan:
    """Raises JournalFailed, also for a plan of a version that we do not know how to carry out."""
    found = _decode(row.plan, Plan, row.id, journal)
    if found.version > PLAN_VERSION:
        raise JournalFailed(
            journal,
            f"move {row.id} was planned by a newer blockferry (plan version {found.version}, this one knows "
            f"{PLAN_VERSION})",
        )
    return fingerprint.current_plan(found)


def with_host(plan: str, host: str, host_name: str) -> str:
    """The plan as it is written, whatever version wrote it, with its host noted."""
    return encode({**msgspec.json.decode(plan), "host": host, "host_name": host_name})


def progress(text: str) -> Progress:
    """What is only for show never stands in the way: unreadable progress is no progress."""
    try:
        return msgspec.json.decode(text, type=Progress)
    except msgspec.DecodeError:
        return Progress()


def summary(row: Any, journal: str) -> MoveSummary:
    """A whole row of `moves`, and `now`, the database's clock. Raises JournalFailed."""
    runs = owner(row.owner)
    held = row.lease_expires is not None and row.lease_expires > row.now
    return MoveSummary(
        id=row.id,
        plan=plan(row, journal),
        record=record(row, journal),
        progress=progress(row.progress),
        created=row.created,
        finished=row.finished,
        owner=None if runs is None else str(runs),
        owner_alive=runs is not None and held and not runs.surely_dead,
        parked=row.parked,
        report=_decode(row.report, Report, row.id, journal) if row.report else None,
        deaths=row.deaths,
    )


def kept(row: Any) -> Kept:
    """A row of `kept`. A fingerprint that cannot be read is none: then nothing is taken for unaltered."""
    values = dict(row._mapping)
    try:
        text = values["fingerprint"]
        values["fingerprint"] = None if text is None else msgspec.json.decode(text, type=KeptFingerprint)
    except msgspec.DecodeError:
        values["fingerprint"] = None
    return Kept(**values)


def _decode(text: str, kind: type[T], move: str, journal: str) -> T:
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise _unreadable(move, journal, error) from error


def _unreadable(move: str, journal: str, error: Exception) -> JournalFailed:
    return JournalFailed(journal, f"move {move} cannot be read, perhaps a newer blockferry wrote it ({error})")
