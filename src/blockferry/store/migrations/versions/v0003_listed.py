"""Columns and tables for what was read out of every move's JSON before: lists, broken copies, compared images, hosts.

Of moves that were planned without libvirt's UUID of the host the host is unknown, which is written as "".
The columns have defaults on the database's side: a process of version 0002 that is still running goes on writing rows.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BATCH = 200
"""Moves that are read at once: their JSON may be large, and PostgreSQL ends a transaction that is idle for long."""


def upgrade() -> None:
    for column in (
        sa.Column("kind", sa.String(32), nullable=False, server_default="storage-move"),
        sa.Column("host", sa.String(64), nullable=False, server_default=""),
        sa.Column("state", sa.String(16), nullable=False, server_default="open"),
    ):
        op.add_column("moves", column)
    for name in ("state", "created", "finished"):
        op.create_index(f"moves_by_{name}", "moves", [name])
    move = sa.Column("move", sa.String(32), sa.ForeignKey("moves.id", ondelete="CASCADE"), primary_key=True)
    datastores = op.create_table(
        "move_datastores",
        move,
        sa.Column("role", sa.String(16), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("identity", sa.Text, nullable=False, server_default=""),
    )
    op.create_index("move_datastores_by_name", "move_datastores", ["name"])
    partials = op.create_table(
        "partial_copies",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("move", sa.String(32), nullable=False),
        sa.Column("vm_uuid", sa.String(36), nullable=False, index=True),
        sa.Column("target", sa.String(64), nullable=False),
        sa.Column("format", sa.String(16), nullable=False),
        sa.Column("virtual_size", sa.BigInteger, nullable=False),
    )
    images = op.create_table(
        "same_images",
        sa.Column("host", sa.String(64), primary_key=True),
        sa.Column("digest", sa.String(64), primary_key=True),
        sa.Column("prints", sa.Text, nullable=False),
    )
    hosts = op.create_table(
        "hosts",
        sa.Column("uuid", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("seen", sa.Float, nullable=False),
    )
    addresses = op.create_table(
        "host_addresses",
        sa.Column("host", sa.String(64), sa.ForeignKey("hosts.uuid", ondelete="CASCADE"), primary_key=True),
        sa.Column("uri", sa.String(1024), primary_key=True),
        sa.Column("seen", sa.Float, nullable=False),
    )
    found = _Found()
    _read(found)
    for table, rows in (
        (partials, found.partials),
        (images, found.images),
        (hosts, found.hosts),
        (addresses, found.addresses),
    ):
        op.bulk_insert(table, list(rows.values()))
    for begin in range(0, len(found.datastores), BATCH):
        op.bulk_insert(datastores, found.datastores[begin : begin + BATCH])


class _Found:
    def __init__(self) -> None:
        self.datastores: list[dict[str, Any]] = []
        self.partials: dict[tuple[str, str], dict[str, Any]] = {}
        self.images: dict[tuple[str, str], dict[str, Any]] = {}
        self.hosts: dict[str, dict[str, Any]] = {}
        self.addresses: dict[tuple[str, str], dict[str, Any]] = {}


def _read(found: _Found) -> None:
    """All moves in the order in which they ended, for the latest word on a path counts."""
    names = ("id", "vm_uuid", "created", "finished", "plan", "record", "state", "host")
    moves = sa.table("moves", *(sa.column(name) for name in names))
    connection = op.get_bind()
    order = (moves.c.finished.is_(None), moves.c.finished, moves.c.id.desc())
    every = [str(row.id) for row in connection.execute(sa.select(moves.c.id).order_by(*order))]
    for begin in range(0, len(every), BATCH):
        batch = every[begin : begin + BATCH]
        rows = {row.id: row for row in connection.execute(sa.select(moves).where(moves.c.id.in_(batch)))}
        changes = []
        for move in batch:
            row = rows[move]
            plan, record = _object(row.plan), _object(row.record)
            host = str(plan.get("host") or "")
            outcome = record.get("outcome") if row.finished is not None else None
            changes.append({"move": move, "to_host": host, "to_state": str(outcome or "open")})
            _of_move(found, row, plan, record, host)
        change = sa.update(moves).where(moves.c.id == sa.bindparam("move"))
        connection.execute(change.values(host=sa.bindparam("to_host"), state=sa.bindparam("to_state")), changes)


def _object(text: str) -> dict[str, Any]:
    """A move that cannot be read stays as it is: whoever wants it is told so."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _of_move(found: _Found, row: Any, plan: dict[str, Any], record: dict[str, Any], host: str) -> None:
    disks = [disk for disk in plan.get("disks") or () if isinstance(disk, dict)]
    home = plan.get("home") or {}
    to = [*(disk.get("datastore") for disk in disks), home.get("datastore")]
    for role, names in (("destination", to), ("source", [disk.get("source_datastore") for disk in disks])):
        for name in dict.fromkeys(name for name in names if name):
            found.datastores.append({"move": row.id, "role": role, "name": name[:255], "identity": ""})
    if host:
        seen = max(row.created, found.hosts.get(host, {"seen": 0.0})["seen"])
        found.hosts[host] = {"uuid": host, "name": str(plan.get("host_name") or "")[:255], "seen": seen}
        uri = str(plan.get("uri") or "")[:1024]
        found.addresses[host, uri] = {"host": host, "uri": uri, "seen": row.created}
    for disk in disks:
        reused, path = disk.get("reused") or {}, disk.get("dest")
        if host and reused:
            prints = json.dumps(
                [sorted(reused.get("prints", {}).items()), sorted(reused.get("source_prints", {}).items())],
                separators=(",", ":"),
            )
            digest = hashlib.sha256(prints.encode()).hexdigest()
            found.images[host, digest] = {"host": host, "digest": digest, "prints": prints}
        if row.finished is None or not path:
            continue
        if path in (record.get("kept") or ()):
            found.partials[path, host] = {
                "path": path,
                "host": host,
                "move": row.id,
                "vm_uuid": row.vm_uuid,
                "target": disk.get("target", ""),
                "format": disk.get("dest_format", ""),
                "virtual_size": disk.get("virtual_size", 0),
            }
        elif record.get("outcome") == "moved":
            found.partials.pop((path, host), None)
