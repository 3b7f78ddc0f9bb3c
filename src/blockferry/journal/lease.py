"""Who runs a move: an owner, a lease with an end, and a token that fences off whoever was taken over."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from blockferry.errors import BlockferryError, LeaseLost

if TYPE_CHECKING:
    from blockferry.journal.store import Journal

TTL_S = 20.0


@dataclass(frozen=True, slots=True)
class Owner:
    """One process, so exactly that it is not mistaken for a later one with its number."""

    host: str
    boot: str
    pid: int
    started: int  # clock ticks since boot: field 22 of /proc/PID/stat
    user: str

    @classmethod
    def here(cls) -> Owner:
        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
        return cls(socket.gethostname(), _boot(), os.getpid(), _started(os.getpid()) or 0, user)

    @property
    def local(self) -> bool:
        return self.boot == _boot() and self.host == socket.gethostname()

    @property
    def surely_dead(self) -> bool:
        """Whether this was a process of this machine and it is gone."""
        if self.host != socket.gethostname():
            return False
        return self.boot != _boot() or _started(self.pid) != self.started

    def __str__(self) -> str:
        return f"{self.user}@{self.host} pid {self.pid}"


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on a move, as long as `token` is the newest."""

    move: str
    token: int
    owner: Owner


class LeaseKeeper:
    """Renews a lease in the background while the context is open; `lost` is set when it was taken away."""

    def __init__(self, journal: Journal, lease: Lease, ttl_s: float = TTL_S) -> None:
        self._journal, self._lease, self._ttl_s = journal, lease, ttl_s
        self.lost = threading.Event()
        self._renewed_s = time.monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def check(self) -> None:
        """Raises LeaseLost when somebody else has taken over.

        The monotonic clock goes on while a process is frozen: one that wakes late asks before it acts.
        """
        if not self.lost.is_set() and time.monotonic() - self._renewed_s > self._ttl_s / 2:
            self._renew()
        if self.lost.is_set():
            raise LeaseLost(self._lease.move, "another process")

    def _renew(self) -> None:
        now_s = time.monotonic()
        try:
            self._journal.renew(self._lease, self._ttl_s)
        except LeaseLost:
            self.lost.set()
        else:
            self._renewed_s = now_s

    def _keep(self) -> None:
        while not self._stop.wait(self._ttl_s / 4):
            try:
                self._renew()
            except BlockferryError:
                continue  # the database is away for a moment; the fence protects us meanwhile
            if self.lost.is_set():
                return


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _started(pid: int) -> int | None:
    try:
        words = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = words.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])
