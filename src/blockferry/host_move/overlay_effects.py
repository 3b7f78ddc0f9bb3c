"""Effects on the overlays of disks that go before their running VM. Each may be repeated; the intent is in the record.

Which and when: overlay_rules.py. An overlay has the VM's writes, so one that holds anything is removed only with the
proof that its base has it, too, or once the guest has gone on elsewhere for good.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable
from dataclasses import replace

from blockferry.base.errors import FileExists, LibvirtFailed, StillInUse
from blockferry.host_move import image_owner, overlay_actions
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_observation import HostObservation
from blockferry.host_move.host_plan import TravellingDisk
from blockferry.host_move.host_record import FirstRecord, HostMoveRecord
from blockferry.host_move.overlay_looks import layers_print
from blockferry.host_move.points import point
from blockferry.hosts.helper import files
from blockferry.hosts.host import Host
from blockferry.hosts.images import qemu_img
from blockferry.hosts.libvirt.disk_xml import DiskBeforeMove
from blockferry.jobs.action import Action
from blockferry.safety import proof
from blockferry.safety.proof import Claims
from blockferry.storage_move.destination.effects import (
    MARKER,
    is_made_by,
    is_somebody_s,
    marked_by,
    unfinished,
    write_marker,
)
from blockferry.storage_move.overlays.record import OverlayState

IS_OFF = "domain is not running"
"""libvirt's words (virDomainObjCheckActive). In another language it is not understood, and the move is parked."""


class OverlayHost:
    """One of both hosts, as the overlays there are dealt with."""

    def __init__(self, context: HostMoveContext, *, at_source: bool) -> None:
        self.at_source = at_source
        self.host: Host = context.source if at_source else context.dest
        self.files = context.source_files if at_source else context.dest_files
        self.claims: Callable[[], Claims] = context.claims if at_source else context.dest_claims
        self.host_id = context.plan.host if at_source else context.plan.dest_host
        self.control = self.host.control(context.plan.uuid, context.plan.vm)
        self.vm = context.source_vm if at_source else context.dest_vm

    def overlay(self, disk: TravellingDisk) -> str:
        return disk.overlay if self.at_source else disk.new_overlay

    def base(self, disk: TravellingDisk) -> str:
        return disk.source if self.at_source else disk.dest

    def print(self, disk: TravellingDisk) -> str:
        return layers_print(self.host.runner, self.base(disk), self.overlay(disk))


def perform(context: HostMoveContext, action: Action, seen: HostObservation) -> bool:
    """Carry out an action if it is one of these. Raises BlockferryError."""
    record, plan = seen.record, context.plan
    match action:
        case overlay_actions.PutOverlaysAbove():
            take_overlays(context, record, action.targets)
        case overlay_actions.MakeNewOverlay():
            make_new_overlay(context, record, plan.disk(action.target))
        case overlay_actions.NoteOverlay():
            note(context, record, plan.disk(action.target), action.state, at_source=action.at_source)
        case overlay_actions.PointConfig():
            point_config(context, seen, at_source=action.at_source)
        case overlay_actions.BeginCommit():
            begin_commit(context, record, action.target, at_source=action.at_source)
        case overlay_actions.PivotToBase():
            pivot(context, record, action.target, at_source=action.at_source)
        case overlay_actions.CommitWhileOff():
            commit_off(context, record, plan.disk(action.target), at_source=action.at_source)
        case overlay_actions.RemoveNewOverlays():
            remove_new_overlays(context, record)
        case overlay_actions.RemoveOverlays():
            remove_overlays(context, record)
        case _:
            return False
    return True


# ------------------------------------------------------------ made


