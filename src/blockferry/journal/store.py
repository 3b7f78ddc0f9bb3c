"""The journal: what moves there are, what each remembers, who runs it, what happened."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import IntegrityError

from blockferry.errors import JournalFailed, LeaseLost, MoveBusy, MoveNotFound, UsageError, nearest
from blockferry.journal import database
from blockferry.journal.lease import TTL_S, Lease, Owner
from blockferry.journal.schema import events, kept, moves
from blockferry.model.plan import Plan
from blockferry.model.record import Record, Wanted
from blockferry.model.space import needed
from blockferry.model.summary import Event, MoveSummary, Progress, Report

DEATHS_UNTIL_PARKED = 5


@dataclass(frozen=True, slots=True)
class Kept:
    """An old file that is kept on purpose. Bytes; `expires` is wall time, None for ever."""

    path: str
    move: str
    vm: str
    datastore: str
    expires: float | None
    size: int
    why: str


class Journal:
    """One journal. Threads may share it. Every method may raise JournalFailed."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self.name = engine, name

    @classmethod
    def open(cls, url: str) -> Journal:
        """Open, making or upgrading the schema. Raises JournalFailed."""
        return cls(database.open_engine(url), database.shown(make_url(url)))

    def close(self) -> None:
        self._engine.dispose()

    # ------------------------------------------------------------ moves

    def add(self, plan: Plan, record: Record, request: str, user: str) -> MoveSummary:
        """A new move. Raises MoveBusy when the VM has one that is not finished."""
        values = {
            "id": plan.move,
            "vm_uuid": plan.uuid,
            "vm": plan.vm,
            "created": time.time(),
            "requested_by": user,
            "request": request,
            "plan": _encode(plan),
            "record": _encode(record),
            "wanted": record.wanted.value,
            "bandwidth": record.bandwidth,
            "progress": _encode(Progress(updated=time.time())),
            "deaths": 0,
            "token": 0,
        }
        try:
            with self._writing() as connection:
                connection.execute(sa.insert(moves).values(values))
        except JournalFailed as error:
            if isinstance(error.__cause__, IntegrityError):
                other = next((one for one in self.unfinished() if one.plan.uuid == plan.uuid), None)
                if other is not None:
                    raise MoveBusy(plan.vm, other.id, other.owner or "nobody at present") from error
            raise
        return self.get(plan.move)

    def get(self, move: str) -> MoveSummary:
        """By id or the beginning of one. Raises MoveNotFound, UsageError when several begin so."""
        with self._reading() as connection:
            pattern = move.replace("%", "").replace("_", "") + "%"
            rows = connection.execute(sa.select(moves).where(moves.c.id.like(pattern)).limit(3)).all()
            exact = [row for row in rows if row.id == move]
            if not rows or not move:
                known = [row.id for row in connection.execute(sa.select(moves.c.id).limit(1000))]
                raise MoveNotFound(move, self.name, nearest(move, known))
        if len(rows) > 1 and not exact:
            raise UsageError(f"Several moves begin with {move}.", "Write more of the id.")
        return _summary((exact or rows)[0])

    def unfinished(self) -> tuple[MoveSummary, ...]:
        query = sa.select(moves).where(moves.c.finished.is_(None)).order_by(moves.c.created)
        with self._reading() as connection:
            return tuple(_summary(row) for row in connection.execute(query))

    def finished(self, limit: int) -> tuple[MoveSummary, ...]:
        """The latest first."""
        query = sa.select(moves).where(moves.c.finished.is_not(None)).order_by(moves.c.finished.desc()).limit(limit)
        with self._reading() as connection:
            return tuple(_summary(row) for row in connection.execute(query))

    def reservations(self, exclude: str | None) -> dict[str, int]:
        """Datastore -> bytes that unfinished moves have yet to write there, at most."""
        found: dict[str, int] = {}
        for one in self.unfinished():
            if one.id == exclude:
                continue
            done = {disk.target: disk.done for disk in one.progress.disks}
            for disk in one.plan.disks:
                left = max(0, needed(disk) - done.get(disk.target, 0))
                found[disk.datastore] = found.get(disk.datastore, 0) + left
        return found

    # ------------------------------------------------------------ the user's columns

    def want(self, move: str, wanted: Wanted) -> None:
        self._set(move, wanted=wanted.value)

    def set_bandwidth(self, move: str, bytes_per_s: int) -> None:
        self._set(move, bandwidth=bytes_per_s)

    def unpark(self, move: str) -> None:
        self._set(move, parked=None)

    def _set(self, move: str, **values: Any) -> None:
        with self._writing() as connection:
            connection.execute(sa.update(moves).where(moves.c.id == move, moves.c.finished.is_(None)).values(**values))

    # ------------------------------------------------------------ running a move

    def claim(self, move: str, owner: Owner, ttl_s: float = TTL_S) -> Lease:
        """Become the one who runs the move. Raises MoveBusy while another lives.

        A process of this machine that is gone is taken over at once, any other when its lease is over by the
        database's clock.
        """
        with self._writing() as connection:
            query = sa.select(moves, _clock(connection).label("now")).where(moves.c.id == move)
            row = connection.execute(query.with_for_update()).one()
            deaths = row.deaths
            if row.owner is not None:
                before = msgspec.json.decode(row.owner, type=Owner)
                expired = row.lease_expires is None or row.lease_expires < row.now
                if before != owner and not expired and not before.surely_dead:
                    raise MoveBusy(row.vm, move, str(before))
                deaths += 1
            values = {
                "owner": _encode(owner),
                "token": row.token + 1,
                "lease_expires": row.now + ttl_s,
                "deaths": deaths,
            }
            connection.execute(sa.update(moves).where(moves.c.id == move).values(values))
        return Lease(move, row.token + 1, owner)

    def renew(self, lease: Lease, ttl_s: float = TTL_S) -> None:
        """Raises LeaseLost."""
        with self._writing() as connection:
            self._fenced(connection, lease, lease_expires=_clock(connection) + ttl_s)

    def release(self, lease: Lease) -> None:
        """Nobody runs it any more; harmless when the lease was lost."""
        with self._writing() as connection:
            query = sa.update(moves).where(moves.c.id == lease.move, moves.c.token == lease.token)
            connection.execute(query.values(owner=None, lease_expires=None))

    def read(self, move: str) -> Record:
        """What the move remembers and what the user wants now."""
        columns = (moves.c.record, moves.c.wanted, moves.c.bandwidth)
        with self._reading() as connection:
            row = connection.execute(sa.select(*columns).where(moves.c.id == move)).one()
        return _record(row)

    def write(self, lease: Lease, record: Record) -> None:
        """Durable when this returns. The user's columns are left alone. Raises LeaseLost."""
        with self._writing() as connection:
            self._fenced(connection, lease, record=_encode(record))

    def progress(self, lease: Lease, progress: Progress) -> None:
        with self._writing() as connection:
            self._fenced(connection, lease, progress=_encode(progress))

    def park(self, lease: Lease, problem: str) -> None:
        with self._writing() as connection:
            self._fenced(connection, lease, parked=problem)

    def finish(self, lease: Lease, record: Record, report: Report) -> None:
        """The end: record with its outcome, report, and nobody's any more."""
        with self._writing() as connection:
            self._fenced(
                connection,
                lease,
                record=_encode(record),
                report=_encode(report),
                finished=time.time(),
                owner=None,
                lease_expires=None,
                parked=None,
            )

    def _fenced(self, connection: Connection, lease: Lease, **values: Any) -> None:
        query = sa.update(moves).where(moves.c.id == lease.move, moves.c.token == lease.token).values(**values)
        if connection.execute(query).rowcount != 1:
            row = connection.execute(sa.select(moves.c.owner).where(moves.c.id == lease.move)).first()
            owner = str(msgspec.json.decode(row.owner, type=Owner)) if row and row.owner else "nobody"
            raise LeaseLost(lease.move, owner)

    # ------------------------------------------------------------ the story, the kept

    def event(self, move: str, kind: str, text: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.insert(events).values(move=move, at=time.time(), kind=kind, text=text))

    def events(self, move: str) -> tuple[Event, ...]:
        query = sa.select(events).where(events.c.move == move).order_by(events.c.number)
        with self._reading() as connection:
            return tuple(Event(row.at, row.kind, row.text) for row in connection.execute(query))

    def add_kept(
        self, path: str, move: str, vm: str, datastore: str, expires: float | None, size: int, why: str
    ) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(kept).where(kept.c.path == path))
            row = Kept(path, move, vm, datastore, expires, size, why)
            connection.execute(sa.insert(kept).values(msgspec.to_builtins(row)))

    def remove_kept(self, path: str) -> None:
        with self._writing() as connection:
            connection.execute(sa.delete(kept).where(kept.c.path == path))

    def kept_sources(self) -> tuple[Kept, ...]:
        with self._reading() as connection:
            return tuple(Kept(*row) for row in connection.execute(sa.select(kept).order_by(kept.c.path)))

    # ------------------------------------------------------------ transactions

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database.failures(self.name), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with (
            database.failures(self.name),
            self._engine.connect().execution_options(writing=True) as connection,
            connection.begin(),
        ):
            yield connection


