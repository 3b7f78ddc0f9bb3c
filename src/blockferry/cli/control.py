"""`watch`, `cancel` and `speed`: acting on a move that runs."""

from __future__ import annotations

import click

from blockferry.base import units
from blockferry.base.errors import MoveCancelled, TooLateToCancel, UsageError
from blockferry.cli import display, drive, types, watch_move, words
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.client import AnyMove, Client, Outcome, conclude, to_json


@click.command(cls=Command, examples=("blockferry watch web01", "blockferry watch"))
@click.argument("move", metavar="[VM|ID]", required=False, type=types.MoveName(ended=True))
@pass_app
def watch(app: App, move: str | None) -> None:
    """Follow a move until its end.

    Named by its VM or its id; without a name the only one that is under way. The exit status is the one that `move`
    would have had. Ctrl-C ends the watching, not the move. A move that nobody runs goes on in the background.
    """
    client = app.client(tend=False)
    watch_move.tell_end(app, watch_move.watch(app, client, client.find(move).latest.id, display.for_app(app)))


@click.command(cls=Command, examples=("blockferry cancel web01", "blockferry cancel web01 --no-wait"))
@click.argument("move", metavar="[VM|ID]", required=False, type=types.MoveName())
@click.option("--wait/--no-wait", default=True, help="Wait until it is cancelled; the default.")
@click.option(
    "--here",
    is_flag=True,
    help="The move was planned on this host by an older blockferry, which noted no host, and its VM is gone.",
)
@pass_app
def cancel(app: App, move: str | None, *, wait: bool, here: bool) -> None:
    """Cancel a move; VM stays on its old disks.

    Named by its VM or its id; without a name the only one that is under way. The copies at the destination are
    removed. Possible until the switch; after it the move goes on to its end, and this command says so at once (exit
    status 4). A comparison (--verify) is ended even then; the old disks are kept.
    """
    client = app.client(tend=False)
    before = client.find(move).latest
    if before.finished is not None:
        _tell(app, before)
        return
    try:
        summary = client.cancel(before.id, here=here)
    except TooLateToCancel:
        if before.state == "interrupted":
            client.start(before.id)  # nobody runs it: it goes on to its end in the background
        raise
    if wait:
        _tell(app, _to_the_end(app, client, summary))
        return
    if not summary.owner_alive:
        client.start(summary.id)
    if app.json:
        app.out.document("cancel", move=to_json(summary))
    else:
        app.out.line(f"{words.of(summary).cancelling(summary)} `blockferry watch {summary.id}` follows it.")


def _to_the_end(app: App, client: Client, summary: AnyMove) -> AnyMove:
    """Follow the one who runs the move; run it here when nobody does."""
    show = display.for_app(app)
    if summary.owner_alive:
        return watch_move.watch(app, client, summary.id, show, until=_nothing_left_to_end)
    try:
        show.start(summary)
        return drive.drive(app, client, summary, show)
    except MoveCancelled:
        return client.show(summary.id)[0]
    finally:
        show.close()


def _nothing_left_to_end(now: AnyMove) -> bool:
    """Whether the wish came too late; a comparison that it has ended lasts until the move says so at its end."""
    return now.too_late_to_cancel and not words.of(now).comparing(now)


def _tell(app: App, summary: AnyMove) -> None:
    """Say what holds now.

    Raises MoveFailed when the move failed; when it went through NotVerified, if its comparison was ended, or else
    TooLateToCancel.
    """
    if summary.record.outcome is Outcome.CANCELLED:
        if app.json:
            app.out.document("cancel", move=to_json(summary))
        else:
            app.out.line(f"Move {summary.id} was cancelled. {words.of(summary).cancelled(summary)}")
        return
    conclude(summary)
    if words.of(summary).waits(summary):
        if app.json:
            app.out.document("cancel", move=to_json(summary))
        else:
            app.out.line(f"Move {summary.id} is over. {summary.plan.vm} was moved; see `blockferry show {summary.id}`.")
        return
    raise TooLateToCancel(summary.id, summary.plan.vm, summary.plan.destination, summary.kind)


@click.command(cls=Command, examples=("blockferry speed web01 50MiB/s", "blockferry speed 0"))
@click.argument("words", metavar="[VM|ID] RATE", nargs=-1, required=True, type=types.MoveName())
@pass_app
def speed(app: App, words: tuple[str, ...]) -> None:
    """Change the limit of a running copy.

    RATE (50MiB/s) is for all its disks together; 0 takes the limit away. The move is named by its VM or its id;
    without a name it is the only one that is under way.
    """
    if len(words) > 2:
        raise UsageError("Too many words.", "Write it like `blockferry speed web01 50MiB/s`.")
    try:
        rate = units.parse_rate(words[-1])
    except ValueError as error:
        raise UsageError(f"{error}.", "Write it like `blockferry speed web01 50MiB/s`.") from None
    client = app.client()
    summary = client.find(words[0] if len(words) == 2 else None).latest
    if summary.finished is not None:
        raise UsageError(
            f"Move {summary.id} of {summary.plan.vm} has ended; there is nothing to slow down or speed up."
        )
    summary = client.set_speed(summary.id, rate)
    if app.json:
        app.out.document("speed", move=to_json(summary))
        return
    limit = f"at most {units.format_rate(rate)}" if rate else "as fast as it can"
    app.out.line(f"Move {summary.id} of {summary.plan.vm} copies {limit} from now on.")
