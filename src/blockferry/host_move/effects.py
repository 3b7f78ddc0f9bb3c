"""The effects of a move to another host. Each may be repeated; the intent is in the record before it."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable
from dataclasses import replace

from blockferry.base.errors import CopyIncomplete, FileExists, LibvirtFailed
from blockferry.base.units import format_size
from blockferry.host_move import host_actions as actions
from blockferry.host_move import (
    image_owner,
    kept_definition,
    migration_guarding,
    old_home,
    overlay_effects,
    overlay_looks,
    state_files,
)
from blockferry.host_move.cold_copy import copy_image
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_observation import HostObservation
from blockferry.host_move.host_plan import TravellingDisk
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.points import point
from blockferry.hosts import file_identity, fingerprint
from blockferry.hosts.helper import files
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.libvirt import barred_xml, domain_xml, interface_xml, migration
from blockferry.hosts.libvirt.migration import Migration, MigrationOrder
from blockferry.hosts.qemu_user import HOME_MODE
from blockferry.jobs.action import Action, LookAgain
from blockferry.jobs.outcome import Wanted
from blockferry.safety import proof
from blockferry.storage_move.destination.effects import MARKER, is_made_by, write_marker

TELL_AGAIN_S = 5.0  # seconds after which a migration that another process has begun is told its limits again
STOPPING_S = 5.0
"""So long an abort is waited for before the next look."""


def perform(context: HostMoveContext, action: Action, seen: HostObservation) -> None:
    """Carry out one action. Raises BlockferryError, ConversionStopped."""
    migration_guarding.stand_by(context, seen)
    if isinstance(action, LookAgain):
        _tune(context, seen)
        return
    if overlay_effects.perform(context, action, seen):
        return
    if isinstance(action, actions.MakeImage):
        make_image(context, seen.record, context.plan.disk(action.target))
    elif isinstance(action, actions.CopyImage):
        _copy(context, seen.record, context.plan.disk(action.target))
    elif isinstance(action, actions.ForgetCopies):
        left = {one: print_ for one, print_ in seen.record.copied.items() if one not in action.targets}
        context.save(replace(seen.record, copied=left))
        context.log_event("warning", f"the source of {', '.join(action.targets)} was written to; it is copied again")
    elif isinstance(action, actions.CopyStateFile):
        state_files.copy(context, seen.record, action.path)
    elif isinstance(action, actions.ProveStateFile):
        state_files.prove(context, seen.record, action.path)
    elif isinstance(action, actions.ReleaseStateFile):
        state_files.release(context, seen.record, action.path)
    elif isinstance(action, actions.ReleaseImage):
        release_image(context, seen.record, action.path)
    elif isinstance(action, actions.TurnBack):
        context.log_event("error", action.problem)
        context.save(replace(seen.record, failure=action.problem))
    elif isinstance(action, actions.SaveUnproven):
        context.save(replace(seen.record, unproven=action.why))
        context.log_event("warning", f"{action.why}: the old images are kept at {context.plan.host_name}")
    elif isinstance(action, actions.SaveArrived):
        notes = (*seen.record.notes, action.note) if action.note else seen.record.notes
        context.save(replace(seen.record, arrived=True, notes=notes))
        point("arrived-noted")
        migration_guarding.end(context)
    else:
        _SIMPLE[type(action)](context, seen.record)


# ------------------------------------------------------------ prepare


def mark_vm(context: HostMoveContext, record: HostMoveRecord) -> None:
    """Our mark on the VM at the source."""
    plan = context.plan
    here = migration.look(context.source.connection, plan.uuid, plan.vm)
    context.source_vm.mark(
        domain_xml.MARK_URI, domain_xml.MARK_PREFIX, domain_xml.mark_xml(plan.move, context.journal),
        live=here.active, config=here.persistent,
    )  # fmt: skip
    point("marked")
    context.save(replace(record, marked=True))


def unmark_vm(context: HostMoveContext, record: HostMoveRecord) -> None:
    """And off again."""
    plan = context.plan
    migration_guarding.end(context)
    here = migration.look(context.source.connection, plan.uuid, plan.vm)
    if plan.cold and not plan.disks:
        context.source_vm.autostart(wanted=plan.autostart)
    if here.mark in ("", plan.move):
        context.source_vm.mark(domain_xml.MARK_URI, "", None, live=here.active, config=here.persistent)
    for vm in (context.source_vm, context.dest_vm):
        vm.drop()  # a definition that is kept there
    point("unmarked")
    context.save(replace(record, marked=False))


def make_image(context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk) -> None:
    """An empty image of exactly the disk's size. A file of that name that is not ours is never overwritten."""
    runner, path = context.dest_files, context.plan.made_path(disk)
    for one in (path, disk.dest):
        if not files.is_there(runner, one):
            continue
        if one not in record.created or not is_made_by(runner, one, context.plan.move):
            raise FileExists(one)
        if one == path:
            context.check()
            files.remove_file(runner, path)  # of an attempt before
    home = posixpath.dirname(disk.dest)
    fresh = [one for one in (path, disk.dest) if one not in record.created]
    if files.stat_one(runner, home) is None:
        fresh.insert(0, home + "/")
    record = replace(record, created=tuple(dict.fromkeys((*record.created, *fresh))))
    parts = {target: part for target, part in record.parts.items() if target != disk.target}  # of an image before
    record = replace(record, parts=parts)
    context.save(record)
    files.make_directory(runner, home, HOME_MODE)
    if f"{home}/" in record.created:
        image_owner.give_directory(context, disk, home)
    point("image-named")
    context.check()
    _mark_image(context, path, made=False)
    preallocation: qemu_img.Preallocation = "falloc" if disk.thick else "off"
    qemu_img.create(
        runner,
        path,
        disk.format,
        disk.virtual_size,
        preallocation=preallocation,
        ownership=qemu_img.Ownership(lambda: _mark_image(context, path, made=True), context.check),
    )
    image_owner.give_image(context, disk, path)
    _mark_image(context, path, made=True)
    for one in (path, home, posixpath.dirname(home)):
        files.flush(runner, one)  # an image without a name in a directory is lost with the power
    point("image-made")
    context.save(replace(record, made=(*record.made, disk.target)))


