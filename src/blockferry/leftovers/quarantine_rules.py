"""Quarantine: old files that are kept, and whether a VM can go back to them. Pure."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from blockferry.hosts.exports import is_export
from blockferry.hosts.inventory import PowerState, Vm
from blockferry.hosts.kept import INCOMPLETE, Kept, KeptFingerprint
from blockferry.storage_move.plan import Plan


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A kept file and how it is now: what `quarantine list` shows."""

    kept: Kept
    found: bool
    expired: bool
    altered: bool  # it is not what was kept, or that cannot be told
    doubt: str | None  # why it cannot be removed now; None: it is proven that nothing needs it
    host: str = ""  # its name in the configuration; "": no hosts are configured, or one was named


@dataclass(frozen=True, slots=True)
class Purged:
    """What became of a kept file that was to be removed: whether it is gone, and a sentence."""

    path: str
    gone: bool
    text: str


@dataclass(frozen=True, slots=True)
class DiskSwap:
    """One disk going back: the file that it uses now, and the kept one."""

    target: str
    now: str
    now_format: str
    kept: str
    kept_format: str


@dataclass(frozen=True, slots=True)
class Swap:
    """A VM going back to files in quarantine, all disks of one move together, or why it cannot.

    `files` are the home's small files that go with it, present path -> kept path.
    """

    vm: str
    uuid: str
    move: str
    disks: tuple[DiskSwap, ...]
    files: Mapping[str, str]
    problems: tuple[str, ...]
    back: bool  # to the source of the move; False: to its destination, after an earlier restore


@dataclass(frozen=True, slots=True)
class DiskLoss:
    """What going back loses on one disk. `identical` None: not compared."""

    target: str
    now: str
    kept: str
    written: float | None  # when the present image was last written, wall time
    identical: bool | None
    first_difference: int | None = None  # bytes


@dataclass(frozen=True, slots=True)
class Restore:
    """A restore as it would be done, for people to agree to. `since`: what was written after that is lost."""

    swap: Swap
    since: float | None
    losses: tuple[DiskLoss, ...]
    notes: tuple[str, ...] = ()
    done: bool = False  # an earlier restore was interrupted after the configuration had changed: only to be noted


def _same(one: str | None, other: str) -> bool:
    return one is not None and posixpath.normpath(one) == posixpath.normpath(other)


def swap(plan: Plan, vm: Vm, kept: Mapping[str, Kept], files: Mapping[str, KeptFingerprint | None]) -> Swap:
    """How a VM goes back to what was kept of a move.

    `kept`: path -> what is kept of that move. `files`: every path that may be gone back to -> its fingerprint now,
    None when it is not there.
    """
    problems = _vm_problems(vm)
    if place := next(
        (place for disk in plan.disks for place in (disk.source.path, disk.dest.path) if is_export(place)), ""
    ):
        problems.append(f"{place} is a network block device; only its owner can tell what it holds now")
        return Swap(vm.name, vm.uuid, plan.move, (), {}, tuple(problems), True)
    config = {disk.target: disk.config for disk in vm.disks}
    back = forth = True
    for disk in plan.disks:
        source = config.get(disk.target)
        path = None if source is None else source.path
        back = back and _same(path, disk.dest.path)
        forth = forth and _same(path, disk.source.path)
    if not back and not forth:
        for disk in plan.disks:
            source = config.get(disk.target)
            where = "gone" if source is None else f"on {source.description}"
            if source is None or not (_same(source.path, disk.dest.path) or _same(source.path, disk.source.path)):
                problems.append(f"{disk.target} of {vm.name} has changed since the move: it is {where}")
        if not problems:
            problems.append(f"some disks of {vm.name} use the old and some the new files")
        return Swap(vm.name, vm.uuid, plan.move, (), {}, tuple(problems), True)
    swaps = []
    for disk in plan.disks:
        old, new = (disk.source.path, disk.source.format), (disk.dest.path, disk.dest.format)
        disk_swap = DiskSwap(disk.target, *new, *old) if back else DiskSwap(disk.target, *old, *new)
        swaps.append(disk_swap)
        lower = disk.release.files[1:] if back else ()
        problems.extend(_file_problems(disk.target, (disk_swap.kept, *lower), kept, files))
        if back and disk.overlays.source in kept:
            problems.append(
                f"{disk.target}: {disk.overlays.source}, which stands on {disk_swap.kept}, holds the newer writes"
            )
        if back and disk.source.kind != "file":
            problems.append(f"{disk.target}: {disk_swap.kept} is a block device; what it holds now cannot be told")
    small = {}
    for file in plan.small_files:
        now, then = (file.dest, file.source) if back else (file.source, file.dest)
        if then in kept and files.get(then) is not None:
            small[now] = then
    return Swap(vm.name, vm.uuid, plan.move, tuple(swaps), small, tuple(problems), back)


