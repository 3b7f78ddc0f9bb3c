"""Orphans: what earlier moves left on this host, whose it is, and whether it can go.

A file counts only if it bears our marker (`FILE.blockferry`) or stands in the journal as a kept source; nothing
else is ever called an orphan.
"""

from __future__ import annotations

import posixpath
import time

import msgspec

from blockferry.engine.making import MARKER
from blockferry.engine.observe import same_path
from blockferry.engine.release import names_of
from blockferry.engine.site import Site
from blockferry.errors import BlockferryError, StillInUse
from blockferry.hypervisor import domains, pools
from blockferry.images import files, qemuimg, users
from blockferry.images.runner import Runner
from blockferry.journal import Journal
from blockferry.model.inventory import Datastore, Vm, datastore_of
from blockferry.model.summary import Orphan


def find(site: Site, journal: Journal) -> tuple[Orphan, ...]:
    """Everything of ours that belongs to no move under way."""
    connection, runner = site.connection, site.runner
    everyone = domains.all_vms(connection)
    stores = pools.datastores(connection)
    running = {one.id for one in journal.unfinished()}
    to_go_on_with = {path for one in journal.finished(100_000) for path in one.record.kept}
    found: list[Orphan | None] = []
    for store in stores:
        if store.active and store.is_directory and store.path:
            found.extend(_marked_files(runner, store, everyone, running, to_go_on_with))
    here = {one.id for one in (*journal.unfinished(), *journal.finished(100_000)) if one.plan.uri == connection.uri}
    for kept in journal.kept_sources():
        if kept.move not in here:
            continue  # of another host: the same path there is another file
        found.append(_kept(runner, kept.path, kept.move, kept.vm, kept.datastore, kept.expires, kept.why, everyone))
    for vm in everyone:
        if vm.mark is not None and vm.mark not in running:
            why = f"{vm.name} bears the mark of move {vm.mark}, which this journal does not know as under way"
            found.append(Orphan(f"vm:{vm.name}", "mark", vm.mark, vm.name, None, 0, why, removable=True))
    return tuple(one for one in found if one is not None)


def _marked_files(
    runner: Runner, store: Datastore, everyone: tuple[Vm, ...], running: set[str], to_go_on_with: set[str]
) -> list[Orphan]:
    assert store.path is not None
    argv = ["find", store.path, "-maxdepth", "2", "-xdev", "-name", f"*{MARKER}", "-type", "f", "-print0"]
    result = runner.run(argv, check=False, timeout_s=60)
    found = []
    for marker in result.stdout.decode(errors="surrogateescape").split("\0"):
        if not marker:
            continue
        path = marker.removesuffix(MARKER)
        try:
            words = msgspec.json.decode(files.read_file(runner, marker), type=dict[str, str])
        except (BlockferryError, msgspec.DecodeError):
            continue  # gone this moment, or not ours after all
        if words.get("move") in running:
            continue
        doubt = _doubt(runner, path, everyone)
        stat = files.stat_one(runner, path)
        half = "a broken copy, kept to be gone on with," if path in to_go_on_with else "a half-made copy"
        what = half if doubt is None else f"a copy that was not finished off ({doubt})"
        why = f"{what} of move {words.get('move')} of {words.get('vm')}, made by {words.get('by')}"
        size = 0 if stat is None else stat.allocated
        found.append(
            Orphan(path, "copy", words.get("move"), words.get("vm"), store.name, size, why, removable=doubt is None)
        )
    return found


def _kept(
    runner: Runner,
    path: str,
    move: str,
    vm: str,
    datastore: str,
    expires: float | None,
    why: str,
    everyone: tuple[Vm, ...],
) -> Orphan | None:
    stat = files.stat_one(runner, path)
    if stat is None:
        return None
    doubt = _doubt(runner, path, everyone)
    text = f"old file of {vm}, {why}" + (f"; {doubt}" if doubt else "")
    if expires is not None:
        text += "; its time is over" if expires <= time.time() else "; its time is not over yet"
    return Orphan(path, "source", move, vm, datastore or None, stat.allocated, text, doubt is None, expires)


def _doubt(runner: Runner, path: str, everyone: tuple[Vm, ...]) -> str | None:
    """Why a file must not be removed; None when nothing uses it."""
    for vm in everyone:
        if any(same_path(name, path) for name in names_of(vm)):
            return f"VM {vm.name} refers to it"
        for disk in vm.disks:
            source = disk.source
            if disk.device != "disk" or source is None or source.path is None or source.kind not in ("file", "block"):
                continue
            try:
                layers = qemuimg.chain(runner, source.path, source.format)
            except BlockferryError as error:
                return f"it cannot be told what {disk.target} of VM {vm.name} stands on ({error.sentence})"
            if any(same_path(layer.path, path) for layer in layers):
                return f"the backing chain of {disk.target} of VM {vm.name} stands on it"
    stat = files.stat_one(runner, path)
    if stat is None:
        return None
    if stat.kind != "file":
        return "it is no plain file"
    return "a process has it open" if users.users_of(runner, path).any else None


def remove(site: Site, journal: Journal, one: Orphan) -> str:
    """Remove one orphan, after looking once more. A sentence for the user. Raises StillInUse."""
    connection, runner = site.connection, site.runner
    everyone = domains.all_vms(connection)
    if one.kind == "mark":
        vm = next((vm for vm in everyone if vm.name == one.vm and vm.mark == one.move), None)
        if vm is not None:
            site.control(vm.uuid, vm.name).mark(None)
        return f"the mark of move {one.move} was taken off {one.vm}"
    doubt = _doubt(runner, one.path, everyone)
    if doubt is not None:
        raise StillInUse(one.path, doubt)
    stores = pools.datastores(connection)
    removed = files.remove_file(runner, one.path)
    files.remove_file(runner, one.path + MARKER)
    journal.remove_kept(one.path)
    store = datastore_of(one.path, stores)
    parent = posixpath.dirname(one.path)
    if one.kind == "copy" and store is not None and parent != store.path and one.vm == posixpath.basename(parent):
        files.remove_directory_if_empty(runner, parent)
    return f"{one.path} was {'removed' if removed else 'gone already'}"
