"""Changed-block tracking: making and dropping points, and asking what has changed since one.

Rests on libvirt's checkpoints and on the dirty bitmap of a pull-mode backup; tracking/rules.py decides whether an
answer can be vouched for. The facts are looked at before and after each effect, and an answer is given only if they
agree.
"""

from __future__ import annotations

import contextlib
import posixpath
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from blockferry.base.errors import (
    BlockferryError,
    DiskNotFound,
    HostCommandFailed,
    LibvirtFailed,
    NotTrackable,
    PointNotFound,
    TooManyPoints,
    TrackingBusy,
    TrackingLost,
    UsageError,
    nearest,
)
from blockferry.hosts import file_identity, qemu_process
from blockferry.hosts.helper import comparison, dirty_bitmaps, files
from blockferry.hosts.host import Host
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import PowerState, Vm
from blockferry.hosts.libvirt import checkpoints, domain_list
from blockferry.hosts.libvirt.checkpoints import Checkpoints
from blockferry.hosts.tracking_points import Point, PointNote, Present
from blockferry.jobs.kill_points import KillPoints
from blockferry.storage_move import survey
from blockferry.storage_move.verify import effects as verify_effects
from blockferry.storage_move.verify.scratch import let_run
from blockferry.store import Owner
from blockferry.tracking import rules as tracking_rules
from blockferry.tracking.rules import ChangedArea, Changes, DiskChanges, MadePoint, TrackingStatus

point = KillPoints("point-made", "changes-begun", "changes-read")

SCRATCH = ".blockferry-changes"
"""Ending of the files in which QEMU keeps what is overwritten while it is asked; libvirt makes and removes them."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SOCKET = re.compile(r"/blockferry-c-([0-9a-f]{6})-([0-9a-f]*)-([0-9a-f]+)-([0-9a-f]+)\.sock$")


def status(site: Host, name: str) -> TrackingStatus:
    """The VM's points, whether each is good, and which disks cannot have any."""
    vm, control = _vm(site, name)
    present = _present(site, vm, control)
    points = tuple(tracking_rules.status(point, present) for point in control.points())
    return TrackingStatus(vm.name, vm.uuid, vm.state, points, _untrackable(site, vm))


def enable(site: Host, name: str, disks: Sequence[str], moving: str | None) -> MadePoint:
    """Return the latest good point of these disks (none named: of all), made now if there is none."""
    vm, control = _vm(site, name)
    present = _present(site, vm, control)
    if vm.state.active:
        for point in reversed(control.points()):
            if (
                point.note is not None
                and tracking_rules.status(point, present).good
                and set(disks) <= set(point.targets)
            ):
                return MadePoint(point, new=False)
    return MadePoint(make(site, name, disks, None, None, moving), new=True)


def make(site: Host, name: str, disks: Sequence[str], id: str | None, keep: int | None, moving: str | None) -> Point:
    """Make a point. `disks`: none named means all, and one that cannot be tracked is then refused by name.

    `keep`: of our points, so many are left (the new one counted); the oldest go.
    """
    vm, control = _vm(site, name)
    _idle(vm, moving)
    targets = _targets(site, vm, disks)
    present = _present(site, vm, control)
    note = _note(vm, present, targets)
    _room(control, vm, keep)
    id = _id(id, control, vm)
    try:
        control.create(id, note)
    except LibvirtFailed as error:
        if vm.state is PowerState.OFF or _present(site, vm, control).run is None:
            raise NotTrackable(vm.name, "The changes", "it went off meanwhile") from error
        raise
    point("point-made")
    made = _find(control, vm, id)
    if not tracking_rules.unchanged(present, _present(site, vm, control), targets):
        control.delete(made)
        raise TrackingBusy(vm.name, "its disks were changed by somebody else at this moment")
    _thin(control, keep, id)
    return made


def drop(site: Host, name: str, ids: Sequence[str], *, everything: bool, moving: str | None) -> tuple[str, ...]:
    """Drop these points, or all that are ours; the ids that are gone. Others' are dropped only if they are named."""
    vm, control = _vm(site, name)
    if moving is not None:
        raise TrackingBusy(vm.name, f"it is being moved ({moving})")
    points = control.points()
    chosen = [_pick(points, vm, one) for one in ids] if not everything else [point for point in points if point.note]
    for point in chosen:
        if vm.state.active:
            control.delete(point)
        else:
            _drop_off(site, vm, control, point)
    return tuple(point.id for point in chosen)


def _drop_off(site: Host, vm: Vm, control: Checkpoints, point: Point) -> None:
    """libvirt deletes checkpoints of running VMs only: the bitmap is taken out of the image, then the metadata goes."""
    for target in point.targets:
        disk = vm.disk(target)
        source = None if disk is None else disk.source
        if source is None or source.path is None or source.format != "qcow2":
            continue
        for layer in qemu_img.chain(site.runner, source.path, source.format):
            if point.id in layer.bitmaps:
                dirty_bitmaps.remove_bitmap(site.runner, layer.path, point.id)
    control.forget(point.id)


