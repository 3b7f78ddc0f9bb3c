"""PostgreSQL made a journal: time-outs everywhere, so that neither a frozen manager nor a dead network holds us."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from blockferry.store.schema import moves

_CONNECT = {
    "connect_timeout": "10",
    "application_name": "blockferry",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",  # ms: of what was sent and not acknowledged, which keepalives do not see
    # A manager that is frozen inside a transaction must not keep its row for ever; a promise of durability must
    # not depend on the server's default.
    "options": "-c lock_timeout=10s -c idle_in_transaction_session_timeout=15s -c statement_timeout=30s "
    "-c synchronous_commit=on",
}
"""libpq's words (https://www.postgresql.org/docs/current/libpq-connect.html); those in the URL come first."""


def engine_on(url: URL) -> Engine:
    """An engine that looks before it uses a connection again. Raises ModuleNotFoundError without psycopg."""
    if url.get_driver_name() in ("psycopg2", ""):
        url = url.set(drivername="postgresql+psycopg")
    for index in moves.indexes:  # here and not in the schema: naming it there loads the dialect for SQLite, too
        if index.name == "one_unfinished_move_per_vm":
            index.dialect_kwargs["postgresql_where"] = sa.text("finished IS NULL")
    settings = {key: value for key, value in _CONNECT.items() if key not in url.query}
    return sa.create_engine(url, pool_pre_ping=True, isolation_level="READ COMMITTED", connect_args=settings)
