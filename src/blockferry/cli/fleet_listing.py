"""`hosts`: the configured hosts, and what is known of each."""

from __future__ import annotations

import time
from urllib.parse import urlsplit

import click
from rich.text import Text

from blockferry.base.errors import Unhealthy
from blockferry.base.units import format_duration, format_size
from blockferry.cli import display, doctor, types
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command, Commands
from blockferry.cli.output import Cell, Column, counted
from blockferry.client import HostListing, HostState

STYLES = {HostState.UP: "green", HostState.DOWN: "red", HostState.ASKED: "yellow"}


@click.group(
    cls=Commands,
    invoke_without_command=True,
    examples=("blockferry hosts", "blockferry hosts --json", "blockferry hosts prepare kvm2"),
)
@pass_app
@click.pass_context
def hosts(ctx: click.Context, app: App) -> None:
    """List the configured hosts: who is up, load, memory, datastores, VMs.

    All are asked at the same time, for 10 seconds at most. A host that is down is shown with what was last known of it,
    and how old that is. Hosts are listed in blockferry.toml (docs/configuration.md); without any, the one host is
    shown.
    """
    if ctx.invoked_subcommand is None:
        _list(app)


@hosts.command(cls=Command, examples=("blockferry hosts prepare kvm2", "blockferry hosts prepare kvm2 --json"))
@click.argument("name", metavar="HOST", type=types.HostName())
@pass_app
def prepare(app: App, name: str) -> None:
    """Test whether HOST can take VMs from the other hosts, and print what mends it.

    The host itself (versions, programs, KVM, datastores), and between it and each other configured host, in both
    directions: libvirt's way to the other libvirt, the ports (a listener stands there for a moment), names, clocks, TLS
    certificates and who has signed them, UUIDs that are there twice. Nothing is changed: the commands at the end are
    for you to paste. Exit status 0: no errors; 10: there are errors.
    """
    with display.waiting(app, f"Looking {name} over, and the ways to it"):
        preparation = app.client(tend=False).prepare_host(name)
    if app.json:
        app.out.document("preparation", healthy=preparation.healthy, preparation=preparation)
    else:
        doctor.print_checks(app, preparation.uri, preparation.checks)
        if preparation.commands:
            app.out.line()
            app.out.line("To mend it, on this machine:" if app.out.pretty else "# to mend it, on this machine:")
        for command in preparation.commands:
            app.out.unwrapped(command)
    if not preparation.healthy:
        raise click.exceptions.Exit(Unhealthy.exit_status)


def _list(app: App) -> None:
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
