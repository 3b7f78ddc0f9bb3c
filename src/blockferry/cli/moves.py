"""`moves`, `history` and `show`: what the journal knows."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.text import Text

from blockferry.base.units import format_duration, format_rate, format_size, format_time
from blockferry.cli import describe, types, words
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.output import Cell, Column, counted
from blockferry.client import AnyMove, Client, to_json


@click.command(cls=Command, examples=("blockferry moves",))
@pass_app
def moves(app: App) -> None:
    """List the moves that are under way."""
    client = app.client()
    summaries = client.moves()
    if app.json:
        app.out.document("moves", moves=[to_json(summary) for summary in summaries])
        return
    if not summaries:
        app.err.line("No move is under way." + _missing_journal(client))
        return
    several = len({summary.plan.host or summary.plan.uri for summary in summaries}) > 1
    columns = (
        Column("ID"),
        *([Column("HOST", fold=True)] if several else []),
        Column("VM", fold=True),
        Column("TO", fold=True),
        Column("STATE"),
        Column("PHASE", fold=True),
        Column("DONE", right=True),
        Column("OF", right=True),
        Column("RATE", right=True),
        Column("LEFT", right=True),
    )
    app.out.table(columns, [_running_row(summary, with_host=several) for summary in summaries])
    for summary in summaries:
        if summary.parked is not None:
            app.err.note(f"{summary.id} stands still: {summary.parked}")
        elif summary.state == "waiting":
            app.err.note(f"{summary.id} waits: {summary.plan.vm} was moved, {describe.FOLLOWS}")


def _missing_journal(client: Client) -> str:
    """A mistyped --journal shows by this."""
    return f" There is no journal at {client.missing_journal} yet." if client.missing_journal else ""


def _running_row(summary: AnyMove, *, with_host: bool) -> Sequence[Cell]:
    progress = summary.progress
    left = progress.seconds_left
    return (
        summary.id,
        *([describe.host(summary.plan)] if with_host else []),
        summary.plan.vm,
        summary.plan.destination,
        words.state(summary),
        progress.phase,
        format_size(progress.done),
        format_size(progress.total),
        format_rate(progress.rate) if progress.rate else None,
        describe.time_left(left).removesuffix(" left") if left is not None else None,
    )


@click.command(cls=Command, examples=("blockferry history --limit 50",))
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=20, show_default=True, help="The latest so many.")
@pass_app
def history(app: App, limit: int) -> None:
    """List the moves that have ended, the latest first."""
    client = app.client()
    summaries = client.history(limit)
    if app.json:
        app.out.document("history", moves=[to_json(summary) for summary in summaries])
        return
    if not summaries:
        app.err.line("No move has ended yet." + _missing_journal(client))
        return
    columns = (
        Column("ID"),
        Column("VM", fold=True),
        Column("TO", fold=True),
        Column("RESULT"),
        Column("STARTED", fold=True),
        Column("TOOK", right=True),
        Column("COPIED", right=True),
        Column("STALL", right=True),
    )
    app.out.table(columns, [_ended_row(summary) for summary in summaries])


def _ended_row(summary: AnyMove) -> Sequence[Cell]:
    report = summary.report
    return (
        summary.id,
        summary.plan.vm,
        summary.plan.destination,
        words.state(summary),
        format_time(summary.created),
        format_duration(report.seconds) if report else None,
        format_size(words.of(summary).copied(report)) if report else None,
        format_duration(report.switch_stall_s) if report and report.switch_stall_s is not None else None,
    )


@click.command(cls=Command, examples=("blockferry show web01", "blockferry show 3f2a"))
@click.argument("move", metavar="[VM|ID]", required=False, type=types.MoveName(ended=True))
@pass_app
def show(app: App, move: str | None) -> None:
    """Tell the whole story of a move.

    Named by its VM (the one under way, else the latest) or its id; without a name the only one that is under way. The
    plan, what happened when, the progress, the report.
    """
    client = app.client()
    summary, events = client.show(client.find(move).latest.id)
    if app.json:
        app.out.document("move", move=to_json(summary), events=events)
        return
    out = app.out
    out.line(Text.assemble((f"Move {summary.id} of {summary.plan.vm}: ", "bold"), words.state(summary)))
    pairs: list[tuple[str, Cell]] = [("host", describe.host(summary.plan)), ("started", format_time(summary.created))]
    if summary.finished is not None:
        pairs.append(("ended", format_time(summary.finished)))
    else:
        pairs.append(("run by", summary.owner if summary.owner_alive else "nobody at present"))
        pairs.append(("progress", words.of(summary).progress(summary.progress)))
        if summary.record.bandwidth != summary.plan.bandwidth:
            limit = summary.record.bandwidth
            pairs.append(("limit now", format_rate(limit) if limit else "none"))
    if summary.parked is not None:
        pairs.append(("stands still", summary.parked))
    if summary.state == "waiting":
        pairs.append(("waits", describe.FOLLOWS))
    if summary.record.failure is not None:
        pairs.append(("failure", summary.record.failure))
    if summary.deaths:
        pairs.append(("died", f"the process that ran it died {counted(summary.deaths, 'time')}"))
    out.details(pairs)
    out.heading("Plan")
    words.of(summary).plan(out, summary.plan)
    out.heading("Story")
    describe.story(out, events)
    if summary.report is not None:
        out.heading("Report")
        words.report(out, summary)
