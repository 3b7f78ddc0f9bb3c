"""What stands in columns and tables of its own, so that no list and no search reads the JSON of every move."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from blockferry.hosts import fingerprint
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.facts import Partial
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.store import codec
from blockferry.store.schema import OPEN, host_addresses, hosts, move_datastores, moves, partial_copies, same_images

KIND = "storage-move"

Prints = tuple[tuple[tuple[str, str], ...], tuple[tuple[str, str], ...]]
"""The fingerprints of two images that were compared: (path, fingerprint) of all files that each consists of."""


def state_of(record: Record) -> str:
    """The column `state` of a move that has ended with this record."""
    return (record.outcome or Outcome.FAILED).value


def added(connection: Connection, plan: Plan, now: float) -> None:
    """Write the rows of a move that was planned. Its row in `moves` is there; `now` is wall time."""
    if places := _datastores(plan):
        connection.execute(sa.insert(move_datastores), places)
    if not plan.host:
        return
    _put(connection, hosts, {"uuid": plan.host}, {"name": plan.host_name[:255], "seen": now})
    _put(connection, host_addresses, {"host": plan.host, "uri": plan.uri[:1024]}, {"seen": now})
    for disk in plan.disks:
        if disk.reused is not None:
            text = json.dumps(pair(disk.reused.prints, disk.reused.source_prints), separators=(",", ":"))
            digest = hashlib.sha256(text.encode()).hexdigest()
            _put(connection, same_images, {"host": plan.host, "digest": digest}, {"prints": text})


def ended(connection: Connection, plan: Plan, record: Record) -> None:
    """Write which broken copies a move has left, and forget those that have become disks of its VM."""
    for disk in plan.disks:
        key = {"path": disk.dest, "host": plan.host}
        if disk.dest in record.kept:
            values = {
                "move": plan.move,
                "vm_uuid": plan.uuid,
                "target": disk.target,
                "format": disk.dest_format,
                "virtual_size": disk.virtual_size,
            }
            _put(connection, partial_copies, key, values)
        elif record.outcome is Outcome.MOVED:
            forget_partial(connection, disk.dest, plan.host)


def unlisted(connection: Connection) -> list[str]:
    """The moves that a process of schema version 0002 has ended, which knew nothing of these tables."""
    query = sa.select(moves.c.id).where(moves.c.state == OPEN, moves.c.finished.is_not(None))
    return list(connection.scalars(query.order_by(moves.c.finished, moves.c.id.desc())))


def catch_up(connection: Connection, journal: str) -> None:
    """Write the rows of those moves. Raises JournalFailed for one that cannot be read."""
    for move in unlisted(connection):
        row = connection.execute(sa.select(moves).where(moves.c.id == move)).one()
        plan, record = codec.plan(row, journal), codec.record(row, journal)
        connection.execute(sa.delete(move_datastores).where(move_datastores.c.move == move))
        added(connection, plan, row.created)
        ended(connection, plan, record)
        listed = {"host": plan.host, "state": state_of(record)}
        connection.execute(sa.update(moves).where(moves.c.id == move).values(**listed))


def partials(connection: Connection, vm_uuid: str, host: str) -> dict[str, Partial]:
    """Path -> broken copy of this VM on this host, and on hosts that are not known."""
    query = sa.select(partial_copies).where(partial_copies.c.vm_uuid == vm_uuid, *_on(host))
    rows = connection.execute(query.order_by(partial_copies.c.host)).all()  # "" first: what is known better counts
    return {row.path: Partial(row.move, row.format, row.virtual_size, 0, row.target) for row in rows}


def forget_partial(connection: Connection, path: str, host: str) -> None:
    """It is gone: the row of this host, and the one of a host that was not known."""
    here = partial_copies.c.host.in_((host, ""))
    connection.execute(sa.delete(partial_copies).where(partial_copies.c.path == path, here))


def partial_paths(connection: Connection) -> frozenset[str]:
    """The paths of all broken copies that are kept, on whichever host: datastores may be shared, and hosts renamed.

    Used to leave such a copy alone, so a path that two hosts use for two files only keeps more.
    """
    return frozenset(connection.scalars(sa.select(partial_copies.c.path)))


def same(connection: Connection, host: str) -> frozenset[Prints]:
    """The pairs of images of this host that were compared and read the same."""
    texts = connection.scalars(sa.select(same_images.c.prints).where(same_images.c.host == host))
    return frozenset(_read_prints(text) for text in texts)


def pair(prints: Mapping[str, str], source_prints: Mapping[str, str]) -> Prints:
    return tuple(sorted(prints.items())), tuple(sorted(source_prints.items()))


def _on(host: str) -> tuple[sa.ColumnElement[bool], ...]:
    """A host of which libvirt tells no UUID may be any."""
    return (partial_copies.c.host.in_((host, "")),) if host else ()


def _read_prints(text: str) -> Prints:
    one, other = json.loads(text)
    return tuple((path, fingerprint.current(mark)) for path, mark in one), tuple(
        (path, fingerprint.current(mark)) for path, mark in other
    )


def _datastores(plan: Plan) -> list[dict[str, Any]]:
    to = [*(disk.datastore for disk in plan.disks), plan.home.datastore if plan.home is not None else None]
    roles = (("destination", to), ("source", [disk.source_datastore for disk in plan.disks]))
    return [
        {"move": plan.move, "role": role, "name": name[:255], "identity": _identity(plan, name)}
        for role, names in roles
        for name in dict.fromkeys(name for name in names if name)
    ]


def _identity(plan: Plan, name: str) -> str:
    found = plan.directories.get(name)
    return "" if found is None else found.id.text


def _put(connection: Connection, table: sa.Table, key: dict[str, Any], values: dict[str, Any]) -> None:
    """Insert a row, or change the one that is there, whatever races."""
    insert = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    connection.execute(insert(table).values(**key, **values).on_conflict_do_update(index_elements=[*key], set_=values))
