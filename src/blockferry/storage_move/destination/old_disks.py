"""Old disks of a VM that quarantine keeps where it goes to; and which of them can become its copies. Only looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from blockferry.base.errors import BlockferryError
from blockferry.hosts.helper import files
from blockferry.hosts.host import Host
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import Datastore, datastore_of
from blockferry.hosts.kept import Kept
from blockferry.safety import proof
from blockferry.storage_move.destination import kept_files, placement
from blockferry.storage_move.facts import KeptDisk, Partial
from blockferry.storage_move.request import MoveRequest


def kept(
    site: Host,
    request: MoveRequest,
    stores: tuple[Datastore, ...],
    wanted: Sequence[Datastore],
    old: Mapping[str, tuple[Kept, str]],
    claims: Callable[[], proof.Claims],
) -> tuple[dict[str, KeptDisk], dict[str, Partial]]:
    """The VM's old disks that quarantine keeps on the destinations; and those that become copies, as asked."""
    asked = proof.Proof(site, old, only_shown=True)
    found: dict[str, KeptDisk] = {}
    use: dict[str, Partial] = {}
    for path, (row, target) in old.items():
        here = datastore_of(path, stores)
        if here is None or not any(here.same_place(store) for store in wanted):
            continue
        stat = files.stat_one(site.runner, path)
        if stat is None:
            continue
        kept_disk = KeptDisk(path, target, row.move, row.since, row.format, stat.allocated)
        if request.use_kept:
            partial, problem = _usable(site, asked, row, stat, claims())
            kept_disk = replace(kept_disk, problem=problem)
            if partial is not None:
                use[path] = replace(partial, target=target)
        found[path] = kept_disk
    latest: dict[str, str] = {}  # of several old disks of one disk the one that was kept last
    for path in sorted(use, key=lambda path: found[path].since or 0.0):
        latest[use[path].target] = path
    return found, {path: one for path, one in use.items() if path in latest.values()}


def _usable(
    site: Host, asked: proof.Proof, row: Kept, stat: files.FileStat, said: proof.Claims
) -> tuple[Partial | None, str]:
    """An old disk as the beginning of a copy; or why it cannot be one, a clause."""
    if row.format is None:
        return None, "its format is not recorded"
    try:
        if (altered := kept_files.why_unlike(site.runner, row, stat)) is not None:
            return None, altered
        layers = qemu_img.chain(site.runner, row.path, row.format)
        doubt = asked.blocker(row.path, said, patience_s=0)
    except BlockferryError as error:
        return None, f"it cannot be looked at ({error.sentence.rstrip('.')})"
    top = layers[0]
    if doubt is not None:
        return None, doubt
    if len(layers) > 1:
        return None, f"it stands on {layers[1].path}"
    if top.internal_snapshots or top.bitmaps or top.parts or top.encrypted or top.corrupt:
        return None, "it holds snapshots or bitmaps, is encrypted, damaged, or consists of several files"
    size = placement.guest_size(top.virtual_size)
    return Partial(row.move, row.format, size, stat.allocated, row=row), ""
