"""Effects that make things at the destination: lower layers, images, cold copies, the finishing touch.

What is made is named in the record before it exists (`created`), and each file has a marker file beside it, so
that an orphan sweep can tell whose it is even without the journal. What is in `created` is replaced when an effect is
repeated, if its marker proves that this move has made it (`why_not_ours`): the administrator, or another journal's
move, may have put a file of the same name there since. What is not in it is never overwritten.
"""

from __future__ import annotations

import errno
import getpass
import posixpath
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import msgspec

from blockferry.base.errors import (
    CopyIncomplete,
    FileExists,
    HostCallFailed,
    HostCommandFailed,
    ImageUnreadable,
    StillInUse,
)
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files, image_users
from blockferry.hosts.helper.files import FileStat
from blockferry.hosts.images import conversion, network_exports, qemu_img
from blockferry.hosts.qemu_user import HOME_MODE
from blockferry.hosts.runner import Runner
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import kept_files, mount_check, owner_and_labels
from blockferry.storage_move.destination.placement import guest_size
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.disk_record import Copy, Stage
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.overlays.passes import CopyProgress
from blockferry.storage_move.overlays.plan import PartialPlan
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record
from blockferry.storage_move.templates.plan import LayerPlan

MARKER = ".blockferry"
"""Ending of the marker file beside a file that is being made."""

USED_FOR_S = 180.0
"""So long a half-made file of ours may be used before it is made anew: a copy whose link was cut is ended by its helper
over there after 120 s of silence; a pool that is refreshed, or a backup, reads a file for a while."""

USED_LOOK_S = 2.0


def name_paths(context: Context, record: Record, *paths: str, ours: Collection[str] = ()) -> Record:
    """Write down what is about to be made. A file of ours that is there already is taken away first.

    Raises FileExists, and writes down nothing, when a name is taken by a file that is not proven to be this move's;
    StillInUse, ConversionStopped when one that is is used for long (`_wait_until_free`). `ours`: files that are known
    to be ours in another way. OldDiskInDoubt for an old disk that was to become the copy and is not as it was.
    """
    fresh = [path for path in paths if path not in record.created]
    for path in fresh:
        if path.endswith("/") or path in ours or not files.is_there(context.runner, path):
            continue
        if marked_by(context.runner, path) != context.plan.move or is_somebody_s(context.runner, path):
            raise FileExists(path)
    record = kept_files.take_over_all(context, record, paths)
    for path in paths:
        if path in record.created and not path.endswith("/"):
            if path not in ours and why_not_ours(context, path) is not None:
                raise FileExists(path)
            _wait_until_free(context, path)
            context.check()
            files.remove_file(context.runner, path)
    if fresh:
        record = replace(record, created=(*record.created, *fresh))
        context.save(record)
    return record


def _wait_until_free(context: Context, path: str) -> None:
    """Return when nobody has a file of ours open. Raises StillInUse when somebody has it for longer than a helper that
    lost its manager lives; ConversionStopped."""
    ends = time.monotonic() + USED_FOR_S
    told = False
    while user := _user(context.runner, path):
        if context.should_stop():
            raise conversion.ConversionStopped
        if time.monotonic() >= ends:
            raise StillInUse(path, user)
        if not told:
            context.log_event("warning", f"{path} is about to be made anew; waiting, because {user}")
            told = True
        context.show()
        context.stop.wait(USED_LOOK_S)


def _user(runner: Runner, path: str) -> str:
    """Who is seen to use a file, a clause; "" when nobody is, or nothing is there."""
    try:
        users = image_users.users_of(runner, path)
    except ImageUnreadable:
        if files.stat_one(runner, path) is None:
            return ""
        raise
    return users.why if users.any else ""


def make_home(context: Context, record: Record, path: str) -> Record:
    """Have a directory. One that was made by us is in `created` with a slash at its end."""
    if files.stat_one(context.runner, path) is None:
        record = name_paths(context, record, path + "/")
    made = files.make_directory(context.runner, path, HOME_MODE)
    if made or (path + "/" in record.created and path not in context.owned):
        owner_and_labels.give_directory(context, path)
    context.owned.add(path)
    return record


