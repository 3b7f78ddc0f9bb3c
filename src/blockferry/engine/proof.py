"""The proof that nothing needs a file: the one before every removal of something old or left over.

A source's release, the purge of the quarantine and the removal of orphans ask here. In doubt the answer is a
sentence, and the file stays.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import tenacity

from blockferry.engine.site import Site
from blockferry.errors import BlockferryError, MoveNotFound
from blockferry.hypervisor import domains, pools
from blockferry.images import files, qemuimg, users
from blockferry.images.files import FileStat
from blockferry.images.runner import Runner
from blockferry.journal import Journal
from blockferry.model.exports import is_export
from blockferry.model.identity import may_be_here, same_host
from blockferry.model.inventory import DiskSource, Vm
from blockferry.model.plan import Plan
from blockferry.model.quarantine import Fingerprint, Kept

PATIENCE_S = 10.0
"""For how long somebody who only looks at a file (a listing, a backup's scan) is waited for."""


_LOCAL = frozenset(("ext2/ext3", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "overlayfs", "jfs", "reiserfs", "ramfs"))
"""File systems that only one host has mounted, as `stat -f` names them: a path there is no other host's file."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Whoever has a say besides VMs: moves under way, and kept files, which may stand on others.

    `moves`: path -> id of the unfinished move that plans with it. `kept`: files in quarantine on this host.
    """

    moves: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[Kept, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # as `moves`, of other hosts: counts on shared storage


def claims(journal: Journal, uri: str, host: str, apart_from: str | None = None) -> Claims:
    """What this journal knows of a host. `apart_from`: a move whose own paths do not count."""
    here: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for one in journal.unfinished():
        if one.id == apart_from:
            continue
        paths = here if may_be_here(one.plan, uri, host) else elsewhere
        if one.record.following:  # its disks are done with
            nvram = one.plan.nvram
            paths.update({posixpath.normpath(path): one.id for path in (nvram.source, nvram.dest)} if nvram else {})
            continue
        reused = [disk.reused for disk in one.plan.disks if disk.reused is not None]
        for path in (*changed_by(one.plan), *(path for layer in reused for path in layer.prints)):
            paths[posixpath.normpath(path)] = one.id
    return Claims(here, kept_here(journal, uri, host), elsewhere)


def changed_by(plan: Plan) -> list[str]:
    """Every path that a move makes, writes to or removes."""
    every = [
        *(path for disk in plan.disks for path in (disk.source, disk.dest, *disk.old_files)),
        *(path for disk in plan.disks for layer in disk.layers for path in (layer.source, layer.dest)),
        *(path for disk in plan.disks for path in (disk.source_overlay, disk.dest_overlay) if path),
        *(path for file in plan.small_files for path in (file.source, file.dest)),
    ]
    return [path for path in every if not is_export(path)]


def kept_here(journal: Journal, uri: str, host: str) -> tuple[Kept, ...]:
    """What is kept on this host. Rows of the first version name no host: there the move's URI tells."""
    found = []
    for row in journal.kept_sources():
        if not row.host:
            try:
                plan = journal.get(row.move).plan
            except MoveNotFound:
                continue
            known = same_host(plan, uri, host)
            if known is False or (known is None and plan.uri != uri):
                continue
            formats = {disk.source: disk.source_format for disk in plan.disks}
            row = replace(row, host=host, format=row.format or formats.get(row.path))
        if row.host == host:
            found.append(row)
    return tuple(found)


def needed_by(
    site: Site,
    path: str,
    said: Claims,
    *,
    format: str | None = None,
    going: Iterable[str] = (),
    patience_s: float = PATIENCE_S,
    sure: bool = True,
) -> str | None:
    """Why a file must stay, as the end of "it is kept, because ..."; None when it is proven that nothing needs it.

    The proof: it is a plain file; no process has it open or locked; no move under way plans with it; no VM of the
    host names it, live or persistent, in a snapshot or a saved state; no VM's backing chain, no kept file and no
    volume of an active pool stands on it. A file counts as named also by another path that leads to it.
    `going`: files that go together with it, which may stand on it. `sure` off, for what we have just made: processes
    that one may not look at do not count, QEMU's locks do. Raises HostUnreachable, LibvirtFailed,
    HostCommandFailed: then nothing is proven either.
    """
    runner, connection = site.runner, site.connection
    found = files.stat_one(runner, path)
    if found is None:
        return None
    if found.kind != "file":
        return (
            "it is a block device; only its owner can tell what else it is for"
            if found.kind == "block"
            else ("it is no plain file")
        )
    move = said.moves.get(posixpath.normpath(path))
    if move is not None:
        return f"move {move}, which is not over, has to do with it"
    move = said.elsewhere.get(posixpath.normpath(path))
    if move is not None and files.filesystem_type(runner, path) not in _LOCAL:
        return f"move {move} of another host, which is not over, has to do with it (or with a file of that path there)"
    holders = _holders(runner, path, format, patience_s, sure)
    if holders is not None:
        return holders
    going = {posixpath.normpath(one) for one in going} | {posixpath.normpath(path)}
    named: dict[str, str] = {}
    everyone = domains.all_vms(connection)
    for vm in everyone:
        named.update(dict.fromkeys(names_of(vm), f"VM {vm.name} refers to it"))
    for name, what in domains.names_beside(connection).items():
        named.setdefault(name, f"{what} refers to it")
    for vm in everyone:
        for target, source in images_of(vm):
            below = _below(
                runner, source, f"{target} of VM {vm.name}", f"the backing chain of {target} of VM {vm.name}"
            )
            if isinstance(below, str):
                return below
            named.update({layer: text for layer, text in below.items() if layer not in named})
    for row in said.kept:
        if posixpath.normpath(row.path) in going or row.format is None or row.format == "raw":
            continue
        source = DiskSource("file", row.path, row.format)
        below = _below(runner, source, f"the kept file {row.path}", f"the kept file {row.path} of {row.vm}")
        if isinstance(below, str):
            now = files.stat_one(runner, row.path)
            if row.fingerprint is not None and now is not None and fingerprint(now) != row.fingerprint:
                continue  # somebody has put something else there, which is no image of that format
            return below
        named.update({layer: text for layer, text in below.items() if layer not in named})
    for volume, layer in pools.backed_volumes(connection).items():
        if posixpath.normpath(volume) not in going:
            named.setdefault(layer, f"the volume {volume} stands on it")
    return _named(runner, path, found, named)


def names_of(vm: Vm) -> set[str]:
    """Every path that a VM's XMLs name, live and persistent, backing chains included."""
    found = {path for path in (vm.nvram, vm.config_nvram) if path}
    for disk in vm.disks:
        for source in (disk.live, disk.config):
            if source is not None:
                found.update(one for one in (source.path, *source.backing) if one)
        if disk.mirror is not None:
            found.add(disk.mirror.dest)
    return found


def images_of(vm: Vm) -> list[tuple[str, DiskSource]]:
    """(target, image) of each image that a VM uses now or would at its next start."""
    found: dict[tuple[str, str], tuple[str, DiskSource]] = {}
    for disk in vm.disks:
        for source in (disk.live, disk.config):
            if disk.device == "disk" and source is not None and source.path and source.kind in ("file", "block"):
                found.setdefault((disk.target, source.path), (disk.target, source))
    return list(found.values())


def fingerprint(found: FileStat) -> Fingerprint:
    return Fingerprint(found.inode, found.size, found.mtime_ns)


def _below(runner: Runner, source: DiskSource, whose: str, what: str) -> dict[str, str] | str:
    """What an image stands on: path -> a sentence; or why that cannot be told."""
    assert source.path is not None
    if source.format == "raw":
        return {}  # a raw image stands on nothing, whatever the guest has written into it
    try:
        layers = qemuimg.chain(runner, source.path, source.format)
    except BlockferryError as error:
        if files.stat_one(runner, source.path) is None:
            return {}  # a missing image stands on nothing
        return f"it cannot be told what {whose} stands on ({error.sentence.rstrip('.')})"
    named = {layer.path: f"{what} stands on it" for layer in layers[1:]}
    parts = [part for layer in layers for part in layer.parts]
    return {**dict.fromkeys(parts, f"it holds a part of {source.path} of {whose}"), **named}


def _named(runner: Runner, path: str, found: FileStat, named: Mapping[str, str]) -> str | None:
    """Whether one of these names is the file: by its words, or by another path that leads to it."""
    mine = posixpath.normpath(path)
    for name, sentence in named.items():
        if posixpath.normpath(name) == mine:
            return sentence
    stats = files.stat_many(runner, [name for name in named if name.startswith("/")])
    for name, one in stats.items():
        if one is not None and (one.device, one.inode) == (found.device, found.inode):
            return f"{named[name]} (as {name})"
    return None


def _holders(runner: Runner, path: str, format: str | None, patience_s: float, sure: bool) -> str | None:
    """Who has the file open, in words."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda one: one.any),
        stop=tenacity.stop_after_delay(patience_s),
        wait=tenacity.wait_fixed(0.5),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    holders: users.Users = retrying(users.users_of, runner, path, format)
    if holders.any:
        who = ", ".join(f"{name} ({pid})" for pid, name in holders.openers) or "somebody"
        return f"{who} still has it open"
    # Root meets a hardened process here and there that it may not look into; QEMU's locks do not depend on that.
    if holders.unseen_processes and sure and runner.run(["id", "-u"]).text.strip() != "0":
        return f"{holders.unseen_processes} processes could not be looked at, which takes root's rights"
    return None
