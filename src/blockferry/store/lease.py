"""The right to act on a move: a lease with an end, and a token that fences off whoever was taken over."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol

from blockferry.base import clock
from blockferry.base.errors import BlockferryError, LeaseLost
from blockferry.store.process_identity import Owner

TTL_S = 20.0
"""Seconds for which a lease holds without being renewed. A frozen manager is taken over after this."""


class LeaseBook(Protocol):
    """Where leases are kept: the Journal."""

    def renew(self, lease: Lease, ttl_s: float) -> None: ...

    def release(self, lease: Lease) -> None: ...


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act on a move, as long as `token` is the newest. Made by `Journal.claim`."""

    move: str
    token: int
    owner: Owner
    book: LeaseBook = field(repr=False, compare=False)
    ttl_s: float = TTL_S
    since_s: float = field(default_factory=clock.seconds, compare=False)  # base/clock.py: not later than the claim

    def renew(self) -> None:
        """Another `ttl_s` seconds from now, by the database's clock. Raises LeaseLost, JournalFailed."""
        self.book.renew(self, self.ttl_s)

    def release(self) -> None:
        """Nobody runs the move any more; this lease is void. Harmless when it was lost. Raises JournalFailed."""
        self.book.release(self)


class LeaseKeeper:
    """Renews a lease in the background while the context is open; `lost` is set when it was taken away."""

    def __init__(self, book: LeaseBook, lease: Lease, ttl_s: float | None = None) -> None:
        self._book, self._lease, self._ttl_s = book, lease, ttl_s or lease.ttl_s
        self.lost = threading.Event()
        self._loss: LeaseLost | None = None
        self._renewed_s = lease.since_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"lease-{lease.move}", daemon=True)

    def __enter__(self) -> LeaseKeeper:
        self._thread.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(timeout=5)

    def check(self) -> None:
        """To be called before each act. Raises LeaseLost when somebody else has taken over, JournalFailed.

        The clock goes on while a process is frozen: one that wakes late asks before it acts.
        """
        if not self.lost.is_set() and clock.seconds() - self._renewed_s > self._ttl_s / 2:
            self._renew()
        if self.lost.is_set():
            raise LeaseLost(self._lease.move, self._loss.owner if self._loss else "another process")

    @property
    def holds(self) -> bool:
        """Whether nobody else can have taken over yet: it was renewed within its time."""
        return not self.lost.is_set() and clock.seconds() - self._renewed_s < self._ttl_s

    def regain(self) -> None:
        """Renew it now. Raises LeaseLost when somebody else has taken over meanwhile, JournalFailed."""
        if not self.lost.is_set():
            self._renew()
        self.check()

    def _renew(self) -> None:
        began_s = clock.seconds()
        try:
            self._book.renew(self._lease, self._ttl_s)
        except LeaseLost as loss:
            self._loss = loss
            self.lost.set()
        else:
            self._renewed_s = began_s

    def _keep(self) -> None:
        while not self._stop.wait(self._ttl_s / 4):
            try:
                self._renew()
            except BlockferryError:
                continue  # the database is away for a moment; `check` and the fence protect us meanwhile
            if self.lost.is_set():
                return
