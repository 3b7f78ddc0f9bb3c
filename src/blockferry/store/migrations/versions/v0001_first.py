"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "moves",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("vm_uuid", sa.String(36), nullable=False),
        sa.Column("vm", sa.String(255), nullable=False),
        sa.Column("created", sa.Float, nullable=False),
        sa.Column("finished", sa.Float),
        sa.Column("requested_by", sa.String(255), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("wanted", sa.String(16), nullable=False),
        sa.Column("bandwidth", sa.BigInteger, nullable=False),
        sa.Column("progress", sa.Text, nullable=False),
        sa.Column("report", sa.Text),
        sa.Column("parked", sa.Text),
        sa.Column("deaths", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("token", sa.Integer, nullable=False),
        sa.Column("lease_expires", sa.Float),
    )
    unfinished = sa.text("finished IS NULL")
    op.create_index(
        "one_unfinished_move_per_vm",
        "moves",
        ["vm_uuid"],
        unique=True,
        sqlite_where=unfinished,
        postgresql_where=unfinished,
    )
    op.create_table(
        "events",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("move", sa.String(32), sa.ForeignKey("moves.id", ondelete="CASCADE"), nullable=False, index=True),
        sa.Column("at", sa.Float, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_table(
        "kept",
        sa.Column("path", sa.Text, primary_key=True),
        sa.Column("move", sa.String(32), nullable=False),
        sa.Column("vm", sa.String(255), nullable=False),
        sa.Column("datastore", sa.String(255), nullable=False),
        sa.Column("expires", sa.Float),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
    )