def _mark_image(context: HostMoveContext, path: str, *, made: bool) -> None:
    """Say beside a file whose it is; once it is made, also which file."""
    plan = context.plan
    write_marker(
        context.dest_files, path, move=plan.move, vm=plan.vm, journal=context.journal, host=plan.dest_host,
        made=path if made else None,
    )  # fmt: skip


# ------------------------------------------------------------ a running VM


def migrate(context: HostMoveContext, record: HostMoveRecord) -> None:
    """Begin the call; the loop looks on while it runs. Both guards stand before."""
    plan = context.plan
    migration_guarding.start(context)
    if plan.persistent:  # libvirt removes it here in the end, when the destination's may not be on its disk yet
        context.source_vm.keep()
    context.save(replace(record, begun=True))
    point("migrating")
    order = MigrationOrder(
        plan.peer,
        plan.address,
        {
            disk.target: (disk.new_overlay, "qcow2") if disk.new_overlay else (disk.dest, disk.format)
            for disk in plan.disks
        },
        context.bandwidth() // max(1, len(plan.disks)),  # of each disk; `_tune` gives the memory all of it
        plan.persistent,
        bool(plan.staying),
        plan.auto_converge,
        tls=plan.tls is not None,
        tls_name="" if plan.tls is None else plan.tls.name,
        networks=plan.networks,
        channels=plan.channels,
        compression=plan.compression,
        files=plan.renamed_files,
        only_top=bool(plan.first),
    )
    context.bandwidth_set, context.limit_set = order.bandwidth, False
    context.disks_told = not context.bandwidth()
    source, holding = context.source, context.holding
    context.migration = Migration(
        source.connection, plan.uuid, plan.vm, order,
        lambda words, texts: holding.migrate(source.runner, source.uri, plan.uuid, plan.vm, words, texts),
    )  # fmt: skip
    context.migration.start()
    point("migration-called")


