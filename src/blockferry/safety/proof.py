"""The proof that nothing needs a file: the one before every removal of something old or left over.

A source's release, the purge of the quarantine and the removal of orphans ask here. In doubt the answer is a
sentence, and the file stays.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import tenacity

from blockferry.base.errors import MoveNotFound
from blockferry.hosts.datastore_id import FileId, file_of, of_mount
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files, image_users
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.helper.files import FileStat
from blockferry.hosts.helper.references import PathSeen, same_file
from blockferry.hosts.host import Host
from blockferry.hosts.identity import may_be_here, same_host
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.runner import Runner
from blockferry.safety import file_references
from blockferry.safety.file_references import FileReferences, images_of, names_of
from blockferry.storage_move.plan import Plan
from blockferry.store import Journal

__all__ = ["Claims", "claims", "fingerprint", "images_of", "kept_here", "names_of", "needed_by"]

PATIENCE_S = 10.0
"""For how long somebody who only looks at a file (a listing, a backup's scan) is waited for."""


_LOCAL = frozenset(
    ("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "overlay", "jfs", "reiserfs", "ramfs")
)
"""File systems that only one host has mounted, by the mount table: a path there is no other host's file."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Whoever has a say besides VMs: moves under way, and kept files, which may stand on others.

    `moves`: path -> id of the unfinished move that plans with it. `kept`: files in quarantine on this host.
    """

    moves: Mapping[str, str] = field(default_factory=dict)
    kept: tuple[Kept, ...] = ()
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # as `moves`, of other hosts: counts on shared storage
    files: Mapping[FileId, str] = field(default_factory=dict)  # the same by identity, of datastores that are known


def claims(journal: Journal, uri: str, host: str, apart_from: str | None = None) -> Claims:
    """What this journal knows of a host. `apart_from`: a move whose own paths do not count."""
    here: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    known: dict[FileId, str] = {}
    for one in journal.unfinished():
        if one.id == apart_from:
            continue
        paths = here if may_be_here(one.plan, uri, host) else elsewhere
        nvram = one.plan.nvram
        reused = [disk.reused for disk in one.plan.disks if disk.reused is not None]
        claimed = [*changed_by(one.plan), *(path for layer in reused for path in layer.prints)]
        if one.record.following:  # its disks are done with
            claimed = [nvram.source, nvram.dest] if nvram else []
        for path in claimed:
            paths[posixpath.normpath(path)] = one.id
            if paths is elsewhere and (file := file_of(path, one.plan.directories.values())) is not None:
                known[file] = one.id
    return Claims(here, kept_here(journal, uri, host), elsewhere, known)


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
    site: Host,
    path: str,
    said: Claims,
    *,
    going: Iterable[str] = (),
    together: Iterable[str] = (),
    patience_s: float = PATIENCE_S,
    sure: bool = True,
    is_base: bool = True,
) -> str | None:
    """Why a file must stay, as the end of "it is kept, because ..."; None when it is proven that nothing needs it.

    The proof: it is a plain file; no process has it open or locked; no move under way plans with it; no VM of the
    host names it anywhere in its XML, live or persistent, in a snapshot or a saved state, nor a directory that holds
    it; no VM's backing chain, no kept file and no image of a datastore stands on it. A file counts as named also by
    another path that leads to it. What could not be looked at is a doubt, and keeps it (safety/file_references.py).
    `going`: files that go together with it, which may stand on it. `together`: kept files of which it may be one by
    another path: they need it no longer. `sure` off, for what we have just made: users
    that one may not look for do not count; QEMU's locks do, also when they could not be looked at. `is_base` off, for
    what no image can stand on because a running VM was writing to it: then images that no VM names do not matter.
    Raises HostUnreachable, LibvirtFailed, HostCommandFailed: then nothing is proven either.
    """
    runner = site.runner
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
    move = _claimed_elsewhere(site, path, said.files)
    if move is not None:
        return f"move {move} of another host, which is not over, has to do with it"
    holders = _holders(runner, path, patience_s, sure)
    if holders is not None:
        return holders
    going = {*map(posixpath.normpath, going), posixpath.normpath(path)}
    rows = _rows(said.kept, {*going, *map(posixpath.normpath, together)})
    besides = [path, *_above(path), *said.moves, *(row.path for row in rows)]
    names = file_references.gather(site, said.kept, going, besides)
    named = _named(path, names) or _claimed(path, names, said, rows)
    return named or next((one.sentence for one in names.doubts if one.about(path, is_base)), None)


def _claimed_elsewhere(site: Host, path: str, claimed: Mapping[FileId, str]) -> str | None:
    """The move of another host that has to do with this very file, by whatever name it is reached there."""
    if not claimed:
        return None
    directory = posixpath.dirname(path)
    look = helper_paths.look(site.runner, [directory], mounted=True)[directory]
    if look.mounted is None:
        return None
    return claimed.get(of_mount(look.mounted, site.connection.host_id(), "").file(posixpath.basename(path)))


def _rows(kept: Iterable[Kept], going: set[str]) -> list[Kept]:
    """The kept files whose time is not over, and that are not to go now."""
    return [row for row in kept if not row.expired(time.time()) and posixpath.normpath(row.path) not in going]


def _above(path: str) -> list[str]:
    """The directories that a file lies in."""
    found = [posixpath.dirname(posixpath.normpath(path))]
    while found[-1] != posixpath.dirname(found[-1]):
        found.append(posixpath.dirname(found[-1]))
    return found


def fingerprint(found: FileStat) -> KeptFingerprint:
    return KeptFingerprint(found.inode, found.size, found.mtime_ns)


def _claimed(path: str, names: FileReferences, said: Claims, rows: Iterable[Kept]) -> str | None:
    """Whether the file is one that a move plans with, or that quarantine keeps, by another path."""
    seen = names.looked.paths
    claims = [(one, f"move {move}, which is not over, has to do with it") for one, move in said.moves.items()]
    claims += [(row.path, f"quarantine keeps it, an old file of {row.vm},") for row in rows]
    for other, sentence in claims:
        if other in seen and path in seen and same_file(seen[other], seen[path]):
            return f"{sentence} as {other}"
    for other, sentence in claims:
        if other in seen and seen[other].error:
            return f"{other} cannot be looked at ({seen[other].error}) and may be this file: {sentence} then"
    kept = {row.path for row in rows}
    for other, sentence in claims:
        # What a move is yet to make is absent without being out of sight: its directory may be empty, or not there yet.
        away = (
            other in seen and seen[other].absent and (other in kept or not (seen[other].empty or seen[other].nearest))
        )
        if away and posixpath.basename(other) == posixpath.basename(path):
            return f"{other} cannot be looked at ({seen[other].absent}) and may be this file: {sentence} then"
    return None


def _named(path: str, names: FileReferences) -> str | None:
    """Whether one of these names is the file, or a directory that it lies in: by its words, or by another path."""
    mine, above = posixpath.normpath(path), _above(path)
    seen = names.looked.paths
    for name, sentence in names.paths.items():
        if posixpath.normpath(name) == mine:
            return sentence
    for name, sentence in names.paths.items():
        if name in seen and path in seen and same_file(seen[name], seen[path]):
            return f"{sentence} (as {name})"
    places = {seen[one].identity for one in above if one in seen and seen[one].there}
    for name, sentence in names.trees.items():
        if posixpath.normpath(name) in above:
            return sentence
        if name in seen and seen[name].there and (seen[name].identity in places or _holds(seen[name], seen.get(path))):
            return sentence
    return None


def _holds(directory: PathSeen, file: PathSeen | None) -> bool:
    return file is not None and directory.holds(file)


def _holders(runner: Runner, path: str, patience_s: float, sure: bool) -> str | None:
    """Who has the file open, in words."""
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_result(lambda one: one.any or one.locks_unseen),
        stop=tenacity.stop_after_delay(patience_s),
        wait=tenacity.wait_fixed(0.5),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else None,
    )
    holders: image_users.Users = retrying(image_users.users_of, runner, path)
    if holders.any or holders.locks_unseen or (holders.why and sure):
        return holders.why
    # Root meets a hardened process here and there that it may not look into; QEMU's locks do not depend on that.
    if holders.unseen_processes and sure and runner.run(["id", "-u"]).text.strip() != "0":
        return f"{holders.unseen_processes} processes could not be looked at, which takes root's rights"
    return None
