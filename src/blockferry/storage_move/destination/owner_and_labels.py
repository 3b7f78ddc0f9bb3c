"""Owner, group, mode and labels of what a move makes: as those of what it takes the place of."""

from __future__ import annotations

import posixpath

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files, ownership
from blockferry.hosts.inventory import Datastore, datastore_of
from blockferry.hosts.libvirt import pools
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import reach
from blockferry.storage_move.disk_plan import DiskPlan


def give_as(context: Context, source: str, dest: str) -> None:
    """Give a new file or directory what the old one has; before a QEMU opens it, for libvirt notes what it finds.

    What the destination cannot hold is a warning: the pre-check has tried it. A disk behind a server has no owner; its
    image is given to QEMU's user.
    """
    if is_export(dest):
        return
    if is_export(source):
        user = reach.qemu_user(context.site, context.plan.vm, context.plan.uuid)
        if user is not None:
            _tell(context, dest, f"{user}", ownership.give(context.runner, dest, user.uid, user.gid, 0o600))
        return
    if files.stat_one(context.runner, source) is None:
        return
    try:
        _tell(context, dest, source, ownership.like(context.runner, source, dest))
    except HostCommandFailed as error:
        _warn(context, f"{dest} has not the owner of {source}: {error.sentence}")


def old_image(context: Context, disk: DiskPlan, dest: str) -> str:
    """The file that tells what the image of a disk is like: the overlay above it, when there is one.

    libvirt moves its notes of an image's owner to the overlay that it puts above it, and back when that is committed.
    """
    above = disk.overlays.source
    if above and above != dest and files.stat_one(context.runner, above) is not None:
        return above
    return disk.source.path


def give_directory(context: Context, path: str) -> None:
    """Give a directory that a move made what the VM's old directory has, or what the pool says where there is none."""
    stores = pools.datastores(context.site.connection)
    old = _old_directory(context, path, stores)
    if old is not None:
        give_as(context, old, path)
        return
    store = datastore_of(path, stores)
    if store is None or store.permissions is None:
        return
    told = store.permissions
    try:
        left = ownership.give(context.runner, path, told.uid, told.gid, told.mode)
        _tell(context, path, f"the pool {store.name}", left)
    except HostCommandFailed as error:
        _warn(context, f"{path} has not the owner that the pool {store.name} says: {error.sentence}")


def _old_directory(context: Context, path: str, stores: tuple[Datastore, ...]) -> str | None:
    """The directory whose place `path` takes: the VM's old home, or that of a disk that goes there."""
    plan = context.plan
    found = [plan.home.source] if plan.home is not None and plan.home.dest == path else []
    images = [disk for disk in plan.disks if disk.source.kind == "file" and posixpath.dirname(disk.dest.path) == path]
    found += [posixpath.dirname(disk.source.path) for disk in images]
    roots = {posixpath.normpath(store.path) for store in stores if store.path is not None}
    for one in found:
        # A pool's own directory is no VM's: what it permits is about all of them.
        if one and posixpath.isabs(one) and posixpath.normpath(one) not in roots:
            there = files.stat_one(context.runner, one)
            if there is not None and there.kind == "directory":
                return one
    return None


def _tell(context: Context, dest: str, source: str, left: tuple[ownership.NotGiven, ...]) -> None:
    if left:
        _warn(context, f"{dest} could not be given all of {source} ({', '.join(map(str, left))})")


def _warn(context: Context, text: str) -> None:
    if text not in context.notes:
        context.notes.append(text)
        context.log_event("warning", text)
