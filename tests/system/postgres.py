"""A private PostgreSQL for system tests that can be stopped and started again; without network, on a socket."""

from __future__ import annotations

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.system.voyage import Line

_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]  # initdb refuses root


class Postgres:
    """One cluster in memory. Every user is let in without a password but those in `with_password`."""

    def __init__(self, base: Path, programs: Path) -> None:
        self.base, self._programs = base, programs
        self._data = base / "data"
        self._server: subprocess.Popen[bytes] | None = None
        os.chown(base, 65534, 65534)
        argv = [*_NOBODY, str(programs / "initdb"), "-D", str(self._data), "-U", "manager", "-A", "trust", "-N"]
        subprocess.run([*argv, "-E", "UTF8", "--locale=C"], check=True, stdout=subprocess.DEVNULL, cwd="/")

    @property
    def url(self) -> str:
        return f"postgresql+psycopg://manager@/journal?host={self.base}"

    def start(self) -> None:
        """Returns when it answers."""
        argv = [str(self._programs / "postgres"), "-D", str(self._data), "-k", str(self.base)]
        argv += ["-c", "listen_addresses=", "-c", "fsync=off"]
        quiet = subprocess.DEVNULL
        self._server = subprocess.Popen(
            [*_NOBODY, "setpriv", "--pdeathsig=INT", *argv], stdout=quiet, stderr=quiet, cwd="/"
        )
        deadline = time.monotonic() + 30
        ready = [str(self._programs / "pg_isready"), "-q", "-h", str(self.base)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        """At once; every connection breaks."""
        if self._server is not None:
            self._server.send_signal(signal.SIGINT)
            self._server.wait(20)
            self._server = None

    def run(self, words: str, *values: object, database: str = "journal") -> list[tuple[object, ...]]:
        link = psycopg.connect(f"host={self.base} user=manager dbname={database}", autocommit=True)
        try:
            found = link.execute(words.encode(), values or None)
            return found.fetchall() if found.description else []
        finally:
            link.close()

    def with_password(self, user: str, password: str) -> str:
        """A user of the journal who has to give his password; the URL of the journal with it."""
        rules = self._data / "pg_hba.conf"
        rules.write_text(f"local all {user} scram-sha-256\n{rules.read_text()}")
        self.run("SELECT pg_reload_conf()")
        self.run(f"CREATE ROLE {user} LOGIN SUPERUSER PASSWORD '{password}'")
        return f"postgresql+psycopg://{user}:{password}@/journal?host={self.base}"


class PostgresLine(Line):
    """The command line on a host with a journal in PostgreSQL. No URI: qemu:///system."""

    url = ""
    more: Mapping[str, str] = {}

    def environment(self, point: str = "", suspended_start: bool | None = None) -> dict[str, str]:
        return {**super().environment(point, suspended_start), "BLOCKFERRY_JOURNAL": self.url, **self.more}

    def stories(self) -> str:
        return ""


@contextmanager
def postgres() -> Iterator[Postgres]:
    """A running one with an empty database `journal`; skipped where PostgreSQL is not installed."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        pytest.skip("PostgreSQL's initdb is not installed")
    base = Path(tempfile.mkdtemp(prefix="bf-pg-", dir="/dev/shm"))  # a socket's path has 107 characters at most
    server = Postgres(base, Path(found[-1]).parent)
    try:
        server.start()
        server.run("CREATE DATABASE journal", database="postgres")
        yield server
    finally:
        server.stop()
        shutil.rmtree(base)
