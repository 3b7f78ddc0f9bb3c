"""Who may act on a move: claim, fence. SQL on an open transaction; the Journal opens it and says what came of it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from blockferry.base.errors import LeaseLost
from blockferry.store import codec, database
from blockferry.store.kind import Kind
from blockferry.store.lease import Lease
from blockferry.store.process_identity import Owner
from blockferry.store.schema import events, moves

DEATHS_UNTIL_PARKED = 5
"""A move whose managers die so often kills them, as far as anybody can tell: somebody should look."""


@dataclass(frozen=True, slots=True)
class HeldByAnother:
    """Somebody else has it. `owner` None: somebody holds the row this very moment, ask again."""

    vm: str
    owner: Owner | None


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """`parked`: the claim was undone and the move parked, for this reason."""

    vm: str
    token: int
    deaths: int  # how many owners of the move have died so far
    before: Owner | None  # whom it was taken over from
    alive: bool = False  # that one lives: it was frozen, or could not reach the journal
    parked: str | None = None


@dataclass(frozen=True, slots=True)
class AlreadyFinished:
    """The move is finished: nobody may act on it."""

    vm: str
    outcome: str


def claim(
    connection: Connection, kind: Kind[Any, Any, Any, Any, Any], journal: str, move: str, owner: Owner, ttl_s: float
) -> ClaimedJob | HeldByAnother | AlreadyFinished | None:
    """Make `owner` the one who runs the move, if nobody does; None when there is no such move.

    A process of this machine that is gone is taken over at once, any other when its lease is over by the database's
    clock. Even the process that holds it cannot claim it twice: two threads of it are two managers.

    One that is seen to live (it waits for the journal, or is frozen) has not died of the move, and counts as no death.
    Of a process of another machine that cannot be told: it counts as one.
    """
    mine = (moves.c.id == move, moves.c.kind == kind.name)
    query = sa.select(moves, database.clock(connection).label("now")).where(*mine)
    # NO KEY UPDATE: events being written (their foreign key holds the row in share) do not matter.
    row = connection.execute(query.with_for_update(skip_locked=True, key_share=True)).first()
    if row is None:
        vm = connection.scalar(sa.select(moves.c.vm).where(*mine))
        return None if vm is None else HeldByAnother(vm, None)
    if row.finished is not None:
        return AlreadyFinished(row.vm, kind.outcome(codec.record(kind, row, journal)))
    before, deaths, alive = codec.owner(row.owner), row.deaths, False
    if before is not None:
        expired = row.lease_expires is None or row.lease_expires <= row.now
        if not expired and not before.surely_dead:
            return HeldByAnother(row.vm, before)
        alive = before.surely_alive
        deaths += 0 if alive else 1
    values: dict[str, Any] = {"token": row.token + 1, "deaths": deaths}
    problem = None
    if before is not None and not alive and deaths >= DEATHS_UNTIL_PARKED:
        problem = f"{deaths} processes that ran it have died, the last was {before}; find out why before it goes on."
        values |= {"owner": None, "lease_expires": None, "parked": problem}
    else:
        values |= {"owner": codec.encode(owner), "lease_expires": row.now + ttl_s}
    connection.execute(sa.update(moves).where(moves.c.id == move).values(values))
    return ClaimedJob(row.vm, row.token + 1, deaths, before, alive, problem)


@dataclass(frozen=True, slots=True)
class Superseded:
    """A job that waits and ends in favour of another one. `record` (JSON) and `outcome` are those of its end."""

    id: str
    record: str
    outcome: str
    why: str  # a line of its story


def supersede(connection: Connection, waiting: Superseded) -> None:
    """End a job that waits and that nobody runs; nothing when somebody runs it by now.

    Then the new job cannot be added, because the old one is not over.
    """
    free = (moves.c.id == waiting.id, moves.c.owner.is_(None), moves.c.finished.is_(None))
    values = {
        "record": waiting.record,
        "finished": time.time(),
        "state": waiting.outcome,
        "token": moves.c.token + 1,
    }
    if connection.execute(sa.update(moves).where(*free).values(values)).rowcount == 1:
        row = {"move": waiting.id, "at": time.time(), "kind": "phase", "text": waiting.why}
        connection.execute(sa.insert(events).values(row))


def fenced(connection: Connection, lease: Lease, **values: Any) -> None:
    """Change a move, if `lease` is still the newest. Raises LeaseLost; then nothing was changed."""
    mine = (moves.c.id == lease.move, moves.c.token == lease.token, moves.c.finished.is_(None))
    if connection.execute(sa.update(moves).where(*mine).values(**values)).rowcount != 1:
        owner = codec.owner(connection.scalar(sa.select(moves.c.owner).where(moves.c.id == lease.move)))
        raise LeaseLost(lease.move, "nobody" if owner is None else str(owner))
