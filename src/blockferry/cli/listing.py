"""`vms` and `datastores`: what is there."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator

import click
from rich.text import Text

from blockferry.base.units import format_size
from blockferry.cli import display
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command
from blockferry.cli.output import Cell, Column, counted
from blockferry.client import DatastoreListing, DiskListing, PowerState, VmListing

WIDE = 120  # columns from which whole paths are shown
NAME_LEAST = 16  # characters of a VM's name that stay together
STATE_STYLES = {
    PowerState.RUNNING: "green",
    PowerState.PAUSED: "yellow",
    PowerState.CRASHED: "red",
    PowerState.OFF: "dim",
    PowerState.ABSENT: "dim",
}


@click.command(cls=Command, examples=("blockferry vms", "blockferry --uri qemu+ssh://kvm2/system vms"))
@pass_app
def vms(app: App) -> None:
    """List VMs with state, disks, where they live, sizes.

    Like `virsh list --all` and `virsh domblklist` for all VMs at once. Where hosts are configured, of all of them; a
    host that is down is named and not waited for.
    """
    with display.waiting(app, "Looking at the VMs"):
        listings = app.client().vms()
    if app.json:
        app.out.document("vms", uri=app.client().uri, vms=listings)
        return
    if not listings:
        app.err.line(f"There are no VMs on {app.client().uri}.")
        return
    wide = app.out.width >= WIDE or not app.out.pretty
    with_hosts = any(listing.host for listing in listings)
    columns = (
        *((Column("HOST"),) if with_hosts else ()),
        Column("VM", fold=True, least=min(NAME_LEAST, max(len(listing.vm.name) for listing in listings))),
        Column("STATE"),
        Column("DISK"),
        Column("DATASTORE", fold=True),
        Column("FORMAT"),
        Column("VIRTUAL", right=True),
        Column("ALLOCATED", right=True),
        Column("PATH" if wide else "FILE", fold=True),
    )
    rows: list[list[Cell]] = []
    for listing in listings:
        of_vm = _vm_rows(listing, pretty=app.out.pretty, wide=wide)
        rows += [[listing.host, *row] for row in of_vm] if with_hosts else of_vm
    app.out.table(columns, rows)
    for listing in listings:
        for disk in listing.disks:
            if disk.problem:
                app.err.note(f"{listing.vm.name} {disk.target}: {disk.problem}")


def _vm_rows(listing: VmListing, *, pretty: bool, wide: bool) -> Iterator[list[Cell]]:
    """A row for each disk; on a terminal the VM's name stands only in the first."""
    state = listing.vm.state.value
    if listing.move:
        state = f"{state}, moving ({listing.move})" if wide else "moving"
    name: Cell = listing.vm.name
    shown: Cell = Text(state, style=STATE_STYLES[listing.vm.state])
    disks = [disk for disk in listing.disks if disk.path or disk.device == "disk"]
    if not disks:
        yield [name, shown, None, None, None, None, None, None]
    for at, disk in enumerate(disks):
        yield [*(("", "") if pretty and at else (name, shown)), *_disk_cells(disk, wide=wide)]


def _disk_cells(disk: DiskListing, *, wide: bool) -> list[Cell]:
    path = disk.path or ""
    if not wide and disk.datastore:
        path = posixpath.basename(path)
    return [
        disk.target if disk.device == "disk" else f"{disk.target} ({disk.device})",
        disk.datastore,
        disk.format if disk.layers <= 1 else f"{disk.format} x{disk.layers}",
        _size(disk.virtual_size),
        _size(disk.allocation),
        path,
    ]


@click.command(cls=Command, examples=("blockferry datastores", "blockferry --host kvm2 datastores"))
@pass_app
def datastores(app: App) -> None:
    """List datastores (storage pools) with their space.

    Where hosts are configured, of all of them, a shared one with each of its hosts; a host that is down is named and
    not waited for; --host names one. Committed is what the images there would take if all thin ones grew to their full
    size.
    """
    with display.waiting(app, "Looking at the datastores"):
        listings = app.client().datastores()
    if app.json:
        app.out.document("datastores", uri=app.client().uri, datastores=listings)
        return
    if not listings:
        app.err.line(f"There are no datastores (storage pools) on {app.client().uri}.")
        return
    with_hosts = any(listing.host for listing in listings)
    columns = (
        *((Column("HOST"),) if with_hosts else ()),
        Column("DATASTORE", fold=True),
        Column("KIND"),
        Column("STATE"),
        Column("CAPACITY", right=True),
        Column("FREE", right=True),
        Column("COMMITTED", right=True),
        Column("VMS", right=True),
        Column("PATH", fold=True),
    )
    rows = [[*([listing.host] if with_hosts else []), *_datastore_row(listing)] for listing in listings]
    app.out.table(columns, rows)
    for listing in listings:
        if listing.problem:
            app.err.note(f"{_named(listing)}: {listing.problem}")
    over = [_named(listing) for listing in listings if _overcommitted(listing)]
    if over and app.out.pretty:
        app.err.note(f"{counted(len(over), 'datastore')} overcommitted: {', '.join(over)}")


def _named(listing: DatastoreListing) -> str:
    return f"{listing.datastore.name} on {listing.host}" if listing.host else listing.datastore.name


def _datastore_row(listing: DatastoreListing) -> list[Cell]:
    store = listing.datastore
    if not store.active:
        return [store.name, store.kind, Text("inactive", style="yellow"), None, None, None, None, store.path]
    committed = _size(listing.committed)
    return [
        store.name,
        store.kind,
        Text("active", style="green"),
        format_size(store.capacity),
        format_size(store.available),
        Text(committed, style="yellow") if committed and _overcommitted(listing) else committed,
        str(len(listing.vms)),
        store.path,
    ]


def _overcommitted(listing: DatastoreListing) -> bool:
    return listing.committed is not None and 0 < listing.datastore.capacity < listing.committed


def _size(size: int | None) -> str | None:
    return None if size is None else format_size(size)
