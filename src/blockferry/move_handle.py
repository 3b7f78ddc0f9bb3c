"""The handle on one move: look at it, follow it, change it. It acts through the client, by the move's ID."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from blockferry.base.errors import JournalFailed, MoveParked, UsageError, WaitTimedOut
from blockferry.base.event import Event
from blockferry.host_move.host_summary import HostMoveProgress, HostMoveSummary
from blockferry.jobs.conclusion import conclude
from blockferry.storage_move.move_options import read_duration_s
from blockferry.storage_move.summary import MoveSummary, Progress

if TYPE_CHECKING:  # the client makes handles, and a handle holds its client
    from blockferry.client import Client

AnyMove = MoveSummary | HostMoveSummary

START_AGAIN_S = 15.0
"""A background process that was started gets so long to claim the move."""


@dataclass(frozen=True, slots=True)
class Update:
    """A move as last seen while it is followed.

    `events`: the whole story so far. `started`: nobody ran the move, and a background process was started just now.
    `away`: why the journal does not answer; the move goes on meanwhile, and the rest is as seen before.
    """

    summary: AnyMove
    events: tuple[Event, ...]
    started: bool = False
    away: str = ""


class Move:
    """A handle on one move. It holds no resource: any number of them, in any process, may look at one move."""

    def __init__(self, client: Client, summary: AnyMove) -> None:
        self._client = client
        self.latest = summary
        """The summary as this handle has seen it last; no method but those below looks again."""

    def __repr__(self) -> str:
        return f"<Move {self.id} of {self.vm}: {self.latest.state}>"

    @property
    def id(self) -> str:
        """The move's ID, as `blockferry moves` shows it."""
        return self.latest.id

    @property
    def vm(self) -> str:
        """The name of the VM."""
        return self.latest.plan.vm

    @property
    def status(self) -> str:
        """The state now, in a word: running, interrupted, waiting, parked, moved, cancelled, failed."""
        return self.summary().state

    def summary(self) -> AnyMove:
        """Look once: return the move as the journal has it now, with its report if it has ended."""
        self.latest = self._client.show(self.id)[0]
        return self.latest

    def progress(self) -> Progress | HostMoveProgress:
        """Look once: return the phase and the bytes of each disk."""
        return self.summary().progress

    def events(self) -> tuple[Event, ...]:
        """Return the move's story so far, oldest first."""
        return self._client.show(self.id)[1]

    def start(self) -> bool:
        """Have a background process run the move, if nobody does; see Client.start."""
        return self._client.start(self.id)

    def cancel(self) -> AnyMove:
        """Ask for a cancellation; `wait` then raises MoveCancelled once all is as before.

        If nobody runs the move, a background process is started, which does it. Raises TooLateToCancel.
        """
        self.latest = self._client.cancel(self.id)
        if self.latest.finished is None and not self.latest.owner_alive:
            self._client.start(self.id)
        return self.latest

    def set_speed(self, bandwidth: str | int) -> AnyMove:
        """Limit the copy to `bandwidth` over all disks ("50MiB/s", or bytes per second), 0 for no limit."""
        self.latest = self._client.set_speed(self.id, bandwidth)
        return self.latest

    def updates(self) -> Iterator[Update]:
        """Look at the move again and again until it has ended or only waits for a power-off of the VM.

        The last update is that of the end. A move that nobody runs is started in the background. Raises MoveParked,
        MoveNotFound.
        """
        started_s = float("-inf")
        away = ""
        self.latest, events = self._client.show(self.id)
        yield Update(self.latest, events)
        while not self.latest.over:
            if self.latest.parked is not None:
                raise MoveParked(self.id, self.vm, self.latest.parked)
            try:
                # Not while the journal is away: then it is not known whether somebody runs the move by now.
                if not away and self.latest.state == "interrupted" and time.monotonic() - started_s > START_AGAIN_S:
                    started_s = time.monotonic()
                    self._client.start(self.id)
                    yield Update(self.latest, events, started=True)
                time.sleep(self._client.poll_s)
                self.latest, events = self._client.show(self.id)
                away = ""
            except JournalFailed as error:
                if not error.passing:
                    raise
                away = error.sentence
            yield Update(self.latest, events, away=away)

    def wait(
        self,
        on_progress: Callable[[Any], None] | None = None,
        timeout: float | str | timedelta | None = None,
    ) -> AnyMove:
        """Wait until the move has ended; return its summary, with the report.

        `on_progress` is called with each new snapshot, in this thread. `timeout`: seconds, or a text with its unit
        ("10min"). A move of which only UEFI variables have yet to follow counts as ended (its state is "waiting").

        Raises MoveCancelled, MoveFailed, MoveParked, NotVerified and CopyDiffers as the move ended; WaitTimedOut
        after `timeout`: the move goes on.
        """
        until_s = None if timeout is None else time.monotonic() + _timeout_s(timeout)
        seen: Progress | HostMoveProgress | None = None
        for update in self.updates():
            if on_progress is not None and update.summary.progress != seen:
                seen = update.summary.progress
                on_progress(seen)
            if not update.summary.over and until_s is not None and time.monotonic() >= until_s:
                raise WaitTimedOut(self.id, self.vm)
        return conclude(self.latest)


def _timeout_s(timeout: float | str | timedelta) -> float:
    if isinstance(timeout, int | float):
        return float(timeout)
    try:
        return read_duration_s(timeout)
    except ValueError as error:
        raise UsageError(f"timeout: {error}.", 'Write it like "10min", or as seconds.') from None
