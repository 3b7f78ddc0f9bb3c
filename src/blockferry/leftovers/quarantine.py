"""Quarantine: old files kept for a time. Listing them, removing what has expired, and going back to them.

Nothing is renamed: a kept file stays under its own name, and the journal says that it is kept, until when, and how it
was. Nothing is removed but by `purge`, and each file only after the proof that counts for every removal.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from blockferry.base.errors import BlockferryError, MoveNotFound, NotInQuarantine, NotRestorable
from blockferry.base.units import GiB
from blockferry.hosts import file_identity, qemu_process
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files
from blockferry.hosts.host import Host
from blockferry.hosts.images import conversion, qemu_img
from blockferry.hosts.inventory import PowerState, Vm
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.libvirt import domain_list, pools
from blockferry.jobs.kill_points import KillPoints
from blockferry.leftovers import quarantine_rules
from blockferry.leftovers.quarantine_rules import DiskLoss, KeptFile, Purged, Restore, Swap
from blockferry.safety import file_references, proof
from blockferry.storage_move import claims
from blockferry.storage_move.destination.placement import is_in_home
from blockferry.storage_move.home import effects as home_effects
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import Plan

point = KillPoints("purging", "restoring", "restored")

COMPARED_UP_TO = 2 * GiB
"""Bytes of an image that are compared without being asked: seconds, not minutes."""

SWITCHED = "all disks are at the destination"
"""The event of a move's story that tells when it switched (storage_move/switch/effects.py)."""


def row(
    site: Host,
    plan: Plan,
    path: str,
    datastore: str,
    size: int,
    why: str,
    format: str | None,
    *,
    settled: bool = True,
    for_good: bool = False,
) -> Kept:
    """An old file of a move as it is now, for the journal. `settled` off: somebody may write to it still.

    `for_good`: it is kept because of a doubt and not only as asked, so its time is never over by itself.
    """
    keep_s, now = None if for_good else plan.source.keep_s, time.time()
    expires = None if keep_s is None or keep_s == float("inf") else now + keep_s
    file_stat, host = files.stat_one(site.runner, path), site.connection.host_id()
    return Kept(
        path=path,
        move=plan.move,
        vm=plan.vm,
        datastore=datastore,
        expires=expires,
        size=size,
        why=why,
        host=host,
        since=now,
        format=format,
        fingerprint=proof.fingerprint(file_stat)
        if settled and file_stat is not None and file_stat.kind == "file"
        else None,
        file=file_identity.files_at(site.runner, host, [path])[path],
    )


def listing(site: Host, journal: MoveJournal) -> tuple[KeptFile, ...]:
    """All kept files of this host, with what the proof says now."""
    said = claims.claims(journal, site.connection.uri, site.connection.host_id())
    shown = proof.Proof(site, [kept.path for kept in said.kept], only_shown=True)
    return tuple(_look(site, shown, said, kept) for kept in said.kept)


def _look(
    site: Host,
    asked: proof.Proof,
    said: proof.Claims,
    kept: Kept,
    together: Sequence[str] = (),
    patience_s: float = 0,
    going: Sequence[str] = (),
) -> KeptFile:
    file_stat = files.stat_one(site.runner, kept.path)
    doubt = None
    if file_stat is not None:
        doubt = asked.blocker(kept.path, said, together=together, patience_s=patience_s, going=going)
    altered = file_stat is not None and (kept.fingerprint is None or proof.fingerprint(file_stat) != kept.fingerprint)
    return KeptFile(kept, file_stat is not None, kept.expired(time.time()), altered, doubt)


def purge(site: Host, journal: MoveJournal, paths: Sequence[str], *, now: bool) -> tuple[Purged, ...]:
    """Remove what has expired (all, or of these paths); with `now` what was named, expired or not.

    What cannot be proven to be unneeded stays, and what stands on
    another kept file goes before it. Raises NotInQuarantine.
    """
    said = claims.claims(journal, site.connection.uri, site.connection.host_id())
    known = {posixpath.normpath(kept.path): kept for kept in said.kept}
    for path in paths:
        if posixpath.normpath(path) not in known:
            raise NotInQuarantine(path)
    chosen = [known[posixpath.normpath(path)] for path in dict.fromkeys(paths)] or list(said.kept)
    chosen = [kept for kept in chosen if paths or kept.expired(time.time())]
    done: dict[str, tuple[bool, str]] = {}
    left = []
    for kept in chosen:
        if now or kept.expired(time.time()):
            left.append(kept)
        else:
            done[kept.path] = False, f"{kept.path} stays, because its time is not over yet"
    asked = proof.Proof(site, [kept.path for kept in left])
    removed: list[str] = []
    while left:  # a base can go when what stands on it is gone
        before = len(left)
        for kept in list(left):
            said = claims.claims(journal, site.connection.uri, site.connection.host_id())
            absent = [path for path, seen in files.stat_many(site.runner, removed).items() if seen is None]
            gone, sentence = _purge_one(site, journal, asked, said, kept, [row.path for row in left], absent, now=now)
            done[kept.path] = gone, sentence
            if gone:
                left.remove(kept)
                removed.append(kept.path)
        if len(left) == before:
            break
    return tuple(Purged(kept.path, *done[kept.path]) for kept in chosen)