def ask(
    site: Host,
    name: str,
    since: str,
    disks: Sequence[str],
    *,
    mark: str | None,
    keep: int | None,
    power_cycles: bool,
    moving: str | None,
) -> Changes:
    """What has changed since a point. `mark`: a point of that name ("" for one of ours) is made at the same instant.

    Raises TrackingLost rather than give an answer that could lack a change.
    """
    vm, control = _vm(site, name)
    points = control.points()
    origin = _pick(points, vm, since)
    _idle(vm, moving)
    if not vm.state.active:
        raise NotTrackable(vm.name, "The changes", tracking_rules.OFF)
    problem = comparison.problem(site.runner)
    if problem is not None:
        raise NotTrackable(vm.name, "The changes", problem)
    for one in disks:
        if vm.disk(one) is None:
            raise DiskNotFound(vm.name, one, nearest(one, [disk.target for disk in vm.disks]))
    targets = tuple(dict.fromkeys(disks)) or origin.targets
    before = _present(site, vm, control)
    _vouch(vm, origin, before, targets, power_cycles=power_cycles)
    new = None
    if mark is not None:
        _room(control, vm, keep)
        new = (_id(mark or None, control, vm), _note(vm, before, origin.targets))
    _clear(site, vm)
    at = time.time()
    try:
        with _frozen(site, vm, control, origin, before, targets, new) as socket:
            point("changes-begun")
            found = [_read(site, vm, origin, before, socket, target) for target in targets]
            point("changes-read")
            if site.control(vm.uuid, vm.name).view_socket() != socket:
                raise TrackingBusy(vm.name, "somebody else has ended the backup job by which it was asked")
            after = _present(site, vm, control)
            _vouch(vm, origin, after, targets, power_cycles=power_cycles)
            if not tracking_rules.unchanged(before, after, targets):
                raise TrackingBusy(vm.name, "its disks were changed by somebody else at this moment")
            if _pick(control.points(), vm, since).note != origin.note:
                raise TrackingBusy(vm.name, f"somebody else has made another point {since} at this moment")
    except BaseException:
        _unmake(control, new)
        raise
    if new is not None:
        _thin(control, keep, new[0])
    return Changes(vm.name, vm.uuid, origin.id, origin.created, new[0] if new else None, at, tuple(found))


def _vouch(vm: Vm, origin: Point, now: Present, targets: Sequence[str], *, power_cycles: bool) -> None:
    for target in targets:
        why = tracking_rules.lost(origin, now, target, power_cycles=power_cycles)
        if why is not None:
            raise TrackingLost(vm.name, target, origin.id, why)


@contextlib.contextmanager
def _frozen(
    site: Host,
    vm: Vm,
    control: Checkpoints,
    origin: Point,
    now: Present,
    targets: Sequence[str],
    new: tuple[str, PointNote] | None,
) -> Iterator[str]:
    """A backup job of ours, whose socket this is; it has ended when the block is left."""
    scratch = {}
    look = site.control(vm.uuid, vm.name)
    noted = [one for target in targets if (one := now.disk(target)) is not None]
    place = verify_effects.listening_place(site.runner, look.look(()).incarnation, vm.name, noted[0].path)
    for one in noted:
        disk = vm.disk(one.target)
        on_device = disk is not None and disk.live is not None and disk.live.kind == "block"
        beside = posixpath.join(place, one.target) if on_device else one.path
        scratch[one.target] = beside + SCRATCH
        files.remove_file(site.runner, scratch[one.target])  # of a QEMU that was killed: no job runs now
    socket = posixpath.join(place, _socket_name())
    try:
        control.begin(origin.id, socket, scratch, new)
    except LibvirtFailed as error:
        if checkpoints.inconsistent(error):
            why = f"libvirt says: {error.message.rstrip('.')}"
            raise TrackingLost(vm.name, ", ".join(targets), origin.id, why) from error
        raise
    try:
        yield socket
    finally:
        if look.view_socket() == socket:
            look.end_view()
            let_run(look)  # had what the view keeps found no room, QEMU would have stopped the VM


def _read(site: Host, vm: Vm, origin: Point, now: Present, socket: str, target: str) -> DiskChanges:
    noted = now.disk(target)
    assert noted is not None, "vouched for"
    size, extents = dirty_bitmaps.read(site.runner, socket, target, checkpoints.BITMAP)
    if size < noted.size or size - noted.size >= qemu_img.SECTOR:
        why = f"the bitmap is of {size} bytes, the disk has {noted.size}"
        raise TrackingLost(vm.name, target, origin.id, why)
    try:
        areas: tuple[ChangedArea, ...] = tracking_rules.areas(extents, noted.size)
    except ValueError as error:
        raise HostCommandFailed("reading the bitmap", 0, str(error)) from error
    return DiskChanges(target, noted.size, sum(area.length for area in areas), areas)


def _unmake(control: Checkpoints, new: tuple[str, PointNote] | None) -> None:
    """The new point of an answer that nobody got: it would only be in the way. Listed by `cbt status` if it stays."""
    if new is not None:
        with contextlib.suppress(BlockferryError):
            for point in control.points():
                if point.id == new[0] and point.note == new[1]:
                    control.delete(point)


