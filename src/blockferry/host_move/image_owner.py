"""Owner, group, mode and labels of what a move makes at the destination: as those of what it takes the place of."""

from __future__ import annotations

import posixpath

from blockferry.base.errors import BlockferryError, HostCommandFailed
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import TravellingDisk
from blockferry.hosts.helper import files, ownership
from blockferry.hosts.helper.host_guard import local_uri
from blockferry.hosts.helper.ownership import NotGiven
from blockferry.hosts.inventory import datastore_of
from blockferry.hosts.libvirt import pools


def give_image(context: HostMoveContext, disk: TravellingDisk, path: str) -> None:
    """Before a QEMU opens it: libvirt notes the owner that it finds, and gives the image back to that."""
    _give(context, disk.source, path)


def give_file(context: HostMoveContext, source: str, dest: str) -> None:
    """Give a state file, or its directory, what the old one has."""
    _give(context, source, dest)


def give_overlay(context: HostMoveContext, disk: TravellingDisk, path: str, *, at_source: bool) -> None:
    """The same of an overlay that is made above the old image, or above the new one."""
    _give(context, disk.source, path, at_source=at_source)


def give_directory(context: HostMoveContext, disk: TravellingDisk, path: str) -> None:
    """A directory that was made: as the VM's old one, or as the pool says where the VM had none of its own."""
    old = posixpath.dirname(disk.source)
    roots = {
        posixpath.normpath(datastore.path)
        for datastore in pools.datastores(context.source.connection)
        if datastore.path
    }
    if posixpath.normpath(old) not in roots:
        _give(context, old, path)
        return
    store = datastore_of(path, pools.datastores(context.dest.connection))
    if store is None or store.permissions is None:
        return
    told = store.permissions
    try:
        _tell(context, path, ownership.give(context.dest_files, path, told.uid, told.gid, told.mode))
    except HostCommandFailed as error:
        context.log_event("warning", f"{path} has not the owner that the pool {store.name} says: {error.sentence}")


def open_images(context: HostMoveContext) -> bool:
    """Give the VM's images to the user of its QEMU at the destination, where it cannot open them.

    Those that both hosts have are given back by the source's libvirt; the others were seen to belong to root, too.

    Return whether any image was given. See hosts/helper/program/image_opening.py; the guards do the same.
    """
    plan, dest = context.plan, context.dest
    try:
        given, failed = ownership.open_images(context.dest_files, local_uri(dest.uri), plan.uuid, plan.targets)
    except BlockferryError as error:
        context.log_event("warning", f"whether QEMU may open the images of {plan.vm} was not seen: {error.sentence}")
        return False
    for path, left in failed.items():
        _tell(context, path, left)
    return bool(given)


def _give(context: HostMoveContext, source: str, dest: str, *, at_source: bool = False) -> None:
    """`at_source`: where `dest` is, if not at the destination."""
    if files.stat_one(context.source.runner, source) is None:
        return
    try:
        runner = context.source_files if at_source else context.dest_files
        _tell(context, dest, ownership.like_on(context.source.runner, source, runner, dest))
    except HostCommandFailed as error:
        context.log_event("warning", f"{dest} has not the owner of {source}: {error.sentence}")


def _tell(context: HostMoveContext, dest: str, left: tuple[NotGiven, ...]) -> None:
    if left:
        words = ", ".join(map(str, left))
        context.log_event(
            "warning", f"{dest} at {context.plan.dest_host_name} could not be given all it should: {words}"
        )
