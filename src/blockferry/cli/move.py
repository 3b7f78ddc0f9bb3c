"""`move`, `resume`, and the background worker that both may leave a move to."""

from __future__ import annotations

import logging
import sys
from typing import Any

import click

from blockferry.base import log
from blockferry.base.config import Config
from blockferry.base.errors import BlockferryError, Interrupted, Refused, UsageError
from blockferry.cli import check, describe, display, drive, move_all, types, watch_move
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.request_options import LOOKING, batch_options, to_options, to_request
from blockferry.client import PARALLEL, AnyMove, Client, to_json

logger = logging.getLogger(__name__)


@click.command(
    cls=Command,
    examples=(
        "blockferry move web01 --to ssd",
        "blockferry move db01 --to ssd --disk vdb=archive --bandwidth 200MiB/s --keep-source 7d",
        "blockferry move web01 --to ssd --detach",
        "blockferry move web01 --to-host kvm2",
        "blockferry move web01 --to-host kvm2 --to ssd --bandwidth 200MiB/s",
        "blockferry move --all-on kvm1 --to-host kvm2 --to ssd",
        "blockferry move --all-on old-san --to ssd --skip-refused",
    ),
)
@batch_options
@click.option("--detach", is_flag=True, help="Start it, leave it to the background, and return.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, as `check` does; touch nothing.")
@pass_app
def move(
    app: App,
    /,
    *,
    vm: str | None,
    all_on: str | None,
    parallel: int | None,
    skip_refused: bool,
    detach: bool,
    dry_run: bool,
    **options: Any,
) -> None:
    """Move VM, running or off, to another datastore, or to another host.

    Its disks and its home; with --to-host the VM itself, with the disks that the other host does not share. Like
    Storage vMotion and vMotion (Move-VM -Datastore, -Destination). Ctrl-C asks whether to cancel, detach or go
    on. A closed terminal or SIGTERM leaves the move to the background; without a terminal SIGINT cancels it and
    waits.

    With --all-on a host or a datastore is emptied: all VMs are checked first, what cannot go is listed with its
    reasons, and then nothing is begun, unless --skip-refused says so. Each VM is a move of its own, in a process of its
    own. The same command goes on after a break. The exit status is the worst of all.
    """
    if all_on is not None:
        if vm is not None or detach:
            raise UsageError(
                f"--all-on does not go with {vm if vm is not None else '--detach'}.", "Leave one of them out."
            )
        asked = to_options(**options)
        move_all.move_all(app, all_on, asked, parallel=parallel or PARALLEL, skip_refused=skip_refused, dry_run=dry_run)
        return
    if parallel is not None or skip_refused:
        raise UsageError("--parallel and --skip-refused go only with --all-on.", "Leave them out.")
    request = to_request(vm=vm, **options)
    if dry_run:
        with display.waiting(app, LOOKING):
            result = app.client().check(request)
        check.tell(app, result)
        return
    try:
        with display.waiting(app, LOOKING, log_too=True):
            client = app.client()
            summary = client.plan_move(request).latest
    except Refused as refused:
        if refused.codes != ("NOTHING_TO_MOVE",):
            raise
        if app.json:
            app.out.document("unchanged", vm=refused.vm, changed=False)
        else:
            describe.nothing_to_do(app.out, refused.vm)
        return
    if detach:
        _detach(app, client, summary)
    else:
        run_here(app, client, summary)


def run_here(app: App, client: Client, summary: AnyMove) -> None:
    """Drive a move in this process, with its progress, and print its report."""
    show = display.for_app(app)
    try:
        try:
            show.start(summary)
        except OSError:  # whoever was to read this has gone: the move is planned, and goes on
            client.start(summary.id)
            raise Interrupted(
                f"Nobody reads the output. Move {summary.id} of {summary.plan.vm} goes on in the background; "
                f"`blockferry watch {summary.id}` follows it."
            ) from None
        finished = drive.drive(app, client, summary, show)
    finally:
        show.close()
    watch_move.tell_end(app, finished)


def _detach(app: App, client: Client, summary: AnyMove) -> None:
    client.start(summary.id)
    for event in client.show(summary.id)[1]:
        if event.kind == "warning":
            app.err.line(f"warning: {event.text}")
    if app.json:
        app.out.document("started", move=to_json(summary))
    else:
        app.out.line(
            f"Move {summary.id} of {summary.plan.vm} goes on in the background; "
            f"`blockferry watch {summary.id}` follows it."
        )


@click.command(cls=Command, examples=("blockferry resume", "blockferry resume web01"))
@click.argument("name", metavar="[VM|ID]", required=False, type=types.MoveName())
@click.option("--detach", is_flag=True, help="Leave it to the background and return.")
@pass_app
def resume(app: App, name: str | None, *, detach: bool) -> None:
    """Resume interrupted moves.

    With a VM or an id: with this one, which may have been interrupted or stand still (parked). Without: with all that
    nobody runs. One move is run here, with its progress; several go on in the background. Any other command takes up
    interrupted moves, too; one that stands still goes on only here.
    """
    client = app.client(tend=False)
    named = None if name is None else client.find(name).latest
    if named is not None and named.finished is not None:
        app.err.note(f"Move {named.id} of {named.plan.vm} has ended already.")
        watch_move.tell_end(app, named)
        return
    summaries = client.resumable(None if named is None else named.id)
    if len(summaries) == 1 and not detach:
        run_here(app, client, summaries[0])
        return
    for summary in summaries:
        client.start(summary.id)
    if app.json:
        app.out.document("resumed", moves=[to_json(summary) for summary in summaries])
        return
    for summary in summaries:
        app.out.line(
            f"Move {summary.id} of {summary.plan.vm} goes on in the background; "
            f"`blockferry watch {summary.id}` follows it."
        )
    if not summaries:
        app.out.line("No interrupted moves.")


@click.command("run-move", cls=Command, hidden=True)
@click.argument("move_id", metavar="ID")
@click.option("--journal-from-stdin", is_flag=True, help="Read the journal's URL from standard input.")
@pass_app
def run_move(app: App, move_id: str, *, journal_from_stdin: bool) -> None:
    """Run a move in the background: started by the others, not by people."""
    if journal_from_stdin:
        app.journal = sys.stdin.read().strip() or None
    log.to_file(Config.load().log_file or log.default_file())
    try:
        drive.run_in_background(app.client(tend=False), move_id)
    except BlockferryError as error:  # nobody reads this process's standard error
        logger.warning("the worker of move %s ends: %s", move_id, error)
        raise
    except Exception:
        logger.exception("the worker of move %s ends", move_id)
        raise
    finally:
        log.close()
