"""The database under the journal: from a URL to transactions, its errors made sentences."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from blockferry.base.errors import JournalFailed
from blockferry.store import migrate, postgresql, sqlite
from blockferry.store.schema import identity, metadata

_ADDING = 4711081503
"""PostgreSQL's advisory lock for what is looked up and then written."""

_CODES = {
    sqlite3.SQLITE_BUSY: f"another process has kept it locked for {sqlite.BUSY_MS // 1000} s",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_READONLY: "this user may not write it",
    sqlite3.SQLITE_FULL: "its disk is full",
    sqlite3.SQLITE_CANTOPEN: "the file cannot be opened; it may have been removed",
}
"""SQLite's primary result codes, and what they mean to an administrator; the rest is quoted."""

_PASSING = {
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY),
    *(sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PROTOCOL),
}
_PASSING_STATES = ("08", "25006", "25P03", "40", "53", "55P03", "57")
"""Beginnings of SQLSTATE: connection, read-only (a standby), time over in a transaction, rolled back (a deadlock),
resources, a lock that was not to be had, operator."""


class Database:
    """One open database with the present schema. Threads may share it."""

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Open it. Without `make` a database that is not there stays away: an empty one in memory serves instead.

        Then `missing` is true, and nothing that is written outlives this object. Raises JournalFailed when it cannot
        be opened, is of something else, or newer than we are.
        """
        parsed = _parsed(url)
        self.missing = False
        self.url = parsed.render_as_string(hide_password=True)
        self.name = self.url
        self._path: Path | None = None
        self._identity: tuple[int, int] | None = None
        with self.failures():
            if parsed.get_backend_name() == "sqlite":
                path = sqlite.path_of(parsed, parsed.database or self.url)
                self.name, self.url = str(path), f"sqlite:///{path}"
                if not make and not sqlite.is_there(path, self.name):
                    self._engine = self._quick = self._stand_in()
                    return
                self._path = sqlite.file_at(path, self.name)
                self._engine = sqlite.engine_on(parsed, path, "FULL")
                self._quick = sqlite.engine_on(parsed, path, "NORMAL")
            else:
                self._engine = self._quick = _postgresql(parsed, self.name)
            try:
                if not make and not migrate.is_there(self._engine, self.name):
                    self._engine.dispose()
                    self._engine = self._quick = self._stand_in()
                    return
                migrate.migrate(self._engine, self.name)
            except BaseException:
                self.close()
                raise
        if self._path is not None:
            self._identity = sqlite.identity(self._path)

    def _stand_in(self) -> Engine:
        """An empty database with the present schema, in the memory of this process."""
        self.missing = True
        engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool, connect_args={"check_same_thread": False})
        with engine.begin() as connection:
            metadata.create_all(connection)
            connection.execute(sa.insert(identity).values(id=""))  # no VM and no file bears this journal's mark
        return engine

    def close(self) -> None:
        self._engine.dispose()
        self._quick.dispose()

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that sees one moment (on SQLite) and changes nothing. Raises JournalFailed."""
        self._still_there()
        with self.failures(), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[Connection]:
        """A transaction that writes. Raises JournalFailed.

        Committed when this returns; with `durable` also safe from a power cut, without it that follows a moment
        later, in order: no later durable commit survives without it.
        """
        self._still_there()
        engine = self._engine if durable else self._quick
        with (
            self.failures(),
            engine.connect().execution_options(writing=True) as connection,
            connection.begin(),
        ):
            if not durable and connection.dialect.name == "postgresql":
                connection.execute(sa.text("SET LOCAL synchronous_commit = off"))
            yield connection

    def faults(self) -> tuple[str, ...]:
        """What the database's own check finds wrong, empty when it is sound and can be written. Raises JournalFailed.

        SQLite reads the whole file for it. PostgreSQL has no such check for its users; there a transaction that
        could write is all.
        """
        with self.writing() as connection:
            if connection.dialect.name != "sqlite":
                connection.execute(sa.text("SELECT 1"))
                return ()
            found = [str(row[0]) for row in connection.exec_driver_sql("PRAGMA integrity_check(10)")]
            found += [f"table {row[0]} has a row without its parent" for row in _orphaned_rows(connection)]
        return tuple(one for one in found if one != "ok")

    @property
    def path(self) -> Path | None:
        """The file, where it is one of this machine."""
        return self._path

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Turn the database's errors into JournalFailed. The database's own error stays its cause."""
        try:
            yield
        except PoolTimeout as error:
            raise JournalFailed(self.name, "too many threads of this process wait for it", passing=True) from error
        except SQLAlchemyError as error:
            raise JournalFailed(self.name, _sentence(error), _passing(error)) from error

    def _still_there(self) -> None:
        """SQLite goes on writing into a file that was deleted, and all of it would be lost: say so instead."""
        if self._path is not None and sqlite.identity(self._path) != self._identity:
            raise JournalFailed(self.name, "the file was removed or replaced while it was in use")


def one_at_a_time(connection: Connection) -> None:
    """No other transaction that asks for this is under way until this one ends. On SQLite no other that writes is."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_ADDING})"))


def clock(connection: Connection) -> sa.ColumnElement[float]:
    """The database's own clock: one for all managers. Seconds since the epoch, on SQLite to the millisecond."""
    if connection.dialect.name == "sqlite":
        return sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)", sa.Float)
    return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()), sa.Float)


def _orphaned_rows(connection: Connection) -> list[Any]:
    return list(connection.exec_driver_sql("PRAGMA foreign_key_check"))[:10]


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError) as error:  # ValueError: a port that is no number
        hidden = re.sub(r":[^:@/]*@", ":***@", url)
        raise JournalFailed(hidden, "it is no database URL like sqlite:////path or postgresql://host/name") from error
    if parsed.drivername.partition("+")[0] not in ("sqlite", "postgresql"):
        raise JournalFailed(parsed.render_as_string(hide_password=True), "only SQLite and PostgreSQL are supported")
    return parsed


def _postgresql(url: URL, name: str) -> Engine:
    try:
        return postgresql.engine_on(url)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise JournalFailed(
            name, f"its driver is not installed ({error}): `pip install blockferry[postgresql]`"
        ) from error


def _sqlite_code(error: SQLAlchemyError) -> int | None:
    code = getattr(error.orig, "sqlite_errorcode", None) if isinstance(error, DBAPIError) else None
    return None if code is None else int(code) & 0xFF


def _passing(error: SQLAlchemyError) -> bool:
    """Whether it may be over by itself, by codes."""
    if not isinstance(error, DBAPIError):
        return False
    code = _sqlite_code(error)
    if code is not None:
        return code in _PASSING
    state = getattr(error.orig, "sqlstate", None) or ""
    if state:
        return error.connection_invalidated or state.startswith(_PASSING_STATES)
    return error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))


def _sentence(error: SQLAlchemyError) -> str:
    code = _sqlite_code(error)
    if code in _CODES:
        return _CODES[code]
    words = str(error.orig) if isinstance(error, DBAPIError) and error.orig else str(error)
    return " ".join(words.split())[:400].rstrip(".")
