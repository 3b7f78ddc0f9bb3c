"""A running move as people and programs see it: live on a terminal, lines in a log, JSON lines."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from blockferry.base.units import format_duration, format_rate, format_size
from blockferry.cli import describe, words
from blockferry.cli.app import App
from blockferry.cli.output import Out
from blockferry.client import AnyMove, Event, HostMoveProgress, Progress, Wanted, to_json

LINE_EVERY_S = 10.0
TOLD = ("warning", "error")  # the kinds of events that people are told while a move runs


class Display(Protocol):
    """Shows one move. Writing may raise OSError when the terminal is gone; `close` never does."""

    def start(self, summary: AnyMove) -> None: ...
    def update(self, summary: AnyMove) -> None: ...
    def event(self, event: Event) -> None: ...
    def say(self, text: str) -> None:
        """A note about this command, not about the move."""
        ...

    def aside(self) -> contextlib.AbstractContextManager[None]:
        """The terminal is free for a question meanwhile."""
        ...

    def close(self) -> None: ...


def for_app(app: App) -> Display:
    if app.json:
        return JsonLines(app.out, app.err)
    return LiveView(app.err) if app.err.is_terminal else Lines(app.err)


def waiting(app: App, text: str, *, log_too: bool = False) -> contextlib.AbstractContextManager[object]:
    """Show on a terminal, from the first moment on, that the command works; with `log_too` also in a log."""
    if app.json or not app.err.is_terminal:
        if log_too and not app.json:
            app.err.line(text)
        return contextlib.nullcontext()
    return app.err.console.status(text)


class JsonLines:
    """One JSON document per line on standard output: the start, then progress and events."""

    def __init__(self, out: Out, err: Out) -> None:
        self._out = out
        self._err = err
        self._last: Progress | HostMoveProgress | None = None

    def start(self, summary: AnyMove) -> None:
        self._out.document("started", move=to_json(summary))

    def update(self, summary: AnyMove) -> None:
        seen = replace(summary.progress, updated=0.0)
        if seen != self._last:
            self._last = seen
            self._out.document(
                "progress",
                id=summary.id,
                vm=summary.plan.vm,
                state=summary.state,
                progress=to_json(summary.progress),
            )

    def event(self, event: Event) -> None:
        self._out.document("event", event=event)

    def say(self, text: str) -> None:
        self._err.note(text)

    def aside(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None:
        pass


class Lines:
    """A line at each change of phase and every few seconds: for logs and mail."""

    def __init__(self, err: Out) -> None:
        self._err = err
        self._phase: str | None = None
        self._last_s = 0.0

    def start(self, summary: AnyMove) -> None:
        self._err.line(words.starting(summary))

    def update(self, summary: AnyMove) -> None:
        now_s = time.monotonic()
        if summary.progress.phase == self._phase and now_s - self._last_s < LINE_EVERY_S:
            return
        self._phase, self._last_s = summary.progress.phase, now_s
        self._err.line(f"move {summary.id} of {summary.plan.vm}: {words.of(summary).progress(summary.progress)}")

    def event(self, event: Event) -> None:
        if event.kind in TOLD:
            self._err.line(f"{event.kind}: {event.text}")

    def say(self, text: str) -> None:
        self._err.line(text)

    def aside(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def close(self) -> None:
        pass


class LiveView:
    """A table that stays in place on a terminal: a row for each disk and one for all."""

    def __init__(self, err: Out) -> None:
        self._err = err
        self._live: Live | None = None
        self._summary: AnyMove | None = None

    def start(self, summary: AnyMove) -> None:
        self._err.line(words.starting(summary))
        self._begin()

    def _begin(self) -> None:
        self._live = Live(
            get_renderable=self._render,
            console=self._err.console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def _render(self) -> Group:
        return view(self._summary, self._err.width) if self._summary else Group()

    def update(self, summary: AnyMove) -> None:
        self._summary = summary
        if self._live is None:
            self._begin()

    def event(self, event: Event) -> None:
        if event.kind in TOLD:
            self._err.line(Text(f"{event.kind}: {event.text}", style=describe.EVENT_STYLES[event.kind]))

    def say(self, text: str) -> None:
        self._err.line(text)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        self.close()  # the next update shows it again
        yield

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                live.stop()


def view(summary: AnyMove, width: int) -> Group:
    """The live table for a terminal of `width` columns."""
    progress = summary.progress
    parts: list[Text | Table] = [_status(summary)]
    rows = Table.grid(padding=(0, 2, 0, 0))
    for right in (False, False, False, True, True, True, True):
        rows.add_column(justify="right" if right else "left", no_wrap=True)
    bar = min(40, max(6, width - 71))
    told = words.of(summary)
    disks = told.rows(progress)
    for disk in disks:
        rows.add_row(*_row(disk.target, disk.phase, disk.done, disk.total, disk.rate, disk.seconds_left, bar))
    if len(disks) > 1:
        rows.add_row(*_row("in all", "", progress.done, progress.total, progress.rate, progress.seconds_left, bar))
    parts.append(rows)
    parts.extend(Text(line, style="dim") for line in told.below(progress))
    return Group(*parts)


def _status(summary: AnyMove) -> Text:
    elapsed_s = max(0.0, time.time() - summary.created)
    line = Text.assemble((summary.progress.phase, "bold"), f", {format_duration(elapsed_s)}")
    if summary.record.wanted is Wanted.CANCEL:
        line.append(", cancelling", style="yellow")
    if summary.progress.note:
        line.append(f": {summary.progress.note}")
    if pace := words.of(summary).pace(summary.progress):
        line.append(f"; speed {pace}", style="dim")
    return line


def _row(
    name: str, phase: str, done: int, total: int, rate: float, seconds_left: float | None, bar: int
) -> tuple[Text | ProgressBar, ...]:
    whole = f"{format_size(done)} of {format_size(total)}" if total else ""
    return (
        Text(name, style="bold"),
        Text(phase),
        ProgressBar(total=max(total, 1), completed=min(done, total) if total else 0, width=bar),
        Text(describe.percent(done, total) if total else ""),
        Text(whole),
        Text(format_rate(rate) if rate and done < total else ""),
        Text(describe.time_left(seconds_left) if seconds_left is not None else ""),
    )
