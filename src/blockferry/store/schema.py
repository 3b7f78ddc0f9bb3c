"""The tables. A promise to older and newer versions: docs/journal.md; changed only by Alembic migrations."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, Integer, MetaData, String, Table, Text, text

from blockferry.store.schema_version import VERSION as VERSION

OPEN = "open"
"""State of a move that is not over; and of one that a process of version 0002 has ended since (`store/listed.py`)."""

metadata = MetaData()


def _file_identity() -> tuple[Column[str], Column[str]]:
    """Which file a path is, for every host: hosts.datastore_id.FileId. "": a process of version 0003 wrote the row."""
    return (
        Column("place", Text, nullable=False, server_default=""),
        Column("place_path", Text, nullable=False, server_default=""),
    )


moves = Table(
    "moves",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("vm_uuid", String(36), nullable=False),
    Column("vm", String(255), nullable=False),
    Column("created", Float, nullable=False),  # seconds since the epoch, as are all times
    Column("finished", Float),
    Column("requested_by", String(255), nullable=False),
    Column("request", Text, nullable=False),  # JSON: storage_move.request.MoveRequest
    Column("plan", Text, nullable=False),  # JSON: storage_move.plan.Plan
    Column("record", Text, nullable=False),  # JSON: storage_move.record.Record; wanted and bandwidth in it do not count
    Column("wanted", String(16), nullable=False),  # the user's columns: never written by who runs the move
    Column("bandwidth", BigInteger, nullable=False),
    Column("progress", Text, nullable=False),  # JSON: storage_move.summary.Progress
    Column("report", Text),  # JSON: storage_move.summary.Report
    Column("parked", Text),
    Column("deaths", Integer, nullable=False),
    Column("owner", Text),  # JSON: owner.Owner
    Column("token", Integer, nullable=False),  # rises with each claim and release: the fence
    Column("lease_expires", Float),
    # For lists and searches, from the JSON. Their defaults are for processes of version 0002 that are still running.
    Column("kind", String(32), nullable=False, server_default="storage-move"),
    Column("host", String(64), nullable=False, server_default=""),  # libvirt's UUID of it; "": not known
    Column("state", String(16), nullable=False, server_default=OPEN),  # OPEN, then the record's outcome
    Index("moves_by_state", "state"),
    Index("moves_by_created", "created"),
    Index("moves_by_finished", "finished"),
    # One unfinished move per VM, whatever races. On PostgreSQL, too: store/postgresql.py
    Index("one_unfinished_move_per_vm", "vm_uuid", unique=True, sqlite_where=text("finished IS NULL")),
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
    Column("fingerprint", Text),  # JSON: hosts.kept.KeptFingerprint
    *_file_identity(),
)

identity = Table("identity", metadata, Column("id", String(36), primary_key=True))  # one row: this journal's own

move_datastores = Table(
    "move_datastores",
    metadata,
    Column("move", String(32), ForeignKey("moves.id", ondelete="CASCADE"), primary_key=True),
    Column("role", String(16), primary_key=True),  # "source", "destination"
    Column("name", String(255), primary_key=True),  # as its host calls it
    Column("identity", Text, nullable=False, server_default=""),  # hosts.datastore_id.DatastoreId.text; "": not known
    Index("move_datastores_by_name", "name"),
)

partial_copies = Table(  # broken copies that are kept, to be gone on with by another move
    "partial_copies",
    metadata,
    Column("path", Text, primary_key=True),
    Column("host", String(64), primary_key=True),  # as of moves
    Column("move", String(32), nullable=False),  # the latest that left it
    Column("vm_uuid", String(36), nullable=False, index=True),
    Column("target", String(64), nullable=False),
    Column("format", String(16), nullable=False),
    Column("virtual_size", BigInteger, nullable=False),
    *_file_identity(),
)

same_images = Table(  # images that were compared, and read the same
    "same_images",
    metadata,
    Column("host", String(64), primary_key=True),  # "": in datastores that several hosts have
    Column("digest", String(64), primary_key=True),  # of `prints`
    Column(
        "prints", Text, nullable=False
    ),  # JSON: two lists of (path, fingerprint), sorted; with host "": FileId.text for path
)

hosts = Table(
    "hosts",
    metadata,
    Column("uuid", String(64), primary_key=True),  # libvirt's
    Column("name", String(255), nullable=False),
    Column("seen", Float, nullable=False),
)

host_addresses = Table(  # the URIs under which a host was seen
    "host_addresses",
    metadata,
    Column("host", String(64), ForeignKey("hosts.uuid", ondelete="CASCADE"), primary_key=True),
    Column("uri", String(1024), primary_key=True),
    Column("seen", Float, nullable=False),
)
