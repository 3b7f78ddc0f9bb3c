"""The schema, made or brought up to date when a journal is opened. How it changes: docs/journal.md."""

from __future__ import annotations

import threading

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from blockferry.base.errors import JournalFailed
from blockferry.store.schema import VERSION, metadata

_VERSION_TABLE = sa.table("alembic_version", sa.column("version_num"))
_ADVISORY_LOCK = 4711081502
_alembic = threading.Lock()  # Alembic's `context` is one for the whole process


def migrate(engine: Engine, name: str) -> None:
    """Bring the schema to VERSION, in one transaction: a death in the middle leaves the old one.

    One process at a time: on SQLite by its write lock, on PostgreSQL by an advisory lock. Raises JournalFailed for
    a database of something else, and for a schema newer than this program.
    """
    with engine.connect() as connection:
        if _version(connection, name) == VERSION:
            return
    # Imported late: Alembic takes a tenth of a second, and commands hardly ever need it.
    from blockferry.store import upgrade  # noqa: PLC0415

    with _alembic, engine.connect().execution_options(writing=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        version = _version(connection, name)
        if version is not None and version not in upgrade.known_versions():
            raise JournalFailed(
                name,
                f"its schema is version {version} and this blockferry knows those up to {VERSION}; it was written by "
                "a newer one",
            )
        upgrade.upgrade(connection)


def is_there(engine: Engine, name: str) -> bool:
    """Whether the database holds a journal, of whatever version. Raises JournalFailed for one of something else."""
    with engine.connect() as connection:
        return _version(connection, name) is not None


def _version(connection: Connection, name: str) -> str | None:
    """The schema's version; None for an empty database. Raises JournalFailed for one of something else.

    A whole SQLite file is ours or not; in PostgreSQL only tables of our names count.
    """
    tables = set(sa.inspect(connection).get_table_names())
    if _VERSION_TABLE.name in tables:
        version = connection.scalar(sa.select(_VERSION_TABLE.c.version_num))
        return None if version is None else str(version)
    foreign = tables if connection.dialect.name == "sqlite" else tables & set(metadata.tables)
    if foreign:
        raise JournalFailed(name, f"it is the database of another program (it has a table {min(foreign)})")
    return None
