"""The plans of other jobs, as the transaction sees them that adds a new one."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import sqlalchemy as sa

from blockferry.store import codec
from blockferry.store.kind import Kind, PlanT
from blockferry.store.schema import moves

CLOCKS_S = 120.0
"""By so much the clocks of two managers may differ."""

AnyKind = Kind[Any, Any, Any, Any, Any]
OtherT = TypeVar("OtherT")


class Beside(Generic[PlanT]):
    """The plans of other jobs of one kind, read in the transaction that adds a new one."""

    def __init__(self, connection: sa.Connection, kind: Kind[PlanT, Any, Any, Any, Any], journal: str) -> None:
        self._connection, self._kind, self._journal = connection, kind, journal

    def of(self, kind: Kind[OtherT, Any, Any, Any, Any]) -> Beside[OtherT]:
        """The same of jobs of another kind."""
        return Beside(self._connection, kind, self._journal)

    def unfinished(self, apart_from: str) -> tuple[PlanT, ...]:
        """Those of jobs that are not over. `apart_from`: the UUID of a VM whose own do not count."""
        return self._plans(moves.c.finished.is_(None), moves.c.vm_uuid != apart_from)

    def recent(self, since: float, apart_from: frozenset[str]) -> tuple[PlanT, ...]:
        """Those of jobs that are not over, or were planned since, by whatever clock. `apart_from`: ids."""
        recent = sa.or_(moves.c.finished.is_(None), moves.c.created > since - CLOCKS_S)
        return self._plans(recent, moves.c.id.not_in(sorted(apart_from)))

    def _plans(self, *conditions: sa.ColumnElement[bool]) -> tuple[PlanT, ...]:
        query = sa.select(moves.c.id, moves.c.plan).where(moves.c.kind == self._kind.name, *conditions)
        return tuple(codec.plan(self._kind, row, self._journal) for row in self._connection.execute(query))
