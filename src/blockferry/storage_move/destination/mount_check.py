"""Whether the destination still stands where it stood: not unmounted under us.

libvirt calls a pool active whose file system has been unmounted. What is made there then lies below an empty mount
point, on the host's own disk, and is hidden when the file system comes back; and what lay on it before seems to be
removed. So it is noted where each directory is mounted, before anything is made, and looked at before anything is
made, switched or removed there.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence

from blockferry.base.errors import DestinationGone
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files
from blockferry.storage_move.context import Context
from blockferry.storage_move.plan import Plan


def mounts(context: Context) -> dict[str, str]:
    """Where each directory of the destination is mounted now. Raises HostCommandFailed."""
    return files.mount_points(context.runner, _directories(context.plan))


def check(context: Context, before: Mapping[str, str]) -> None:
    """Raise DestinationGone when a directory is not mounted where it was; a move of old has nothing to compare."""
    if not before:
        return
    now = files.mount_points(context.runner, before)
    for directory, point in before.items():
        if now[directory] != point:
            raise DestinationGone(directory, point)


def deleted(context: Context, targets: Sequence[str] = (), *, at_source: bool = False) -> tuple[str, ...]:
    """The disks whose new image has lost its name: QEMU does not notice when somebody deletes what it has open.

    `targets`: only these; `at_source`: the old image, for the way back.
    """
    paths = {disk.target: disk.source.path if at_source else disk.dest.path for disk in context.plan.disks}
    paths = {name: path for name, path in paths.items() if not is_export(path) and (not targets or name in targets)}
    found = files.stat_many(context.runner, list(paths.values()))
    return tuple(target for target, path in paths.items() if found[path] is None)


def _directories(plan: Plan) -> tuple[str, ...]:
    paths = [dest for disk in plan.disks for dest in (disk.dest.path, *(layer.dest for layer in disk.chain.layers))]
    paths += [path for disk in plan.disks if disk.chain.reused is not None for path in disk.chain.reused.prints]
    found = [posixpath.dirname(path) for path in paths if not is_export(path)]
    return tuple(dict.fromkeys([*([plan.home.dest] if plan.home else []), *found]))
