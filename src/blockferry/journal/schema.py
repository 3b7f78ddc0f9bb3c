"""The tables. A promise to older and newer versions: docs/journal.md; changed only by Alembic migrations."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, text

VERSION = "0002"
"""The newest of migrations/versions: what these tables are."""

metadata = MetaData()

moves = Table(
    "moves",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("vm_uuid", String(36), nullable=False),
    Column("vm", String(255), nullable=False),
    Column("created", Float, nullable=False),  # seconds since the epoch, as are all times
    Column("finished", Float),
    Column("requested_by", String(255), nullable=False),
    Column("request", Text, nullable=False),  # JSON: model.request.MoveRequest
    Column("plan", Text, nullable=False),  # JSON: model.plan.Plan
    Column("record", Text, nullable=False),  # JSON: model.record.Record; wanted and bandwidth in it do not count
    Column("wanted", String(16), nullable=False),  # the user's columns: never written by who runs the move
    Column("bandwidth", BigInteger, nullable=False),
    Column("progress", Text, nullable=False),  # JSON: model.summary.Progress
    Column("report", Text),  # JSON: model.summary.Report
    Column("parked", Text),
    Column("deaths", Integer, nullable=False),
    Column("owner", Text),  # JSON: owner.Owner
    Column("token", Integer, nullable=False),  # rises with each claim and release: the fence
    Column("lease_expires", Float),
    # One unfinished move per VM, whatever races.
    Index("one_unfinished_move_per_vm", "vm_uuid", unique=True, sqlite_where=text("finished IS NULL"),
          postgresql_where=text("finished IS NULL")),
)  # fmt: skip

events = Table(
    "events",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("move", String(32), ForeignKey("moves.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Float, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("text", Text, nullable=False),
)

kept = Table(
    "kept",
    metadata,
    Column("path", Text, primary_key=True),
    Column("host", String(64), primary_key=True, server_default=""),  # libvirt's UUID of the host; "": written by 0001
    Column("move", String(32), nullable=False),
    Column("vm", String(255), nullable=False),
    Column("datastore", String(255), nullable=False),
    Column("expires", Float),
    Column("size", BigInteger, nullable=False),
    Column("why", Text, nullable=False),
    Column("since", Float),
    Column("format", String(16)),
    Column("fingerprint", Text),  # JSON: model.quarantine.Fingerprint
)

identity = Table("identity", metadata, Column("id", String(36), primary_key=True))  # one row: this journal's own