def _purge_one(
    site: Host,
    journal: MoveJournal,
    asked: proof.Proof,
    said: proof.Claims,
    kept: Kept,
    together: Sequence[str],
    removed: Sequence[str],
    *,
    now: bool,
) -> tuple[bool, str]:
    """`removed`: what we have removed and is still gone, which the inventory may still have."""
    state = _look(site, asked, said, kept, together, patience_s=proof.PATIENCE_S, going=removed)
    if state.doubt is not None:
        return False, f"{kept.path} stays, because {state.doubt}"
    if not state.found and (unseen := file_references.why_unseen(site, kept.path)):
        return False, f"{kept.path} stays in quarantine, because it cannot be looked at: {unseen}"
    if state.altered and not (now and kept.fingerprint is None):  # of the first version, and named: as asked
        return False, f"{kept.path} stays, because it has been changed since it was kept (or that cannot be told)"
    point("purging")
    if state.found:
        files.remove_with_links(site.runner, kept.path)
    journal.remove_kept(kept.path, site.connection.host_id(), kept.move)
    sentence = f"{kept.path} was removed from quarantine" if state.found else f"{kept.path} was gone already"
    with contextlib.suppress(MoveNotFound):
        journal.event(kept.move, "user", sentence)
    _tidy(site, journal, kept)
    return True, sentence


def _tidy(site: Host, journal: MoveJournal, kept: Kept) -> None:
    """The old home's directory, once nothing but our own metadata of the VM is in it."""
    directory = posixpath.dirname(kept.path)
    if not is_in_home(kept.path, kept.vm):
        return
    with contextlib.suppress(BlockferryError):
        stores = pools.datastores(site.connection)
        if (
            home_effects.is_datastore(site.runner, directory, stores)
            or files.link_target(site.runner, directory) is not None
        ):
            return
        uuid = journal.every.get(kept.move).plan.uuid
        names = [posixpath.join(directory, name) for name in files.list_directory(site.runner, directory)]
        if all(home_effects.is_ours(site.runner, name, uuid) for name in names) and not _home_of(site, directory):
            for name in names:
                files.remove_file(site.runner, name)
            files.remove_directory_if_empty(site.runner, directory)


def _home_of(site: Host, directory: str) -> bool:
    """Whether some VM names that directory, or something in it."""
    return bool(file_references.directory_user(site, directory))


# ------------------------------------------------------------ going back


def restorable(site: Host, journal: MoveJournal, what: str, *, compare: bool | None = None) -> Restore:
    """What going back would do and lose. `what`: a VM, or a kept file of it.

    `compare`: read both sides of each disk (None: only small ones). Raises VmNotFound, NotInQuarantine, NotRestorable.
    """
    vm, plan, kept = _meant(site, journal, what)
    stats = files.stat_many(site.runner, list(_paths(plan)))
    prints: dict[str, KeptFingerprint | None] = {
        path: None if one is None or one.kind != "file" else proof.fingerprint(one) for path, one in stats.items()
    }
    swap = quarantine_rules.swap(plan, vm, kept, prints)
    if not swap.problems and quarantine_rules.done_already(swap, kept):
        return Restore(swap, None, (), (), done=True)
    problems = [*swap.problems, *_busy(site, journal, vm)]
    if not problems:
        problems.extend(_used(site, journal, swap, kept))
        problems.extend(_unreadable(site, swap))
    if problems:
        raise NotRestorable(vm.name, "; ".join(dict.fromkeys(problems)))
    losses = []
    for disk in swap.disks:
        present = files.stat_one(site.runner, disk.now)
        if present is None:
            raise NotRestorable(vm.name, f"{disk.now}, which {disk.target} uses now, is gone")
        small = max(present.allocated, present.size if disk.now_format == "raw" else 0) <= COMPARED_UP_TO
        result = None
        if compare or (compare is None and small):
            result = conversion.compare(site.runner, disk.kept, disk.kept_format, disk.now, disk.now_format)
        losses.append(
            DiskLoss(
                target=disk.target,
                now=disk.now,
                kept=disk.kept,
                written=present.mtime_ns / 1e9,
                identical=None if result is None else result.identical,
                first_difference=None if result is None else result.first_difference_offset,
            )
        )
    notes = list(quarantine_rules.beside(plan, vm, swap))
    if vm.checkpoints:
        names = ", ".join(vm.checkpoints)
        notes.append(f"The checkpoints {names} belong to the present disks: the next backup must be full.")
    return Restore(swap, _since(journal, plan, kept, swap), tuple(losses), tuple(notes))


