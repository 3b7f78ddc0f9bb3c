"""Opening the database: URL to engine, schema by Alembic, SQLite made durable, errors made sentences."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import alembic.command
import alembic.config
import alembic.util
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, OperationalError, SQLAlchemyError

from blockferry.errors import JournalFailed

BUSY_MS = 10_000
_NETWORK_FILESYSTEMS = ("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "glusterfs", "fuse.glusterfs")


def open_engine(url: str) -> Engine:
    """An engine on a database with the present schema. Raises JournalFailed."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise JournalFailed(url, f"{url!r} is no database URL like sqlite:////path") from error
    name = shown(parsed)
    try:
        if parsed.get_backend_name() == "sqlite":
            engine = _sqlite(parsed, name)
        else:
            engine = sa.create_engine(parsed, pool_pre_ping=True)
        with failures(name):
            _migrate(engine)
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise JournalFailed(name, f"its driver is not installed ({error})") from error
    return engine


def shown(url: URL) -> str:
    """The URL for people: without password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


@contextmanager
def failures(name: str) -> Iterator[None]:
    """Turn the database's errors into JournalFailed."""
    try:
        yield
    except alembic.util.CommandError as error:
        raise JournalFailed(name, f"it was written by a newer blockferry ({error})") from error
    except SQLAlchemyError as error:
        words = str(error.orig) if isinstance(error, DBAPIError) and error.orig else str(error)
        raise JournalFailed(name, words.strip().splitlines()[0]) from error
    except OSError as error:
        raise JournalFailed(name, error.strerror or str(error)) from error


def _sqlite(url: URL, name: str) -> Engine:
    path = Path(url.database or "")
    if url.database in (None, "", ":memory:"):
        raise JournalFailed(name, "a journal in memory would be forgotten; name a file")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise JournalFailed(name, error.strerror or str(error)) from error
    kind = _filesystem(path.parent)
    if kind in _NETWORK_FILESYSTEMS:
        raise JournalFailed(name, f"SQLite is not safe on {kind}; use a local path or PostgreSQL")
    engine = sa.create_engine(url, connect_args={"timeout": BUSY_MS / 1000})

    @event.listens_for(engine, "connect")
    def configure(connection: object, _record: object) -> None:
        # Transactions are begun by us (below), so that a writer waits at the beginning and not in the middle.
        connection.isolation_level = None  # type: ignore[attr-defined]
        cursor = connection.cursor()  # type: ignore[attr-defined]
        for words in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
            cursor.execute(f"PRAGMA {words}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _filesystem(directory: Path) -> str:
    """The type of the file system that holds a directory, by the longest mount point above it."""
    best, kind = -1, ""
    real = str(directory.resolve())
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _device, where, what, *_rest = line.split()
        where = where.encode().decode("unicode_escape")
        if (real == where or real.startswith(where.rstrip("/") + "/")) and len(where) >= best:
            best, kind = len(where), what
    return kind


def _migrate(engine: Engine) -> None:
    """Bring the schema up to date. One process at a time: SQLite by its lock, PostgreSQL by an advisory lock."""
    config = alembic.config.Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with engine.connect() as connection:
        try:
            if connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == "0001":
                return
        except (OperationalError, DBAPIError):
            connection.rollback()  # no such table yet
    with engine.connect().execution_options(writing=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(4711081502)"))
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