def copy_layers(context: Context, target: str, seen: Observation) -> None:
    """The lower layers of a chain, from the bottom up. Nobody writes to them, so a plain copy is right."""
    disk = context.plan.disk(target)
    record = seen.record
    mount_check.check(context, record.mounts)
    below = disk.chain.stays_below
    for layer in reversed(disk.chain.layers):
        record = make_home(context, record, posixpath.dirname(layer.dest))
        record = name_paths(context, record, layer.dest)
        mark_file(context, layer.dest)
        point("layer-named")
        conversion.convert(
            context.runner,
            layer.source,
            layer.source_format,
            layer.dest,
            layer.dest_format,
            should_stop=context.should_stop,
            rate_limit=record.bandwidth or None,
            backing=below,
            bitmaps=_has_bitmaps(context, layer),
            force_share=True,
            ownership=qemu_img.Ownership(_marking(context, layer.dest), context.check),
        )
        owner_and_labels.give_as(context, layer.source, layer.dest)
        point("layer-copied")
        below = (layer.dest, layer.dest_format)
        context.log_event("action", f"the layer {layer.source} of {target} was copied to {layer.dest}")
    context.save(record.with_disk(target, replace(record.disk(target), layers_copied=True)))


def _has_bitmaps(context: Context, layer: LayerPlan) -> bool:
    """Whether the layer holds bitmaps, of a checkpoint or of a backup program, that its copy can hold."""
    if not layer.source_format == layer.dest_format == "qcow2":
        return False
    return bool(qemu_img.chain(context.runner, layer.source, layer.source_format)[0].bitmaps)


def new_image(
    context: Context,
    path: str,
    disk: DiskPlan,
    format: str,
    size: int,
    backing: qemu_img.Backing | None = None,
    cluster_size: int | None = None,
    preallocation: qemu_img.Preallocation = "off",
    *,
    extended_l2: bool = False,
    marked: bool = True,
) -> None:
    """An empty image under a name that is in the record; its owner and mode are those of the disk's old one.

    `marked`: its marker says which file it is from the moment on when it appears, empty.
    """
    qemu_img.create(
        context.runner,
        path,
        format,
        size,
        preallocation=preallocation,
        backing=backing,
        cluster_size=cluster_size,
        extended_l2=extended_l2,
        ownership=qemu_img.Ownership(lambda: mark_file(context, path, made=True) if marked else None, context.check),
    )
    owner_and_labels.give_as(context, owner_and_labels.old_image(context, disk, path), path)


def create_image(context: Context, target: str, seen: Observation) -> None:
    """An empty image of exactly the guest's size."""
    disk = context.plan.disk(target)
    record = seen.record
    mount_check.check(context, record.mounts)
    if record.disk(target).cold_copied is not None:
        # It is taken away now, so it must not count when the VM goes off without having written to this disk.
        record = record.without_cold_copy(target)
        record = record.without_verdict(target)
        context.save(record)
    if is_export(disk.dest.path):
        _ready(context, disk)
        context.save(record.with_copy(target, Copy(Stage.IMAGE, -1, record.copy(target).attempts)))
        return
    record = make_home(context, record, posixpath.dirname(disk.dest.path))
    record = name_paths(context, record, disk.dest.path)
    point("image-named")
    mark_file(context, disk.dest.path)
    new_image(
        context,
        disk.dest.path,
        disk,
        disk.dest.format,
        disk.sizes.virtual,
        disk.chain.backing,
        disk.dest.cluster_size,
        _preallocation(disk),
        extended_l2=disk.dest.extended_l2,
    )
    if disk.encryption.luks is not None:
        files.copy_head(context.runner, disk.source.path, disk.dest.path, disk.encryption.luks.header)
    mark_file(context, disk.dest.path, made=True)
    point("image-made")
    copy = record.copy(target)
    context.save(record.with_copy(target, Copy(Stage.IMAGE, -1, copy.attempts)))


