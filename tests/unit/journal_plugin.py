"""Fixtures of the journal's tests: a fresh SQLite file, a fresh database of a private PostgreSQL, children."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from journal_support import Children

from blockferry.storage_move.move_journal import MoveJournal

FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK | os.X_OK) else None
"""Where nobody waits for a disk: a process that is killed loses nothing there either; power cuts are not tested."""


@pytest.fixture
def children() -> Iterator[Children]:
    started = Children()
    yield started
    for child in started.all:
        child.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[sa.Engine]:
    """A private PostgreSQL without network, gone at the end; skipped where Debian's postgresql is not installed."""
    binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb") or ""]
    bin_dir = Path(binaries[-1]).resolve().parent
    if not (bin_dir / "initdb").exists() or not (bin_dir / "postgres").exists():
        pytest.skip("PostgreSQL's initdb is not installed")
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    base = Path(tempfile.mkdtemp(prefix="bf-pg-", dir=FAST))  # short: a socket's path has 107 characters at most
    other: list[str] = []
    if os.geteuid() == 0:  # initdb refuses root
        if not shutil.which("setpriv"):
            shutil.rmtree(base)
            pytest.skip("as root, setpriv is needed to become nobody for initdb")
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        os.chown(base, 65534, 65534)
    data = str(base / "data")
    quiet = subprocess.DEVNULL
    server = None
    try:
        argv = [*other, str(bin_dir / "initdb"), "-D", data, "-U", "manager", "-A", "trust", "-N", "-E", "UTF8"]
        subprocess.run([*argv, "--locale=C"], check=True, stdout=quiet, cwd="/")
        # Dies with us (--pdeathsig), so that a test run that is killed leaves no server behind.
        death = ["setpriv", "--pdeathsig=INT"] if shutil.which("setpriv") else []
        postgres = [
            str(bin_dir / "postgres"),
            "-D",
            data,
            "-k",
            str(base),
            "-c",
            "listen_addresses=",
            "-c",
            "fsync=off",
        ]
        server = subprocess.Popen([*other, *death, *postgres], stdout=quiet, stderr=quiet, cwd="/")
        engine = sa.create_engine(
            f"postgresql+psycopg://manager@/postgres?host={base}", isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
        )
        _await(engine, server)
        with engine.connect() as connection:
            connection.execute(sa.text("CREATE DATABASE journal"))
        yield engine
    finally:
        if server is not None:
            server.send_signal(signal.SIGQUIT)
            server.wait(10)
        shutil.rmtree(base)


def _await(engine: sa.Engine, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while True:
        try:
            with engine.connect():
                return
        except sa.exc.OperationalError:
            if server.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a journal that is not there yet, on each of the two databases."""
    if request.param == "sqlite":
        with tempfile.TemporaryDirectory(prefix="bf-", dir=FAST) as name:
            yield f"sqlite:///{name}/state/journal.db"
        return
    engine: sa.Engine = request.getfixturevalue("cluster")
    with engine.connect() as connection:  # cheaper than a database for each test
        connection.execute(sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'journal'"))
    fresh = sa.create_engine(engine.url.set(database="journal"), poolclass=sa.NullPool)
    with fresh.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
    yield fresh.url.render_as_string(hide_password=False)


@pytest.fixture
def journal(url: str) -> Iterator[MoveJournal]:
    opened = MoveJournal.open(url)
    yield opened
    opened.close()
