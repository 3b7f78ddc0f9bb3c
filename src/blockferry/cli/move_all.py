"""`move --all-on`: all VMs of a host, or all that are on a datastore, one after the other or some at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import click
from rich.text import Text

from blockferry.base.errors import BlockferryError
from blockferry.cli import describe, display, drive
from blockferry.cli.app import App
from blockferry.cli.batch_view import STYLES, BatchView
from blockferry.cli.output import Cell, Column, counted
from blockferry.client import AnyMoveOptions, Batch, BatchEnd, BatchVm, to_json, worst_status

QUESTION = "[c]ancel the moves, [d]etach (they go on in the background; no more are begun), [Enter] go on: "


def move_all(app: App, on: str, options: AnyMoveOptions, *, parallel: int, skip_refused: bool, dry_run: bool) -> None:
    """Check all, then move all. Raises Exit with the worst status."""
    with display.waiting(app, f"Looking at the VMs on {on}", log_too=True):
        batch = app.client().plan_all(on, **options)
    _tell_checks(app, on, batch)
    if dry_run or (batch.check_status and not skip_refused):
        if batch.check_status and not dry_run and not app.json:
            app.err.line("Nothing was begun. Remove the reasons above, or move only the others: --skip-refused.")
        raise click.exceptions.Exit(batch.check_status)
    with drive.signals_caught() as signals:
        attendance = _Attendance(app, signals)
        try:
            ends = batch.run(parallel=parallel, on_look=attendance)
        finally:
            attendance.close()
    _tell_ends(app, on, ends)
    raise click.exceptions.Exit(worst_status((*ends, *batch.silent)))


class _Attendance:
    """Shows how far the moves are, and obeys signals: as for one move (docs/commands.md).

    On a terminal a table that stays in place; in a log, lines; with --json, documents.
    """

    def __init__(self, app: App, signals: drive.Signals) -> None:
        self._app, self._signals = app, signals
        self._heard = 0
        self._shows: dict[str, display.Display] = {}
        self._told = 0
        self._table = BatchView(app.err) if app.err.is_terminal and not app.json else None

    def close(self) -> None:
        """Take the table away."""
        if self._table is not None:
            self._table.close()

    def __call__(self, batch: Batch, ends: tuple[BatchEnd, ...]) -> None:
        try:
            self._show(batch, ends)
        except OSError:  # the terminal is gone
            batch.leave()
        if self._signals.leave:
            batch.leave()
        if self._signals.interrupts > self._heard:
            again, self._heard = self._heard > 0, self._signals.interrupts
            self._interrupted(batch, again=again)

    def _show(self, batch: Batch, ends: tuple[BatchEnd, ...]) -> None:
        if self._table is not None:
            self._table.update(batch, ends)
        for summary in batch.running if self._table is None else ():
            if summary.id not in self._shows:
                show = (
                    display.JsonLines(self._app.out, self._app.err) if self._app.json else display.Lines(self._app.err)
                )
                self._shows[summary.id] = show
                show.start(summary)
            self._shows[summary.id].update(summary)
        for end in ends[self._told :]:
            if end.move and not self._app.json:
                self._app.err.line(f"{_named(end)}: {end.state}. {end.text}".rstrip())
        self._told = len(ends)

    def _interrupted(self, batch: Batch, *, again: bool) -> None:
        """Ctrl-C: ask a person; for a program the first one cancels and the second one leaves the moves alone."""
        if not self._app.interactive:
            answer = "d" if again else "c"
        else:
            with self._table.aside() if self._table is not None else contextlib.nullcontext():
                answer = drive.ask(lambda: True, QUESTION)
        if answer == "d":
            batch.leave()
        elif answer == "c":
            self._app.err.line(f"Cancelling {counted(len(batch.running), 'move')}; no more are begun.")
            try:
                batch.cancel()
            except BlockferryError as error:
                self._app.err.line(error.sentence)


def _tell_checks(app: App, on: str, batch: Batch) -> None:
    if app.json:
        vms = [_document(one) for one in batch.vms]
        app.out.document("batch", on=on, refused=bool(batch.check_status), vms=vms, silent=batch.silent)
        return
    rows = [(batch_vm, (batch_vm.vm, _verdict(batch_vm))) for batch_vm in batch.vms]
    _table(app, (Column("VM"), Column("CHECK", fold=True)), rows)
    for one in batch.refused:
        app.out.line(f"{_named(one)} cannot go:")
        if one.error:
            app.out.line(one.error, indent=2)
        describe.findings(app.out, one.reasons)
    for host in batch.silent:
        app.out.line(f"Host {host.host} has not answered; its VMs on {on} are not known:")
        app.out.line(host.error, indent=2)
    if not batch.vms:
        app.out.line(f"There is no VM on {on}{' as far as is known' if batch.silent else ''}.")


def _document(batch_vm: BatchVm) -> dict[str, Any]:
    fields = to_json(batch_vm)
    assert isinstance(fields, dict)
    return {
        **fields,
        "refused": batch_vm.refused,
        "nothing_to_do": batch_vm.nothing_to_do,
        "reasons": to_json(batch_vm.reasons),
    }


def _verdict(batch_vm: BatchVm) -> Text:
    if batch_vm.refused:
        return Text("cannot go", style="bold red")
    if batch_vm.nothing_to_do:
        return Text("is there already", style="green")
    return Text(f"move {batch_vm.move} goes on" if batch_vm.move else "can go", style="green")


def _tell_ends(app: App, on: str, ends: tuple[BatchEnd, ...]) -> None:
    if app.json:
        app.out.document("batch-end", on=on, ends=ends)
        return
    columns = (Column("VM"), Column("STATE"), Column("MOVE"), Column("", fold=True))
    rows = [
        (end, (end.vm, Text(end.state, style=STYLES.get(end.state, "bold red")), end.move, end.text)) for end in ends
    ]
    _table(app, columns, rows)
    moved = sum(end.state in ("moved", "unchanged") for end in ends)
    app.err.line(f"{moved} of {counted(len(ends), 'VM')} on {on} moved.")


def _table(app: App, columns: tuple[Column, ...], rows: Sequence[tuple[BatchVm | BatchEnd, tuple[Cell, ...]]]) -> None:
    """Print a row for each VM, with its host when there are several."""
    if len({row_of.host for row_of, _ in rows}) > 1:
        columns = (Column("HOST"), *columns)
        rows = [(row_of, (row_of.host, *cells)) for row_of, cells in rows]
    app.out.table(columns, [cells for _, cells in rows])


def _named(vm: BatchVm | BatchEnd) -> str:
    return f"{vm.vm} on {vm.host}" if vm.host else vm.vm
