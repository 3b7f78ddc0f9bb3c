"""`quarantine`: old disks that are kept for a time; going back to them, and letting them go."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Sequence

import click
from rich.text import Text

from blockferry.base.errors import Interrupted, StillInUse, UsageError
from blockferry.base.units import format_duration, format_size, format_time
from blockferry.cli import display
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command, Commands
from blockferry.cli.output import Cell, Column
from blockferry.client import DiskLoss, KeptFile, Restore


@click.group(cls=Commands, examples=("blockferry quarantine list", "blockferry quarantine restore web01"))
def quarantine() -> None:
    """Old disks that are kept for a time: list, go back to them, let them go.

    `move --keep-source 7d` keeps the old files where they are, and old files that something still needs are kept as
    well. Nothing is removed from quarantine but by `quarantine purge`, also when its time is over.
    """


@quarantine.command("list", cls=Command, examples=("blockferry quarantine list",))
@pass_app
def list_kept(app: App) -> None:
    """List what is kept: why, until when, and what the proof says now.

    On this host, or where hosts are configured and none is named, on all of them.
    """
    with display.waiting(app, "Looking at what is kept"):
        found = app.client().quarantine()
    if app.json:
        app.out.document("quarantine", kept=found)
        return
    if not found:
        app.err.line("Nothing is in quarantine.")
        return
    with_hosts = any(kept_file.host for kept_file in found)
    columns = [
        *([Column("HOST")] if with_hosts else []),
        Column("VM", fold=True),
        Column("SIZE", right=True),
        Column("SINCE"),
        Column("EXPIRES"),
        Column("STATE", fold=True),
        Column("PATH", fold=True),
    ]
    if not app.out.pretty:
        app.out.table(
            [*columns, Column("MOVE"), Column("WHY")],
            [_row(kept_file, wide=True, host=with_hosts) for kept_file in found],
        )
        return
    app.out.table(columns, [_row(kept_file, host=with_hosts) for kept_file in found])
    app.out.line()
    for kept_file in found:
        app.out.line(Text.assemble((kept_file.kept.path, "bold"), f": {kept_file.kept.why}"))


def _row(kept_file: KeptFile, *, wide: bool = False, host: bool = False) -> Sequence[Cell]:
    kept = kept_file.kept
    row: list[Cell] = [
        *([kept_file.host] if host else []),
        kept.vm,
        format_size(kept.size),
        None if kept.since is None else format_time(kept.since),
        "never" if kept.expires is None else format_time(kept.expires),
        _state(kept_file),
        kept.path,
    ]
    return [*row, kept.move, kept.why] if wide else row


def _state(kept_file: KeptFile) -> Text:
    if not kept_file.found:
        return Text("gone", style="red")
    if kept_file.doubt is not None:
        return Text(f"stays: {kept_file.doubt}", style="yellow")
    if kept_file.altered:
        return Text(
            "changed since it was kept" if kept_file.kept.fingerprint else "not known whether changed", style="yellow"
        )
    return Text("expired, nothing needs it" if kept_file.expired else "nothing needs it", style="green")


@quarantine.command(
    cls=Command,
    examples=("blockferry quarantine purge", "blockferry quarantine purge --now /srv/old/vda.raw"),
)
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--now", is_flag=True, help="Remove what is named although its time is not over.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
def purge(app: App, paths: tuple[str, ...], *, now: bool, yes: bool) -> None:
    """Remove what has expired, or what is named.

    Each file only after the proof that nothing needs it; what cannot be proven stays, and the sentence says why. If
    anything that was to go has to stay, the exit status is 7.
    """
    if now and not paths:
        raise UsageError("--now needs the paths that are to go.", "`blockferry quarantine list` shows them.")
    client = app.client()
    going = paths
    if not yes:
        named = {posixpath.normpath(path) for path in paths}
        kept = client.quarantine()
        chosen = [
            kept_file
            for kept_file in kept
            if (posixpath.normpath(kept_file.kept.path) in named if paths else kept_file.expired)
        ]
        if chosen:
            _ask(app, chosen)
        # What was asked about, and nothing that expires meanwhile.
        going = paths or tuple(kept_file.kept.path for kept_file in chosen)
    done = client.purge(going, now=now) if going or yes else ()
    if app.json:
        app.out.document("purged", purged=done)
    else:
        for purged in done:
            app.out.line(purged.text)
        if not done:
            app.out.line("Nothing has expired.")
    if not all(purged.gone for purged in done):
        raise click.exceptions.Exit(StillInUse.exit_status)


def _ask(app: App, chosen: Sequence[KeptFile]) -> None:
    if not app.interactive:
        raise UsageError("There is no terminal to ask at.", "Add --yes to remove without a question.")
    for kept_file in chosen:
        app.err.line(f"{kept_file.kept.path} ({format_size(kept_file.kept.size)}) of {kept_file.kept.vm}")
    if not click.confirm("Remove these for good?", err=True):
        raise Interrupted("Nothing was removed.")


@quarantine.command(
    cls=Command,
    examples=("blockferry quarantine restore web01 --dry-run", "blockferry quarantine restore web01"),
)
@click.argument("what", metavar="VM|PATH")
@click.option("--compare/--no-compare", default=None, help="Compare old and new images; without it only small ones.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and what is lost by it; touch nothing.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
def restore(app: App, what: str, *, compare: bool | None, dry_run: bool, yes: bool) -> None:
    """Point a VM that is off back to its old disks.

    All disks of that move together, and the home's files. What was written since the switch is lost to the VM: it is
    said first, and asked about. The newer files go into quarantine, without an end; the same command goes forward to
    them again.
    """
    client = app.client()
    agreed = client.restorable(what, compare=compare)
    if dry_run:
        if app.json:
            app.out.document("restorable", restorable=agreed, text=losses(agreed))
            return
        for line in losses(agreed):
            app.out.line(line)
        return
    if not yes:
        if not app.interactive:
            raise UsageError("There is no terminal to ask at.", "Add --yes to go back without a question.")
        for line in losses(agreed):
            app.err.line(line)
        if not click.confirm(f"Point {agreed.swap.vm} to the old files?", err=True):
            raise Interrupted("Nothing was touched.")
    done = client.restore(agreed)
    if app.json:
        app.out.document("restored", restored=agreed, text=done)
        return
    for line in (*(losses(agreed) if yes else ()), *done):
        app.out.line(line)


def losses(agreed: Restore) -> list[str]:
    """What going back loses, in sentences."""
    if agreed.done:
        return [f"{agreed.swap.vm} has gone back already; an earlier restore was interrupted before it noted that."]
    lost = f"{agreed.swap.vm} loses everything that it has written since "
    if agreed.since is None:
        lost += "the switch"
    else:
        lost += f"{format_time(agreed.since)} ({format_duration(max(0.0, time.time() - agreed.since))} ago)"
    lines = [f"{lost}; the newer files stay, in quarantine."]
    lines.extend(_loss(loss, agreed.since) for loss in agreed.losses)
    return [*lines, *agreed.notes]


def _loss(disk_loss: DiskLoss, since: float | None) -> str:
    head = f"{disk_loss.target}: {disk_loss.now} -> {disk_loss.kept}:"
    if disk_loss.identical:
        return f"{head} they hold the same; nothing is lost."
    if disk_loss.identical is False:
        at = "" if disk_loss.first_difference is None else f", from byte {disk_loss.first_difference} on"
        return f"{head} they differ{at}."
    if disk_loss.written is not None and since is not None and disk_loss.written <= since:
        return f"{head} not compared; not written to since."
    last = "" if disk_loss.written is None else f"; last written {format_time(disk_loss.written)}"
    return f"{head} not compared (--compare does){last}."
