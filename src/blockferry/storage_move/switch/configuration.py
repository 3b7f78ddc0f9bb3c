"""Effects on what libvirt keeps of a VM: our mark, the persistent XML, snapshots, the medium of a CD drive."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from blockferry.base.errors import LibvirtFailed
from blockferry.base.units import MiB
from blockferry.hosts.inventory import Mirror
from blockferry.hosts.libvirt.disk_xml import DiskBeforeMove
from blockferry.hosts.libvirt.domain import Control, CopyOrder
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.destination import kept_files, mount_check
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.observation import DiskSide, Observation
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record


def mark(context: Context, seen: Observation) -> None:
    for disk in context.plan.disks:
        if seen.record.disk(disk.target).partial and kept_files.untaken(seen.record, disk) is None:
            destination_effects.take_partial(context, disk.dest.path, disk.partial.move)
    record = seen.record
    if not record.mounts:
        record = replace(record, mounts=mount_check.mounts(context))
    if context.plan.domain.persistent and seen.mark is None:
        record = replace(record, configuration=replace(record.configuration, bare=context.control.has_no_metadata()))
    if record != seen.record:
        context.save(record)
    if not record.switch.done and all(disk.xml_before is None for disk in record.disks.values()):
        found = context.control.config_disks(tuple(disk.target for disk in context.plan.disks))
        for target, xml in found.items():
            record = record.with_disk(target, replace(record.disk(target), xml_before=xml))
        context.save(record)
    context.control.mark(context.plan.move, context.journal)
    context.save(replace(record, configuration=replace(record.configuration, marked=True)))
    point("marked")


def unmark(context: Context, seen: Observation) -> None:
    context.control.unmark(bare=seen.record.configuration.bare)
    point("unmarked")


def write_config(context: Context, seen: Observation) -> None:
    """Persistent XML to the destination, disks and home files in one write.

    A cold copy that somebody has deleted by now is made anew first; no name of what is not there is written down.
    """
    plan, record = context.plan, seen.record
    gone = () if record.switch.done or seen.state.active else mount_check.deleted(context)
    if gone:
        context.log_event("warning", f"the new image of {', '.join(gone)} is gone; it is copied again")
        for target in gone:
            record = record.without_cold_copy(target)
        context.save(record)
        return
    record = home_effects.refresh(context, seen)
    small = home_effects.new_names(plan.home, record)
    wanted = {}
    for disk in plan.disks:
        over = _stays_on_overlay(seen, disk.target, at_source=False)
        wanted[disk.target] = (disk.overlays.dest, "qcow2") if over else (disk.dest.path, disk.dest.format)
    context.control.write_config(wanted, small, _before(context, record, wanted, at_source=False))
    point("config-written")
    context.save(replace(record, configuration=replace(record.configuration, written=True)))


def _before(
    context: Context, record: Record, wanted: Mapping[str, tuple[str, str]], *, at_source: bool
) -> dict[str, DiskBeforeMove]:
    """The disks of the persistent XML as they were, and under which names the images below them are to stand there."""
    names = {} if at_source else context.plan.new_names
    kept = {disk.target for disk in context.plan.disks if at_source or disk.chain.backing is not None}
    overlays = {path for disk in context.plan.disks for path in (disk.overlays.source, disk.overlays.dest) if path}
    return {
        target: DiskBeforeMove(disk.xml_before, names if target in kept else None, wanted[target][0] in overlays)
        for target, disk in record.disks.items()
        if target in wanted and disk.xml_before is not None
    }


def write_snapshots(context: Context, seen: Observation) -> None:
    """The snapshots' metadata names the new files; until then the proof keeps the old ones."""
    left = seen.record.home.left
    names = {old: new for old, new in context.plan.new_names.items() if old not in left}
    changed = context.control.write_snapshots(names)
    if changed:
        context.log_event("action", f"the metadata of the snapshots {', '.join(changed)} names the new files")
    point("snapshots-written")
    context.save(replace(seen.record, configuration=replace(seen.record.configuration, snapshots_written=True)))


def move_medium(context: Context, action: actions.MoveMedium, seen: Observation) -> None:
    """A block copy of the read-only medium: the guest notices nothing, even with the ISO mounted.

    Changing the medium would time out on a locked tray, or give the guest I/O errors (docs/measured.md, 5). If it
    does not work, the old ISO is kept until the next power cycle, and the report says so.
    """
    plan, target = context.plan, action.target
    assert plan.home is not None
    file = next(home_file for home_file in plan.home.files if home_file.target == target)
    control = context.control
    try:
        if _medium(control, target) is None:
            control.start_copy(target, CopyOrder(file.dest, "raw"))
        deadline = time.monotonic() + 60 + file.size / MiB
        while (mirror := _medium(control, target)) is not None and time.monotonic() < deadline:
            if mirror.ready and not mirror.ending:
                control.pivot(target)
            time.sleep(0.05)
    except LibvirtFailed as error:
        context.log_event("warning", error.sentence)
    context.save(
        replace(
            seen.record,
            configuration=replace(
                seen.record.configuration, media_tried=(*seen.record.configuration.media_tried, target)
            ),
        )
    )


def _medium(control: Control, target: str) -> Mirror | None:
    return next((disk.mirror for disk in control.look(()).disks if disk.target == target), None)


def _stays_on_overlay(seen: Observation, target: str, *, at_source: bool) -> bool:
    """Whether the next start must use the overlay of a side: the VM runs on it, or it holds what its base lacks."""
    view = seen.disk(target)
    if view.side is not (DiskSide.SOURCE if at_source else DiskSide.DESTINATION) or not view.overlay:
        return False
    return (
        view.live is not None
        or overlays_rules.layer_of(seen.record, target, at_source=at_source) is not OverlayState.COMMITTED
    )


def revert_config(context: Context, seen: Observation) -> None:
    plan = context.plan
    small = {new: old for old, new in home_effects.new_names(plan.home, seen.record).items()}
    wanted = {}
    for disk in plan.disks:
        view = seen.disk(disk.target)
        if view.side is DiskSide.DESTINATION:
            # Half a switch: the source of this disk is stale, its next start must not use it.
            wanted[disk.target] = (disk.overlays.dest, "qcow2") if view.overlay else (disk.dest.path, disk.dest.format)
            continue
        over = _stays_on_overlay(seen, disk.target, at_source=True)
        wanted[disk.target] = (disk.overlays.source, "qcow2") if over else (disk.source.path, disk.source.format)
    context.control.write_config(wanted, small, _before(context, seen.record, wanted, at_source=True))
