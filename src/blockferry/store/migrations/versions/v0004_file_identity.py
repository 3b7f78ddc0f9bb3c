"""Kept files and broken copies are known by what their datastore stands on, so that two hosts mean the same by a row.

What a plan says of its datastores (`directories`) tells which file a path is; where it does not, the file is known as
its host's, and two hosts are never taken for one. The columns have defaults on the database's side: a process of
version 0003 that is still running goes on writing rows, which count as their host's.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    plans: dict[str, dict[str, Any]] = {}
    for name in ("kept", "partial_copies"):
        for column in ("place", "place_path"):
            op.add_column(name, sa.Column(column, sa.Text, nullable=False, server_default=""))
        table = sa.table(name, *(sa.column(one) for one in ("path", "host", "move", "place", "place_path")))
        connection = op.get_bind()
        for row in connection.execute(sa.select(table.c.path, table.c.host, table.c.move)).all():
            if row.move not in plans:
                plans[row.move] = _plan(connection, row.move)
            place, path = _file(row.path, row.host, plans[row.move])
            change = sa.update(table).where(table.c.path == row.path, table.c.host == row.host)
            connection.execute(change.values(place=place, place_path=path))


def _plan(connection: sa.Connection, move: str) -> dict[str, Any]:
    """The plan of a move; empty when it is gone, or cannot be read."""
    moves = sa.table("moves", sa.column("id"), sa.column("plan"))
    text = connection.scalar(sa.select(moves.c.plan).where(moves.c.id == move))
    try:
        found = json.loads(text or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _file(path: str, host: str, plan: dict[str, Any]) -> tuple[str, str]:
    """Place and path of a file, by the innermost datastore of the plan that it lies in."""
    if host and plan.get("host") == host:
        found = max(_holders(path, plan.get("directories")), default=None)
        if found is not None:
            return found[1], found[2]
    return f"host {host}", posixpath.normpath(path)


def _holders(path: str, directories: Any) -> Iterator[tuple[int, str, str]]:
    for directory in directories.values() if isinstance(directories, dict) else ():
        try:
            root, space, inside = directory["path"], directory["id"]["space"], directory["id"]["path"]
            words = [space[name] for name in ("kind", "of", "part", "host")]
        except (KeyError, TypeError):
            continue
        top = posixpath.normpath(root).rstrip("/") + "/"
        if not posixpath.normpath(path).startswith(top) or words[0] == "pool":
            continue
        below = posixpath.normpath(posixpath.join(inside, posixpath.normpath(path)[len(top) :]))
        if words[0] == "network":  # a path is named from the server's root, whichever of its exports is mounted
            words[2], below = "", posixpath.normpath(f"{space['part']}/{below}")
        yield len(root), " ".join(quote(word, safe="/:") or "-" for word in words), below
