"""The moves of a batch on a terminal: a table that stays in place, a row for each VM that goes, and one for all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from blockferry.base.units import format_rate, format_size
from blockferry.cli import describe
from blockferry.cli.output import Out, counted
from blockferry.client import AnyMove, Batch, BatchEnd

NAME = 32
BAR = 24
STYLES = {"moved": "green", "unchanged": "green", "not begun": "yellow", "running": "yellow", "cancelled": "yellow"}
"""Of what became of a VM; all else is bad news."""


class BatchView:
    """Shown from the first `update` on, until `close`."""

    def __init__(self, err: Out) -> None:
        self._err = err
        self._live: Live | None = None
        self._seen: tuple[Batch, tuple[BatchEnd, ...]] | None = None

    def update(self, batch: Batch, ends: tuple[BatchEnd, ...]) -> None:
        """Show these."""
        self._seen = batch, ends
        if self._live is None:
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
        return view(*self._seen, self._err.width) if self._seen is not None else Group()

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Away, while something is asked; the next update shows it again."""
        self.close()
        yield

    def close(self) -> None:
        """Take it away. May be repeated."""
        live, self._live = self._live, None
        if live is not None:
            with contextlib.suppress(OSError):  # the terminal may be gone
                live.stop()


def view(batch: Batch, ends: tuple[BatchEnd, ...], width: int) -> Group:
    """The table for a terminal of `width` columns: VMs that go in the order of the batch, then how many are where."""
    bar = min(BAR, max(4, width - NAME - 60))
    running = {(batch_vm.host, batch_vm.vm): summary for batch_vm, summary in batch.begun}
    ended = {(end.host, end.vm): end for end in ends}
    rows = Table.grid(padding=(0, 2, 0, 0))
    rows.add_column(no_wrap=True, max_width=NAME, overflow="ellipsis")
    for right in (False, False, True, True, True, True):
        rows.add_column(justify="right" if right else "left", no_wrap=True)
    waiting = 0
    for batch_vm in batch.going:
        key = batch_vm.host, batch_vm.vm
        name = f"{batch_vm.vm} on {batch_vm.host}" if batch_vm.host else batch_vm.vm
        summary, end = running.get(key), ended.get(key)
        waiting += summary is None and end is None
        rows.add_row(Text(name, style="bold"), *(_moving(summary, bar) if summary is not None else _still(end)))
    return Group(rows, _in_all(batch, ends, waiting))


def _moving(summary: AnyMove, bar: int) -> tuple[Text | ProgressBar, ...]:
    progress = summary.progress
    done, total = min(progress.done, progress.total), progress.total
    return (
        Text(progress.phase),
        ProgressBar(total=max(total, 1), completed=done if total else 0, width=bar),
        Text(describe.percent(done, total) if total else ""),
        Text(f"{format_size(done)} of {format_size(total)}" if total else ""),
        Text(format_rate(progress.rate) if progress.rate and done < total else ""),
        Text(describe.time_left(progress.seconds_left) if progress.seconds_left is not None else ""),
    )


def _still(end: BatchEnd | None) -> tuple[Text | ProgressBar, ...]:
    """A VM whose move is over, or not begun yet."""
    if end is None:
        return Text("waits", style="dim"), Text(""), Text(""), Text(""), Text(""), Text("")
    return Text(end.state, style=STYLES.get(end.state, "bold red")), *(Text("") for _ in range(5))


def _in_all(batch: Batch, ends: tuple[BatchEnd, ...], waiting: int) -> Text:
    moved = sum(end.state in ("moved", "unchanged") for end in ends)
    told = [f"{moved} of {counted(len(batch.vms), 'VM')} moved", f"{len(batch.running)} under way"]
    told += [f"{waiting} waiting"] if waiting else []
    rate = sum(summary.progress.rate for summary in batch.running)
    told += [format_rate(rate)] if rate else []
    return Text(", ".join(told), style="dim")
