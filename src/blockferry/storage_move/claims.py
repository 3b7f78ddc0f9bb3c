"""What moves under way and kept files have to do with: which paths they claim, for the proof before a removal."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING

from blockferry.base.errors import MoveNotFound
from blockferry.hosts.datastore_id import FileId, file_of
from blockferry.hosts.exports import is_export
from blockferry.hosts.identity import may_be_here, same_host
from blockferry.hosts.kept import Kept
from blockferry.safety.proof import Claims
from blockferry.storage_move.plan import Plan

if TYPE_CHECKING:  # it loads SQLAlchemy, which a listing does without
    from blockferry.store import AnyJournal


def claims(journal: AnyJournal, uri: str, host: str, apart_from: str | None = None) -> Claims:
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
        if one.record.nvram.pending:  # its disks are done with
            claimed = [nvram.source, nvram.dest] if nvram else []
        for path in claimed:
            paths[posixpath.normpath(path)] = one.id
            if paths is elsewhere and (file := file_of(path, one.plan.directories.values())) is not None:
                known[file] = one.id
    others: dict[str, list[Kept]] = {}
    for row in journal.kept_sources():
        if row.host and row.host != host:
            others.setdefault(row.host, []).append(row)
    return Claims(
        here, kept_here(journal, uri, host), elsewhere, known, {one: tuple(rows) for one, rows in others.items()}
    )


def changed_by(plan: Plan) -> list[str]:
    """Every path that a move makes, writes to or removes."""
    every = [
        *(path for disk in plan.disks for path in (disk.source, disk.dest, *disk.old_files)),
        *(path for disk in plan.disks for layer in disk.layers for path in (layer.source, layer.dest)),
        *(path for disk in plan.disks for path in (disk.source_overlay, disk.dest_overlay) if path),
        *(path for file in plan.small_files for path in (file.source, file.dest)),
    ]
    return [path for path in every if not is_export(path)]


def kept_here(journal: AnyJournal, uri: str, host: str) -> tuple[Kept, ...]:
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
