"""Following a move that another process runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from blockferry.base.errors import Interrupted, JournalFailed, MoveParked
from blockferry.cli import describe, display, ports
from blockferry.cli.app import App
from blockferry.storage_move.summary import Event, MoveSummary

SPAWN_AGAIN_S = 15.0  # a background process that was started gets so long to claim the move
STORY_EVERY_S = 2.0


class Story:
    """Tells the display the events of a running move, each once."""

    def __init__(self, service: ports.Service, move: str, show: display.Display) -> None:
        self._service = service
        self._move = move
        self._show = show
        self._told = 0
        self._phase: str | None = None
        self._looked_s = float("-inf")

    def tell(self, summary: MoveSummary) -> None:
        """Look into the story at each change of phase, and now and then."""
        now_s = time.monotonic()
        if summary.progress.phase == self._phase and now_s - self._looked_s < STORY_EVERY_S:
            return
        self._phase, self._looked_s = summary.progress.phase, now_s
        self.tell_new(self._service.show(self._move)[1])

    def tell_new(self, events: tuple[Event, ...]) -> None:
        for event in events[self._told :]:
            self._show.event(event)
        self._told = len(events)


def follow(
    app: App,
    service: ports.Service,
    move: str,
    show: display.Display,
    until: Callable[[MoveSummary], bool] = lambda _: False,
) -> MoveSummary:
    """Show a move until its end, or `until` this is true of it; its summary then, whatever the outcome.

    A move that nobody runs is given to a background process. Raises MoveParked, MoveNotFound, and Interrupted
    on Ctrl-C, which does not touch the move.
    """
    summary, events = service.show(move)
    story = Story(service, summary.id, show)
    spawned_s = float("-inf")
    told = ""
    try:
        if summary.finished is None and summary.state != "waiting":
            show.start(summary)
        while True:
            if summary.finished is not None or summary.state == "waiting" or until(summary):
                return summary
            story.tell_new(events)
            show.update(summary)
            if summary.parked is not None:
                raise MoveParked(summary.id, summary.plan.vm, summary.parked)
            try:
                # Not while the journal is away: then it is not known whether somebody runs the move by now.
                if not told and summary.state == "interrupted" and time.monotonic() - spawned_s > SPAWN_AGAIN_S:
                    spawned_s = time.monotonic()
                    service.spawn(summary.id)
                    show.say(f"Nobody ran move {summary.id}; it goes on in the background.")
                time.sleep(app.poll_s)
                summary, events = service.show(summary.id)
                told = ""
            except JournalFailed as error:
                if not error.passing:
                    raise
                if error.sentence != told:
                    told = error.sentence
                    show.say(f"{told} The move goes on without it; waiting for it.")
    except KeyboardInterrupt:
        raise Interrupted(
            f"Move {summary.id} of {summary.plan.vm} goes on; `blockferry watch {summary.id}` follows it again."
        ) from None
    finally:
        show.close()


def tell_end(app: App, summary: MoveSummary) -> None:
    """Print how a move ended; raises MoveFailed or MoveCancelled unless it went through."""
    describe.conclude(summary)
    if app.json:
        app.out.document("report", changed=True, move=describe.move_json(summary))
    elif summary.report is not None:
        describe.report(app.out, summary)
    else:
        app.out.line(describe.headline(summary))