def take_overlays(context: HostMoveContext, record: HostMoveRecord, targets: tuple[str, ...]) -> None:
    """Made and marked before libvirt hears of them, then put above all these disks in one instant."""
    place = OverlayHost(context, at_source=True)
    disks = [context.plan.disk(target) for target in targets]
    if missing := tuple(target for target in targets if target not in record.first.xml_before):
        before = {**record.first.xml_before, **place.control.config_disks(missing)}
        record = replace(record, first=replace(record.first, xml_before=before))
    for disk in disks:
        if disk.overlay in record.first.files:
            _no_longer_needed(context, place, record, disk)
        elif files.is_there(place.host.runner, disk.overlay):
            raise FileExists(disk.overlay)
        named = tuple(dict.fromkeys((*record.first.files, disk.overlay)))
        first = replace(record.first, files=named).with_state(disk.target, OverlayState.NAMED, source=True)
        # Until now the image was written to: nothing that was copied before counts.
        left = {target: part for target, part in record.parts.items() if target != disk.target}
        copied = {target: print_ for target, print_ in record.copied.items() if target != disk.target}
        record = replace(record, first=first, parts=left, copied=copied)
        context.save(record)
        point("overlay-named")
        _make(context, place, disk, (disk.source, disk.format))
    point("overlay-made")
    overlays = {disk.target: disk.overlay for disk in disks}
    place.vm.put_overlays(place.control.overlays_xml(overlays, {disk.target: disk.source for disk in disks}))
    point("overlay-taken")
    first = record.first
    for disk in disks:
        first = first.with_state(disk.target, OverlayState.USED, source=True)
    context.save(replace(record, first=first))
    names = ", ".join(targets)
    context.log_event("action", f"overlays take the writes of {names}; what is below them is immutable now")


def make_new_overlay(context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk) -> None:
    """An empty overlay above the copied image; the VM was never told of one that is there already."""
    place = OverlayHost(context, at_source=False)
    path = disk.new_overlay
    if path not in record.created:
        if files.is_there(place.host.runner, path):
            raise FileExists(path)
        record = replace(record, created=(*record.created, path))
        context.save(record)
    elif files.is_there(place.host.runner, path) and not is_made_by(place.host.runner, path, context.plan.move):
        raise FileExists(path)
    point("new-overlay-named")
    _make(context, place, disk, (disk.dest, disk.format))
    for one in (path, posixpath.dirname(path)):
        files.flush(place.host.runner, one)
    point("new-overlay-made")
    first = replace(record.first, made=(*record.first.made, disk.target), new_files=(*record.first.new_files, path))
    context.save(replace(record, first=first))


def _make(context: HostMoveContext, place: OverlayHost, disk: TravellingDisk, base: tuple[str, str]) -> None:
    """An empty overlay under a name that is in the record, with the owner of the disk's old image."""
    path, runner = place.overlay(disk), place.files
    _mark(context, place, path, made=False)
    if files.is_there(runner, path):
        context.check()
        files.remove_file(runner, path)

    def claimed() -> None:
        """At the destination `made` in the record tells whether it was finished; at the source its marker does."""
        if not place.at_source:
            _mark(context, place, path, made=True)

    qemu_img.create(
        runner, path, "qcow2", disk.virtual_size, backing=base, ownership=qemu_img.Ownership(claimed, context.check)
    )  # fmt: skip
    image_owner.give_overlay(context, disk, path, at_source=place.at_source)
    _mark(context, place, path, made=True)


def _mark(context: HostMoveContext, place: OverlayHost, path: str, *, made: bool) -> None:
    context.check()
    plan = context.plan
    write_marker(
        place.files, path, move=plan.move, vm=plan.vm, journal=context.journal, host=place.host_id,
        made=path if made else None,
    )  # fmt: skip


def _no_longer_needed(
    context: HostMoveContext, place: OverlayHost, record: HostMoveRecord, disk: TravellingDisk
) -> None:
    """Raise StillInUse unless this overlay of ours can go: never used, or all of it proven to be in its base."""
    path, runner = place.overlay(disk), place.host.runner
    if not files.is_there(runner, path):
        return
    going = record.first.files if place.at_source else record.created
    doubt = proof.blocker(place.host, path, place.claims(), going=going, patience_s=0, sure=False, is_base=False)
    if doubt is not None:
        raise StillInUse(path, doubt)
    committed = record.first.committed.get(path)
    if committed is not None and committed.split("|")[-1] == place.print(disk).split("|")[-1]:
        return
    if unfinished(runner, path, context.plan.move):
        return  # we died while it was made; libvirt hears of an overlay only afterwards
    if qemu_img.holds_data(runner, path):
        raise StillInUse(path, "it holds writes of which it is not proven that its base has them")


