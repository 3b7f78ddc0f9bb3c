"""`watch`, `cancel` and `speed`: acting on a move that runs."""

from __future__ import annotations

import click

from blockferry.cli import describe, display, drive, follow, ports, types
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.errors import MoveCancelled, UsageError
from blockferry.model.record import Outcome
from blockferry.model.summary import MoveSummary
from blockferry.units import format_rate


@click.command(cls=Command, examples=("blockferry watch 3f2a",))
@click.argument("move_id", metavar="ID", type=types.MoveId(ended=True))
@pass_app
def watch(app: App, move_id: str) -> None:
    """Follow a move until its end.

    The exit status is the one that `move` would have had. Ctrl-C ends the watching, not the move. A move that
    nobody runs goes on in the background.
    """
    service = app.service(tend=False)
    follow.tell_end(app, follow.follow(app, service, move_id, display.for_app(app)))


@click.command(cls=Command, examples=("blockferry cancel 3f2a", "blockferry cancel 3f2a --no-wait"))
@click.argument("move_id", metavar="ID", type=types.MoveId())
@click.option("--wait/--no-wait", default=True, help="Wait until it is cancelled; the default.")
@pass_app
def cancel(app: App, move_id: str, wait: bool) -> None:
    """Cancel a move; VM stays on its old disks.

    The copies at the destination are removed. Possible until the switch; after it the move goes on to its end, and
    this command says so.
    """
    service = app.service(tend=False)
    before, _ = service.show(move_id)
    if before.finished is not None:
        _tell(app, before)
        return
    summary = service.cancel(before.id)
    if wait:
        _tell(app, _to_the_end(app, service, summary))
        return
    if not summary.owner_alive:
        service.spawn(summary.id)
    if app.json:
        app.out.document("cancel", move=describe.move_json(summary))
    else:
        app.out.line(
            f"Move {summary.id} of {summary.plan.vm} will be cancelled; `blockferry watch {summary.id}` follows it."
        )


def _to_the_end(app: App, service: ports.Service, summary: MoveSummary) -> MoveSummary:
    """Follow the one who runs the move; run it here when nobody does."""
    show = display.for_app(app)
    if summary.owner_alive:
        return follow.follow(app, service, summary.id, show)
    try:
        show.start(summary)
        return drive.drive(app, service, summary, show)
    except MoveCancelled:
        return service.show(summary.id)[0]
    finally:
        show.close()


def _tell(app: App, summary: MoveSummary) -> None:
    """Say what holds now; raises UsageError when the move went through, and MoveFailed when it failed."""
    if summary.record.outcome is Outcome.CANCELLED:
        if app.json:
            app.out.document("cancel", move=describe.move_json(summary))
        else:
            vm = summary.plan.vm
            app.out.line(f"Move {summary.id} was cancelled. {vm} is on its old disks, untouched.")
        return
    if summary.record.following:
        if app.json:
            app.out.document("cancel", move=describe.move_json(summary))
        else:
            app.out.line(f"Move {summary.id} is over. {summary.plan.vm} was moved; see `blockferry show {summary.id}`.")
        return
    describe.conclude(summary)
    raise UsageError(
        f"Move {summary.id} cannot be cancelled any more: {summary.plan.vm} has been moved to "
        f"{describe.destination(summary.plan)}.",
        "To go back, move it to where it was.",
    )


@click.command(cls=Command, examples=("blockferry speed 3f2a 50MiB/s", "blockferry speed 3f2a 0"))
@click.argument("move_id", metavar="ID", type=types.MoveId())
@click.argument("rate", type=types.Rate())
@pass_app
def speed(app: App, move_id: str, rate: int) -> None:
    """Change the limit of a running copy.

    RATE (50MiB/s) is for all its disks together; 0 takes the limit away.
    """
    service = app.service()
    summary = service.show(move_id)[0]
    if summary.finished is not None:
        raise UsageError(
            f"Move {summary.id} of {summary.plan.vm} has ended; there is nothing to slow down or speed up."
        )
    summary = service.speed(summary.id, rate)
    if app.json:
        app.out.document("speed", move=describe.move_json(summary))
        return
    limit = f"at most {format_rate(rate)}" if rate else "as fast as it can"
    app.out.line(f"Move {summary.id} of {summary.plan.vm} copies {limit} from now on.")
