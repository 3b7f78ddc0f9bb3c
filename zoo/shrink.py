"""The smallest host that still shows a finding of the same kind: parts are taken away as long as it does."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from zoo.spec import Host, Move, Vm


def shrink(host: Host, fails: Callable[[Host], bool], seconds: float) -> Host:
    """Greedy: the first smaller host that still fails is gone on with, until none does or the time is over."""
    end = time.monotonic() + seconds
    tried: set[Host] = {host}
    while True:
        for smaller in candidates(host):
            if time.monotonic() > end:
                return host
            if smaller in tried:
                continue
            tried.add(smaller)
            if fails(smaller):
                host = smaller
                break
        else:
            return host


def candidates(host: Host) -> Iterator[Host]:
    """Hosts with one thing less, the big things first."""
    for vm in host.vms:
        if vm.name != host.move.vm:
            yield _tidy(replace(host, vms=tuple(one for one in host.vms if one is not vm)))
    mover = host.mover
    for disk in mover.disks:
        if len(mover.disks) > 1:
            yield _with(host, replace(mover, disks=tuple(one for one in mover.disks if one is not disk)))
    for named in mover.named:
        yield _with(host, replace(mover, named=tuple(other for other in mover.named if other is not named)))
    if mover.tpm:
        yield _with(host, replace(mover, tpm=""))
    if mover.snapshots:
        yield _with(host, replace(mover, snapshots=()))
    for move in _moves(host.move):
        yield replace(host, move=move)
    used = {host.move.to, host.move.back, *(pool for _, pool in host.move.disks)}
    used |= {disk.pool for vm in host.vms for disk in vm.disks}
    for pool in host.pools:
        if pool.name not in used and pool is not host.pools[0]:
            yield replace(host, pools=tuple(one for one in host.pools if one is not pool))
    needed = _needed(host)
    for file in host.files:
        if file.place not in needed:
            yield replace(host, files=tuple(one for one in host.files if one is not file))
        elif file.owner or file.mode or file.bitmap:
            plain = replace(file, owner="", mode=0, bitmap="")
            yield replace(host, files=tuple(plain if one is file else one for one in host.files))
    for disk in mover.disks:
        for option in disk.options:
            less = replace(disk, options=tuple(one for one in disk.options if one != option))
            yield _with(host, replace(mover, disks=tuple(less if one is disk else one for one in mover.disks)))
    if host.profile != "default":
        yield replace(host, profile="default")
    if mover.state == "paused":
        yield _with(host, replace(mover, state="running"))


def _moves(move: Move) -> Iterator[Move]:
    if move.back:
        yield replace(move, back="")
    for edit in move.edits:
        yield replace(move, edits=tuple(one for one in move.edits if one is not edit))
    for place, word in enumerate(move.words):
        if word.startswith("--"):
            more = 1 if word in ("--verify", "--delete-source") else 2
            yield replace(move, words=move.words[:place] + move.words[place + more :])
    if move.cancel_at:
        yield replace(move, cancel_at="")
    if move.method != "auto":
        yield replace(move, method="auto")


def _with(host: Host, mover: Vm) -> Host:
    vms = tuple(mover if vm.name == mover.name else vm for vm in host.vms)
    targets = {disk.target for disk in mover.disks}
    edits = tuple(edit for edit in host.move.edits if not edit.target or edit.target in targets)
    disks = tuple((target, pool) for target, pool in host.move.disks if target in targets)
    if host.move.disks and not disks:
        return host
    return _tidy(replace(host, vms=vms, move=replace(host.move, edits=edits, disks=disks)))


def _needed(host: Host) -> set[str]:
    """Places that somebody names, with what they stand on."""
    known = {file.place: file for file in host.files}
    wanted = [disk.place for vm in host.vms for disk in vm.disks] + [
        named.place for vm in host.vms for named in vm.named
    ]
    wanted += [pool.place for pool in host.pools] + [edit.place for edit in host.move.edits]
    wanted += [file.place for file in host.files if file.kind == "link"]
    found: set[str] = set()
    while wanted:
        place = wanted.pop()
        if place in known and place not in found:
            found.add(place)
            wanted += [known[place].backing, known[place].target]
    return found


def _tidy(host: Host) -> Host:
    """Without edits of files that are not there any more."""
    known = {file.place for file in host.files}
    edits = tuple(edit for edit in host.move.edits if not edit.place or edit.place in known)
    return replace(host, move=replace(host.move, edits=edits))