def _meant(site: Host, journal: MoveJournal, what: str) -> tuple[Vm, Plan, dict[str, Kept]]:
    """The VM, the move, and what is kept of that move. A VM's latest move with anything kept is meant."""
    rows = claims.kept_here(journal, site.connection.uri, site.connection.host_id())
    if what.startswith("/"):
        named = [row for row in rows if posixpath.normpath(row.path) == posixpath.normpath(what)]
        if not named:
            raise NotInQuarantine(what)
        plan = _storage_plan(journal, named[0])
        vm = domain_list.vm(site.connection, plan.uuid)
    else:
        vm = domain_list.vm(site.connection, what)
        moves = [journal.every.get(move) for move in {row.move for row in rows}]
        plans = sorted(
            ((one.created, one.plan) for one in moves if one.plan.uuid == vm.uuid and one.kind == journal.kind.name),
            key=lambda pair: pair[0],
        )
        if not plans:
            raise NotInQuarantine(what)
        plan = plans[-1][1]
    return vm, plan, {row.path: row for row in rows if row.move == plan.move}


def _storage_plan(journal: MoveJournal, row: Kept) -> Plan:
    """The plan of the storage move that has left a file. Raises NotRestorable for a file that another kind has left."""
    one = journal.every.get(row.move)
    if one.kind != journal.kind.name:
        raise NotRestorable(row.vm, f"{row.path} was kept when {row.vm} went to {one.plan.destination}")
    return journal.get(row.move).plan


def _paths(plan: Plan) -> set[str]:
    home = plan.small_files
    disks = (path for disk in plan.disks for path in (disk.source.path, disk.dest.path, *disk.release.files))
    return {
        *(path for path in disks if not is_export(path)),
        *(layer.dest for disk in plan.disks for layer in disk.chain.layers),
        *(path for file in home for path in (file.source, file.dest)),
    }


def _busy(site: Host, journal: MoveJournal, vm: Vm) -> list[str]:
    moving = [one.id for one in journal.every.unfinished() if one.plan.uuid == vm.uuid]
    if moving:
        return [f"{vm.name} is being moved ({', '.join(moving)})"]
    if vm.mark is not None:
        return [f"{vm.name} bears the mark of move {vm.mark}, which may be under way (`blockferry orphans`)"]
    return _still_runs(site, vm.name, vm.uuid) if vm.state is PowerState.OFF else []


def _still_runs(site: Host, name: str, uuid: str) -> list[str]:
    """Why a VM may run that libvirt calls off."""
    qemu_presence = qemu_process.remains(site.runner, site.connection.uri, uuid)
    if qemu_presence.pid is not None:
        return [f"libvirt calls {name} off, but its QEMU (process {qemu_presence.pid}) still runs on the present disks"]
    return [f"it cannot be told whether {name} is off: {qemu_presence.doubt}"] if qemu_presence.doubt else []


def _used(site: Host, journal: MoveJournal, swap: Swap, kept: dict[str, Kept]) -> list[str]:
    """Whether anybody else uses what is to be gone back to: the same proof as before a removal."""
    said = claims.claims(journal, site.connection.uri, site.connection.host_id())
    asked = proof.Proof(site, kept)
    found = []
    for path in kept:
        if path in {disk.kept for disk in swap.disks} or path in swap.files.values():
            doubt = asked.blocker(path, said, going=list(kept), together=[row.path for row in said.kept])
            if doubt is not None:
                found.append(f"{path}: {doubt}")
    return found