def cold_copy(context: Context, target: str, seen: Observation, source: tuple[str, str]) -> None:
    """The whole disk of a VM that is off: `source` is (path, format). QEMU's image lock keeps it from starting."""
    disk = context.plan.disk(target)
    view = seen.disk(target)
    mount_check.check(context, seen.record.mounts)
    if is_export(disk.dest.path):
        _cold_copy_to_export(context, disk, seen, source)
        return
    record = make_home(context, seen.record.without_verdict(target), posixpath.dirname(disk.dest.path))
    record = name_paths(context, record, disk.dest.path)
    if record.copy(target).stage is not Stage.NONE:
        # It is written over now, and removed if that fails: a VM that is started meanwhile is to find no image.
        record = record.with_copy(target, Copy(Stage.NONE, -1, record.copy(target).attempts))
        context.save(record)
    mark_file(context, disk.dest.path)
    point("cold-copying")
    context.cold[target] = 0.0
    context.memory.progress.pop(target, None)
    whole = disk.copy.as_is or disk.encryption.sealed
    conversion.convert(
        context.runner,
        source[0],
        "raw" if whole else source[1],  # as it is, byte for byte: no secret is needed for that
        disk.dest.path,
        "raw" if whole else disk.dest.format,
        progress=lambda fraction: show_cold(context, disk, fraction),
        should_stop=context.should_stop,
        rate_limit=record.bandwidth or None,
        # qemu-img writes all of it then; reserving is enough where that was asked for
        thick=disk.dest.thick and disk.dest.preallocation != "falloc",
        backing=disk.chain.backing,
        bitmaps=disk.source.has_bitmaps and disk.dest.format == "qcow2" and not whole,
        options=() if whole else _cold_options(disk),
        ownership=qemu_img.Ownership(_marking(context, disk.dest.path), context.check),
    )
    chain_image = qemu_img.chain(context.runner, disk.dest.path, disk.dest.format)[0]
    if disk.copy.as_is and not chain_image.internal_snapshots:
        raise CopyIncomplete(target, f"{disk.dest.path} does not hold the internal snapshots of {disk.source.path}")
    if guest_size(chain_image.virtual_size) != disk.sizes.virtual:
        raise CopyIncomplete(
            target, f"{disk.dest.path} has {chain_image.virtual_size} bytes instead of {disk.sizes.virtual}"
        )
    owner_and_labels.give_as(context, source[0], disk.dest.path)
    show_cold(context, disk, 1.0)
    note_cold(context, record, target, view.fingerprint)
    context.log_event("action", f"{target} was copied to {disk.dest.path}")


def _ready(context: Context, disk: DiskPlan) -> None:
    """Raise unless the export is there and as large as the disk: nothing is made on it."""
    size = network_exports.size(context.runner, disk.dest.path)
    if size != disk.sizes.virtual:
        raise CopyIncomplete(disk.target, f"{disk.dest.path} has {size} bytes instead of {disk.sizes.virtual}")


def _cold_copy_to_export(context: Context, disk: DiskPlan, seen: Observation, source: tuple[str, str]) -> None:
    _ready(context, disk)
    point("cold-copying")
    context.cold[disk.target] = 0.0
    context.memory.progress.pop(disk.target, None)
    conversion.convert_to_export(
        context.runner,
        *source,
        disk.dest.path,
        progress=lambda fraction: show_cold(context, disk, fraction),
        should_stop=context.should_stop,
        rate_limit=seen.record.bandwidth or None,
    )
    show_cold(context, disk, 1.0)
    note_cold(context, seen.record, disk.target, seen.disk(disk.target).fingerprint)
    context.log_event("action", f"{disk.target} was copied to {disk.dest.path}")


def note_cold(context: Context, record: Record, target: str, fingerprint: str) -> None:
    """The destination holds what the source of this fingerprint holds."""
    point("cold-copied")
    record = record.with_disk(target, replace(record.disk(target), cold_copied=fingerprint))
    context.save(record.with_copy(target, Copy(Stage.NONE, -1, record.copy(target).attempts)))


