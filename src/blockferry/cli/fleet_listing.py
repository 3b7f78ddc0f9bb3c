"""`hosts`: the configured hosts, and what is known of each."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import click
from rich.text import Text

from blockferry.base.units import format_duration, format_size
from blockferry.cli import display
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.output import Cell, Column, counted
from blockferry.client import HostListing, HostState

STYLES = {HostState.UP: "green", HostState.DOWN: "red", HostState.ASKED: "yellow"}


@click.command(cls=Command, examples=("blockferry hosts", "blockferry hosts --json"))
@pass_app
def hosts(app: App) -> None:
    """List the configured hosts: who is up, load, memory, datastores, VMs.

    All are asked at the same time, for 10 seconds at most. A host that is down is shown with what was last known of it,
    and how old that is. Hosts are listed in blockferry.toml (docs/configuration.md); without any, the one host is
    shown.
    """
    with display.waiting(app, "Asking the hosts"):
        listings = app.client(tend=False).hosts()
    if app.json:
        app.out.document("hosts", hosts=listings)
        return
    columns = (
        Column("HOST"),
        Column("ADDRESS", fold=True),
        Column("STATE"),
        Column("LIBVIRT"),
        Column("QEMU"),
        Column("LOAD", right=True),
        Column("CPUS", right=True),
        Column("MEMORY FREE", right=True),
        Column("DATASTORES", fold=True),
        Column("VMS", right=True),
        Column("SEEN", right=True),
    )
    app.out.table(columns, [_row(one, time.time()) for one in listings])
    for one in listings:
        if one.problem:
            app.err.note(f"{one.name} is {one.state.value}: {one.problem}")
        if one.also:
            names = ", ".join(one.also)
            app.err.note(f"{names} and {one.name} are one host (UUID {one.figures.uuid if one.figures else '?'})")
    down = sum(one.state is not HostState.UP for one in listings)
    if down and app.out.pretty:
        app.err.note(f"{counted(down, 'host')} not up; what is shown of them is as old as SEEN says")


def _row(one: HostListing, now: float) -> list[Cell]:
    state = Text(one.state.value, style=STYLES[one.state])
    address = urlsplit(one.uri).hostname or one.uri
    seen = "never" if one.seen is None else "now" if one.state is HostState.UP else _age(now - one.seen)
    known = one.figures
    if known is None:
        return [one.name, address, state, None, None, None, None, None, None, None, seen]
    return [
        one.name,
        address,
        state,
        known.libvirt,
        known.qemu,
        None if known.load is None else f"{known.load:.2f}",
        str(known.cpus),
        None if known.memory_free is None else f"{format_size(known.memory_free)} of {format_size(known.memory)}",
        ", ".join(store.name if store.active else f"{store.name} (inactive)" for store in known.datastores),
        f"{known.running}/{known.vms}",
        seen,
    ]


def _age(seconds: float) -> str:
    return f"{format_duration(max(0.0, seconds))} ago"
