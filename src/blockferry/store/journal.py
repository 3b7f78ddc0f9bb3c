"""The journal: what moves there are, what each remembers, who runs it, what happened."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import tenacity
from sqlalchemy.exc import IntegrityError

from blockferry.base.errors import (
    DestinationTaken,
    JournalFailed,
    KeptTaken,
    MoveBusy,
    MoveNotFound,
    MoveParked,
    RoomTaken,
    UsageError,
    nearest,
)
from blockferry.hosts.identity import may_be_here, may_share_host
from blockferry.hosts.kept import Kept
from blockferry.jobs.outcome import Wanted
from blockferry.storage_move.facts import Partial
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.space import NeededSpace, Promise, left_to_take, needs
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import Event, MoveSummary, Progress, Report
from blockferry.store import claiming, codec, listed
from blockferry.store.claiming import fenced
from blockferry.store.database import Database, clock, one_at_a_time
from blockferry.store.lease import TTL_S, Lease, now_s
from blockferry.store.process_identity import Owner
from blockferry.store.schema import VERSION, events, identity, kept, moves


def _free(connection: sa.Connection, plan: Plan, journal: str) -> None:
    """Raise DestinationTaken unless no unfinished move of another VM makes what this plan makes, on whichever host."""
    others = sa.select(moves.c.id, moves.c.plan).where(moves.c.finished.is_(None), moves.c.vm_uuid != plan.uuid)
    for row in connection.execute(others):
        other = codec.plan(row, journal)
        if may_share_host(other, plan) and (same := plan.made & other.made):
            raise DestinationTaken(plan.vm, min(same), other.move, other.vm)
        if files := plan.made_files & other.made_files:  # by another name, or from another host
            path = next(path for path in sorted(plan.made) if plan.known_file(path) in files)
            raise DestinationTaken(plan.vm, path, other.move, other.vm)


def _take(connection: sa.Connection, plan: Plan, row: Kept) -> None:
    """Take an old disk out of quarantine, as it was seen there."""
    same = (kept.c.path == row.path, kept.c.host.in_((row.host, "")), kept.c.move == row.move)
    when = kept.c.since.is_(None) if row.since is None else kept.c.since == row.since
    if connection.execute(sa.delete(kept).where(*same, when)).rowcount != 1:
        raise KeptTaken(plan.vm, row.path)


CLOCKS_S = 120.0
"""By so much the clocks of two managers may differ."""


def _fits(connection: sa.Connection, plan: Plan, room: NeededSpace, journal: str) -> None:
    """Raise RoomTaken unless the plan fits beside the moves that were planned since room was looked for.

    Those count in full, also what is over by now: how much of it the free space that was seen has in it is not known.
    """
    recent = sa.or_(moves.c.finished.is_(None), moves.c.created > room.since - CLOCKS_S)
    query = sa.select(moves.c.id, moves.c.plan).where(recent, moves.c.id.not_in(sorted(room.seen)))
    others = [codec.plan(row, journal) for row in connection.execute(query)]
    beside = [
        Promise(store, size, other.space(store), may_share_host(other, plan))
        for other in others
        for store, size in needs(other.disks, other.home, other.nvram).items()
    ]
    if store := room.overdrawn(beside):
        raise RoomTaken(plan.vm, store)


def _the_one(found: tuple[MoveSummary, ...], problem: str, remedy: str) -> MoveSummary:
    """The only one of these. Raises UsageError that names some of them."""
    if len(found) == 1:
        return found[0]
    some = ", ".join(f"{one.id} ({one.plan.vm})" for one in found[:3]) + (", ..." if len(found) > 3 else "")
    raise UsageError(f"{problem}: {some}.", remedy)


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `Journal.inspect` finds. `clock_offset_s`: the database's clock less ours; `path`: None for a server."""

    version: str
    faults: tuple[str, ...]
    clock_offset_s: float
    path: Path | None