def _unreadable(site: Host, swap: Swap) -> list[str]:
    """Whether the kept images can be opened, with all that they stand on."""
    found = []
    for disk in swap.disks:
        try:
            qemu_img.chain(site.runner, disk.kept, disk.kept_format)
        except BlockferryError as error:
            found.append(f"{disk.target}: {error.sentence.rstrip('.')}")
    return found


def _since(journal: MoveJournal, plan: Plan, kept: dict[str, Kept], swap: Swap) -> float | None:
    """When the VM left the files that it goes back to."""
    if swap.back:
        switched = [event.at for event in journal.events(plan.move) if event.text == SWITCHED]
        if switched:
            return switched[-1]
    times = [one.since for path, one in kept.items() if path in {d.kept for d in swap.disks} and one.since]
    return min(times, default=None)


def restore(site: Host, journal: MoveJournal, agreed: Restore, user: str) -> tuple[str, ...]:
    """Go back, as agreed to; sentences of what was done. Raises NotRestorable when anything has changed meanwhile.

    The present files go into quarantine first, so that nothing is ever without a record; then the persistent
    configuration changes, all disks and home files in one write; then what is used again leaves the quarantine.
    Killed in between, the same command goes on: whatever the configuration names is never removed.
    """
    swap = agreed.swap
    again = restorable(site, journal, swap.disks[0].kept, compare=False)
    if again.swap != swap or again.done != agreed.done:
        raise NotRestorable(swap.vm, "something has changed since you were asked")
    plan = journal.get(swap.move).plan
    old, new = quarantine_rules.sides(plan)
    leaving, returning = (new, old) if swap.back else (old, new)
    small = dict(swap.files)
    if agreed.done:
        leaving, returning = returning, leaving
        small = {then: now for now, then in small.items()}
    else:
        _put_aside(site, journal, plan, {**leaving, **dict.fromkeys(small, "raw")})
        point("restoring")
        _point(site, swap)
        point("restored")
    host = site.connection.host_id()
    for path in (*returning, *small.values()):
        journal.remove_kept(path, host, swap.move)
    used = {disk.target: disk.now if agreed.done else disk.kept for disk in swap.disks}
    done = [f"{target} of {swap.vm} uses {path} again" for target, path in used.items()]
    done += [f"{swap.vm} uses {path} again" for path in small.values()]
    done.append(f"in quarantine now: {', '.join((*leaving, *small))}")
    journal.event(swap.move, "user", f"{user} restored {swap.vm} from quarantine: {'; '.join(done)}")
    return tuple(done)


def _put_aside(site: Host, journal: MoveJournal, plan: Plan, paths: Mapping[str, str | None]) -> None:
    """Into quarantine, without an end."""
    formats = dict(paths)
    for disk in plan.disks:
        for path, format in ((disk.source.path, disk.source.format), (disk.dest.path, disk.dest.format)):
            if path in paths and None in paths.values():
                formats.update({layer.path: layer.format for layer in qemu_img.chain(site.runner, path, format)})
    for path in paths:
        file_stat = files.stat_one(site.runner, path)
        if file_stat is not None:
            why = f"put aside when {plan.vm} was restored from quarantine"
            kept = row(site, plan, path, _datastore(plan, path), file_stat.allocated, why, formats.get(path))
            journal.add_kept(replace(kept, expires=None))


def _point(site: Host, swap: Swap) -> None:
    """Change the persistent configuration, and back if the VM was started meanwhile. Raises NotRestorable."""
    control = site.control(swap.uuid, swap.vm)
    if running := _still_runs(site, swap.vm, swap.uuid):
        raise NotRestorable(swap.vm, running[0])
    control.write_config({disk.target: (disk.kept, disk.kept_format) for disk in swap.disks}, dict(swap.files))
    if control.look(()).state is not PowerState.OFF:
        # It runs on the files that it was to leave, so they are the truth.
        small = {then: now for now, then in swap.files.items()}
        control.write_config({disk.target: (disk.now, disk.now_format) for disk in swap.disks}, small)
        raise NotRestorable(swap.vm, "it was started meanwhile; its configuration is as it was")


def _datastore(plan: Plan, path: str) -> str:
    for disk in plan.disks:
        if path == disk.dest.path:
            return disk.dest.datastore
        if path == disk.source.path:
            return disk.source.datastore or ""
    return plan.home.datastore if plan.home else ""
