"""A glance at an SQLite journal without SQLAlchemy, which takes longer to load than most commands take to answer."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from urllib.parse import quote

from blockferry.store.journal_filesystem import filesystem_of, is_remote
from blockferry.store.schema_version import VERSION

_PREFIX = "sqlite:///"
_WAIT_S = 1.0


def nothing_under_way(url: str) -> bool:
    """Whether it is sure that the journal of this URL (config.journal_url) has no job that is not over.

    False for all that is not plain: another database, a schema of another version, a file that cannot be read or lies
    on a network file system, on which SQLite is not safe even for one who only looks. Then the journal itself is to be
    opened, which tells what is wrong. Changes nothing, raises nothing.
    """
    path = url.removeprefix(_PREFIX)
    if path == url or not path.startswith("/") or "?" in path:
        return False
    try:
        Path(path).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    if is_remote(filesystem_of(Path(path).parent)):
        return False
    try:
        with contextlib.closing(_opened(path)) as connection:
            version = connection.execute("SELECT version_num FROM alembic_version").fetchone()
            if version != (VERSION,):
                return False
            return connection.execute("SELECT 1 FROM moves WHERE finished IS NULL LIMIT 1").fetchone() is None
    except sqlite3.Error:
        return False


def _opened(path: str) -> sqlite3.Connection:
    # mode=rw, as the journal itself: whoever reads a WAL must be able to make the file of its shared memory.
    return sqlite3.connect(f"file:{quote(path)}?mode=rw", uri=True, timeout=_WAIT_S)
