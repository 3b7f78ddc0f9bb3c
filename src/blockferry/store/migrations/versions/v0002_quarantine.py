"""Quarantine: kept files belong to a host and have a fingerprint; a journal has an identity.

Two hosts may keep a file at the same path, so the key is host and path. The columns have defaults on the database's
side: a process of version 0001 that is still running goes on writing rows, whose host is unknown.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.rename_table("kept", "kept_0001")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER INDEX kept_pkey RENAME TO kept_0001_pkey")
    kept = op.create_table(
        "kept",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("host", sa.String(64), primary_key=True, server_default=""),
        sa.Column("move", sa.String(32), nullable=False),
        sa.Column("vm", sa.String(255), nullable=False),
        sa.Column("datastore", sa.String(255), nullable=False),
        sa.Column("expires", sa.Float),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("since", sa.Float),
        sa.Column("format", sa.String(16)),
        sa.Column("fingerprint", sa.Text),
    )
    before = sa.table("kept_0001", *(sa.column(name) for name in _BEFORE))
    op.execute(kept.insert().from_select(_BEFORE, sa.select(*(before.c[name] for name in _BEFORE))))
    op.drop_table("kept_0001")
    identity = op.create_table("identity", sa.Column("id", sa.String(36), primary_key=True))
    op.bulk_insert(identity, [{"id": str(uuid.uuid4())}])


_BEFORE = ["path", "move", "vm", "datastore", "expires", "size", "why"]
