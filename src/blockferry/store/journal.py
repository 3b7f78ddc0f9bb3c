"""The journal: what moves there are, what each remembers, who runs it, what happened."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import sqlalchemy as sa
import tenacity
from sqlalchemy.exc import IntegrityError

from blockferry.base import clock as own_clock
from blockferry.base.errors import (
    JournalFailed,
    MoveBusy,
    MoveNotFound,
    MoveParked,
    UsageError,
)
from blockferry.base.event import Event
from blockferry.hosts.kept import Kept
from blockferry.store import claiming, codec, listed, remembered_files
from blockferry.store.beside import CLOCKS_S, AnyKind, Beside
from blockferry.store.claiming import fenced
from blockferry.store.database import Database, clock, one_at_a_time
from blockferry.store.job_list import JobList
from blockferry.store.kind import Kind, PlanT, ProgressT, RecordT, ReportT, SummaryT
from blockferry.store.lease import TTL_S, Lease
from blockferry.store.process_identity import Owner
from blockferry.store.remembered_files import RememberedFiles
from blockferry.store.schema import VERSION, events, identity, moves


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `Journal.inspect` finds. `clock_offset_s`: the database's clock less ours; `path`: None for a server."""

    version: str
    faults: tuple[str, ...]
    clock_offset_s: float
    path: Path | None


JournalT = TypeVar("JournalT", bound="Journal[Any, Any, Any, Any, Any]")


