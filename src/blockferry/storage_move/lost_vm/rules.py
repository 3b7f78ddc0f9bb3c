"""A VM that libvirt has lost: libvirt says that it is off, or knows no such VM, and its QEMU lives. Pure.

How it comes about: libvirtd is killed in the milliseconds in which it concludes a copy or a commit. Up to 11.2 its
status file holds `<mirror job=''>` then, which it refuses to read at its restart (hosts/defects.py, LIBVIRT_LOSES_VM).

What is true then: the guest runs, or stands still because we had suspended it. Which image it writes to is known to
its QEMU only; the configuration may name the other one, so that the next start would run from stale blocks. Nobody but
QEMU's own monitor can let the guest run again.

What may never happen here: a cold copy, a release, a removal; a guest left suspended by us; a configuration left that
starts the VM from images that are not the ones that QEMU writes to.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import replace

from blockferry.hosts.block_graph import BlockGraph
from blockferry.hosts.exports import is_export
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move import actions
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.disk_record import Copy, Stage
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.observation import DiskSide, DiskView, LostView, Observation
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record

PAUSED, SHUTDOWN = "paused", "shutdown"
"""Of QEMU's RunState: the processors stand still; the guest has powered off and QEMU waits to be ended."""

SETTLE_S = 5.0
"""A pivot that libvirtd had asked for before it died may still come: for so long it is looked again. What QEMU says is
read once more before it is ended."""


PATIENCE_S = 180.0
"""What could not be looked at once, may be at the next look: for so long it is tried before the move is parked."""


# ---------------------------------------------------------------- what QEMU says, in the words of the plan


def current_images(plan: Plan, graph: BlockGraph) -> dict[str, str]:
    """target -> the image of the plan that takes the guest's writes. Disks of which it cannot be told are left out."""
    found: dict[str, str] = {}
    for disk in plan.disks:
        names = [image for image in images(disk) if not is_export(image)]
        on = graph.on(names)
        if on is not None and on.root is not None:
            found[disk.target] = next(name for name in names if _same(name, on.root.path))
            continue
        exports = [image for image in images(disk) if is_export(image)]
        if len(exports) == 1 and names:  # on no local file of ours, so it is on the only other one
            found[disk.target] = exports[0]
    return found


def images(disk: DiskPlan) -> tuple[str, ...]:
    """Every image that this disk may be on during its move."""
    return tuple(one for one in (disk.overlays.source, disk.source.path, disk.overlays.dest, disk.dest.path) if one)


def format_of(disk: DiskPlan, image: str) -> str:
    if image in (disk.overlays.source, disk.overlays.dest):
        return "qcow2"
    return disk.source.format if image == disk.source.path else disk.dest.format


def side_of(disk: DiskPlan, image: str) -> DiskSide:
    return DiskSide.SOURCE if image in (disk.source.path, disk.overlays.source) else DiskSide.DESTINATION


def all_across(plan: Plan, current: Mapping[str, str]) -> bool:
    """Whether each disk is known to be on an image of its destination."""
    known_sides = [side_of(disk, current[disk.target]) for disk in plan.disks if disk.target in current]
    return len(known_sides) == len(plan.disks) and set(known_sides) == {DiskSide.DESTINATION}


def stand_in(plan: Plan, target: str) -> str:
    """The path of no file: a configuration that names it cannot be started."""
    directory = posixpath.dirname(plan.disk(target).source.path)
    return posixpath.join(directory or "/", f"unclear-{plan.move}-{target}")


