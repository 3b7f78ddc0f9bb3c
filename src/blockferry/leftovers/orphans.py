"""Orphans: what earlier moves left on this host, whose it is, and whether it can go.

A file counts only if it bears our marker (`FILE.blockferry`) or stands in the journal as kept; nothing else is ever
called an orphan. What another journal's move has made may be a copy under way that this journal knows nothing of: it
is told, and never removed unless the user says that the other journal is gone for good.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Iterable, Sequence

import msgspec

from blockferry.base.errors import BlockferryError, HostUnreachable, StillInUse
from blockferry.hosts import file_identity
from blockferry.hosts.datastore_id import file_of
from blockferry.hosts.helper import files
from blockferry.hosts.helper.files import FileStat
from blockferry.hosts.host import Host
from blockferry.hosts.inventory import Datastore, datastore_of
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.hosts.runner import Runner
from blockferry.safety import proof
from blockferry.storage_move import claims
from blockferry.storage_move.destination import datastore_places
from blockferry.storage_move.destination.effects import MARKER, is_another
from blockferry.storage_move.destination.placement import is_in_home
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.summary import Orphan, Orphans
from blockferry.store.listed import PartialFiles


def find(site: Host, journal: MoveJournal) -> Orphans:
    """Everything of ours that belongs to no move under way."""
    connection = site.connection
    mine = journal.identity()
    said = claims.claims(journal, connection.uri, connection.host_id())
    running = {one.id for one in journal.every.unfinished()}
    partial = journal.partial_files()
    marked: list[tuple[Datastore, list[str]]] = []
    unsearched = []
    stores = datastore_places.datastores(site)
    for store in stores:
        if not (store.is_directory and store.path):
            continue
        if not store.active:
            unsearched.append(f"The datastore {store.name} is not active: what moves left there is not known.")
            continue
        try:
            markers, problem = _markers(site.runner, store.path)
            marked.append((store, markers))
        except BlockferryError as error:
            problem = error.sentence
        if problem:
            unsearched.append(_unsearched(store, problem))
    paths = [marker.removesuffix(MARKER) for _, markers in marked for marker in markers]
    to_go_on_with = _to_go_on_with(site, partial, stores, paths)
    asked = proof.Proof(site, [*paths, *(kept.path for kept in said.kept)], only_shown=True)
    found: list[Orphan | None] = []
    for store, markers in marked:
        try:
            found.extend(_marked_files(site, store, markers, asked, said, running, mine, to_go_on_with, partial))
        except BlockferryError as error:
            unsearched.append(_unsearched(store, error.sentence))
    found.extend(_kept(site, kept, asked, said) for kept in said.kept)
    for vm in domain_list.all_vms(connection):
        if vm.mark is None or vm.mark in running:
            continue
        foreign = _foreign(vm.mark_journal, mine)
        why = f"{vm.name} bears the mark of move {vm.mark}, which this journal does not know as under way"
        why += f"; {foreign}" if foreign else ""
        found.append(
            Orphan(
                f"vm:{vm.name}", "mark", vm.mark, vm.name, None, 0, why, removable=foreign is None,
                foreign=foreign is not None,
            )
        )  # fmt: skip
    return Orphans(tuple(orphan for orphan in found if orphan is not None), tuple(unsearched))


def _to_go_on_with(
    site: Host, partial: PartialFiles, stores: Iterable[Datastore], paths: Sequence[str]
) -> frozenset[str]:
    """Return those of these paths that are broken copies of a move, whichever host and path it reached them by."""
    host, directories = site.connection.host_id(), datastore_places.directories(stores)
    seen = file_identity.files_at(site.runner, host, paths)
    # A move names its files by the datastore's path, links below it or not.
    planned = {path: file_of(path, directories) or seen[path] for path in paths}
    return frozenset(
        path
        for path in paths
        if (seen[path], path) in partial or (planned[path], path) in partial or partial.on_host(host, path)
    )


def _unsearched(store: Datastore, problem: str) -> str:
    return f"The datastore {store.name} could not be searched whole for what moves left: {problem}"


def _foreign(journal: str, mine: str) -> str | None:
    if journal == mine:
        return None
    return f"it belongs to another journal ({journal or 'unknown'}), whose move may be under way"


def _markers(runner: Runner, directory: str) -> tuple[list[str], str]:
    """The markers on a datastore, and why there may be more: the words of a search that could not read all of it."""
    argv = ["find", directory, "-maxdepth", "2", "-xdev", "-ignore_readdir_race"]
    argv += ["-name", f"*{MARKER}", "-type", "f", "-print0"]
    result = runner.run(argv, check=False, timeout_s=60)
    listed = result.stdout.decode(errors="surrogateescape")
    problem = "" if result.status == 0 else result.stderr.strip() or f"find ended with status {result.status}"
    return [marker for marker in listed.split("\0") if marker], problem


def _marked_files(
    site: Host,
    store: Datastore,
    markers: list[str],
    asked: proof.Proof,
    said: proof.Claims,
    running: set[str],
    mine: str,
    to_go_on_with: frozenset[str],
    partial: PartialFiles,
) -> list[Orphan]:
    found = []
    for marker in markers:
        path = marker.removesuffix(MARKER)
        words = _words(site.runner, marker)
        if words is None or words.get("move") in running:
            continue
        foreign = _foreign(words.get("journal", ""), mine)
        stat = files.stat_one(site.runner, path)
        size = 0 if stat is None else stat.allocated
        doubt = None
        if is_another(words, stat) and not _of_another_host(site, words):
            # Whose file that is we do not know, and do not ask: the marker alone is ours.
            path, kind, what, size = marker, "marker", f"the marker of a copy that is gone ({path} is another file)", 0
        else:
            kind = "partial" if path in to_go_on_with or partial.of_move(words.get("move"), path) else "copy"
            doubt = _unproven(site, words, stat, path)
            doubt = doubt or asked.blocker(path, said, patience_s=0, is_base=False)
            what = "a broken copy, kept to be gone on with," if kind == "partial" else "a half-made copy"
        reasons = "; ".join(one for one in (doubt, foreign) if one)
        if reasons and kind != "marker":
            what = "a copy that was not finished off"
        why = f"{what}{f' ({reasons})' if reasons else ''} of move {words.get('move')} of {words.get('vm')}, made by "
        why += f"{words.get('by')}"
        found.append(
            Orphan(
                path, kind, words.get("move"), words.get("vm"), store.name, size, why, removable=not reasons,
                foreign=foreign is not None and doubt is None,
            )
        )  # fmt: skip
    return found


def _of_another_host(site: Host, words: dict[str, str]) -> bool:
    """Whether another host has made what lies beside a marker. Markers of older versions do not say which host did."""
    return words.get("host", "") not in ("", site.connection.host_id())


def _unproven(site: Host, words: dict[str, str], stat: FileStat | None, path: str) -> str | None:
    """Why the file beside a marker may be somebody else's.

    The marker was written before its file was made; or by another host, to which the file may have another inode
    number (CIFS and FUSE number files by the mount).
    """
    if is_another(words, stat) and _of_another_host(site, words):
        return (
            f"it is not proven that the move has made this file: another host has, and it is another file to this one; "
            f"remove it there ({words.get('by')})"
        )
    if stat is None or words.get("inode"):
        return None
    return (
        "it is not proven that the move has made this file: the move ended before it could note which file it is; look "
        f"at it, and if nobody needs it, remove it and {path}{MARKER} by hand"
    )


def _words(runner: Runner, marker: str) -> dict[str, str] | None:
    """What a marker says; None when it is gone this moment, or not ours after all."""
    try:
        return msgspec.json.decode(files.read_file(runner, marker), type=dict[str, str])
    except (BlockferryError, msgspec.DecodeError):
        return None


def _kept(site: Host, kept: Kept, asked: proof.Proof, said: proof.Claims) -> Orphan | None:
    stat = files.stat_one(site.runner, kept.path)
    if stat is None:
        return None
    doubt = asked.blocker(kept.path, said, patience_s=0)
    text = f"old file of {kept.vm}, {kept.why}" + (f"; {doubt}" if doubt else "")
    if kept.expires is not None:
        text += "; its time is over" if kept.expired(time.time()) else "; its time is not over yet"
    return Orphan(
        kept.path,
        "source",
        kept.move,
        kept.vm,
        kept.datastore or None,
        stat.allocated,
        text,
        doubt is None,
        kept.expires,
    )


def remove(site: Host, journal: MoveJournal, orphan: Orphan, *, abandoned: bool = False) -> str:
    """Remove one orphan, after looking once more. A sentence for the user. Raises StillInUse.

    `abandoned`: the user has said that other journals are gone for good.
    """
    connection, runner = site.connection, site.runner
    mine = journal.identity()
    if orphan.kind == "mark":
        vm = next(
            (vm for vm in domain_list.all_vms(connection) if vm.name == orphan.vm and vm.mark == orphan.move), None
        )
        if vm is not None:
            foreign = _foreign(vm.mark_journal, mine)
            if foreign is not None and not abandoned:
                raise StillInUse(orphan.path, foreign)
            site.control(vm.uuid, vm.name).mark(None)
        return f"the mark of move {orphan.move} was taken off {orphan.vm}"
    if orphan.kind == "source":
        raise StillInUse(orphan.path, "it is in quarantine, which only `blockferry quarantine purge` empties")
    path = orphan.path.removesuffix(MARKER) if orphan.kind == "marker" else orphan.path
    marker = path + MARKER
    words = _words(runner, marker)
    foreign = None if words is None else _foreign(words.get("journal", ""), mine)
    if words is None or words.get("move") != orphan.move or (foreign is not None and not abandoned):
        raise StillInUse(orphan.path, foreign or "its marker has changed meanwhile")
    stat = files.stat_one(runner, path)
    taken = is_another(words, stat)
    if orphan.kind == "marker":
        if not taken:
            raise StillInUse(orphan.path, "the file that it was written for is there again")
        files.remove_file(runner, marker)
        return f"{marker} was removed; {path} was not touched"
    if taken:
        raise StillInUse(orphan.path, "another file has taken its name since")
    said = claims.claims(journal, connection.uri, connection.host_id())
    doubt = _unproven(site, words, stat, path) or proof.blocker(site, path, said, is_base=False)
    if doubt is not None:
        raise StillInUse(orphan.path, doubt)
    stores = pools.datastores(connection)
    file = file_identity.files_at(runner, connection.host_id(), [path])[path]
    removed = files.remove_file(runner, path)
    files.remove_file(runner, marker)
    journal.forget_partial(file, path, connection.host_id(), orphan.move or "")
    store = datastore_of(orphan.path, stores)
    parent = posixpath.dirname(orphan.path)
    own = orphan.vm is not None and is_in_home(orphan.path, orphan.vm)
    if store is not None and own:
        with contextlib.suppress(HostUnreachable):  # the orphan is gone; an empty directory is no harm
            home_effects.clear_directory(site, runner, parent)
    return f"{orphan.path} was {'removed' if removed else 'gone already'}"
