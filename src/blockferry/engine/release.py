"""Effects that take things away. Never without proof; when in doubt both are kept and the report says so."""

from __future__ import annotations

import posixpath
from dataclasses import replace

import tenacity

from blockferry.engine import layering
from blockferry.engine.context import Context
from blockferry.engine.making import MARKER
from blockferry.engine.observe import same_path
from blockferry.engine.points import point
from blockferry.errors import ImageUnreadable, StillInUse
from blockferry.hypervisor import domains, pools
from blockferry.images import files, qemuimg, users
from blockferry.model import resume
from blockferry.model.inventory import Vm
from blockferry.model.observation import Observation, Side
from blockferry.model.plan import DiskPlan
from blockferry.model.request import OnBreak
from blockferry.units import MiB, format_duration, format_size


def release_source(context: Context, path: str, seen: Observation) -> None:
    """Remove or keep an old file, as asked; keep it whenever the proof that nothing needs it is not complete."""
    plan = context.plan
    disk = next(one for one in plan.disks if path in (*one.old_files, one.source_overlay))
    overlay = path == disk.source_overlay
    point("releasing-source")
    found = files.stat_one(context.runner, path)
    size = 0 if found is None else found.allocated
    if found is None:
        sentence = f"{path}: was gone already"
    else:
        doubt = reason_to_keep(context, disk, path, seen)
        if overlay and doubt is None and not plan.source.delete:
            doubt = reason_to_keep(context, disk, disk.source, seen)  # what the overlay holds is written into it
        if doubt is not None:
            sentence = f"{path} ({format_size(size)}): kept, because {doubt}"
            context.keep(path, disk.source_datastore or "", size, doubt)
        elif overlay:
            if not plan.source.delete:
                layering.keep_old_base_whole(context, disk)
            files.remove_file(context.runner, path)
            files.remove_file(context.runner, path + MARKER)
            sentence = f"{path} ({format_size(size)}): the overlay of the move, removed"
        elif not plan.source.delete:
            until = f" for {format_duration(plan.source.keep_s)}" if plan.source.keep_s is not None else ""
            sentence = f"{path} ({format_size(size)}): kept{until}, as asked; nothing uses it"
            context.keep(path, disk.source_datastore or "", size, "kept as asked; nothing uses it")
        else:
            files.remove_file(context.runner, path)
            sentence = f"{path} ({format_size(size)}): removed; nothing used it any more"
    context.sources.append(sentence)
    context.tell("action", sentence)
    point("source-released")
    context.note(replace(seen.record, released=(*seen.record.released, path)))


def reason_to_keep(context: Context, disk: DiskPlan, path: str, seen: Observation) -> str | None:
    """Why the proof that an old file is unneeded is not complete; None when it is.

    The proof: every disk of the VM was seen at the destination, live and persistent; it is a plain file and not
    the same as any new one; no process has it open or locked; no VM of the host and no backing chain names it.
    """
    runner = context.runner
    if not seen.record.switched or any(view.side is not Side.DESTINATION for view in seen.disks):
        return "not all disks were seen at the destination"
    if seen.persistent and not seen.config_agrees:
        return "the persistent configuration does not agree"
    stats = files.stat_many(runner, [path, *(one.dest for one in context.plan.disks)])
    old = stats[path]
    if old is None or old.kind != "file":
        return "it is a block device; only its owner can tell what else it is for" if old else "it cannot be looked at"
    for one in context.plan.disks:
        new = stats[one.dest]
        if new is None:
            return f"the new image {one.dest} cannot be found"
        if (new.device, new.inode) == (old.device, old.inode):
            return f"it is the same file as the new image {one.dest}"
    format = disk.source_format if same_path(path, disk.source) else None
    holders = _holders(context, path, "qcow2" if same_path(path, disk.source_overlay) else format)
    if holders.any:
        who = ", ".join(f"{name} ({pid})" for pid, name in holders.openers) or "somebody"
        return f"{who} still has it open"
    return _referred_to(context, path)


@tenacity.retry(
    retry=tenacity.retry_if_result(lambda holders: holders.any),
    stop=tenacity.stop_after_delay(10),
    wait=tenacity.wait_fixed(0.5),
    retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
)
def _holders(context: Context, path: str, format: str | None) -> users.Users:
    """Who has the file open. Somebody who only looks (a listing, a backup's scan) is waited for, ten seconds."""
    return users.users_of(context.runner, path, format)


def _referred_to(context: Context, path: str) -> str | None:
    """Whether any VM of the host names the file, as a disk or anywhere in a backing chain."""
    mine = {
        one for disk in context.plan.disks for one in (*disk.old_files, disk.source_overlay, disk.dest_overlay) if one
    }
    for vm in domains.all_vms(context.site.connection):
        for name in names_of(vm):
            if same_path(name, path):
                return f"VM {vm.name} refers to it"
        if vm.uuid == context.plan.uuid:
            continue
        for disk in vm.disks:
            source = disk.source
            if disk.device != "disk" or source is None or source.path is None or source.kind not in ("file", "block"):
                continue
            try:
                layers = qemuimg.chain(context.runner, source.path, source.format)
            except ImageUnreadable as error:
                if files.stat_one(context.runner, source.path) is None:
                    continue  # a missing disk stands on nothing
                return f"it cannot be told what {disk.target} of VM {vm.name} stands on ({error.problem})"
            if any(same_path(layer.path, path) for layer in layers):
                return f"the backing chain of {disk.target} of VM {vm.name} stands on it"
    for volume, below in pools.backed_volumes(context.site.connection).items():
        if same_path(below, path) and volume not in mine:
            return f"the volume {volume} stands on it"
    return None


