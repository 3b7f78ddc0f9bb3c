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
    app.out.table(columns, [_row(listing, time.time()) for listing in listings])
    for listing in listings:
        if listing.problem:
            app.err.note(f"{listing.name} is {listing.state.value}: {listing.problem}")
        if listing.also:
            names = ", ".join(listing.also)
            app.err.note(
                f"{names} and {listing.name} are one host (UUID {listing.figures.uuid if listing.figures else '?'})"
            )
    down = sum(listing.state is not HostState.UP for listing in listings)
    if down and app.out.pretty:
        app.err.note(f"{counted(down, 'host')} not up; what is shown of them is as old as SEEN says")


def _row(host_listing: HostListing, now: float) -> list[Cell]:
    state = Text(host_listing.state.value, style=STYLES[host_listing.state])
    address = urlsplit(host_listing.uri).hostname or host_listing.uri
    seen = (
        "never"
        if host_listing.seen is None
        else "now"
        if host_listing.state is HostState.UP
        else _age(now - host_listing.seen)
    )
    known = host_listing.figures
    if known is None:
        return [host_listing.name, address, state, None, None, None, None, None, None, None, seen]
    return [
        host_listing.name,
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