def settle(plan: Plan, record: Record, current: Mapping[str, str]) -> Record:
    """The record, with what is proven by the images that QEMU writes to. Its jobs are not counted on any more."""
    for disk in plan.disks:
        image = current.get(disk.target)
        for at_source, base in ((True, disk.source.path), (False, disk.dest.path)):
            overlay = overlays_rules.overlay_path(disk, at_source=at_source)
            if overlay and image == overlay:
                record = record.with_overlay(disk.target, OverlayState.USED, at_source=at_source)
            elif (
                image == base
                and overlays_rules.layer_of(record, disk.target, at_source=at_source) is OverlayState.PIVOTING
            ):
                record = record.with_overlay(disk.target, OverlayState.COMMITTED, at_source=at_source)
        copy = record.copy(disk.target)
        if copy.stage is not Stage.NONE:
            record = record.with_copy(disk.target, Copy(Stage.NONE, -1, copy.attempts, copy.reverse))
    # libvirt counts its domain ids anew after a restart: with the same number it is another QEMU all the same.
    throttled = {target: replace(one, incarnation=-1) for target, one in record.throttled.items()}
    record = record.with_throttles(throttled)
    record = replace(record, export=replace(record.export, incarnation=-1))
    sides = {side_of(plan.disk(target), image) for target, image in current.items()}
    complete = len(current) == len(plan.disks)
    if complete and sides == {DiskSide.DESTINATION}:
        return replace(record, switch=replace(record.switch, done=True, begun=False))
    if complete and sides == {DiskSide.SOURCE}:
        return replace(record, switch=replace(record.switch, begun=False))
    return replace(record, switch=replace(record.switch, begun=record.switch.begun or DiskSide.DESTINATION in sides))


# ---------------------------------------------------------------- lost


def decide(plan: Plan, seen: Observation) -> actions.Action:
    """What to do while its QEMU lives and libvirt does not know it."""
    record, lost = seen.record, seen.lost or LostView(0, "")
    if lost.status == PAUSED and record.switch.suspended:
        return actions.LetLostRun()
    current = known(record, lost)
    if record.lost is None or record.lost.run != lost.run or dict(record.lost.current) != current:
        return actions.SaveLost()
    if seen.persistent:
        if misnamed(seen, current):
            return actions.PointToCurrent()
        if unclear := tuple(view.target for view in seen.disks if view.target not in current):
            barred = all(_same(seen.disk(one).config_path, stand_in(plan, one)) for one in unclear)
            if not barred or lost.autostart:
                return actions.BarStart(unclear)
    if lost.status == SHUTDOWN:
        return actions.EndLost()
    if lost.jobs and lost.since_s < SETTLE_S and (record.switch.begun or _pivoting(record)):
        return actions.Await("settle", 0.25)
    if not lost.status and not lost.gone and lost.since_s < PATIENCE_S:
        return actions.Await("lost", 1.0)
    return actions.Park(report(plan, seen, lost, current))


def _pivoting(record: Record) -> bool:
    return any(OverlayState.PIVOTING in (disk.source_overlay, disk.dest_overlay) for disk in record.disks.values())


def known(record: Record, lost: LostView) -> dict[str, str]:
    """What is known of the images: as QEMU says it, or as it said it before, the same QEMU."""
    before = record.lost.current if record.lost is not None and record.lost.run == lost.run else {}
    return dict(lost.current) if lost.status else dict(before)


def misnamed(seen: Observation, current: Mapping[str, str]) -> tuple[str, ...]:
    """Disks of which the configuration names another image than the one that takes the guest's writes."""
    return tuple(
        view.target
        for view in seen.disks
        if view.target in current and not _same(view.config_path, current[view.target])
    )


def report(plan: Plan, seen: Observation, lost: LostView, current: Mapping[str, str]) -> str:
    """What happened, what holds, and what to do: a text for people."""
    vm, disks = plan.vm, [disk.target for disk in plan.disks]
    says = "shut off" if seen.state is PowerState.LOST and seen.persistent else "unknown"
    words = [
        f"libvirt has lost {vm}: it says that the VM is {says}, but its QEMU lives (process {lost.pid}). libvirtd was "
        "killed while it concluded a block job (docs/defects.md, LIBVIRT_LOSES_VM)",
        _guest(vm, seen.record, lost),
    ]
    if current:
        words.append("It writes to " + ", ".join([f"{current[one]} ({one})" for one in disks if one in current]))
    if unclear := [one for one in disks if one not in current]:
        which = ", ".join([f"{one}: {' or '.join(images(plan.disk(one)))}" for one in unclear])
        words.append(f"It cannot be told which image it writes to ({which})")
    if seen.persistent and unclear:
        words.append("So that it does not start from old data, its configuration names no file there; autostart is off")
    elif seen.persistent:
        words.append("Its configuration names these files, so its next start uses them")
    if seen.record.throttled:
        words.append("Its writes stay slowed until then")
    words.append(
        "Nothing is copied cold and nothing is removed. To get it back under libvirt, shut it down from inside the "
        f"guest, then run `blockferry resume {plan.move}`; do not run `virsh start {vm}` before"
    )
    return ". ".join(words)


