"""`check`: every reason for and against a move, and the plan. Nothing is touched."""

from __future__ import annotations

from typing import Any

import click
from rich.text import Text

from blockferry.base.errors import Refused
from blockferry.base.units import format_duration, format_size
from blockferry.cli import describe, display, words
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.output import Column, counted
from blockferry.cli.request_options import LOOKING, request_options, to_request
from blockferry.client import CheckResult, HostCheckResult, Severity, to_json


@click.command(
    cls=Command, examples=("blockferry check web01 --to ssd", "blockferry check web01 --to-host kvm2 --to ssd")
)
@request_options
@pass_app
def check(app: App, /, **options: Any) -> None:
    """Say whether VM can be moved, and how.

    To another datastore, or with --to-host to another host. All reasons for and against, and the plan with times and
    space. Nothing is touched. Exit status 0: it can be done, or is done already; 4: it would be refused. Like -WhatIf
    in PowerCLI.
    """
    request = to_request(**options)
    with display.waiting(app, LOOKING):
        result = app.client().check(request)
    tell(app, result)


def tell(app: App, result: CheckResult | HostCheckResult) -> None:
    """Print a check, or its document. Raises Exit with the status of a refused move when it would be."""
    if app.json:
        app.out.document("check", refused=result.refused, changed=not result.nothing_to_do, check=to_json(result))
    elif result.nothing_to_do:
        describe.nothing_to_do(app.out, result.vm)
    else:
        _print(app, result)
    if result.refused:
        raise click.exceptions.Exit(Refused.exit_status)


def _print(app: App, result: CheckResult | HostCheckResult) -> None:
    out = app.out
    out.line(_verdict(result))
    describe.findings(out, result.findings)
    if result.plan is None:
        return
    out.heading("Plan")
    words.of(result).plan(out, result.plan, result.estimates)
    if result.space:
        out.heading("Space at the destination")
        columns = (
            Column("DATASTORE", fold=True),
            *(Column(title, right=True) for title in ("CAPACITY", "FREE BEFORE", "FREE AFTER", "COMMITTED AFTER")),
        )
        rows = [
            (
                space.datastore,
                format_size(space.capacity),
                format_size(space.available_before),
                Text(format_size(space.available_after), style="red" if space.available_after < 0 else ""),
                Text(
                    format_size(space.committed_after), style="yellow" if space.committed_after > space.capacity else ""
                ),
            )
            for space in result.space
        ]
        out.table(columns, rows, indent=2)


def _verdict(result: CheckResult | HostCheckResult) -> Text:
    errors = sum(finding.is_error for finding in result.findings)
    warnings = sum(finding.severity is Severity.WARNING for finding in result.findings)
    if result.refused:
        return Text(f"{result.vm} cannot be moved: {counted(errors, 'reason')} against it.", style="bold red")
    assert result.plan is not None
    sentence = f"{result.vm} can be moved to {result.plan.destination}: "
    sentence += f"{counted(len(result.plan.disks), 'disk')}, {format_size(result.plan.copy_bytes)} to copy"
    sentence += f", about {format_duration(result.seconds)}" if result.seconds is not None else ""
    sentence += f"; {counted(warnings, 'warning')}" if warnings else ""
    return Text(sentence + ".", style="bold green")