# ------------------------------------------------------------ committed


def note(
    context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk, state: OverlayState, *, at_source: bool
) -> None:
    """What was seen. Once a commit is over, also the fingerprints, and the disk's configuration as it was before."""
    place = OverlayHost(context, at_source=at_source)
    first = record.first.with_state(disk.target, state, source=at_source)
    if state is OverlayState.COMMITTED:
        _write_config(place, first, {disk.target: (place.base(disk), disk.format)})
        first = replace(first, committed={**first.committed, place.overlay(disk): place.print(disk)})
        point("commit-noted")
        context.log_event("action", f"what {place.overlay(disk)} held is in {place.base(disk)}")
    context.save(replace(record, first=first))


def point_config(context: HostMoveContext, seen: HostObservation, *, at_source: bool) -> None:
    """The configuration names what the VM runs on; of one that is off, the base that has all."""
    place, look = OverlayHost(context, at_source=at_source), seen.overlays
    assert look is not None
    wanted = {}
    for disk in context.plan.first:
        on_overlay = look.state.active and look.disks[disk.target].live_overlay
        wanted[disk.target] = (place.overlay(disk), "qcow2") if on_overlay else (place.base(disk), disk.format)
        state = seen.record.first.at(source=at_source).get(disk.target)
        if not look.state.active and state is not OverlayState.COMMITTED:
            del wanted[disk.target]  # its turn comes
    _write_config(place, seen.record.first, wanted)


def _write_config(place: OverlayHost, first: FirstRecord, wanted: dict[str, tuple[str, str]]) -> None:
    """libvirt drops some of a disk when it goes to another image; it gets that back."""
    overlays = {*first.files, *first.new_files}
    before = {
        target: DiskBeforeMove(first.xml_before[target], None, overlay=path in overlays)
        for target, (path, _) in wanted.items()
        if target in first.xml_before
    }
    if xml := place.control.config_with(wanted, before):
        place.vm.define(xml)


def begin_commit(context: HostMoveContext, record: HostMoveRecord, target: str, *, at_source: bool) -> None:
    """Without a limit: it reads and writes on one host."""
    record = replace(record, first=replace(record.first, attempts=record.first.attempts + 1))
    context.save(record)
    point("commit-starting")
    OverlayHost(context, at_source=at_source).vm.start_commit(target)
    point("commit-called")
    context.log_event("action", f"the overlay of {target} is being committed into its base")
    point("commit-started")


def pivot(context: HostMoveContext, record: HostMoveRecord, target: str, *, at_source: bool) -> None:
    """From the overlay to its base, under the running guest."""
    place = OverlayHost(context, at_source=at_source)
    asked_before = record.first.at(source=at_source).get(target) is OverlayState.PIVOTING
    first = record.first.with_state(target, OverlayState.PIVOTING, source=at_source)
    context.save(replace(record, first=replace(first, attempts=0)))
    point("commit-pivoting")
    try:
        place.vm.pivot(target)
    except LibvirtFailed as error:
        if IS_OFF in error.message and not asked_before and not place.control.look(()).state.active:
            # libvirt looks whether the VM runs before it asks QEMU for anything: so the overlay was written last.
            context.save(replace(record, first=record.first.with_state(target, OverlayState.USED, source=at_source)))
        raise
    point("commit-pivoted")