class Journal(JobList[SummaryT], RememberedFiles, Generic[PlanT, RecordT, ProgressT, ReportT, SummaryT]):
    """The jobs of one kind in one journal, and what is common to all. A subclass says which kind.

    Threads may share it. Every method may raise JournalFailed; then nothing was changed.
    """

    kind: Kind[PlanT, RecordT, ProgressT, ReportT, SummaryT]

    def __init__(self, database: Database, others: Sequence[AnyKind] = ()) -> None:
        """`others`: the kinds of jobs that may be in the same journal; a new job leaves to them what is theirs."""
        super().__init__(database, (self.kind,))
        self.others = tuple(others)
        self.missing = database.missing  # nothing was ever written: an empty journal in memory serves instead
        self.url = database.url  # for messages: without a password

    @classmethod
    def open(cls, url: str, *, make: bool = True, others: Sequence[AnyKind] | None = None) -> Self:
        """Open, making or upgrading the schema; without `make` one that is not there stays away (`missing`).

        Raises JournalFailed.
        """
        database = Database(url, make=make)
        return cls(database) if others is None else cls(database, others)

    def close(self) -> None:
        self._db.close()

    def of_kind(self, other: type[JournalT]) -> JournalT:
        """Return the jobs of another kind in the same journal. It is closed with this one."""
        return other(self._db, [kind for kind in (self.kind, *self.others) if kind.name != other.kind.name])

    def list_of(self, *kinds: AnyKind) -> JobList[Any]:
        """Return the jobs of these kinds in the same journal."""
        return JobList(self._db, kinds)

    @property
    def every(self) -> JobList[Any]:
        """The jobs of this and of all other kinds in the journal, for who lists and finds them."""
        return JobList(self._db, (self.kind, *self.others))

    @property
    def path(self) -> Path | None:
        """Its file, where it is one of this machine: a database server may serve many machines."""
        return self._db.path

    def inspect(self) -> Inspection:
        """Whether it is sound and can be written, and how its clock goes. Nothing is changed."""
        with self._db.reading() as connection:
            before = time.time()
            now = float(connection.execute(sa.select(clock(connection))).scalar_one())
            offset_s = now - (before + time.time()) / 2
        return Inspection(VERSION, self._db.faults(), offset_s, self._db.path)

    # ------------------------------------------------------------ moves

    def add_job(
        self,
        plan: PlanT,
        record: RecordT,
        request_json: str,
        user: str,
        *,
        check: Callable[[Beside[PlanT]], None] = lambda _beside: None,
        supersedes: claiming.Superseded | None = None,
        taken: Sequence[Kept] = (),
    ) -> SummaryT:
        """Write a new job down. Raises MoveBusy when its VM has one that is not finished, whatever races.

        `check`: looks at the other jobs in the same transaction, and raises when the new one cannot be beside them.
        `supersedes`: a job of the VM that ends in the same transaction; MoveBusy if somebody runs it by now. `taken`:
        files that leave the quarantine in it; KeptTaken when one has left it, or was kept anew, meanwhile.
        """
        now = time.time()
        head, (wanted, bandwidth) = self.kind.head(plan), self.kind.wishes(record)
        values = {
            "id": head.id,
            "vm_uuid": head.vm_uuid,
            "vm": head.vm,
            "created": now,
            "requested_by": codec.plain(user),
            "request": request_json,
            "plan": codec.encode(plan),
            "record": codec.encode(record),
            "wanted": wanted,
            "bandwidth": _rate(bandwidth),
            "progress": codec.encode(self.kind.first_progress(now)),
            "deaths": 0,
            "token": 0,
            "kind": self.kind.name,
            "host": head.host,
        }
        try:
            with self._db.writing() as connection:
                one_at_a_time(connection)
                check(Beside(connection, self.kind, self.name))
                for row in taken:
                    remembered_files.take(connection, head.vm, row)
                if supersedes is not None:
                    claiming.supersede(connection, supersedes)
                connection.execute(sa.insert(moves).values(values))
                listed.added(connection, head, self.kind.listed(plan), now)
        except JournalFailed as error:
            if isinstance(error.__cause__, IntegrityError) and (other := self._under_way(head.vm_uuid)) is not None:
                raise MoveBusy(head.vm, other.id, str(codec.owner(other.owner) or "nobody at present")) from error
            raise
        return self.get(head.id)

    def _under_way(self, vm_uuid: str) -> Any:
        """The row of the job of this VM that is not over, of whatever kind; None: there is none."""
        query = sa.select(moves.c.id, moves.c.owner).where(moves.c.vm_uuid == vm_uuid, moves.c.finished.is_(None))
        with self._db.reading() as connection:
            return connection.execute(query).first()

    def _is(self, job: str) -> tuple[sa.ColumnElement[bool], ...]:
        return (moves.c.id == job, moves.c.kind == self.kind.name)

    def known(self) -> frozenset[str]:
        """The ids of all jobs that `Beside.recent` would take for newcomers, were they not known: to be read before
        what they have yet to write, and that before the free space is looked at."""
        recent = sa.or_(moves.c.finished.is_(None), moves.c.created > time.time() - 2 * CLOCKS_S)
        with self._db.reading() as connection:
            return frozenset(connection.scalars(sa.select(moves.c.id).where(recent)))

    def _catch_up(self) -> None:
        """Moves that a process of an older version has ended since the schema was upgraded are listed now."""
        with self._db.reading() as connection:
            if not listed.unlisted(connection, self.kind.name):
                return
        with self._db.writing() as connection:
            one_at_a_time(connection)
            listed.catch_up(connection, self.kind, self.name)

    # ------------------------------------------------------------ the user's columns: no lease needed

    def want(self, move: str, wanted: enum.Enum) -> SummaryT:
        """What the user wants now. Without effect on a move that is over. Raises MoveNotFound."""
        return self._set(move, wanted=wanted.value)

    def set_bandwidth(self, move: str, bytes_per_s: int) -> SummaryT:
        """0: no limit. Without effect on a move that is over. Raises MoveNotFound, UsageError."""
        return self._set(move, bandwidth=_rate(bytes_per_s))

    def adopt(self, move: str, host: str, host_name: str) -> bool:
        """Note the host of a move whose plan names none: its user says that it was planned there. Whether it was noted.

        `host`: libvirt's UUID of it. Not for a move that is over, or whose host is known.
        """
        with self._db.writing() as connection:
            mine = (*self._is(move), moves.c.finished.is_(None))
            row = connection.execute(sa.select(moves.c.id, moves.c.plan).where(*mine)).first()
            if row is None or self.kind.head(codec.plan(self.kind, row, self.name)).host:
                return False
            plan = self.kind.with_host(row.plan, host, host_name)
            connection.execute(sa.update(moves).where(*mine, moves.c.plan == row.plan).values(plan=plan, host=host))
        return True

    def _set(self, move: str, **values: Any) -> SummaryT:
        with self._db.writing() as connection:
            mine = (*self._is(move), moves.c.finished.is_(None))
            connection.execute(sa.update(moves).where(*mine).values(**values))
            query = sa.select(moves, clock(connection).label("now"))
            row = connection.execute(query.where(*self._is(move))).first()
        if row is None:
            raise MoveNotFound(move, self.name)
        return self._summary(row)

    # ------------------------------------------------------------ running a move

    def claim(self, move: str, owner: Owner, ttl_s: float = TTL_S) -> Lease:
        """Become the one who runs the move. Raises MoveBusy while another lives (claiming.claim), MoveNotFound.

        A claim that finds the fifth owner dead parks the move instead and raises MoveParked: somebody should look.
        A parked move can be claimed, for to go on with it is its user's decision (`unpark`). A move that is over
        cannot: UsageError.
        """
        since_s = own_clock.seconds()
        found = self._claim(move, owner, ttl_s)
        if found is None:
            raise MoveNotFound(move, self.name)
        if isinstance(found, claiming.HeldByAnother):
            raise MoveBusy(found.vm, move, str(found.owner or "another process"))
        if isinstance(found, claiming.AlreadyFinished):
            raise UsageError(f"Move {move} of {found.vm} is over: {found.outcome}.", f"`blockferry show {move}`.")
        if found.parked is not None:
            raise MoveParked(move, found.vm, found.parked)
        return Lease(move, found.token, owner, self, ttl_s, since_s)

    @tenacity.retry(
        retry=tenacity.retry_if_result(
            lambda held_by_another: (
                isinstance(held_by_another, claiming.HeldByAnother) and held_by_another.owner is None
            )
        ),
        stop=tenacity.stop_after_delay(2),
        wait=tenacity.wait_random(0.01, 0.05),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    def _claim(
        self, move: str, owner: Owner, ttl_s: float
    ) -> claiming.ClaimedJob | claiming.HeldByAnother | claiming.AlreadyFinished | None:
        with self._db.writing() as connection:
            claimed = claiming.claim(connection, self.kind, self.name, move, owner, ttl_s)
            if isinstance(claimed, claiming.ClaimedJob) and claimed.before is not None:
                text = claimed.parked or _taken_over(claimed, claimed.before, owner)
                kind = "warning" if claimed.parked is None else "error"
                connection.execute(sa.insert(events).values(_event(move, kind, text)))
        return claimed

    def renew(self, lease: Lease, ttl_s: float = TTL_S) -> None:
        """Raises LeaseLost. Not durable: after a power cut nobody holds a lease anyway."""
        with self._db.writing(durable=False) as connection:
            fenced(connection, lease, lease_expires=clock(connection) + ttl_s)

    def release(self, lease: Lease) -> None:
        """Nobody runs it any more, and the lease is void; harmless when it was lost."""
        mine = (moves.c.id == lease.move, moves.c.token == lease.token)
        with self._db.writing() as connection:
            values = {"owner": None, "lease_expires": None, "token": moves.c.token + 1}
            connection.execute(sa.update(moves).where(*mine).values(values))

    def read(self, move: str) -> RecordT:
        """What the move remembers and what the user wants now, as of this moment. Raises MoveNotFound."""
        columns = (moves.c.id, moves.c.record, moves.c.wanted, moves.c.bandwidth)
        with self._db.reading() as connection:
            row = connection.execute(sa.select(*columns).where(*self._is(move))).first()
        if row is None:
            raise MoveNotFound(move, self.name)
        return codec.record(self.kind, row, self.name)

    def write(self, lease: Lease, record: RecordT) -> None:
        """Durable when this returns. The user's columns are left alone. Raises LeaseLost."""
        with self._db.writing() as connection:
            fenced(connection, lease, record=codec.encode(record))

    def progress(self, lease: Lease, progress: ProgressT) -> None:
        """Cheap: a power cut may lose the last of them. Raises LeaseLost."""
        with self._db.writing(durable=False) as connection:
            fenced(connection, lease, progress=codec.encode(progress))

    def park(self, lease: Lease, problem: str) -> None:
        """The move stands still until its user decides. The lease stays. Raises LeaseLost."""
        with self._db.writing() as connection:
            fenced(connection, lease, parked=codec.plain(problem))

    def unpark(self, lease: Lease) -> SummaryT:
        """Somebody has looked: a parked move goes on, and its dead managers no longer count. Raises LeaseLost.

        With the lease alone: a manager that was taken over must not set the one going that its successor has parked.
        """
        deaths = sa.case((moves.c.parked.is_not(None), 0), else_=moves.c.deaths)
        with self._db.writing() as connection:
            fenced(connection, lease, parked=None, deaths=deaths)
        return self.get(lease.move)

    def finish(self, lease: Lease, record: RecordT, report: ReportT) -> None:
        """The end: record with its outcome, report, and nobody's any more. Raises LeaseLost."""
        with self._db.writing() as connection:
            fenced(
                connection,
                lease,
                record=codec.encode(record),
                report=codec.encode(report),
                finished=time.time(),
                owner=None,
                lease_expires=None,
                token=lease.token + 1,
                parked=None,
                state=self.kind.outcome(record),
            )
            row = connection.execute(sa.select(moves.c.id, moves.c.plan).where(moves.c.id == lease.move)).one()
            plan = codec.plan(self.kind, row, self.name)
            listed.ended(connection, self.kind.head(plan), self.kind.left(plan, record))

    def save_interim(self, lease: Lease, record: RecordT, report: ReportT) -> None:
        """All is done but what has to wait for a power-off: the report so far, before the end. Raises LeaseLost."""
        with self._db.writing() as connection:
            fenced(connection, lease, record=codec.encode(record), report=codec.encode(report))

    # ------------------------------------------------------------ the story

    def event(self, move: str, kind: str, text: str) -> None:
        """Add a line to the story. Raises MoveNotFound."""
        try:
            with self._db.writing() as connection:
                connection.execute(sa.insert(events).values(_event(move, kind, text)))
        except JournalFailed as error:
            if isinstance(error.__cause__, IntegrityError):
                raise MoveNotFound(move, self.name) from error
            raise

    def events(self, move: str) -> tuple[Event, ...]:
        """The story so far, in the order in which it was told."""
        query = sa.select(events).where(events.c.move == move).order_by(events.c.number)
        with self._db.reading() as connection:
            return tuple(Event(row.at, row.kind, row.text) for row in connection.execute(query))

    def identity(self) -> str:
        """What tells this journal from every other: a UUID, made with the journal."""
        with self._db.reading() as connection:
            return str(connection.execute(sa.select(identity.c.id)).scalar_one())


AnyJournal = Journal[Any, Any, Any, Any, Any]
"""A journal of whatever kind of job."""


def _taken_over(claimed: claiming.ClaimedJob, before: Owner, owner: Owner) -> str:
    if claimed.alive:
        return (
            f"{before} lives, but was silent for too long (it could not reach the journal, or was frozen); {owner} "
            "runs the move now. Nothing is lost"
        )
    return f"{before} has died or was silent for too long; {owner} goes on"


def _event(move: str, kind: str, text: str) -> dict[str, Any]:
    return {"move": move, "at": time.time(), "kind": kind, "text": codec.plain(text)}


def _rate(bytes_per_s: int) -> int:
    if not 0 <= bytes_per_s < 2**63:
        raise UsageError(f"{bytes_per_s} bytes/s is no bandwidth.", "Write 0 for no limit.")
    return bytes_per_s