def _preallocation(disk: DiskPlan) -> qemu_img.Preallocation:
    """How the image of a running VM's disk is made. A mirror leaves holes in a raw file whatever was reserved in it
    (docs/measured.md): there it is done afterwards, by `settle`."""
    if disk.dest.format != "qcow2" or disk.chain.backing is not None:
        return "off"  # QEMU does not reserve below an image with a backing file; `settle` does
    match disk.dest.preallocation:
        case "metadata":
            return "metadata"
        case "full":
            return "full"
        case _:
            return "falloc" if disk.dest.thick else "off"


def _cold_options(disk: DiskPlan) -> list[str]:
    reserve = (
        disk.dest.preallocation
        if disk.dest.preallocation in ("metadata", "falloc") and disk.chain.backing is None
        else "off"
    )
    return qemu_img.creation_options(reserve, disk.dest.cluster_size, extended_l2=disk.dest.extended_l2)


def show_cold(context: Context, disk: DiskPlan, fraction: float) -> None:
    context.cold[disk.target] = fraction
    done = context.memory.progress.get(disk.target, CopyProgress())
    total = max(2, disk.copy_bytes)
    context.memory.progress[disk.target] = done.sample(context.now_s(), int(total * fraction), total)
    context.show()


def settle(context: Context, target: str, seen: Observation) -> None:
    """The new image on stable storage, allocated in full if thick was asked; its marker goes."""
    disk = context.plan.disk(target)
    if is_export(disk.dest.path):
        point("settled")
        context.save(seen.record.with_disk(target, replace(seen.record.disk(target), settled=True)))
        return
    if disk.dest.thick and (stat := files.stat_one(context.runner, disk.dest.path)) is not None:
        # A mirror leaves holes in a preallocated file (docs/measured.md); filling them afterwards changes no content,
        # and nothing for the guest.
        try:
            files.fill_allocation(context.runner, disk.dest.path, stat.size)
        except HostCommandFailed as error:
            context.notes.append(f"{disk.dest.path} could not be allocated in full: {error.stderr.strip()}")
            context.log_event("warning", context.notes[-1])
    files.flush(context.runner, disk.dest.path)
    for path in (disk.dest.path, *(layer.dest for layer in disk.chain.layers)):
        files.remove_file(context.runner, path + MARKER)
    point("settled")
    context.save(seen.record.with_disk(target, replace(seen.record.disk(target), settled=True)))


def marked_by(runner: Runner, path: str) -> str | None:
    """The move whose marker lies beside an image; None without one, or when it is none of ours.

    Raises HostCommandFailed, HostUnreachable when that cannot be told.
    """
    words = _marker(runner, path)
    return None if words is None else words.get("move")


def is_somebody_s(runner: Runner, path: str) -> bool:
    """Whether another file has taken the name of one that we made: its marker says which one that was.

    Raises HostCommandFailed, HostUnreachable when that cannot be told: then it may be somebody's.
    """
    return is_another(_marker(runner, path), files.stat_one(runner, path))


def take_partial(context: Context, path: str, left_by: str | None) -> None:
    """What an earlier move has left is this one's from now on. Raises FileExists when it is not that file any more."""
    words = _marker(context.runner, path)
    if (words is None or words.get("move") not in (context.plan.move, left_by)) or is_another(
        words, files.stat_one(context.runner, path)
    ):
        raise FileExists(path)
    mark_file(context, path, made=True)