def commit_off(context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk, *, at_source: bool) -> None:
    """QEMU's image lock keeps the VM from starting meanwhile."""
    place = OverlayHost(context, at_source=at_source)
    point("committing-off")
    record = replace(record, first=record.first.with_state(disk.target, OverlayState.USED, source=at_source))
    context.save(record)
    # The overlay's before: the VM may be started on it as soon as the commit is over, and then it holds more.
    above = place.print(disk).split("|")[1]
    context.check()
    qemu_img.commit(place.files, place.overlay(disk))
    point("committed-off")
    state = place.print(disk).split("|")[0] + "|" + above
    first = record.first.with_state(disk.target, OverlayState.COMMITTED, source=at_source)
    first = replace(first, committed={**first.committed, place.overlay(disk): state})
    context.save(replace(record, first=first))
    context.log_event(
        "action", f"the overlay of {disk.target} was committed into its base while {context.plan.vm} was off"
    )


# ------------------------------------------------------------ removed


def remove_new_overlays(context: HostMoveContext, record: HostMoveRecord) -> None:
    """At the destination: the new images have all of them, which is proven once more for each."""
    place = OverlayHost(context, at_source=False)
    _remove(context, place, record, [disk for disk in context.plan.first if disk.new_overlay in record.created])
    point("new-overlay-removed")
    left = tuple(path for path in record.created if path not in {disk.new_overlay for disk in context.plan.first})
    context.save(replace(record, created=left, first=replace(record.first, made=())))


def remove_overlays(context: HostMoveContext, record: HostMoveRecord) -> None:
    """At the source, on the way back: the old images have all of them."""
    place = OverlayHost(context, at_source=True)
    _remove(context, place, record, [disk for disk in context.plan.first if disk.overlay in record.first.files])
    point("overlay-removed")
    context.save(replace(record, first=replace(record.first, files=(), source={})))


def _remove(context: HostMoveContext, place: OverlayHost, record: HostMoveRecord, disks: list[TravellingDisk]) -> None:
    runner = place.files
    for disk in disks:
        path = place.overlay(disk)
        if files.is_there(runner, path):
            if not _is_ours(context, place, path):
                context.log_event("warning", f"{path} is not this move's file; it was left alone")
                continue
            files.flush(runner, place.base(disk))
            _no_longer_needed(context, place, record, disk)
            context.check()
            files.remove_file(runner, path)
        files.remove_file(runner, path + MARKER)


def _is_ours(context: HostMoveContext, place: OverlayHost, path: str) -> bool:
    """Whether we have made the file. One at the source that was not finished has no more than our name (`_make`)."""
    runner, move = place.host.runner, context.plan.move
    if place.at_source:
        return marked_by(runner, path) == move and not is_somebody_s(runner, path)
    return is_made_by(runner, path, move)


# ------------------------------------------------------------ what is left at the source once the guest has gone


def blocker(context: HostMoveContext, disk: TravellingDisk) -> str | None:
    """Why the overlay above an old image has to stay; None when nothing needs it."""
    if not disk.overlay or not files.is_there(context.source.runner, disk.overlay):
        return None
    return proof.blocker(
        context.source, disk.overlay, context.claims(), going=context.plan.old_files, is_base=context.plan.cold
    )


def make_whole(context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk) -> HostMoveRecord:
    """An old image that is kept: what its overlay holds belongs into it. It was proven that nobody uses either."""
    runner = context.source.runner
    if not disk.overlay or not files.is_there(runner, disk.overlay):
        forget_marker(context, disk)
        return record
    if disk.target not in record.first.merging:
        record = replace(record, first=replace(record.first, merging=(*record.first.merging, disk.target)))
        context.save(record)
    point("old-image-merging")
    context.check()
    qemu_img.commit(context.source_files, disk.overlay)
    remove_old_overlay(context, disk)
    return record


def remove_old_overlay(context: HostMoveContext, disk: TravellingDisk) -> None:
    """The overlay above an old image that has all of it, or that is gone. The caller has the proof."""
    if disk.overlay:
        context.check()
        files.remove_file(context.source_files, disk.overlay)
        forget_marker(context, disk)


def forget_marker(context: HostMoveContext, disk: TravellingDisk) -> None:
    """The overlay at the source is gone, or the quarantine says whose it is."""
    if disk.overlay:
        files.remove_file(context.source_files, disk.overlay + MARKER)
