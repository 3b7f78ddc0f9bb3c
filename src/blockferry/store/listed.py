"""What stands in columns and tables of its own, so that no list and no search reads the JSON of every move."""

from __future__ import annotations

import hashlib
import json
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Connection

from blockferry.base import lazy
from blockferry.hosts import fingerprint
from blockferry.hosts.datastore_id import FileId, on_host
from blockferry.store import codec
from blockferry.store.kind import Head, Kind, Left, Listed, PartialCopy, Prints
from blockferry.store.schema import OPEN, host_addresses, hosts, move_datastores, moves, partial_copies, same_images

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql
else:  # all that it loads takes as long as a fifth of SQLAlchemy
    postgresql = lazy.module("sqlalchemy.dialects.postgresql")

SHARED = ""
"""The host of images that were compared in datastores that several hosts have."""


@dataclass(frozen=True, slots=True)
class PartialFiles:
    """Broken copies of all hosts, to be left alone. `paths`: of those that are known by the path of their host only.

    Such a path may be another file on another host; then that is left alone, too. What a file's identity reads may
    change (a server that is mounted by its address, a pool that is defined anew): so the path on its host counts as
    well, and the move that its marker names.
    """

    files: frozenset[FileId]
    paths: frozenset[str]
    on_hosts: frozenset[tuple[str, str]] = frozenset()  # (host, path)
    of_moves: frozenset[tuple[str, str]] = frozenset()  # (move, name of the file in its directory)

    def __contains__(self, one: tuple[FileId, str]) -> bool:
        """Whether a file, with the path by which it is reached, is one of them, as far as is known."""
        file, path = one
        return file in self.files or path in self.paths

    def on_host(self, host: str, path: str) -> bool:
        """Whether this host has left one at that path."""
        return (host, posixpath.normpath(path)) in self.on_hosts

    def of_move(self, move: str | None, path: str) -> bool:
        """Whether this move has left one of that name. `move`: as the marker beside the file says."""
        return (move, posixpath.basename(path)) in self.of_moves


def added(connection: Connection, head: Head, listed: Listed, now: float) -> None:
    """Write the rows of a job that was planned. Its row in `moves` is there; `now` is wall time."""
    if listed.places:
        places = [
            {"move": head.id, "role": place.role, "name": place.name[:255], "identity": place.identity}
            for place in listed.places
        ]
        connection.execute(sa.insert(move_datastores), places)
    if not head.host:
        return
    _put(connection, hosts, {"uuid": head.host}, {"name": head.host_name[:255], "seen": now})
    _put(connection, host_addresses, {"host": head.host, "uri": head.uri[:1024]}, {"seen": now})
    for host, every in ((head.host, listed.compared), (SHARED, listed.compared_files)):
        for prints in every:
            text = json.dumps(prints, separators=(",", ":"))
            digest = hashlib.sha256(text.encode()).hexdigest()
            _put(connection, same_images, {"host": host, "digest": digest}, {"prints": text})


def ended(connection: Connection, head: Head, left: Left) -> None:
    """Write which broken copies a job has left, and forget those that are none any more."""
    for partial_copy in left.partial:
        values = {
            "move": head.id,
            "vm_uuid": head.vm_uuid,
            "target": partial_copy.target,
            "format": partial_copy.format,
            "virtual_size": partial_copy.virtual_size,
            "place": partial_copy.file.place if partial_copy.file is not None else "",
            "place_path": partial_copy.file.path if partial_copy.file is not None else "",
        }
        _put(connection, partial_copies, {"path": partial_copy.path, "host": head.host}, values)
    for file, path in left.used:
        forget_partial(connection, file, path, head.host)


def unlisted(connection: Connection, kind: str) -> list[str]:
    """The jobs that a process of schema version 0002 has ended, which knew nothing of these tables."""
    query = sa.select(moves.c.id).where(moves.c.kind == kind, moves.c.state == OPEN, moves.c.finished.is_not(None))
    return list(connection.scalars(query.order_by(moves.c.finished, moves.c.id.desc())))


def catch_up(connection: Connection, kind: Kind[Any, Any, Any, Any, Any], journal: str) -> None:
    """Write the rows of those jobs. Raises JournalFailed for one that cannot be read."""
    for job in unlisted(connection, kind.name):
        row = connection.execute(sa.select(moves).where(moves.c.id == job)).one()
        plan, record = codec.plan(kind, row, journal), codec.record(kind, row, journal)
        head = kind.head(plan)
        connection.execute(sa.delete(move_datastores).where(move_datastores.c.move == job))
        added(connection, head, kind.listed(plan), row.created)
        ended(connection, head, kind.left(plan, record))
        values = {"host": head.host, "state": kind.outcome(record)}
        connection.execute(sa.update(moves).where(moves.c.id == job).values(**values))


def partials(connection: Connection, vm_uuid: str, host: str) -> dict[str, PartialCopy]:
    """Path -> broken copy of this VM on this host, and on hosts that are not known."""
    query = sa.select(partial_copies).where(partial_copies.c.vm_uuid == vm_uuid, *_on(host))
    rows = connection.execute(query.order_by(partial_copies.c.host)).all()  # "" first: what is known better counts
    return {row.path: PartialCopy(row.path, row.target, row.format, row.virtual_size, row.move) for row in rows}


def forget_partial(connection: Connection, file: FileId, path: str, host: str, move: str = "") -> None:
    """It is gone: the row of this host, the one of a host that was not known, and those of other hosts.

    Of other hosts only what the same move has left: the identity is a name, which two sites may have each.
    """
    columns = partial_copies.c
    gone = sa.and_(columns.path == path, columns.host.in_((host, "")))
    if file.shared and move:
        same = (columns.place == file.place, columns.place_path == file.path)
        gone = sa.or_(gone, sa.and_(*same, columns.move == move, columns.host.not_in((host, ""))))
    connection.execute(sa.delete(partial_copies).where(gone))


def partial_files(connection: Connection) -> PartialFiles:
    """All broken copies that are kept, on whichever host."""
    columns = (partial_copies.c[name] for name in ("path", "host", "place", "place_path", "move"))
    rows = connection.execute(sa.select(*columns)).all()
    known = [(row.path, codec.file_id(row.place, row.place_path) or on_host(row.host, row.path)) for row in rows]
    return PartialFiles(
        frozenset(file for _, file in known if file.known),
        frozenset(path for path, file in known if not file.known),
        frozenset((row.host, posixpath.normpath(row.path)) for row in rows),
        frozenset((row.move, posixpath.basename(row.path)) for row in rows),
    )


def same(connection: Connection, host: str) -> frozenset[Prints]:
    """The pairs of images that were compared and read the same: of this host, and of datastores that others have."""
    texts = connection.scalars(sa.select(same_images.c.prints).where(same_images.c.host.in_((host, SHARED))))
    return frozenset(_read_fingerprints(text) for text in texts)


def _on(host: str) -> tuple[sa.ColumnElement[bool], ...]:
    """A host of which libvirt tells no UUID may be any."""
    return (partial_copies.c.host.in_((host, "")),) if host else ()


def _read_fingerprints(text: str) -> Prints:
    one, other = json.loads(text)
    return tuple((path, fingerprint.current(mark)) for path, mark in one), tuple(
        (path, fingerprint.current(mark)) for path, mark in other
    )


def _put(connection: Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or change the one that is there, whatever races."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(table).values(**key, **values).on_conflict_do_update(index_elements=[*key], set_=values))
