"""The directory of a VM at the host that it has left: it goes with the last of the VM's files."""

from __future__ import annotations

import posixpath

from blockferry.base.errors import BlockferryError
from blockferry.host_move.host_context import HostMoveContext
from blockferry.hosts.helper import files
from blockferry.storage_move.destination.placement import is_in_home
from blockferry.storage_move.home import effects as home_effects


def clear(context: HostMoveContext, image: str) -> None:
    """Remove the directory of an old image that is gone, if it was the VM's own and nothing of anybody is left in it.

    What storage moves have noted of the VM there (its XML) goes along. Raises nothing: a directory that stays is told.
    Repeatable.
    """
    plan, runner = context.plan, context.source_files
    directory = posixpath.dirname(image)
    if not is_in_home(image, plan.vm):
        return
    try:
        if files.stat_one(runner, directory) is None:
            return
        paths = [posixpath.join(directory, name) for name in files.list_directory(runner, directory)]
        if all(home_effects.is_ours(runner, path, plan.uuid) for path in paths):
            for path in paths:
                files.remove_file(runner, path)
    except BlockferryError as error:
        context.log_event("warning", f"{directory} at {plan.host_name} stays: {error.sentence}")
        return
    why = home_effects.clear_directory(context.source, runner, directory)
    others = {posixpath.dirname(disk.source) for disk in plan.disks if disk.source != image}
    if why and directory not in others:
        context.log_event("action", f"{directory} at {plan.host_name} stays: {why}")
