"""The journal as one running move uses it: what may be missed while it is away, and what may not.

The record has to be written, or the loop stops and waits (jobs/loop.py). Lines of the story are kept until they can
be told, the progress is only shown, and the user's wishes are as last read: a journal that is away for a moment breaks
off no copy. All that only as long as the lease holds: after it another process may run the move.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from blockferry.base.errors import JournalFailed
from blockferry.storage_move.record import Record, Wanted
from blockferry.storage_move.summary import MoveSummary, Progress
from blockferry.store import Journal, Lease, LeaseKeeper

MAX_LINES = 1000

log = logging.getLogger(__name__)


@dataclass
class Lifeline:
    """`shown` is given the newest summary; `stop` is set when this process shall leave the move."""

    journal: Journal
    lease: Lease
    keeper: LeaseKeeper
    shown: Callable[[MoveSummary], None]
    stop: threading.Event
    latest: MoveSummary
    _wishes: Record | None = None
    _untold: list[tuple[str, str]] = field(default_factory=list)
    _telling: threading.Lock = field(default_factory=threading.Lock)

    def read(self) -> Record:
        """The record with the user's wishes. Raises JournalFailed."""
        self._wishes = self.journal.read(self.lease.move)
        return self._wishes

    def should_stop(self) -> bool:
        """Whether a long effect has to end: it is to be cancelled, or another process may run the move by now."""
        if self.stop.is_set() or self.keeper.lost.is_set():
            return True
        return self._wanted().wanted is Wanted.CANCEL or not self.keeper.holds

    def bandwidth(self) -> int:
        return self._wanted().bandwidth

    def _wanted(self) -> Record:
        try:
            return self.read()
        except JournalFailed:
            if self._wishes is None or not self.keeper.holds:
                raise
            return self._wishes

    def tell(self, kind: str, text: str) -> None:
        """A line of the story; while the journal is away it is kept, and told later."""
        log.log(_LEVELS.get(kind, logging.INFO), "move %s: %s", self.lease.move, text)
        with self._telling:
            self._untold = [*self._untold[-MAX_LINES:], (kind, text)]
            try:
                while self._untold:
                    self.journal.event(self.lease.move, *self._untold[0])
                    del self._untold[0]
            except JournalFailed as error:
                if not error.passing:
                    raise

    def publish(self, progress: Progress) -> None:
        try:
            self.journal.progress(self.lease, progress)
            self.latest = self.journal.get(self.lease.move)
        except JournalFailed as error:
            if not error.passing:
                raise
            return
        self.shown(self.latest)

    def away(self, text: str) -> None:
        """Show that the journal is away."""
        self.shown(replace(self.latest, progress=replace(self.latest.progress, note=text)))


_LEVELS = {"warning": logging.WARNING, "error": logging.ERROR}
