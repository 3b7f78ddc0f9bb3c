"""Changed-block tracking: points, what was noted at them, and whether an answer since one can be vouched for. Pure.

A list of changed areas may be too long, never too short. So the question here is never what has changed, but what
could have escaped QEMU's bitmap since the point; if anything could, there is no list.
See docs/changed-blocks-tracking.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blockferry.base.units import format_size
from blockferry.hosts.inventory import Disk, Image, PowerState, Vm
from blockferry.hosts.tracking_points import NotedDisk, Point, PointNote, Present

MOST_POINTS = 32
"""Points of one VM. Each is a bitmap that QEMU keeps up at every write and saves in the image at power-off."""


@dataclass(frozen=True, slots=True)
class MadePoint:
    """A good point, and whether it was made just now."""

    point: Point
    new: bool


@dataclass(frozen=True, slots=True)
class ChangedArea:
    """Bytes `start` to `start + length` of the disk as the guest sees it."""

    start: int
    length: int


@dataclass(frozen=True, slots=True)
class DiskChanges:
    """Every byte of the disk that differs from what it was at the point lies in one of `areas`, which ascend."""

    target: str
    size: int
    changed: int
    areas: tuple[ChangedArea, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """The answer. `until`: the point that was made at the instant that the answer holds for, if that was asked for."""

    vm: str
    uuid: str
    since: str
    since_created: float
    until: str | None
    at: float
    disks: tuple[DiskChanges, ...]


@dataclass(frozen=True, slots=True)
class DiskTracking:
    """Whether the changes of a disk since a point can be told. `changed`: bytes so far, None while it is off."""

    target: str
    good: bool
    why: str
    changed: int | None = None


@dataclass(frozen=True, slots=True)
class PointStatus:
    id: str
    created: float
    ours: bool
    good: bool
    disks: tuple[DiskTracking, ...]


@dataclass(frozen=True, slots=True)
class TrackingStatus:
    """What `cbt status` tells. `untrackable`: target -> why no point can cover that disk."""

    vm: str
    uuid: str
    state: PowerState
    points: tuple[PointStatus, ...]
    untrackable: dict[str, str]


OFF = "the VM is off; start it to ask (libvirt tells changes of running VMs only)"


def untrackable(disk: Disk, top: Image | None, problem: str | None = None) -> str | None:
    """Why no point can cover this disk, in words that say what to do; None when one can."""
    source = disk.source
    if source is None or source.path is None or source.kind not in ("file", "block"):
        return "it is no file or block device of this host"
    if disk.read_only:
        return "it is read-only, so it never changes"
    if disk.shareable:
        return "it is shareable: what another VM writes to it would not be noticed"
    if disk.transient:
        return "it is transient: its changes are thrown away at power-off"
    if source.format != "qcow2":
        return f"{source.format} images cannot hold the bitmap; `blockferry move VM --format qcow2` makes it a qcow2"
    if top is None:
        return f"its image cannot be read ({problem or 'no reason given'})"
    if top.compat == "0.10":
        return "its qcow2 is of the old version 2; `qemu-img amend -o compat=1.1` while the VM is off makes it new"
    return None


def disks_of(vm: Vm) -> tuple[Disk, ...]:
    """The disks that tracking is about: no CD drives, no floppies."""
    return tuple(disk for disk in vm.disks if disk.device == "disk" and disk.source is not None)


def lost(point: Point, now: Present, target: str, *, power_cycles: bool = False) -> str | None:
    """Why the changes of a disk since a point cannot be vouched for any more; None when they can.

    For a VM that runs and a point that covers the disk. `power_cycles`: the user vouches for what happened to the
    images while the VM was off.
    """
    note = point.note
    if note is None:
        return "somebody else made this checkpoint, and nothing was noted by which a loss could be noticed"
    then, today = note.disk(target), now.disk(target)
    if then is None:
        return "the point does not cover this disk"
    if today is None:
        return "the VM has no such disk any more"
    same_run = note.run == now.run
    if not same_run and not power_cycles:
        return (
            "the VM has been off since then (or has crashed, or was saved or migrated), and who wrote to its images "
            "meanwhile cannot be told"
        )
    if moved := _elsewhere(then, today, same_run=same_run):
        return moved
    if same_run and then.node != today.node:
        return "a snapshot, a copy or a detachment has come between the VM and its image"
    if then.size != today.size:
        return (
            f"the disk was resized from {format_size(then.size)} to {format_size(today.size)} ({then.size} and "
            f"{today.size} bytes), and QEMU's bitmap does not notice that"
        )
    if target in point.bitmaps and point.bitmaps[target] is None:
        return "its bitmap is gone from the image"
    return None


def _elsewhere(then: NotedDisk, today: NotedDisk, *, same_run: bool) -> str:
    """Why a disk is not on the image that it was on, a clause; "" when it is.

    Two hosts may use one path for two images, and two paths for one. Points of older versions tell the path alone. A
    QEMU that has run since then has had the image open: what is mounted by now does not matter.
    """
    by_path = same_run or then.file is None or today.file is None
    if then.path == today.path if by_path else then.file == today.file:
        return ""
    if then.path == today.path:
        return f"the disk is on {today.path} as it was, but that is on another file system, or on another host, now"
    return f"the disk is on {today.path} now, it was on {then.path}"


def unchanged(before: Present, after: Present, targets: Sequence[str]) -> bool:
    """Whether two looks show the same QEMU on the same nodes of the same size: so it was in between, too."""
    return before.run == after.run and all(before.disk(target) == after.disk(target) for target in targets)


def note(now: Present, targets: Sequence[str], at: float) -> PointNote | None:
    """What a point made now has to remember; None if it cannot be told."""
    disks = tuple(noted_disk for target in targets if (noted_disk := now.disk(target)) is not None)
    return PointNote(now.run, disks, at) if now.run is not None and len(disks) == len(targets) else None


def status(point: Point, now: Present) -> PointStatus:
    """What is to be said of a point in a list."""
    disks = []
    for target in point.targets:
        why = lost(point, now, target) if now.state.active else _while_off(point, target)
        disks.append(DiskTracking(target, why is None, why or "", point.bitmaps.get(target)))
    good = all(disk.good for disk in disks)
    return PointStatus(point.id, point.created, point.note is not None, good, tuple(disks))


def _while_off(point: Point, target: str) -> str:
    if point.note is None:
        return "somebody else made this checkpoint"
    return "the VM is off; who writes to its images meanwhile cannot be told"


def surplus(points: Sequence[Point], keep: int, newest: str) -> tuple[Point, ...]:
    """Our own points, oldest first, that must go so that `keep` are left with the newest, whatever the clock says."""
    ours = sorted(
        (point for point in points if point.note is not None and point.id != newest), key=lambda point: point.order
    )
    return tuple(ours[: max(0, len(ours) + 1 - keep)])


def areas(extents: Sequence[tuple[int, int, bool]], size: int) -> tuple[ChangedArea, ...]:
    """The changed ones of (start, length, changed) extents, neighbours joined.

    Raises ValueError unless the extents cover every byte of the disk once, in order: a gap could hide a change.
    """
    found: list[ChangedArea] = []
    at = 0
    for start, length, changed in extents:
        if start != at or length <= 0:
            raise ValueError(f"the bitmap was read from byte {start}, but only up to byte {at} before")
        at += length
        if changed and found and found[-1].start + found[-1].length == start:
            found[-1] = ChangedArea(found[-1].start, found[-1].length + length)
        elif changed:
            found.append(ChangedArea(start, length))
    if at < size:
        raise ValueError(f"the bitmap was read up to byte {at} of {size}")
    return tuple(
        ChangedArea(changed_area.start, min(changed_area.length, size - changed_area.start))
        for changed_area in found
        if changed_area.start < size
    )
