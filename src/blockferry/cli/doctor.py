"""`doctor`: whether a host is fit for moves."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.text import Text

from blockferry.base.errors import Unhealthy
from blockferry.cli import display
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.output import Column, counted
from blockferry.client import HostCheck, Level

STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.ERROR: "bold red"}


@click.command(cls=Command, examples=("blockferry doctor", "blockferry --uri qemu+ssh://kvm2/system doctor --json"))
@pass_app
def doctor(app: App) -> None:
    """Look a host over: is it fit for moves.

    Versions and their known defects, libvirt and permissions, programs, datastores, clock, journal, what earlier
    moves left, and whether the guard can be started. Each line is ok, a warning or an error, with what to do.
    Nothing is touched, and interrupted moves are not taken up. Exit status 0: no errors (there may be warnings);
    10: there are errors.
    """
    with display.waiting(app, "Looking the host over"):
        diagnosis = app.client(tend=False).diagnose()
    if app.json:
        app.out.document("doctor", uri=diagnosis.uri, healthy=diagnosis.healthy, checks=diagnosis.checks)
    else:
        print_checks(app, diagnosis.uri, diagnosis.checks)
    if not diagnosis.healthy:
        raise click.exceptions.Exit(Unhealthy.exit_status)


def print_checks(app: App, uri: str, checks: Sequence[HostCheck]) -> None:
    """Print a table of checks, and on standard error how many are no good."""
    if app.out.pretty:
        columns = (Column("", least=7), Column("AREA"), Column("", fold=True))
        rows = [(Text(check.level.value, style=STYLES[check.level]), check.area, _sentence(check)) for check in checks]
        app.out.table(columns, rows)
        app.out.line()
    else:
        wide = [Column(title) for title in ("LEVEL", "AREA", "FOUND", "WHAT TO DO")]
        app.out.table(wide, [(check.level.value, check.area, check.text, check.remedy) for check in checks])
    warnings, errors = (sum(check.level is level for check in checks) for level in (Level.WARNING, Level.ERROR))
    verdict = f"{uri}: {counted(errors, 'error')}, {counted(warnings, 'warning')}."
    app.err.line(Text(verdict, style=STYLES[Level.ERROR if errors else Level.WARNING if warnings else Level.OK]))


def _sentence(host_check: HostCheck) -> Text:
    text = Text(host_check.text)
    return (
        text
        if not host_check.remedy or host_check.level is Level.OK
        else text.append(f"\n{host_check.remedy}", style="dim")
    )
