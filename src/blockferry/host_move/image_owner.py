"""Owner, group, mode and labels of what a move makes at the destination: as those of what it takes the place of."""

from __future__ import annotations

import posixpath
import stat

from blockferry.base.errors import BlockferryError, HostCommandFailed
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import TravellingDisk
from blockferry.hosts.helper import files, ownership
from blockferry.hosts.helper.ownership import NotGiven
from blockferry.hosts.inventory import datastore_of
from blockferry.hosts.libvirt import domain_list, pools, security_model
from blockferry.hosts.qemu_user import QemuUser


def give_image(context: HostMoveContext, disk: TravellingDisk, path: str) -> None:
    """Before a QEMU opens it: libvirt notes the owner that it finds, and gives the image back to that."""
    _give(context, disk.source, path)


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
        _tell(context, path, ownership.give(context.dest.runner, path, told.uid, told.gid, told.mode))
    except HostCommandFailed as error:
        context.log_event("warning", f"{path} has not the owner that the pool {store.name} says: {error.sentence}")


def open_staying_images(context: HostMoveContext) -> bool:
    """Give images that both hosts have to the user of the VM's QEMU at the destination, where it cannot open them.

    On a shared file system that libvirt does not know as such, the source gives them back to their first owner when it
    lets go of the VM, after the destination has taken them; then QEMU cannot open them to let the guest run. libvirt
    does the same as this when it starts a VM. Return whether any image was given.
    """
    plan, dest = context.plan, context.dest
    given = False
    try:
        user = security_model.vm_user(dest.connection, plan.vm)
        if user is None:
            return False
        paths = {
            disk.source.path: disk.device == "disk"
            for disk in domain_list.vm(dest.connection, plan.uuid).disks
            if disk.target in plan.staying
            and disk.source is not None
            and disk.source.kind == "file"
            and disk.source.path
        }
        for path, file_stat in files.stat_many(dest.runner, list(paths)).items():
            if file_stat is not None and not _may_open(user, file_stat, writes=paths[path]):
                mode = stat.S_IMODE(file_stat.mode)
                _tell(context, path, ownership.give(dest.runner, path, user.uid, user.gid, mode))
                given = True
    except BlockferryError as error:
        context.log_event("warning", f"whether QEMU may open the images of {plan.vm} was not seen: {error.sentence}")
    return given


def _may_open(user: QemuUser, file_stat: files.FileStat, *, writes: bool) -> bool:
    """Whether the permissions alone let this user open the file."""
    wanted = 0o6 if writes else 0o4
    if user.uid == 0:
        return True
    if file_stat.uid == user.uid:
        return file_stat.mode >> 6 & wanted == wanted
    if file_stat.gid == user.gid:
        return file_stat.mode >> 3 & wanted == wanted
    return file_stat.mode & wanted == wanted


def _give(context: HostMoveContext, source: str, dest: str) -> None:
    if files.stat_one(context.source.runner, source) is None:
        return
    try:
        _tell(context, dest, ownership.like_on(context.source.runner, source, context.dest.runner, dest))
    except HostCommandFailed as error:
        context.log_event("warning", f"{dest} has not the owner of {source}: {error.sentence}")


def _tell(context: HostMoveContext, dest: str, left: tuple[NotGiven, ...]) -> None:
    if left:
        words = ", ".join(map(str, left))
        context.log_event(
            "warning", f"{dest} at {context.plan.dest_host_name} could not be given all it should: {words}"
        )
