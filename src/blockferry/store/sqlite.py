"""SQLite made a journal: a local file, durable, begun by us, and still the file that we opened."""

from __future__ import annotations

import os
import sqlite3
import threading
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
import tenacity
from sqlalchemy import event
from sqlalchemy.engine import URL, Connection, Engine

from blockferry.base.errors import JournalFailed
from blockferry.store.journal_filesystem import filesystem_of, is_remote

BUSY_MS = 10_000
"""How long a writer waits for another one. Our transactions take milliseconds."""

NOT_READABLE = "you may not read and write it: run as root"

_creating = threading.Lock()


def path_of(url: URL, name: str) -> Path:
    """The path of the journal's file, which need not be there. Raises JournalFailed."""
    if url.database in (None, "", ":memory:") or url.query:
        raise JournalFailed(name, "it must be a plain file, like sqlite:////var/lib/blockferry/journal.db")
    return Path(url.database or "").absolute()


def is_there(path: Path, name: str) -> bool:
    """Whether there is a file of the journal's name. Raises JournalFailed when this user may not see that."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise JournalFailed(name, NOT_READABLE) from error
    except OSError as error:
        raise JournalFailed(name, f"it cannot be looked at ({error.strerror})") from error
    return True


def file_at(path: Path, name: str) -> Path:
    """The journal's file, made (0600, its directory 0700) if it was not there. Raises JournalFailed."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise JournalFailed(name, f"{error.filename} is not a directory") from error
    except OSError as error:
        raise JournalFailed(name, f"its directory cannot be made ({error.strerror}: {error.filename})") from error
    kind = filesystem_of(path.parent)
    if is_remote(kind):
        raise JournalFailed(name, f"SQLite is not safe on a network file system ({kind}); use PostgreSQL for that")
    # Made only where there was none: closing a descriptor of a file drops every lock that this process has on it
    # (https://sqlite.org/howtocorrupt.html, 2.2), those of another Journal on the same file among them.
    with _creating:
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            if not path.is_file():
                raise JournalFailed(name, "it is not a plain file") from None
            if not os.access(path, os.R_OK | os.W_OK):
                raise JournalFailed(name, NOT_READABLE) from None
        except OSError as error:
            raise JournalFailed(name, f"it cannot be made ({error.strerror})") from error
    return path


def identity(path: Path) -> tuple[int, int] | None:
    """What tells this file from another of its name; None when there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def engine_on(url: URL, path: Path, synchronous: str) -> Engine:
    """An engine whose commits are durable as `synchronous` says: FULL on return, NORMAL a little later.

    In WAL mode either leaves a consistent database whatever dies (https://sqlite.org/pragma.html#pragma_synchronous).
    """
    engine = sa.create_engine(url, creator=lambda: _connect(path, synchronous))

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # By us and not by the driver, so that a writer waits at the beginning, where nothing is lost, and a reader
        # sees one moment. A deferred transaction that turns to writing fails at once when another wrote meanwhile.
        writing = connection.get_execution_options().get("writing", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _connect(path: Path, synchronous: str) -> sqlite3.Connection:
    # mode=rw: a file that has vanished is an error, never a new empty one.
    connection = sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=BUSY_MS / 1000,
        isolation_level=None,
        check_same_thread=False,  # a pool hands it from thread to thread, one at a time
    )
    try:
        _configure(connection, synchronous)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_locked(error: BaseException) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


@tenacity.retry(
    retry=tenacity.retry_if_exception(_is_locked),
    stop=tenacity.stop_after_delay(BUSY_MS / 1000),
    wait=tenacity.wait_random(0.005, 0.05),
    reraise=True,
)
def _configure(connection: sqlite3.Connection, synchronous: str) -> None:
    """Tried again, because turning WAL on does not wait for a lock (only the first process ever needs to)."""
    for words in ("journal_mode=WAL", f"synchronous={synchronous}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {words}").close()