def _clear(site: Host, vm: Vm) -> None:
    """End a backup job that a blockferry left which is surely dead. Raises TrackingBusy for any other."""
    look = site.control(vm.uuid, vm.name)
    socket = look.view_socket()
    if socket is None:
        return
    match = _SOCKET.search(socket)
    if match is None:
        raise TrackingBusy(vm.name, f"a backup job of somebody else runs (on {socket})")
    here = Owner.here()
    if match[1] != here.boot[:6]:
        hint = f"if none is there any more: `virsh domjobabort {vm.name}`"
        raise TrackingBusy(vm.name, f"a blockferry on another machine asks, or did before a restart; {hint}")
    namespace = f"pid:[{int(match[2], 16)}]" if match[2] else ""
    owner = replace(here, pid=int(match[3], 16), started=int(match[4], 16), namespace=namespace)
    if not owner.surely_dead:
        raise TrackingBusy(vm.name, f"another blockferry asks already (process {owner.pid})")
    look.end_view()


def _socket_name() -> str:
    here = Owner.here()
    namespace = re.sub(r"\D", "", here.namespace)
    number = f"{int(namespace):x}" if namespace else ""
    return f"blockferry-c-{here.boot[:6]}-{number}-{here.pid:x}-{here.started:x}.sock"


def _vm(site: Host, name: str) -> tuple[Vm, Checkpoints]:
    vm = domain_list.vm(site.connection, name)
    return vm, Checkpoints(site.connection, vm.uuid, vm.name)


def _present(site: Host, vm: Vm, control: Checkpoints) -> Present:
    """The VM as it is now, with the files that its disks are, whichever host looks."""
    now = control.present(qemu_process.run_of(site.runner, site.uri, vm.name, vm.uuid))
    files = file_identity.files_at(site.runner, site.connection.host_id(), [disk.path for disk in now.disks])
    return replace(now, disks=tuple(replace(disk, file=files[disk.path]) for disk in now.disks))


def _note(vm: Vm, now: Present, targets: Sequence[str]) -> PointNote:
    if not now.state.active:
        raise NotTrackable(vm.name, "The changes", "the VM is off; libvirt makes checkpoints of running VMs only")
    note = tracking_rules.note(now, targets, time.time())
    if note is None and now.run is not None:
        gone = ", ".join(target for target in targets if now.disk(target) is None)
        raise NotTrackable(vm.name, gone, "it has no such disk any more")
    if note is None:
        raise NotTrackable(vm.name, "The changes", "its QEMU process cannot be told from others on the host")
    return note


def _idle(vm: Vm, moving: str | None) -> None:
    if moving is not None or vm.mark is not None:
        raise TrackingBusy(vm.name, f"it is being moved ({moving or vm.mark})")


def _untrackable(site: Host, vm: Vm) -> dict[str, str]:
    found = {}
    for disk in tracking_rules.disks_of(vm):
        chain, problem = survey.read_chain(site.runner, disk)
        why = tracking_rules.untrackable(disk, chain[0] if chain else None, problem)
        if why is not None:
            found[disk.target] = why
    return found


def _targets(site: Host, vm: Vm, asked: Sequence[str]) -> tuple[str, ...]:
    every = [disk.target for disk in tracking_rules.disks_of(vm)]
    for one in asked:
        if one not in every:
            raise DiskNotFound(vm.name, one, nearest(one, every))
    targets = tuple(dict.fromkeys(asked or every))
    if not targets:
        raise NotTrackable(vm.name, "The changes", "it has no disks")
    problems = _untrackable(site, vm)
    for target in targets:
        if target in problems:
            raise NotTrackable(vm.name, target, problems[target])
    return targets


def _id(asked: str | None, control: Checkpoints, vm: Vm) -> str:
    if asked is None:
        return f"bf-{secrets.token_hex(4)}"
    if _NAME.fullmatch(asked) is None:
        raise UsageError(f"{asked!r} is no name for a point.", "Letters, digits, dots and dashes, up to 64.")
    if any(point.id == asked for point in control.points()):
        raise UsageError(
            f"{vm.name} has a point {asked} already.", f"`blockferry cbt drop {vm.name} {asked}` drops it."
        )
    return asked


def _pick(points: Sequence[Point], vm: Vm, id: str) -> Point:
    for point in points:
        if point.id == id:
            return point
    raise PointNotFound(vm.name, id, nearest(id, [point.id for point in points]))


def _find(control: Checkpoints, vm: Vm, id: str) -> Point:
    return _pick(control.points(), vm, id)


def _room(control: Checkpoints, vm: Vm, keep: int | None) -> None:
    number = len(control.points())
    if number >= tracking_rules.MOST_POINTS and keep is None:
        raise TooManyPoints(vm.name, number)


def _thin(control: Checkpoints, keep: int | None, newest: str) -> None:
    for surplu in tracking_rules.surplus(control.points(), keep, newest) if keep is not None else ():
        control.delete(surplu)
