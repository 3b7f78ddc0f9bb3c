"""`orphans`: what earlier moves left, or keep on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import click
from rich.text import Text

from blockferry.base.errors import Interrupted, StillInUse, UsageError
from blockferry.base.units import format_size, format_time
from blockferry.cli import display
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.output import Cell, Column, counted
from blockferry.client import Client, Orphan, Orphans


@click.command(
    cls=Command,
    examples=(
        "blockferry orphans",
        "blockferry orphans --remove /srv/ssd/web01/web01.qcow2",
        "blockferry orphans --remove-all --yes",
    ),
)
@click.option("--remove", "paths", metavar="PATH", multiple=True, help="Remove this one; may be repeated.")
@click.option("--remove-all", is_flag=True, help="Remove all that nothing uses; what is kept on purpose stays.")
@click.option("--abandoned", is_flag=True, help="Other journals whose moves made things here are gone for good.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_app
def orphans(app: App, paths: tuple[str, ...], *, remove_all: bool, abandoned: bool, yes: bool) -> None:
    """List (or remove) what earlier moves left.

    On datastores and on VMs, and whose it is; of all configured hosts, unless --host names one (one that is down is
    named, and not waited for). Also what is kept on purpose: old disks (`quarantine` has them) and
    broken copies that the next move goes on from (kind partial; --remove takes them away, --remove-all does not).
    Before anything is removed it is proven once more that nothing uses it. What a move of another journal made may be
    a copy under way: it stays, unless you say with --abandoned that no such journal is left.
    """
    if paths and remove_all:
        raise UsageError("--remove and --remove-all contradict each other.", "Give one of them.")
    if abandoned and not paths and not remove_all:
        raise UsageError("--abandoned removes nothing by itself.", "Give --remove PATH or --remove-all with it.")
    with display.waiting(app, "Looking for what earlier moves left"):
        client = app.client()
        searched = client.orphans()
    for sentence in searched.unsearched:
        app.err.line(f"warning: {sentence}")
    if not paths and not remove_all:
        _list(app, searched)
        return
    found = searched.left
    if abandoned:
        found = tuple(replace(orphan, removable=orphan.removable or orphan.foreign) for orphan in found)
    chosen = _by_path(found, paths) if paths else tuple(orphan for orphan in found if _unwanted(orphan))
    if chosen and not yes:
        _confirm(app, chosen)
    _remove(app, client, chosen, abandoned=abandoned)


def _list(app: App, searched: Orphans) -> None:
    found = searched.left
    if app.json:
        app.out.document("orphans", orphans=found, unsearched=searched.unsearched)
        return
    if not found:
        where = " where could be looked" if searched.unsearched else ""
        app.err.line(f"Nothing is left of earlier moves{where}.")
        return
    with_hosts = any(orphan.host for orphan in found)
    columns = [
        *([Column("HOST")] if with_hosts else []),
        Column("KIND"),
        Column("VM", fold=True),
        Column("MOVE"),
        Column("SIZE", right=True),
        Column("UNUSED"),
        Column("EXPIRES", fold=True),
        Column("PATH", fold=True),
    ]
    if not app.out.pretty:
        rows = [(*_row(orphan, with_hosts=with_hosts), orphan.why) for orphan in found]
        app.out.table([*columns, Column("WHY")], rows)
        return
    app.out.table(columns, [_row(orphan, with_hosts=with_hosts) for orphan in found])
    app.out.line()
    for orphan in found:
        app.out.line(Text.assemble((orphan.path, "bold"), f": {orphan.why}"))


def _row(orphan: Orphan, *, with_hosts: bool) -> Sequence[Cell]:
    return (
        *((orphan.host,) if with_hosts else ()),
        orphan.kind,
        orphan.vm,
        orphan.move,
        format_size(orphan.size),
        Text("yes", style="green") if orphan.removable else Text("no", style="yellow"),
        format_time(orphan.expires) if orphan.expires is not None else None,
        orphan.path,
    )


def _unwanted(orphan: Orphan) -> bool:
    """What `--remove-all` takes."""
    return orphan.removable and not orphan.on_purpose


def _by_path(found: tuple[Orphan, ...], paths: tuple[str, ...]) -> tuple[Orphan, ...]:
    """The orphans of these paths. Raises UsageError when one is none, or is in use."""
    known = {orphan.path: orphan for orphan in found}
    for path in paths:
        hosts = [orphan.host for orphan in found if orphan.path == path]
        if len(hosts) > 1:
            raise UsageError(
                f"{path} is left on {' and on '.join(hosts)}. Nothing was removed.",
                f"Name the host: `blockferry --host {hosts[0]} orphans --remove {path}`.",
            )
        if path not in known:
            # No other path is suggested: a name that is merely alike may be a file that somebody needs.
            raise UsageError(
                f"{path} is not left from a move. Nothing was removed.", "`blockferry orphans` lists them."
            )
        if not known[path].removable:
            raise UsageError(f"{path} is not removed: {known[path].why}", "Nothing was removed.")
        if known[path].kind == "source":
            raise UsageError(f"{path} is in quarantine.", f"`blockferry quarantine purge --now {path}` removes it.")
    return tuple(known[path] for path in dict.fromkeys(paths))


def _confirm(app: App, chosen: tuple[Orphan, ...]) -> None:
    if not app.interactive:
        raise UsageError("There is no terminal to ask at.", "Add --yes to remove without a question.")
    for orphan in chosen:
        where = f" on {orphan.host}" if orphan.host else ""
        app.err.line(f"{orphan.path}{where} ({format_size(orphan.size)}): {orphan.why}")
    size = format_size(sum(orphan.size for orphan in chosen))
    if not click.confirm(f"Remove {counted(len(chosen), 'object')} ({size})?", err=True):
        raise Interrupted("Nothing was removed.")


def _remove(app: App, client: Client, chosen: tuple[Orphan, ...], *, abandoned: bool) -> None:
    """One that has to stay after all is told, and keeps none of the others from going."""
    done = []
    for orphan in chosen:
        try:
            gone, sentence = True, client.remove_orphan(orphan, abandoned=abandoned)
        except StillInUse as error:
            gone, sentence = False, error.sentence
        done.append({"path": orphan.path, "host": orphan.host, "gone": gone, "text": sentence})
        if not app.json:
            app.out.line(sentence)
    if app.json:
        app.out.document("removed", removed=done)
    elif not done:
        app.out.line("There is nothing to remove.")
    if not all(one["gone"] for one in done):
        raise click.exceptions.Exit(StillInUse.exit_status)