def names_of(vm: Vm) -> set[str]:
    """Every path that a VM's XMLs name, live and persistent, backing chains included."""
    found: set[str] = {vm.nvram} if vm.nvram else set()
    for disk in vm.disks:
        for source in (disk.live, disk.config):
            if source is not None:
                found.update(one for one in (source.path, *source.backing) if one)
        if disk.mirror is not None:
            found.add(disk.mirror.dest)
    return found


def release_home(context: Context, seen: Observation) -> None:
    """The old home's small files and directory; and the new home's metadata written as it is now."""
    plan, home = context.plan, context.plan.home
    if home is not None:
        for name, xml in context.control.metadata().items():
            files.write_file(context.runner, posixpath.join(home.dest, name), xml.encode())
        images = {disk.dest for disk in plan.disks}
        for path in seen.record.created:
            if posixpath.dirname(path) == home.dest and not path.endswith("/") and path not in images:
                files.remove_file(context.runner, path + MARKER)
        for one in home.files:
            doubt = _small_file_doubt(context, one.source)
            if doubt is not None:
                context.notes.append(f"{one.source} is kept, because {doubt}")
                context.keep(one.source, "", one.size, doubt)
            elif plan.source.delete:
                files.remove_file(context.runner, one.source)
        if home.source is not None and plan.source.delete:
            _remove_old_metadata(context, home.source)
            there = files.stat_one(context.runner, home.source) is not None
            if there and not files.remove_directory_if_empty(context.runner, home.source):
                left = ", ".join(files.list_directory(context.runner, home.source)[:5])
                context.notes.append(f"the old home {home.source} stays, it still holds: {left}")
    point("home-released")
    context.note(replace(seen.record, released=(*seen.record.released, "home")))


def _small_file_doubt(context: Context, path: str) -> str | None:
    found = files.stat_one(context.runner, path)
    if found is None or found.kind != "file":
        return None if found is None else "it is no plain file"
    if users.users_of(context.runner, path, "raw").any:
        return "it is in use until the next power cycle"
    return _referred_to(context, path)


def _remove_old_metadata(context: Context, directory: str) -> None:
    """Metadata that an earlier move of this VM wrote there; nothing else goes by these names."""
    for name in context.control.metadata():
        files.remove_file(context.runner, posixpath.join(directory, name))


def remove_destination(context: Context, seen: Observation) -> None:
    """All that we made. The caller has seen that no disk of the VM is there; QEMU must have let go of it."""
    keep = _to_keep(context, seen)
    kept = tuple(dict.fromkeys((*seen.record.kept, *keep)))
    record = replace(seen.record, copies={}, cold_copied={}, layers_copied=(), home_copied=False, synced={}, kept=kept)
    if record != seen.record:
        context.note(record)  # before: what is half removed must not count as copied
    point("removing-destination")
    for path in reversed(record.created):
        if path.endswith("/"):
            files.remove_directory_if_empty(context.runner, path.rstrip("/"))
            continue
        if path in kept:
            continue
        found = files.stat_one(context.runner, path)
        disk = next((one for one in context.plan.disks if path == one.source_overlay), None)
        if disk is not None:
            layering.remove_overlay(context, record, disk)
        elif found is not None:
            if users.users_of(context.runner, path).any:
                raise StillInUse(path, "something has it open")
            referred = _referred_to(context, path)
            if referred is not None:
                raise StillInUse(path, referred)
            files.remove_file(context.runner, path)
        files.remove_file(context.runner, path + MARKER)
    for disk in context.plan.disks:
        home = posixpath.dirname(disk.dest)
        if disk.partial_of is not None and posixpath.basename(home) == context.plan.vm:
            files.remove_directory_if_empty(context.runner, home)  # made by the move that left the copy
    point("destination-removed")
    for sentence in keep.values():
        context.notes.append(sentence)
        context.tell("action", sentence)
    context.note(replace(record, created=(), source_layers={}, dest_layers={}))


def _to_keep(context: Context, seen: Observation) -> dict[str, str]:
    """The broken copies that stay, each with a sentence about it."""
    plan, record = context.plan, seen.record
    if not resume.keeps(plan.on_break, plan.method, cancelled=record.failure is None):
        return {}
    found = {}
    for disk in plan.disks:
        if disk.dest in record.created and layering.worth_going_on(context, disk, record):
            stat = files.stat_one(context.runner, disk.dest)
            size = 0 if stat is None else stat.allocated
            if size >= (MiB if plan.on_break is OnBreak.KEEP else resume.WORTH_KEEPING):
                found[disk.dest] = (
                    f"{disk.dest} ({format_size(size)}) is kept: the next move of {plan.vm} to {disk.datastore} goes "
                    "on from it; `blockferry orphans` lists and removes it"
                )
    return found