def _tune(context: HostMoveContext, seen: HostObservation) -> None:
    """Tell a migration that runs what its user wants of it by now."""
    plan, connection = context.plan, context.source.connection
    if not seen.source.migrating:
        return
    if context.migration is None and time.monotonic() - context.told_at > TELL_AGAIN_S:
        # Another process has begun it: where that was frozen in the middle of telling, its old values come after ours.
        context.told_at = time.monotonic()
        context.bandwidth_set, context.limit_set, context.disks_told = None, False, False
    if plan.downtime_ms and not context.limit_set:
        context.check()
        migration.set_downtime_limit(connection, plan.uuid, plan.vm, plan.downtime_ms)
        context.limit_set = True
    wanted = context.bandwidth()
    if wanted != context.bandwidth_set:
        context.check()
        migration.set_bandwidth(connection, plan.uuid, plan.vm, wanted)
        context.bandwidth_set = wanted
        context.disks_told = False
    if plan.disks and not context.disks_told:
        context.check()
        migration.set_disk_bandwidth(connection, plan.uuid, plan.vm, wanted)
        # libvirt starts the copies one after the other: only once all run the shares are right for good.
        context.disks_told = seen.stats is not None and seen.stats.memory_total > 0


def stop_migration(context: HostMoveContext, record: HostMoveRecord) -> None:
    """Abort, and see whether it ends. An abort into a link that is cut freezes the guest: the guard looks first."""
    plan = context.plan
    point("stopping-migration")
    migration_guarding.end_stalled(context)
    if migration.look(context.source.connection, plan.uuid, plan.vm).migrating:
        context.source_vm.abort()
    point("migration-stopped")
    if context.migration is not None:
        context.migration.over.wait(STOPPING_S)
    else:
        time.sleep(0.5)


def run_at_source(context: HostMoveContext, record: HostMoveRecord) -> None:
    """The guest goes on where it stopped; nothing of it is at the destination."""
    plan = context.plan
    context.source_vm.resume()
    point("source-resumed")
    context.log_event("action", f"{plan.vm} runs on at {plan.host_name}")


# ------------------------------------------------------------ a VM that is off


def _copy(context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk) -> None:
    """The fingerprint is taken before: what is written during the copy makes it stale."""
    before = source_fingerprint(context, disk)
    point("cold-copying")
    record = copy_image(context, record, disk, before)
    point("cold-copied")
    context.save(replace(record, copied={**record.copied, disk.target: before}))
    context.log_event("action", f"{disk.target} was copied to {context.plan.dest_host_name}")


def source_fingerprint(context: HostMoveContext, disk: TravellingDisk) -> str:
    """What tells whether a source image was written to: "" when it is not there.

    Raises CopyIncomplete when nothing tells that of a block device.
    """
    found = files.stat_one(context.source.runner, disk.source)
    if found is None:
        return ""
    plain = fingerprint.of(found.inode, found.size, found.mtime_ns)
    if found.kind != "block":
        return plain
    writes = files.device_writes(context.source.runner, disk.source)
    if not writes:
        raise CopyIncomplete(disk.target, f"the kernel does not count what is written to {disk.source} while it is off")
    return f"{plain}@{writes}"


def _left(context: HostMoveContext, disk: TravellingDisk) -> str:
    """The same of all that the disk was at the source: with the overlay above it."""
    if not disk.overlay:
        return source_fingerprint(context, disk)
    return overlay_looks.layers_print(context.source.runner, disk.source, disk.overlay)


def define_barred(context: HostMoveContext, record: HostMoveRecord) -> None:
    """The definition at the destination; it names images that are not there yet.

    Those of disks that go along have other names; where all stay, the definition gives them names that no storage has.
    """
    plan = context.plan
    record = replace(record, begun=True)
    context.save(record)
    point("defining")
    if not plan.disks:  # a VM without any disk cannot be barred: at least no boot of the source starts it
        context.source_vm.autostart(wanted=False)
    disks = {disk.target: (disk.dest, disk.format) for disk in plan.disks}
    xml = migration.definition(
        context.source.connection, plan.uuid, plan.vm, disks, plan.renamed_files,
        lambda xml: interface_xml.rename(xml, plan.networks),
    )  # fmt: skip
    if not plan.disks:
        xml = barred_xml.barred(xml, plan.staying, barred_xml.ending(plan.move))
    context.dest_vm.define(xml)
    point("defined")
    context.save(replace(record, defined=True))


