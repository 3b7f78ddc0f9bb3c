"""For the journal's tests: plans, and child processes to race with and to kill."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import journal_child
import sqlalchemy as sa

from blockferry.base.units import GiB
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.destination.plan import DestinationImage
from blockferry.storage_move.disk_plan import DiskPlan, DiskSizes, SourceImage
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.request import Method, SourcePolicy

_processes = multiprocessing.get_context("forkserver")  # processes of their own, without a second of imports each
# not journal_child: it is not on its path yet
_processes.set_forkserver_preload(["blockferry.jobs.handle", "blockferry.storage_move.move_journal", "pytest"])


DUMPS = Path(__file__).parent / "data"


def changing(url: str) -> Any:
    """A transaction on a journal's database, past all that the journal itself would do."""
    return sa.create_engine(url, poolclass=sa.NullPool).begin()


def load_dump(url: str, version: str) -> None:
    """Make the journal that this version has left, as the database's own tool has dumped it."""
    kind = url.partition(":")[0].partition("+")[0]
    text = (DUMPS / f"journal-{version}.{kind}.sql").read_text()
    if kind == "sqlite":
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, mode=0o700)
        with contextlib.closing(sqlite3.connect(path)) as raw:
            raw.executescript(text)
    else:
        lines = [line for line in text.splitlines() if not line.startswith("\\")]  # psql's own words
        with changing(url) as connection:
            connection.execution_options(no_parameters=True).exec_driver_sql("\n".join(lines))


def disk_plan(target: str = "vda", datastore: str = "ssd", allocation: int = GiB) -> DiskPlan:
    return DiskPlan(
        target=target,
        source=SourceImage(path=f"/old-san/{target}.raw", format="raw", kind="file", datastore="old-san"),
        dest=DestinationImage(path=f"/{datastore}/{target}.raw", format="raw", datastore=datastore),
        sizes=DiskSizes(virtual=4 * GiB, allocation=allocation),
    )


def make_plan(move: str, uuid: str | None = None, disks: tuple[DiskPlan, ...] = ()) -> Plan:
    return Plan(
        move=move,
        uri="qemu:///system",
        vm=f"vm-{move}",
        uuid=uuid or f"uuid-of-{move}",
        method=Method.MIRROR,
        method_reason="for the test",
        disks=disks,
        home=None,
        source=SourcePolicy(),
        domain=DomainPlan(persistent=True, was=PowerState.RUNNING),
    )


class Child:
    """A process of its own that does what journal_child.py calls `role`, and answers word by word."""

    def __init__(self, role: str, *args: object) -> None:
        self._talk, theirs = _processes.Pipe()
        self.process = _processes.Process(target=journal_child.ROLES[role], args=(theirs, *args), daemon=True)
        self.process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def talk(self) -> Connection:
        return self._talk

    def say(self, word: object = "go") -> None:
        self._talk.send(word)

    def hear(self, timeout_s: float = 120.0) -> Any:
        """What it says next; None when it has died."""
        assert self._talk.poll(timeout_s), "the child says nothing"
        try:
            return self._talk.recv()
        except (EOFError, OSError):  # OSError: in the middle of a word
            return None

    def close(self) -> None:
        if self.process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it ends this very moment
                os.kill(self.pid, signal.SIGCONT)
                self.process.kill()
        self.process.join()
        self.process.close()
        self._talk.close()


class Children:
    """Starts children; all are gone at the end of the test."""

    def __init__(self) -> None:
        self.all: list[Child] = []

    def __call__(self, role: str, *args: object) -> Child:
        self.all.append(Child(role, *args))
        return self.all[-1]
