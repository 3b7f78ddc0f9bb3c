"""Watch a move that another process runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from blockferry.base.errors import Interrupted
from blockferry.cli import describe, display, words
from blockferry.cli.app import App
from blockferry.client import AnyMove, Client, Event, conclude, to_json

STORY_EVERY_S = 2.0


class Story:
    """Tells the display the events of a running move, each once."""

    def __init__(self, client: Client, move: str, show: display.Display) -> None:
        self._client = client
        self._move = move
        self._show = show
        self._told = 0
        self._phase: str | None = None
        self._looked_s = float("-inf")

    def tell(self, summary: AnyMove) -> None:
        """Look into the story at each change of phase, and now and then."""
        now_s = time.monotonic()
        if summary.progress.phase == self._phase and now_s - self._looked_s < STORY_EVERY_S:
            return
        self._phase, self._looked_s = summary.progress.phase, now_s
        self.tell_new(self._client.show(self._move)[1])

    def tell_new(self, events: tuple[Event, ...]) -> None:
        for event in events[self._told :]:
            self._show.event(event)
        self._told = len(events)


def watch(
    app: App,
    client: Client,
    move: str,
    show: display.Display,
    until: Callable[[AnyMove], bool] = lambda _: False,
) -> AnyMove:
    """Show a move until its end, or `until` this is true of it; its summary then, whatever the outcome.

    A move that nobody runs is given to a background process. Raises MoveParked, MoveNotFound, and Interrupted
    on Ctrl-C, which does not touch the move.
    """
    followed = client.handle(move)
    story = Story(client, followed.id, show)
    told = ""
    try:
        if not followed.latest.over:
            show.start(followed.latest)
        for update in followed.updates():
            if update.summary.over or until(update.summary):
                break
            if update.started:
                show.say(f"Nobody ran move {followed.id}; it goes on in the background.")
            if update.away and update.away != told:
                show.say(f"{update.away} The move goes on without it; waiting for it.")
            told = update.away
            story.tell_new(update.events)
            show.update(update.summary)
        return followed.latest
    except KeyboardInterrupt:
        raise Interrupted(
            f"Move {followed.id} of {followed.vm} goes on; `blockferry watch {followed.id}` follows it again."
        ) from None
    finally:
        show.close()


def tell_end(app: App, summary: AnyMove) -> None:
    """Print how a move ended; raises MoveFailed or MoveCancelled unless it went through."""
    conclude(summary)
    if app.json:
        app.out.document("report", changed=True, move=to_json(summary))
    elif summary.report is not None:
        words.report(app.out, summary)
    else:
        app.out.line(describe.headline(summary))