def define_at_source(context: HostMoveContext, record: HostMoveRecord) -> None:
    """Its definition back, as the source's host has kept it; from now on the way is back."""
    plan = context.plan
    disks = {disk.target: (disk.source, disk.format) for disk in plan.disks}
    _path, xml = context.source_vm.kept()
    if xml is None:  # removed by a blockferry that did not keep it
        back = {new: old for old, new in plan.renamed_files.items()}
        xml = migration.definition(
            context.dest.connection, plan.uuid, plan.vm, disks, back,
            lambda xml: interface_xml.put_names(xml, plan.config_networks) if plan.networks else xml,
        )  # fmt: skip
        xml = barred_xml.free(xml, barred_xml.ending(plan.move))
    context.source_vm.define(xml)
    context.source_vm.autostart(wanted=plan.autostart)
    cancelled = record.wanted is Wanted.CANCEL
    failure = record.failure or (None if cancelled else f"{plan.vm} was started during the move")
    context.save(replace(record, failure=failure, defined=False))


def name_images(context: HostMoveContext, record: HostMoveRecord) -> None:
    """Only now the VM can start at the destination."""
    plan, runner = context.plan, context.dest_files
    for disk in plan.disks:
        barred = plan.made_path(disk)
        if files.is_there(runner, barred):
            files.rename(runner, barred, disk.dest)
            point("image-renamed")
    if migration.look(context.dest.connection, plan.uuid, plan.vm).barred:
        xml = migration.definition(context.dest.connection, plan.uuid, plan.vm, {}, {}, lambda xml: xml)
        context.dest_vm.define(barred_xml.free(xml, barred_xml.ending(plan.move)))
    for directory in context.plan.directories:
        files.flush(runner, directory)


# ------------------------------------------------------------ the fence


def save_handed(context: HostMoveContext, record: HostMoveRecord) -> None:
    """The proof stands in the look that led here."""
    stats = context.migration.stats if context.migration is not None else None
    context.save(replace(record, handed=True, stats=stats or record.stats))
    point("handed-noted")
    migration_guarding.tell_handed(context)


def end_at_source(context: HostMoveContext, record: HostMoveRecord) -> None:
    """Its guest is handed over; what QEMU still holds is old."""
    context.source_vm.end()
    point("source-ended")


def undefine_at_source(context: HostMoveContext, record: HostMoveRecord) -> None:
    """What is running meanwhile becomes transient by that; the next look sees it."""
    context.source_vm.undefine(*state_files.words_of_undefine(context, context.source))
    point("source-undefined")


def save_alone(context: HostMoveContext, record: HostMoveRecord) -> None:
    """The proof stands in the look that led here. From now on nobody should write to the old images."""
    left = {disk.target: _left(context, disk) for disk in context.plan.disks}
    context.save(replace(record, alone=True, left=left))
    point("alone-noted")


def _let_run(context: HostMoveContext) -> bool:
    """Whether the guest was let run by this. Where QEMU cannot open an image, that is given to its user first.

    The guest stands still until then: nothing is looked at that a refusal has not made necessary.
    """
    control = context.dest.control(context.plan.uuid, context.plan.vm)

    def has_run() -> bool:
        return migration_guarding.has_acted(context)

    try:
        return control.resume(unless=has_run)
    except LibvirtFailed:
        if not image_owner.open_images(context):
            raise
    context.check()
    return control.resume(unless=has_run)


def run_at_destination(context: HostMoveContext, record: HostMoveRecord) -> None:
    """The look that led here showed that the source has neither QEMU nor definition.

    A pause after a guard has let it run is its owner's, and stays.
    """
    plan = context.plan
    migration_guarding.arm_destination(context)
    point("destination-armed")
    point("resuming")
    context.check()
    resumed = _let_run(context)
    now = time.monotonic()
    point("destination-resumed")
    call = context.migration
    if resumed and call is not None and call.switched_at is not None:
        record = replace(record, downtime_ms=round((now - call.switched_at) * 1000))
    migration_guarding.note_running(context)
    point("resumed")
    context.save(replace(record, arrived=True))
    point("arrived-noted")
    migration_guarding.end(context)
    text = f"{plan.vm} runs at {plan.dest_host_name}"
    context.log_event("action", text if resumed else f"{plan.vm} had been let run at {plan.dest_host_name} already")