def _clock(connection: Connection) -> sa.ColumnElement[float]:
    """The database's own clock, seconds since the epoch."""
    if connection.dialect.name == "sqlite":
        return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Float)
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)


def _encode(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _record(row: Any) -> Record:
    record = msgspec.json.decode(row.record, type=Record)
    return replace(record, wanted=Wanted(row.wanted), bandwidth=row.bandwidth)


def _summary(row: Any) -> MoveSummary:
    owner = msgspec.json.decode(row.owner, type=Owner) if row.owner else None
    expired = row.lease_expires is None or row.lease_expires < time.time()
    parked = row.parked
    if parked is None and row.finished is None and row.deaths >= DEATHS_UNTIL_PARKED:
        parked = f"{row.deaths} processes that ran it have died; look at the host before you resume it"
    return MoveSummary(
        id=row.id,
        plan=msgspec.json.decode(row.plan, type=Plan),
        record=_record(row),
        progress=msgspec.json.decode(row.progress, type=Progress),
        created=row.created,
        finished=row.finished,
        owner=None if owner is None else str(owner),
        owner_alive=owner is not None and (owner.local or not expired) and not owner.surely_dead,
        parked=parked,
        report=msgspec.json.decode(row.report, type=Report) if row.report else None,
        deaths=row.deaths,
    )
