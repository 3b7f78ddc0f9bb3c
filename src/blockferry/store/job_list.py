"""Jobs as people list and find them, of one kind or of several: read only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic

import sqlalchemy as sa

from blockferry.base.errors import MoveNotFound, UsageError, nearest
from blockferry.store import codec
from blockferry.store.database import Database, clock
from blockferry.store.kind import Kind, SummaryT
from blockferry.store.schema import moves


def _the_one(found: Sequence[Any], problem: str, remedy: str) -> Any:
    """The only one of these rows. Raises UsageError that names some of them."""
    if len(found) == 1:
        return found[0]
    some = ", ".join(f"{one.id} ({one.vm})" for one in found[:3]) + (", ..." if len(found) > 3 else "")
    raise UsageError(f"{problem}: {some}.", remedy)


class JobList(Generic[SummaryT]):
    """The jobs of these kinds in one journal. A job of another kind is not in it. Every method may raise JournalFailed.

    A journal that a newer version has written may hold kinds that this one does not know; they are not listed.
    """

    def __init__(self, database: Database, kinds: Sequence[Kind[Any, Any, Any, Any, SummaryT]]) -> None:
        self._db = database
        self._kinds = {kind.name: kind for kind in kinds}
        self.name = database.name  # for messages: without a password

    def kind_of(self, summary: SummaryT) -> Any:
        """Return the kind of a job of this list, by the `kind` of its summary."""
        return self._kinds[summary.kind]  # type: ignore[attr-defined]

    @property
    def _listed(self) -> sa.ColumnElement[bool]:
        return moves.c.kind.in_(sorted(self._kinds))

    def get(self, id_or_prefix: str) -> SummaryT:
        """By id or the beginning of one. Raises MoveNotFound, and UsageError when several begin so."""
        if not id_or_prefix:
            raise UsageError("An empty word names no move.", "`blockferry moves` lists them.")
        begins = moves.c.id.startswith(id_or_prefix, autoescape=True)
        with self._db.reading() as connection:
            query = sa.select(moves, clock(connection).label("now")).where(self._listed)
            rows = connection.execute(query.where(moves.c.id == id_or_prefix)).all()
            rows = rows or connection.execute(query.where(begins).order_by(moves.c.id).limit(4)).all()
            if not rows:
                latest = sa.select(moves.c.id).where(self._listed).order_by(moves.c.created.desc()).limit(1000)
                known = connection.scalars(latest).all()
                raise MoveNotFound(id_or_prefix, self.name, nearest(id_or_prefix, known))
        if len(rows) > 1:
            some = ", ".join(row.id for row in rows[:3]) + (", ..." if len(rows) > 3 else "")
            raise UsageError(f"Several moves begin with {id_or_prefix}: {some}.", "Write more of the id.")
        return self._summary(rows[0])

    def find(self, word: str | None) -> SummaryT:
        """The job that a person means. `word`: an id, a VM's name or UUID, or the beginning of an id or a name.

        Of several jobs of one VM the one that is not over counts, else the latest. None: the only one that is not
        over. Raises MoveNotFound; UsageError when several VMs are meant, or `word` is None and there is not one only.
        """
        under_way, over = moves.c.finished.is_(None), (moves.c.finished.desc(), moves.c.id)
        if word is None:
            rows = self._rows(sa.select(moves).where(under_way).order_by(moves.c.created, moves.c.id))
            if not rows:
                raise UsageError("No move is under way.", "`blockferry history` lists the moves that have ended.")
            return self._summary(_the_one(rows, "Several moves are under way", "Name one of them by its VM or its id."))
        if not word:
            raise UsageError("An empty word names no move.", "`blockferry moves` lists them.")
        for condition in (
            moves.c.id == word,
            sa.or_(moves.c.vm == word, moves.c.vm_uuid == word.lower()),
            moves.c.id.startswith(word, autoescape=True),
            moves.c.vm.startswith(word, autoescape=True),
        ):
            rows = self._rows(sa.select(moves).where(condition, under_way).limit(100))
            rows = rows or self._rows(sa.select(moves).where(condition).order_by(*over).limit(100))
            if rows:
                if len({row.vm_uuid for row in rows}) == 1 and rows[0].finished is not None:
                    return self._summary(rows[0])
                return self._summary(_the_one(rows, f"Several moves begin with {word}", "Write more of it."))
        return self.get(word)  # which says what there is instead

    def unfinished(self) -> tuple[SummaryT, ...]:
        """Those that are not over, the oldest first."""
        query = sa.select(moves).where(moves.c.finished.is_(None)).order_by(moves.c.created, moves.c.id)
        return tuple(self._summary(row) for row in self._rows(query))

    def finished(self, limit: int) -> tuple[SummaryT, ...]:
        """Those that are over, the latest first."""
        query = sa.select(moves).where(moves.c.finished.is_not(None))
        query = query.order_by(moves.c.finished.desc(), moves.c.id).limit(limit)
        return tuple(self._summary(row) for row in self._rows(query))

    def _rows(self, query: sa.Select[Any]) -> Sequence[Any]:
        """Rows of these kinds, with the database's clock."""
        with self._db.reading() as connection:
            select = query.where(self._listed)
            return connection.execute(select.add_columns(clock(connection).label("now"))).all()

    def _summary(self, row: Any) -> SummaryT:
        return codec.summary(self._kinds[row.kind], row, self.name)