# ------------------------------------------------------------ clearing up


def flush_images(context: HostMoveContext, record: HostMoveRecord) -> None:
    """All that the guest has written so far is on the destination's disks before anything at the source goes.

    What QEMU has not flushed itself would be lost with the destination's power, and the old image has it.
    """
    plan, runner = context.plan, context.dest.runner
    for path in (*(disk.dest for disk in plan.disks), *plan.directories):
        files.flush(runner, path)
    point("images-flushed")
    context.save(replace(record, flushed=True))


def settle(context: HostMoveContext, record: HostMoveRecord) -> None:
    """The definition at the destination as its user had it."""
    plan = context.plan
    there = migration.look(context.dest.connection, plan.uuid, plan.vm)
    if there.mark in ("", plan.move):
        context.dest_vm.mark(domain_xml.MARK_URI, "", None, live=there.active, config=there.persistent)
    if plan.persistent:
        context.dest_vm.autostart(wanted=plan.autostart)
    kept = kept_definition.give_up(context)
    notes = (*record.notes, kept) if kept else record.notes
    for path in record.created:
        if not path.endswith("/"):
            files.remove_file(context.dest_files, path + MARKER)
    if not plan.cold:
        migration_guarding.forget(context)
    point("settled")
    context.save(replace(record, settled=True, notes=notes))


def _doubt(context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk) -> str | None:
    """Why an old image stays although nothing needs it: the new one is not proven whole, or the old one is newer."""
    if record.unproven:
        return record.unproven
    before = record.left.get(disk.target)
    merging = disk.target in record.first.merging  # its overlay goes into it by our own doing
    if before is not None and not merging and _left(context, disk) != before:
        return f"it was written to after {context.plan.vm} had gone to {context.plan.dest_host_name}"
    if files.stat_one(context.dest.runner, disk.dest) is None:
        return f"{context.plan.dest_host_name} does not have {disk.dest}"
    return None


def release_image(context: HostMoveContext, record: HostMoveRecord, path: str) -> None:
    """The same proof as before every removal (safety/proof.py); in doubt the image stays, and the report says so."""
    plan, runner = context.plan, context.source.runner
    point("releasing-image")
    disk = next(travelling_disk for travelling_disk in plan.disks if travelling_disk.source == path)
    file_stat = files.stat_one(runner, path)
    if file_stat is None:
        sentence = f"{path}: was gone already"
        if disk.overlay and (why := overlay_effects.blocker(context, disk)) is None:
            overlay_effects.remove_old_overlay(context, disk)
        elif disk.overlay:
            sentence += f"; {disk.overlay} is left, because {why}"
    else:
        is_base = plan.cold or bool(disk.overlay)  # something may stand on what no VM wrote to for a while
        doubt = _doubt(context, record, disk) or overlay_effects.blocker(context, disk)
        doubt = doubt or proof.blocker(context.source, path, context.claims(), going=plan.old_files, is_base=is_base)
        size = format_size(file_stat.allocated)
        if doubt is None and plan.source.delete:
            files.remove_with_links(context.source_files, path)
            overlay_effects.remove_old_overlay(context, disk)
            file_stat = None
            sentence = f"{path} ({size}): removed; nothing used it any more"
        else:
            record, sentence = _keep(context, record, disk, doubt)
    if file_stat is None:
        old_home.clear(context, path)
    context.log_event("action", sentence)
    point("image-released")
    context.save(replace(record, released=(*record.released, path), sources=(*record.sources, sentence)))