def why_not_ours(context: Context, path: str) -> str | None:
    """Why it is not proven that this move has made the file at a path in `created`; None when it is, or none is there.

    The administrator may have removed our file by hand, and put a backup of his own in its place; another journal's
    move may have made a file of that name since. A move that was killed may have left a file that its marker does not
    tell of yet: that one is proven to be ours when nothing is in it, or just what it was to be a copy of.
    Raises HostCommandFailed, HostUnreachable when that cannot be told.
    """
    plan, file_stat = context.plan, files.stat_one(context.runner, path)
    if file_stat is None:
        return "it is a symbolic link" if files.is_there(context.runner, path) else None
    if file_stat.kind == "other" and posixpath.basename(path) == backup_socket(plan.move):
        return None  # QEMU has made it, and there is no marker
    partial = next((disk.partial for disk in plan.disks if disk.dest.path == path), PartialPlan())
    words = _marker(context.runner, path)
    if words is None:  # an old disk from quarantine that becomes the copy has none at first; its plan says which it is
        kept = None if partial.old is None else partial.old.fingerprint
        proven = kept is not None and kept.inode == file_stat.inode
        return None if proven else "no marker says that the move has made it"
    if words.get("move") is None or words["move"] not in (plan.move, partial.move):
        return f"its marker says that move {words.get('move')} has made it"
    if is_another(words, file_stat):
        return "it is another file than the one that the move made"
    if words.get("inode") != "" or file_stat.size == 0:
        return None
    source = next((file.source for file in plan.small_files if file.dest == path), "")
    if source and files.is_there(context.runner, source) and files.same_content(context.runner, source, path):
        return None
    return "it is not proven that the move has made it: the move ended before it could note which file it is"


def backup_socket(move: str) -> str:
    """The name of the socket at which QEMU shows the new disks of a move as they were at the switch."""
    return f"blockferry-{move}.sock"


def is_made_by(runner: Runner, path: str, move: str) -> bool:
    """Whether the marker beside a file proves that this move has made it. One that does not say yet which file it is
    proves it of an empty one.

    Raises HostCommandFailed, HostUnreachable when that cannot be told.
    """
    words, file_stat = _marker(runner, path), files.stat_one(runner, path)
    if words is None or words.get("move") != move or is_another(words, file_stat):
        return False
    return words.get("inode") != "" or file_stat is None or file_stat.size == 0


def unfinished(runner: Runner, path: str, move: str) -> bool:
    """Whether the marker beside a file says that this move was still making it: nobody has ever been told of it."""
    words = _marker(runner, path)
    return words is not None and words.get("move") == move and words.get("inode") == ""


def _marker(runner: Runner, path: str) -> dict[str, str] | None:
    try:
        return msgspec.json.decode(files.read_file(runner, path + MARKER), type=dict[str, str])
    except HostCallFailed as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):  # it was cut short, or is none of ours
        return None


def _marking(context: Context, path: str) -> Callable[[], None]:
    return lambda: mark_file(context, path, made=True)


def is_another(words: Mapping[str, str] | None, stat: FileStat | None) -> bool:
    """Whether the file beside a marker is another than the one it was written for: then it is somebody else's."""
    if words is None or stat is None:
        return False
    inodes = (words.get("inode") or "").split()
    return bool(inodes) and str(stat.inode) not in inodes


def mark_file(context: Context, path: str, *, made: bool | str = False, replaces: bool = False) -> None:
    """Say beside a file whose it is; once it is `made`, also which: a later one of its name is somebody else's.

    `made`: where the file is, when it has not its name yet. `replaces`: the one that has the name until then is the
    move's as well.
    """
    context.check()
    plan = context.plan
    write_marker(
        context.runner, path, move=plan.move, vm=plan.vm, journal=context.journal, host=plan.host,
        made=path if made is True else made or None, replaces=replaces,
    )  # fmt: skip


def write_marker(
    runner: Runner, path: str, *, move: str, vm: str, journal: str, host: str, made: str | None, replaces: bool = False
) -> None:
    """Write the marker beside `path`. `made`: where the file is, once it is; the marker says which then.

    `replaces`: it is about to take the place of one of the move's: the marker names both, and either may be found.
    `journal`: its id. `host`: libvirt's UUID of the host, by whose inode number the file is known.
    """
    paths = () if made is None else (path, made) if replaces else (made,)
    stats = [stat for one in paths if (stat := files.stat_one(runner, one)) is not None]
    words = {
        "what": "being made by blockferry; `blockferry orphans` tells more",
        "move": move,
        "vm": vm,
        "journal": journal,
        "by": f"{getpass.getuser()}@{socket.gethostname()}",
        "host": host,
        "inode": " ".join(str(stat.inode) for stat in stats),
    }
    files.write_file(runner, path + MARKER, msgspec.json.format(msgspec.json.encode(words)) + b"\n", 0o644)
