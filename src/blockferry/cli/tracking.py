"""`cbt` and `changes`: changed-block tracking. What it promises: docs/changed-blocks-tracking.md."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.text import Text

from blockferry.base.errors import UsageError
from blockferry.base.units import format_size, format_time
from blockferry.cli.app import App, pass_app
from blockferry.cli.command import Command, Commands
from blockferry.cli.output import Cell, Column, counted
from blockferry.cli.types import VmName
from blockferry.client import MOST_POINTS, Changes, Point, PointStatus, TrackingStatus

_DISKS = click.option(
    "--disk", "disks", multiple=True, metavar="DISK", help="Only this disk (vda); may be given several times."
)
_KEEP = click.option(
    "--keep", type=click.IntRange(1, MOST_POINTS), metavar="N", help="Drop the oldest points, so that N are left."
)


@click.group(cls=Commands, examples=("blockferry cbt enable web01", "blockferry cbt status web01"))
def cbt() -> None:
    """Changed-block tracking: points, since which `changes` can tell what a VM has written.

    A point is a libvirt checkpoint: a bitmap in the disk's qcow2 image that QEMU keeps up. What else can happen to an
    image is noted at the point, so that `changes` refuses to answer when a change could have been missed.
    """


@cbt.command(cls=Command, examples=("blockferry cbt enable web01", "blockferry cbt enable web01 --disk vda"))
@click.argument("vm", metavar="VM", type=VmName())
@_DISKS
@pass_app
def enable(app: App, vm: str, disks: tuple[str, ...]) -> None:
    """Begin to track, with a first point; nothing to do if there is a good one.

    All disks that hold data, or those named; one that cannot be tracked is refused by name. The VM must run.
    """
    made = app.client().enable_tracking(vm, disks)
    _tell_point(app, vm, made.point, new=made.new)


@cbt.command(cls=Command, examples=("blockferry cbt disable web01",))
@click.argument("vm", metavar="VM", type=VmName())
@pass_app
def disable(app: App, vm: str) -> None:
    """Drop all points that blockferry has made of VM. Checkpoints of others stay."""
    _tell_dropped(app, app.client().drop_points(vm, (), everything=True))


@cbt.command(cls=Command, examples=("blockferry cbt status web01", "blockferry cbt status web01 --json"))
@click.argument("vm", metavar="VM", type=VmName())
@pass_app
def status(app: App, vm: str) -> None:
    """List the points of VM, and say of each whether the changes since then can be told."""
    tracking_status = app.client().tracking(vm)
    if app.json:
        app.out.document("tracking", tracking=tracking_status)
        return
    _tell_status(app, tracking_status)


@cbt.command(cls=Command, examples=("blockferry cbt point web01", "blockferry cbt point web01 --name monday --keep 7"))
@click.argument("vm", metavar="VM", type=VmName())
@_DISKS
@click.option("--name", "id", metavar="ID", help="The point's name; otherwise one is made up.")
@_KEEP
@pass_app
def point(app: App, vm: str, disks: tuple[str, ...], id: str | None, keep: int | None) -> None:
    """Make a new point. All disks at one instant; the VM must run."""
    _tell_point(app, vm, app.client().make_point(vm, disks, name=id, keep=keep), new=True)


@cbt.command(cls=Command, examples=("blockferry cbt drop web01 bf-3f2a91c0",))
@click.argument("vm", metavar="VM", type=VmName())
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@pass_app
def drop(app: App, vm: str, ids: tuple[str, ...]) -> None:
    """Drop points, with their bitmaps. Others' checkpoints, too, if they are named."""
    _tell_dropped(app, app.client().drop_points(vm, ids, everything=False))


@click.command(
    cls=Command,
    examples=(
        "blockferry changes web01 --since bf-3f2a91c0",
        "blockferry changes web01 --disk vda --since monday --mark tuesday --json",
    ),
)
@click.argument("vm", metavar="VM", type=VmName())
@click.option("--since", required=True, metavar="ID", help="The point; `blockferry cbt status VM` lists them.")
@_DISKS
@click.option(
    "--mark", is_flag=False, flag_value="", metavar="[ID]", help="Make a new point at the instant of the answer."
)
@_KEEP
@click.option(
    "--accept-power-cycles",
    is_flag=True,
    help="Answer also if the VM was off since then: you know that nobody but QEMU has written to its images.",
)
@pass_app
def changes(
    app: App,
    vm: str,
    since: str,
    disks: tuple[str, ...],
    mark: str | None,
    keep: int | None,
    *,
    accept_power_cycles: bool,
) -> None:
    """Tell which areas of VM's disks have changed since a point.

    Every byte that differs from what it was at the point lies in an area; an area may hold bytes that are the same
    (64 KiB is the grain). If a change could have been missed there is no list: TRACKING_LOST, exit status 12.
    """
    if keep is not None and mark is None:
        raise UsageError("--keep goes with --mark.", "Only a new point makes old ones go.")
    changes = app.client().changes(vm, since, disks, mark=mark, keep=keep, accept_power_cycles=accept_power_cycles)
    if app.json:
        app.out.document("changes", changes=changes)
        return
    _tell_changes(app, changes)


def _tell_point(app: App, vm: str, made: Point, *, new: bool) -> None:
    if app.json:
        app.out.document("point", vm=vm, id=made.id, created=made.created, disks=made.targets, made=new)
        return
    what = "made" if new else "is there already, and good"
    app.out.line(made.id)
    app.err.line(f"Point {made.id} of {vm} ({', '.join(made.targets)}) {what}.")


def _tell_dropped(app: App, ids: Sequence[str]) -> None:
    if app.json:
        app.out.document("dropped", dropped=ids)
        return
    for one in ids:
        app.out.line(f"{one} was dropped.")
    if not ids:
        app.err.line("There was no point.")


def _tell_status(app: App, tracking_status: TrackingStatus) -> None:
    for target, why in tracking_status.untrackable.items():
        app.err.line(f"{target} cannot be tracked: {why}.")
    if not tracking_status.points:
        app.err.line(f"{tracking_status.vm} has no point: its changes are not tracked.")
        return
    columns = [
        Column("POINT", fold=True),
        Column("MADE"),
        Column("DISK"),
        Column("CHANGED", right=True),
        Column("STATE", fold=True),
    ]
    app.out.table(columns, [row for point in tracking_status.points for row in _rows(point)])


def _rows(point_status: PointStatus) -> list[Sequence[Cell]]:
    rows: list[Sequence[Cell]] = []
    for disk in point_status.disks:
        state = Text("good", style="green") if disk.good else Text(f"lost: {disk.why}", style="yellow")
        changed = format_size(disk.changed) if disk.good and disk.changed is not None else None
        rows.append([point_status.id, format_time(point_status.created), disk.target, changed, state])
    return rows


def _tell_changes(app: App, changes: Changes) -> None:
    rows = [
        [disk.target, str(area.start), str(area.length)]
        for disk in changes.disks
        for area in disk.areas
    ]  # fmt: skip
    if rows:
        app.out.table([Column("DISK"), Column("START", right=True), Column("LENGTH", right=True)], rows)
    for disk in changes.disks:
        share = f"{format_size(disk.changed)} of {format_size(disk.size)} in {counted(len(disk.areas), 'area')}"
        app.err.line(f"{disk.target}: {share} changed since {changes.since} ({format_time(changes.since_created)}).")
    if changes.until is not None:
        app.err.line(f"Point {changes.until} was made at that instant.")