def beside(plan: Plan, vm: Vm, swap: Swap) -> tuple[str, ...]:
    """What else goes back with the disks, and what does not: sentences."""
    said = []
    for file in plan.small_files:
        now = file.dest if swap.back else file.source
        if now in swap.files:
            what = {"nvram": "The UEFI variables go", "iso": f"The ISO of {file.target} goes"}.get(file.role)
            said.append(f"{what or 'A file of the home goes'} back as well: {now} -> {swap.files[now]}.")
    if vm.config_nvram is not None and vm.config_nvram not in swap.files:
        said.append(f"The UEFI variables stay as they are ({vm.config_nvram}): no others are kept of that move.")
    mine = {disk.target for disk in plan.disks}
    for disk in vm.disks:
        if disk.device == "disk" and disk.target not in mine:
            where = disk.config.description if disk.config else "nothing"
            said.append(f"{disk.target} was not in that move and stays as it is, with all that is on it now: {where}.")
    return tuple(said)


def done_already(swap: Swap, kept: Mapping[str, Kept]) -> bool:
    """Whether an earlier restore got so far that the configuration changed, and was killed before it noted that.

    A restore puts the present files into quarantine before it changes anything, and takes the others out of it at
    its end. With both sides in quarantine the one that was put there later is the one to be left.
    """
    now = [kept[disk.now].since for disk in swap.disks if disk.now in kept]
    then = [kept[disk.kept].since for disk in swap.disks if disk.kept in kept]
    if not swap.disks or len(now) < len(swap.disks) or len(then) < len(swap.disks):
        return False
    return max(one or 0.0 for one in now) < min(one or 0.0 for one in then)


def sides(plan: Plan) -> tuple[dict[str, str | None], dict[str, str | None]]:
    """The images of a move, old and new: path -> format; None for a lower layer whose format its overlay knows."""
    old: dict[str, str | None] = {}
    new: dict[str, str | None] = {}
    for disk in plan.disks:
        old.update(dict.fromkeys(disk.release.files[1:]))
        old[disk.source.path] = disk.source.format
        new.update({layer.dest: layer.dest_format for layer in disk.chain.layers})
        new[disk.dest.path] = disk.dest.format
    return old, new


def _vm_problems(vm: Vm) -> list[str]:
    found = []
    if vm.state is not PowerState.OFF:
        found.append(f"{vm.name} is {vm.state.value}; it must be off")
    if vm.has_managed_save:
        found.append(f"{vm.name} has a managed save image, whose memory belongs to the present disks")
    if vm.snapshots:
        found.append(f"{vm.name} has the snapshots {', '.join(vm.snapshots)}, which name the present disks")
    return found


def _file_problems(
    target: str, paths: tuple[str, ...], kept: Mapping[str, Kept], files: Mapping[str, KeptFingerprint | None]
) -> list[str]:
    found = []
    for path in paths:
        row, now = kept.get(path), files.get(path)
        if row is None:
            found.append(f"{target}: {path} is not in quarantine: it was not kept, or was purged or restored")
        elif now is None:
            found.append(f"{target}: {path} is gone")
        elif INCOMPLETE in row.why:
            found.append(f"{target}: {path} is not the whole disk: {row.why[row.why.index(INCOMPLETE) :]}")
        elif row.fingerprint is None:
            found.append(f"{target}: how {path} was when it was kept is not recorded")
        elif row.fingerprint != now:
            found.append(f"{target}: {path} has been changed since it was kept")
    return found
