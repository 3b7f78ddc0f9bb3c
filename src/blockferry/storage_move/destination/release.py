"""Effects that take things away. Never without proof; when in doubt both are kept and the report says so."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterable
from dataclasses import replace

from blockferry.base.errors import BlockferryError, StillInUse, VmNotFound
from blockferry.base.units import MiB, format_size, format_time
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files
from blockferry.hosts.images import network_exports, qemu_img
from blockferry.hosts.kept import INCOMPLETE, NOTHING_USES_IT
from blockferry.hosts.libvirt import domain_list
from blockferry.safety import proof
from blockferry.storage_move import destination_watchdog
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.destination import kept_files, mount_check
from blockferry.storage_move.destination.effects import MARKER
from blockferry.storage_move.destination.placement import is_in_home
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.observation import DiskSide, Observation
from blockferry.storage_move.observe import fingerprints, same_path
from blockferry.storage_move.overlays import effects as overlays_effects
from blockferry.storage_move.overlays import resume_rules
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.points import point
from blockferry.storage_move.request import OnBreak
from blockferry.storage_move.templates import rules as templates_rules
from blockferry.storage_move.verify import effects as verify_effects
from blockferry.storage_move.verify.record import BackupExport


def release_source(context: Context, path: str, seen: Observation) -> None:
    """Remove or keep an old file, as asked; keep it whenever the proof that nothing needs it is not complete."""
    plan = context.plan
    disk = next(disk_plan for disk_plan in plan.disks if path in (*disk_plan.release.files, disk_plan.overlays.source))
    overlay = path == disk.overlays.source
    point("releasing-source")
    file_stat = files.stat_one(context.runner, path)
    size = 0 if file_stat is None else file_stat.allocated
    links = files.link_chain(context.runner, path)[1:]
    if file_stat is None:
        sentence = f"{path}: was gone already"
        if links:
            sentence = f"{path}: is a symbolic link to {links[-1]}, which is not there; the link stays"
    else:
        unproven = verify_effects.unproven(plan, seen.record, disk.target)
        kept = not plan.source.delete or unproven is not None
        doubt = reason_to_keep(context, disk, path, seen)
        if overlay and doubt is None:
            # Only when the base can go, too, or can be written to: then what the overlay holds is written into it, and
            # it is whole. A base that stays because of a doubt is not: it stays with its overlay.
            doubt = reason_to_keep(context, disk, disk.source.path, seen, overlay_goes=True)
        if not overlay:
            doubt = doubt or unproven
        if doubt is not None:
            whole = not _lacks_overlay(context, disk, path, seen)
            doubt += "" if whole else f"; {INCOMPLETE}: {disk.overlays.source} was removed before"
            sentence = f"{path} ({format_size(size)}): kept, because {doubt}"
            context.quarantine(
                path, disk.source.datastore or "", size, doubt, _format(context, disk, path), for_good=True,
                settled=whole,
            )  # fmt: skip
        elif overlay:
            context.check()
            if kept:
                overlays_effects.keep_old_base_whole(context, disk)
            files.remove_file(context.runner, path)
            context.proof = None  # its inventory may show the overlay by another mount, where it seems to need its base
            sentence = f"{path} ({format_size(size)}): the overlay of the move, removed"
        elif not plan.source.delete:
            until = "" if plan.source.keep_s is None else f" until {format_time(time.time() + plan.source.keep_s)}"
            sentence = f"{path} ({format_size(size)}): kept{until}, {plan.source.why_kept}; {NOTHING_USES_IT}"
            why = f"kept {plan.source.why_kept}; {NOTHING_USES_IT}"
            context.quarantine(path, disk.source.datastore or "", size, why, _format(context, disk, path))
        else:
            context.check()
            files.remove_with_links(context.runner, path)
            behind = f", a symbolic link, and {links[-1]}" if links else ""
            sentence = f"{path}{behind} ({format_size(size)}): removed; nothing used it any more"
    if overlay:  # whatever became of it, also when a process before us has died here: the marker is of no use any more
        files.remove_file(context.runner, path + MARKER)
    context.sources.append(sentence)
    context.log_event("action", sentence)
    point("source-released")
    context.save(replace(seen.record, released=(*seen.record.released, path)))


def _lacks_overlay(context: Context, disk: DiskPlan, path: str, seen: Observation) -> bool:
    """Whether a base is no whole disk any more, because the overlay with the guest's last writes is gone.

    With --delete-source the overlay is not committed before it goes, for the base is to go next. A doubt may come
    between the two.
    """
    above = disk.overlays.source
    if not above or not same_path(path, disk.source.path) or not context.plan.source.delete:
        return False
    if verify_effects.unproven(context.plan, seen.record, disk.target) is not None:
        return False  # then it was committed
    state = overlays_rules.layer_of(seen.record, disk.target, at_source=True)
    if state in (None, OverlayState.COMMITTED):
        return False
    return files.stat_one(context.runner, above) is None


def _format(context: Context, disk: DiskPlan, path: str) -> str | None:
    """The format of an old file; that of a lower layer stands in the layer above it. None when it cannot be told."""
    if (known := _known_format(disk, path)) is not None:
        return known
    try:
        layers = qemu_img.chain(context.runner, disk.source.path, disk.source.format)
    except BlockferryError:
        return None
    if any(same_path(part, path) for layer in layers for part in layer.parts):
        return "raw"  # nothing stands on it that would have to be looked for
    return next((layer.format for layer in layers if same_path(layer.path, path)), None)


def reason_to_keep(
    context: Context, disk: DiskPlan, path: str, seen: Observation, *, overlay_goes: bool = False
) -> str | None:
    """Why the proof that an old file is unneeded is not complete; None when it is.

    Every disk of the VM was seen at the destination, live and persistent; it is not the same file as any new one;
    and the proof that counts for every removal (safety/proof.py). A verification is not looked at here.
    """
    if not seen.record.switch.done or any(view.side is not DiskSide.DESTINATION for view in seen.disks):
        return "not all disks were seen at the destination"
    if seen.record.graph.doubt:
        return f"it is not proven that QEMU uses only the new images ({seen.record.graph.doubt})"
    if (unasked := _unasked(disk.target, seen)) is not None:
        return unasked
    if seen.persistent and not seen.config_agrees:
        return "the persistent configuration does not agree"
    images = [file for file in disk.release.files if path in disk.release.parts and file not in disk.release.parts]
    for image in images:  # they are released first
        if files.stat_one(context.runner, image) is not None:
            return f"it holds a part of {disk.source.path}, and {image} is kept"
    new_files = [disk_plan.dest.path for disk_plan in context.plan.disks if not is_export(disk_plan.dest.path)]
    stats = files.stat_many(context.runner, [path, *new_files])
    old = stats[path]
    if old is None or old.kind != "file":
        return "it is a block device; only its owner can tell what else it is for" if old else "it cannot be looked at"
    if (changed := _template_changed(context, disk, path)) is not None:
        return changed
    for dest in new_files:
        new = stats[dest]
        if new is None:
            return f"the new image {dest} cannot be found"
        if (new.device, new.inode) == (old.device, old.inode):
            return f"it is the same file as the new image {dest}"
    if (silent := _silent_export(context)) is not None:
        return silent
    if path != disk.overlays.source and seen.record.disk(disk.target).source_overlay is not None and not overlay_goes:
        above = disk.overlays.source
        if files.stat_one(context.runner, above) is not None:
            return f"{above}, which is kept, stands on it"
    return context.blocker(path, patience_s=proof.PATIENCE_S, is_base=not _written_by_guest(context, disk, path))


def _unasked(target: str, seen: Observation) -> str | None:
    """Why it is not proven that QEMU used the new image of a disk; None when it is.

    A disk that was copied while the VM was off needs no such proof unless the VM runs. The record of an older version
    of blockferry holds none.
    """
    record = seen.record
    if record.graph.proven:
        return None
    if seen.state.active:
        return "QEMU was not asked whether it uses the new images"
    if (
        record.disk(target).cold_copied is not None and record.copy(target).stage is Stage.NONE
    ):  # and no live copy came after it
        return None
    return "the VM went off before QEMU was asked whether it used the new images, so this one may hold newer data"


def _written_by_guest(context: Context, disk: DiskPlan, path: str) -> bool:
    """Whether a running VM wrote to this file until the switch: then no other image can stand on it."""
    if not context.plan.domain.was.active or not any(
        same_path(path, one) for one in (disk.source.path, disk.overlays.source)
    ):
        return False
    try:
        now = domain_list.vm(context.site.connection, context.plan.uuid).disk(disk.target)
    except VmNotFound:
        return False
    return now is not None and not now.read_only


def _silent_export(context: Context) -> str | None:
    """Why a disk that went to an export cannot be counted on."""
    for disk in context.plan.disks:
        if is_export(disk.dest.path):
            try:
                size = network_exports.size(context.runner, disk.dest.path)
            except BlockferryError as error:
                return f"{disk.dest.path} does not answer ({error.sentence})"
            if size != disk.sizes.virtual:
                return f"{disk.dest.path} has {size} bytes instead of {disk.sizes.virtual}"
    return None


def _template_changed(context: Context, disk: DiskPlan, path: str) -> str | None:
    """Whether what this disk stands on, or the old layer it took the place of, was written to since both were compared.

    Of the old layers only the one that is to go counts: those above it are gone by now.
    """
    reused = disk.chain.reused
    if reused is None:
        return None
    then = {**reused.prints, **{name: one for name, one in reused.source_prints.items() if same_path(name, path)}}
    changed = templates_rules.changed(then, fingerprints(context.runner, then))
    return f"{changed} was written to, or is gone, since it was compared" if changed else None


def _known_format(disk: DiskPlan, path: str) -> str | None:
    if same_path(path, disk.overlays.source):
        return "qcow2"
    return disk.source.format if same_path(path, disk.source.path) else None


def _nothing_copied(disk: DiskRecord) -> DiskRecord:
    return replace(
        disk,
        copy=Copy(),
        cold_copied=None,
        layers_copied=False,
        synced=None,
        verified=False,
        unverified=None,
        differences=None,
    )


def remove_destination(context: Context, seen: Observation) -> None:
    """All that we made. The caller has seen that no disk of the VM is there; QEMU must have let go of it.

    Raises DestinationGone while the destination is not mounted, DestinationFenced while it does not answer: what
    cannot be seen is not gone.
    """
    destination_watchdog.end(context)
    destination_watchdog.see_back(context, seen.record)
    mount_check.check(context, seen.record.mounts)
    seen = replace(seen, record=kept_files.give_back(context, seen.record))
    keep = _to_keep(context, seen)
    kept = tuple(dict.fromkeys((*seen.record.kept, *keep)))
    record = replace(
        seen.record.changed(_nothing_copied),
        kept=kept,
        home=replace(seen.record.home, copied=False),
        export=replace(seen.record.export, state=BackupExport.NONE),
    )
    if record != seen.record:
        context.save(record)  # before: what is half removed must not count as copied
    point("removing-destination")
    _mark_kept(context, keep)
    asked = proof.Proof(context.site, [path for path in record.created if not path.endswith("/") and path not in kept])
    for path in reversed(record.created):
        context.check()
        if path.endswith("/"):
            home_effects.remove_directory(context, path.rstrip("/"))
            continue
        if path in kept:
            continue
        file_stat = files.stat_one(context.runner, path)
        disk = next((disk_plan for disk_plan in context.plan.disks if path == disk_plan.overlays.source), None)
        if disk is not None:
            overlays_effects.remove_overlay(context, record, disk)
        elif (other := _not_made(context, path)) is not None:
            context.notes.append(f"{path} stays, because {other}")
            context.log_event("warning", context.notes[-1])
            if not destination_effects.is_somebody_s(context.runner, path):
                continue  # with its marker, by which `orphans` tells of it; or that is another move's
        elif file_stat is not None:
            doubt = asked.blocker(path, context.claims(), going=record.created, patience_s=0, sure=False, is_base=False)
            if doubt is not None:
                raise StillInUse(path, doubt)
            files.remove_file(context.runner, path)
        files.remove_file(context.runner, path + MARKER)
        for cut_short in (path, path + MARKER):
            files.remove_leftover(context.runner, cut_short)
    for disk in context.plan.disks:
        if disk.partial.move is not None and is_in_home(disk.dest.path, context.plan.vm):
            home_effects.remove_directory(
                context, posixpath.dirname(disk.dest.path)
            )  # made by the move that left the copy
    point("destination-removed")
    for sentence in keep.values():
        context.notes.append(sentence)
        context.log_event("action", sentence)
    record = record.changed(lambda disk: replace(disk, source_overlay=None, dest_overlay=None))
    context.save(replace(record, created=()))


def _mark_kept(context: Context, paths: Iterable[str]) -> None:
    """An old disk that was taken over has no marker until it is written to."""
    for path in paths:
        if destination_effects.marked_by(context.runner, path) is None:
            destination_effects.mark_file(context, path, made=True)


def _not_made(context: Context, path: str) -> str | None:
    """Why it is not proven that the move has made a file, a clause."""
    if path.endswith(".xml") and home_effects.is_ours(context.runner, path, context.plan.uuid):
        return None
    return destination_effects.why_not_ours(context, path)


def _to_keep(context: Context, seen: Observation) -> dict[str, str]:
    """The broken copies that stay, each with a sentence about it."""
    plan, record = context.plan, seen.record
    if not resume_rules.keeps(plan.outage.on_break, plan.method, cancelled=record.failure is None):
        return {}
    found = {}
    for disk in plan.disks:
        if disk.copy.clone and plan.outage.on_break is not OnBreak.KEEP:
            continue  # another clone takes no longer than looking at this one
        if disk.dest.path in record.created and overlays_effects.worth_going_on(context, disk, record):
            stat = files.stat_one(context.runner, disk.dest.path)
            size = 0 if stat is None else stat.allocated
            if size >= (MiB if plan.outage.on_break is OnBreak.KEEP else resume_rules.WORTH_KEEPING):
                found[disk.dest.path] = (
                    f"{disk.dest.path} ({format_size(size)}) is kept: "
                    f"the next move of {plan.vm} to {disk.dest.datastore} goes on from it; "
                    "`blockferry orphans` lists and removes it"
                )
    return found