def _guest(vm: str, record: Record, lost: LostView) -> str:
    if not lost.status:
        if record.switch.suspended:
            return (
                f"The move had suspended its guest, and it cannot be let run: {lost.problem}. If {vm} does not answer, "
                f"only `kill {lost.pid}` on its host helps, which is like pulling its plug"
            )
        return f"Whether its guest runs could not be asked: {lost.problem}"
    if lost.status == "running":
        return "Its guest runs"
    return f"QEMU says of its guest: {lost.status}"


def doubt(plan: Plan, seen: Observation) -> actions.Action:
    """libvirt says that it is off or gone, and it could not be looked at whether its QEMU lives."""
    if seen.off_doubt_s < PATIENCE_S:
        return actions.Await("lost", 1.0)
    return actions.Park(
        f"libvirt says that {plan.vm} is {seen.state.value}, but that could not be checked: {seen.off_doubt}. Were its "
        "QEMU alive, a copy of its disks would lack writes. Nothing is copied and nothing is removed. When no QEMU of "
        f"{plan.vm} runs on its host, and that can be looked at, run `blockferry resume {plan.move}`"
    )


# ---------------------------------------------------------------- over


def found(plan: Plan, seen: Observation) -> actions.Action:
    """libvirt had lost it, and that is over: QEMU has ended, or libvirt knows the VM again."""
    lost = seen.record.lost or LostVm()
    if seen.state is PowerState.PAUSED and seen.record.switch.suspended and seen.same_run:
        return actions.Resume()  # the guest first: whatever is found wrong below waits for a person
    if seen.state.active:
        if seen.same_run and (wrong := [view for view in seen.disks if _not_on(plan, view, lost)]):
            names = ", ".join([f"{view.target} ({lost.current[view.target]})" for view in wrong])
            return actions.Park(
                f"libvirt knows {plan.vm} again, but it names other images than those that its QEMU said it writes to: "
                f"{names}. Nothing is removed. Shut {plan.vm} down from inside the guest, name these images in its "
                f"configuration (`virsh edit {plan.vm}`), then run `blockferry resume {plan.move}`"
            )
        return actions.SaveFound()
    if seen.state is PowerState.ABSENT:
        return actions.SaveFound()
    if unclear := [one for one, path in lost.unclear.items() if _same(seen.disk(one).config_path, path)]:
        which = ", ".join([f"{one}: {' or '.join(images(plan.disk(one)))}" for one in unclear])
        return actions.Park(
            f"{plan.vm} is off, and it cannot be told which image its QEMU wrote to last ({which}). Nothing is "
            "removed. The one that was changed last is the right one unless both were; name it in the configuration "
            f"(`virsh edit {plan.vm}`), then run `blockferry resume {plan.move}`"
        )
    if wrong_names := misnamed(seen, lost.current):
        names = ", ".join(
            [
                f"{wrong_name}: {seen.disk(wrong_name).config_path}, not {lost.current[wrong_name]}"
                for wrong_name in wrong_names
            ]
        )
        return actions.Park(
            f"{plan.vm} is off, and its configuration names other images than those that its QEMU wrote to last "
            f"({names}). Nothing is removed. Unless it was started meanwhile, name the latter (`virsh edit "
            f"{plan.vm}`), then run `blockferry resume {plan.move}`"
        )
    return actions.SaveFound()


def _not_on(plan: Plan, view: DiskView, lost: LostVm) -> bool:
    """Whether libvirt shows the running VM's disk on another image than the one that QEMU told of."""
    image = lost.current.get(view.target)
    if image is None:
        return False
    disk = plan.disk(view.target)
    overlay = image in (disk.overlays.source, disk.overlays.dest)
    return view.live is not side_of(disk, image) or view.live_overlay != overlay


def _same(one: str, other: str) -> bool:
    return posixpath.normpath(one) == posixpath.normpath(other) if one and other else one == other