def _keep(
    context: HostMoveContext, record: HostMoveRecord, disk: TravellingDisk, doubt: str | None
) -> tuple[HostMoveRecord, str]:
    """Put an old image into the quarantine; in doubt as it is, with the overlay above it. The record, a sentence."""
    plan, runner = context.plan, context.source.runner
    if doubt is None:
        record = overlay_effects.make_whole(context, record, disk)
    why = doubt or f"kept {plan.source.why_kept}: the disk of {plan.vm} before it went to {plan.dest_host_name}"
    size = ""
    for path, format in ((disk.source, disk.format), (disk.overlay, "qcow2")):
        file_stat = files.stat_one(runner, path) if path else None
        if file_stat is not None:
            size = size or format_size(file_stat.allocated)
            context.quarantine(_kept(context, disk, path, format, file_stat, why, for_good=doubt is not None))
    overlay_effects.forget_marker(context, disk)
    reason = f", because {why}" if doubt else f" {plan.source.why_kept}"
    above = f", with {disk.overlay} above it" if doubt and disk.overlay else ""
    return record, f"{disk.source} ({size}){above}: kept{reason}"


def _kept(
    context: HostMoveContext, disk: TravellingDisk, path: str, format: str, file_stat: files.FileStat, why: str, *,
    for_good: bool,
) -> Kept:  # fmt: skip
    """`for_good`: it is kept because of a doubt, so its time is never over by itself."""
    plan, now = context.plan, time.time()
    prints = KeptFingerprint(file_stat.inode, file_stat.size, file_stat.mtime_ns)
    file = file_identity.files_at(context.source.runner, plan.host, [path])[path]
    expires = None if for_good or plan.source.keep_s is None else now + plan.source.keep_s
    return Kept(
        path, plan.move, plan.vm, disk.source_datastore, expires, file_stat.allocated, why,
        host=plan.host, since=now, format=format, fingerprint=prints, file=file,
    )  # fmt: skip


def end_at_destination(context: HostMoveContext, record: HostMoveRecord) -> None:
    """What bears our mark there, and never ran: see `decide`."""
    plan = context.plan
    instance = migration.look(context.dest.connection, plan.uuid, plan.vm)
    if instance.mark != plan.move or instance.state is PowerState.RUNNING:
        return  # the next look says what it is
    if instance.active:
        context.dest_vm.end()
    if instance.persistent:
        context.dest_vm.undefine(*state_files.words_of_undefine(context, context.dest))
    point("destination-ended")
    context.log_event("action", f"the half-made {plan.vm} at {plan.dest_host_name} was removed")
    if record.defined:
        context.save(replace(record, defined=False))


def remove_images(context: HostMoveContext, record: HostMoveRecord) -> None:
    """What is in `created` is ours unless the marker beside it tells of another file."""
    runner, move = context.dest_files, context.plan.move
    state = {file.dest: file for file in context.plan.copied_files}
    left = []
    for path in reversed(record.created):
        if path in state:
            files.remove_leftover(runner, path)
        if path.endswith("/"):
            files.remove_directory_if_empty(runner, path.rstrip("/"))
            continue
        if not files.is_there(runner, path):
            files.remove_file(runner, path + MARKER)
            continue
        ours = state_files.is_own(context, state[path]) if path in state else is_made_by(runner, path, move)
        if not ours:
            left.append(path)
            continue
        files.remove_file(runner, path)
        files.remove_file(runner, path + MARKER)
    point("images-removed")
    for path in left:
        context.log_event(
            "warning", f"{path} at {context.plan.dest_host_name} is not this move's file; it was left alone"
        )
    first = replace(record.first, made=())
    context.save(replace(record, created=(), made=(), copied={}, parts={}, state_copied={}, first=first))


_SIMPLE: dict[type[Action], Callable[[HostMoveContext, HostMoveRecord], None]] = {
    actions.MarkVm: mark_vm,
    actions.UnmarkVm: unmark_vm,
    actions.Migrate: migrate,
    actions.StopMigration: stop_migration,
    actions.RunAtSource: run_at_source,
    actions.DefineBarred: define_barred,
    actions.DefineAtSource: define_at_source,
    actions.NameImages: name_images,
    actions.SaveHanded: save_handed,
    actions.EndAtSource: end_at_source,
    actions.UndefineAtSource: undefine_at_source,
    actions.SaveAlone: save_alone,
    actions.RunAtDestination: run_at_destination,
    actions.FlushImages: flush_images,
    actions.SettleDefinition: settle,
    actions.EndAtDestination: end_at_destination,
    actions.RemoveImages: remove_images,
}