class Journal:
    """One journal. Threads may share it. Every method may raise JournalFailed; then nothing was changed."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self.missing = database.missing  # nothing was ever written: an empty journal in memory serves instead
        self.url, self.name = database.url, database.name  # for messages: without a password

    @classmethod
    def open(cls, url: str, make: bool = True) -> Journal:
        """Open, making or upgrading the schema; without `make` one that is not there stays away (`missing`).

        Raises JournalFailed.
        """
        return cls(Database(url, make))

    def close(self) -> None:
        self._db.close()

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

    def add(
        self,
        plan: Plan,
        record: Record,
        request_json: str,
        user: str,
        instead_of: MoveSummary | None = None,
        room: NeededSpace | None = None,
        taken: Sequence[Kept] = (),
    ) -> MoveSummary:
        """A new move. Raises MoveBusy when the VM has one that is not finished, whatever races; and DestinationTaken
        when one of another VM makes a file of the same name on that host.

        `room`: what the plan was found to fit into. Moves that were planned since are counted in the same transaction:
        RoomTaken when it does not fit beside them. `taken`: old disks that become copies of this move, and so leave the
        quarantine in the same transaction; KeptTaken when one has left it, or was kept anew, meanwhile.

        `instead_of`: a move of the VM of which only the UEFI variables are left. It ends in the same transaction, for
        the new one has taken them into its plan; MoveBusy if somebody runs it by now.
        """
        now = time.time()
        values = {
            "id": plan.move,
            "vm_uuid": plan.uuid,
            "vm": plan.vm,
            "created": now,
            "requested_by": codec.plain(user),
            "request": request_json,
            "plan": codec.encode(plan),
            "record": codec.encode(record),
            "wanted": record.wanted.value,
            "bandwidth": _rate(record.bandwidth),
            "progress": codec.encode(Progress(updated=now)),
            "deaths": 0,
            "token": 0,
            "kind": listed.KIND,
            "host": plan.host,
        }
        try:
            with self._db.writing() as connection:
                one_at_a_time(connection)
                _free(connection, plan, self.name)
                for row in taken:
                    _take(connection, plan, row)
                if room is not None:
                    _fits(connection, plan, room, self.name)
                if instead_of is not None:
                    claiming.supersede(connection, instead_of, plan.move)
                connection.execute(sa.insert(moves).values(values))
                listed.added(connection, plan, now)
        except JournalFailed as error:
            if isinstance(error.__cause__, IntegrityError):
                other = next((one for one in self.unfinished() if one.plan.uuid == plan.uuid), None)
                if other is not None:
                    raise MoveBusy(plan.vm, other.id, other.owner or "nobody at present") from error
            raise
        return self.get(plan.move)

    def get(self, id_or_prefix: str) -> MoveSummary:
        """By id or the beginning of one. Raises MoveNotFound, and UsageError when several begin so."""
        if not id_or_prefix:
            raise UsageError("An empty word names no move.", "`blockferry moves` lists them.")
        begins = moves.c.id.startswith(id_or_prefix, autoescape=True)
        with self._db.reading() as connection:
            query = sa.select(moves, clock(connection).label("now"))
            rows = connection.execute(query.where(moves.c.id == id_or_prefix)).all()
            rows = rows or connection.execute(query.where(begins).order_by(moves.c.id).limit(4)).all()
            if not rows:
                latest = sa.select(moves.c.id).order_by(moves.c.created.desc()).limit(1000)
                known = connection.scalars(latest).all()
                raise MoveNotFound(id_or_prefix, self.name, nearest(id_or_prefix, known))
        if len(rows) > 1:
            some = ", ".join(row.id for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
            raise UsageError(f"Several moves begin with {id_or_prefix}: {some}.", "Write more of the id.")
        return codec.summary(rows[0], self.name)

    def find(self, word: str | None) -> MoveSummary:
        """The move that a person means. `word`: an id, a VM's name or UUID, or the beginning of an id or a name.

        Of several moves of one VM the one that is not over counts, else the latest. None: the only one that is not
        over. Raises MoveNotFound; UsageError when several VMs are meant, or `word` is None and there is not one only.
        """
        if word is None:
            found = self.unfinished()
            if not found:
                raise UsageError("No move is under way.", "`blockferry history` lists the moves that have ended.")
            return _the_one(found, "Several moves are under way", "Name one of them by its VM or its id.")
        if not word:
            raise UsageError("An empty word names no move.", "`blockferry moves` lists them.")
        for condition in (
            moves.c.id == word,
            sa.or_(moves.c.vm == word, moves.c.vm_uuid == word.lower()),
            moves.c.id.startswith(word, autoescape=True),
            moves.c.vm.startswith(word, autoescape=True),
        ):
            found = self._list(sa.select(moves).where(condition, moves.c.finished.is_(None)).limit(100))
            found = found or self._list(
                sa.select(moves).where(condition).order_by(moves.c.finished.desc(), moves.c.id).limit(100)
            )
            if found:
                same = {one.plan.uuid for one in found}
                if len(same) == 1 and found[0].finished is not None:
                    return found[0]
                return _the_one(found, f"Several moves begin with {word}", "Write more of it.")
        return self.get(word)  # which says what there is instead

    def unfinished(self) -> tuple[MoveSummary, ...]:
        """Those that are not over, the oldest first."""
        return self._list(sa.select(moves).where(moves.c.finished.is_(None)).order_by(moves.c.created, moves.c.id))

    def finished(self, limit: int) -> tuple[MoveSummary, ...]:
        """Those that are over, the latest first."""
        query = sa.select(moves).where(moves.c.finished.is_not(None))
        return self._list(query.order_by(moves.c.finished.desc(), moves.c.id).limit(limit))

    def _list(self, query: sa.Select[Any]) -> tuple[MoveSummary, ...]:
        with self._db.reading() as connection:
            rows = connection.execute(query.add_columns(clock(connection).label("now"))).all()
        return tuple(codec.summary(row, self.name) for row in rows)

    def reservations(self, uri: str, host: str, exclude: str | None = None) -> tuple[Promise, ...]:
        """What unfinished moves of all hosts have yet to write, at most; `host` (libvirt's UUID) is the one that asks.

        What was copied again because the guest changed it takes no room twice.
        """
        found = []
        for one in self.unfinished():
            if one.id == exclude or one.record.following:
                continue
            here = may_be_here(one.plan, uri, host)
            written = {disk.target: max(0, disk.done - disk.changed) for disk in one.progress.disks}
            for store, left in left_to_take(one.plan, written, one.record.home_copied).items():
                found.append(Promise(store, left, one.plan.space(store), here))
        return tuple(found)

    def known(self) -> frozenset[str]:
        """The ids of all moves that `add` would take for newcomers, were they not known: to be read before
        `reservations`, and that before the free space is looked at."""
        recent = sa.or_(moves.c.finished.is_(None), moves.c.created > time.time() - 2 * CLOCKS_S)
        with self._db.reading() as connection:
            return frozenset(connection.scalars(sa.select(moves.c.id).where(recent)))

    # ------------------------------------------------------------ what finished moves have left

    def partials(self, vm_uuid: str, host: str) -> dict[str, Partial]:
        """Destination path -> the broken copy that the latest move of this VM left there, to be gone on with.

        `host`: libvirt's UUID; copies of hosts that are not known are among them: a marker beside each is the proof.
        """
        self._catch_up()
        with self._db.reading() as connection:
            return listed.partials(connection, vm_uuid, host)

    def partial_paths(self) -> frozenset[str]:
        """The paths of all such copies, of all VMs, on whichever host."""
        self._catch_up()
        with self._db.reading() as connection:
            return listed.partial_paths(connection)

    def forget_partial(self, path: str, host: str) -> None:
        """It was removed. Harmless when it is not known."""
        with self._db.writing() as connection:
            listed.forget_partial(connection, path, host)

    def same_images(self, host: str) -> frozenset[listed.Prints]:
        """The pairs of images of this host that were compared by any move, and read the same."""
        self._catch_up()
        with self._db.reading() as connection:
            return listed.same(connection, host)

    def _catch_up(self) -> None:
        """Moves that a process of an older version has ended since the schema was upgraded are listed now."""
        with self._db.reading() as connection:
            if not listed.unlisted(connection):
                return
        with self._db.writing() as connection:
            one_at_a_time(connection)
            listed.catch_up(connection, self.name)

    # ------------------------------------------------------------ the user's columns: no lease needed

    def want(self, move: str, wanted: Wanted) -> MoveSummary:
        """What the user wants now. Without effect on a move that is over. Raises MoveNotFound."""
        return self._set(move, wanted=wanted.value)

    def set_bandwidth(self, move: str, bytes_per_s: int) -> MoveSummary:
        """0: no limit. Without effect on a move that is over. Raises MoveNotFound, UsageError."""
        return self._set(move, bandwidth=_rate(bytes_per_s))

    def adopt(self, move: str, host: str, host_name: str) -> bool:
        """Note the host of a move whose plan names none: its user says that it was planned there. Whether it was noted.

        `host`: libvirt's UUID of it. Not for a move that is over, or whose host is known.
        """
        with self._db.writing() as connection:
            mine = (moves.c.id == move, moves.c.finished.is_(None))
            row = connection.execute(sa.select(moves.c.id, moves.c.plan).where(*mine)).first()
            if row is None or codec.plan(row, self.name).host:
                return False
            plan = codec.with_host(row.plan, host, host_name)
            connection.execute(sa.update(moves).where(*mine, moves.c.plan == row.plan).values(plan=plan, host=host))
        return True

    def unpark(self, move: str) -> MoveSummary:
        """Somebody has looked: a parked move may go on, and its dead managers no longer count."""
        deaths = sa.case((moves.c.parked.is_not(None), 0), else_=moves.c.deaths)
        return self._set(move, parked=None, deaths=deaths)

    def _set(self, move: str, **values: Any) -> MoveSummary:
        with self._db.writing() as connection:
            connection.execute(sa.update(moves).where(moves.c.id == move, moves.c.finished.is_(None)).values(**values))
            query = sa.select(moves, clock(connection).label("now")).where(moves.c.id == move)
            row = connection.execute(query).first()
        if row is None:
            raise MoveNotFound(move, self.name)
        return codec.summary(row, self.name)

    # ------------------------------------------------------------ running a move

    def claim(self, move: str, owner: Owner, ttl_s: float = TTL_S) -> Lease:
        """Become the one who runs the move. Raises MoveBusy while another lives (claiming.claim), MoveNotFound.

        A claim that finds the fifth owner dead parks the move instead and raises MoveParked: somebody should look.
        A parked move can be claimed, for to go on with it is its user's decision (`unpark`). A move that is over
        cannot: UsageError.
        """
        since_s = now_s()
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
        retry=tenacity.retry_if_result(lambda found: isinstance(found, claiming.HeldByAnother) and found.owner is None),
        stop=tenacity.stop_after_delay(2),
        wait=tenacity.wait_random(0.01, 0.05),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    def _claim(
        self, move: str, owner: Owner, ttl_s: float
    ) -> claiming.Claimed | claiming.HeldByAnother | claiming.AlreadyFinished | None:
        with self._db.writing() as connection:
            found = claiming.claim(connection, self.name, move, owner, ttl_s)
            if isinstance(found, claiming.Claimed) and found.before is not None:
                text = found.parked or _taken_over(found, found.before, owner)
                kind = "warning" if found.parked is None else "error"
                connection.execute(sa.insert(events).values(_event(move, kind, text)))
        return found

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

    def read(self, move: str) -> Record:
        """What the move remembers and what the user wants now, as of this moment. Raises MoveNotFound."""
        columns = (moves.c.id, moves.c.record, moves.c.wanted, moves.c.bandwidth)
        with self._db.reading() as connection:
            row = connection.execute(sa.select(*columns).where(moves.c.id == move)).first()
        if row is None:
            raise MoveNotFound(move, self.name)
        return codec.record(row, self.name)

    def write(self, lease: Lease, record: Record) -> None:
        """Durable when this returns. The user's columns are left alone. Raises LeaseLost."""
        with self._db.writing() as connection:
            fenced(connection, lease, record=codec.encode(record))

    def progress(self, lease: Lease, progress: Progress) -> None:
        """Cheap: a power cut may lose the last of them. Raises LeaseLost."""
        with self._db.writing(durable=False) as connection:
            fenced(connection, lease, progress=codec.encode(progress))

    def park(self, lease: Lease, problem: str) -> None:
        """The move stands still until its user decides. The lease stays. Raises LeaseLost."""
        with self._db.writing() as connection:
            fenced(connection, lease, parked=codec.plain(problem))

    def finish(self, lease: Lease, record: Record, report: Report) -> None:
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
                state=listed.state_of(record),
            )
            row = connection.execute(sa.select(moves.c.id, moves.c.plan).where(moves.c.id == lease.move)).one()
            listed.ended(connection, codec.plan(row, self.name), record)

    def follow(self, lease: Lease, record: Record, report: Report) -> None:
        """All is done but what has to wait for a power-off: the report so far, before the end. Raises LeaseLost."""
        with self._db.writing() as connection:
            fenced(connection, lease, record=codec.encode(record), report=codec.encode(report))

    # ------------------------------------------------------------ the story, the kept

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

    def add_kept(self, row: Kept) -> None:
        """Remember a file that stays. Repeatable: the latest word on a path of a host counts."""
        values = {
            **{name: getattr(row, name) for name in _KEPT},
            "why": codec.plain(row.why),
            "fingerprint": None if row.fingerprint is None else codec.encode(row.fingerprint),
        }
        with self._db.writing() as connection:
            connection.execute(sa.delete(kept).where(kept.c.path == row.path, kept.c.host.in_((row.host, ""))))
            connection.execute(sa.insert(kept).values(values))

    def remove_kept(self, path: str, host: str) -> None:
        """Forget it; harmless when it is not known. A row of an unknown host counts as this host's."""
        with self._db.writing() as connection:
            connection.execute(sa.delete(kept).where(kept.c.path == path, kept.c.host.in_((host, ""))))

    def kept_sources(self) -> tuple[Kept, ...]:
        """All files that are kept on purpose, of all hosts, by path."""
        with self._db.reading() as connection:
            rows = connection.execute(sa.select(*(kept.c[name] for name in _KEPT)).order_by(kept.c.path, kept.c.host))
            return tuple(codec.kept(row) for row in rows)

    def identity(self) -> str:
        """What tells this journal from every other: a UUID, made with the journal."""
        with self._db.reading() as connection:
            return str(connection.execute(sa.select(identity.c.id)).scalar_one())


_KEPT = Kept.__match_args__


def _taken_over(found: claiming.Claimed, before: Owner, owner: Owner) -> str:
    if found.alive:
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
