"""What moves under way and kept files have to do with: which paths they claim, for the proof before a removal."""

from __future__ import annotations

import posixpath
from dataclasses import replace
from typing import TYPE_CHECKING

from blockferry.base.errors import MoveNotFound
from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.identity import may_be_here, same_host
from blockferry.hosts.kept import Kept
from blockferry.safety.proof import Claims

if TYPE_CHECKING:  # it loads SQLAlchemy, which a listing does without
    from blockferry.storage_move.move_journal import MoveJournal


def claims(journal: MoveJournal, uri: str, host: str, apart_from: str | None = None) -> Claims:
    """What this journal knows of a host. `apart_from`: a move whose own paths do not count."""
    here: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    known: dict[FileId, str] = {}
    every = journal.every
    for one in every.unfinished():
        if one.id == apart_from:
            continue
        for claimed in every.kind_of(one).claimed(one):
            paths = here if may_be_here(claimed.where, uri, host) else elsewhere
            for path in claimed.paths:
                paths[posixpath.normpath(path)] = one.id
                if paths is elsewhere and (file := claimed.file(path)) is not None:
                    known[file] = one.id
    others: dict[str, list[Kept]] = {}
    for row in journal.kept_sources():
        if row.host and row.host != host:
            others.setdefault(row.host, []).append(row)
    return Claims(
        here, kept_here(journal, uri, host), elsewhere, known, {one: tuple(rows) for one, rows in others.items()}
    )


def kept_here(journal: MoveJournal, uri: str, host: str) -> tuple[Kept, ...]:
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
            formats = {disk.source.path: disk.source.format for disk in plan.disks}
            row = replace(row, host=host, format=row.format or formats.get(row.path))
        if row.host == host:
            found.append(row)
    return tuple(found)
