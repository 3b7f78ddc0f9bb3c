"""The database in the guest: SQLite in WAL mode with synchronous=FULL, each commit reported (native/db.c)."""

from __future__ import annotations

from dataclasses import dataclass

from lab.channel import Channel
from lab.judge import Judge
from lab.process import wait_until


@dataclass(frozen=True, slots=True)
class DatabaseVerdict:
    """What was found against what was reported."""

    committed: int
    """Highest row whose commit was reported before the check."""
    highest: int
    rows: int
    integrity: str
    """SQLite's integrity_check; "ok" when right."""

    @property
    def ok(self) -> bool:
        return self.integrity == "ok" and self.highest == self.rows and self.highest >= self.committed

    def __str__(self) -> str:
        return f"{self.committed} rows reported, {self.rows} found up to {self.highest}, integrity: {self.integrity}"


class Database:
    """The workload of one guest; needs a disk made with `fs=`."""

    def __init__(self, channel: Channel, judge: Judge) -> None:
        self._channel = channel
        self._judge = judge

    def start(self, target: str = "vda", *, rate: int = 50) -> None:
        """Commit `rate` rows a second (0: flat out), one transaction each, counting on from the last.

        Asked again while it runs it only takes the new rate.
        """
        self._channel.must(f"db-start /dev/{target} rate={rate}")

    def wait_commits(self, count: int, *, timeout: float = 120) -> None:
        """Until so many more commits were reported than now."""
        wanted = self._judge.ledger().committed + count
        what = f"{count} more commits"
        wait_until(lambda: self._judge.ledger().committed >= wanted, what, timeout=timeout, step=0.05)

    def stop(self) -> None:
        """Raises GuestRefused with SQLite's words when a commit had failed."""
        self._channel.must("db-stop", timeout=120)

    def check(self) -> DatabaseVerdict:
        """May be asked while it runs, and after a power cut (mounting replays the journal, opening replays the WAL)."""
        committed = self._judge.ledger().committed
        first, *verdict = self._channel.must("db-check", timeout=300).splitlines()
        highest, rows = map(int, first.split())
        return DatabaseVerdict(committed, highest, rows, "\n".join(verdict))
