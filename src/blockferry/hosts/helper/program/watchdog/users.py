"""Who else uses a storage, by links and tables of /proc and /sys alone: it may hang, so nobody looks at it."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from blockferry.hosts.helper.program import mount_table
from blockferry.hosts.helper.program.mount_table import Mount, mount_of
from blockferry.hosts.helper.program.watchdog.tables import Block, Json, block, linked, listed, number, read

NOT_A_VM = ("qemu-img", "qemu-io", "qemu-nbd", "sync", "stat", "cp", "dd", "rm", "fallocate", "python3", "sh")


class Open(NamedTuple):
    """A file that a process has open or mapped."""

    pid: int
    command: str
    path: str
    device: str  # of the superblock it lies on; "": unknown
    special: str = ""  # the number of the block device that it is


class Table(NamedTuple):
    """All that is needed to say who uses a storage, without touching it."""

    mounts: list[Mount]
    blocks: dict[str, Block]
    opened: list[Open]
    swaps: list[str]
    exports: list[str]


def table() -> Table:
    opened, mounts = processes()
    numbers = listed("/sys/dev/block")
    blocks = {one: found for one in numbers if (found := block(one)) is not None}
    swaps = [line.split()[0] for line in read("/proc/swaps").splitlines()[1:]]
    exports = [line.split()[0] for line in read("/proc/fs/nfsd/exports").splitlines() if line.startswith("/")]
    return Table(mounts, blocks, opened, swaps, exports)


def processes() -> tuple[list[Open], list[Mount]]:
    """Every file that any process has open or mapped, and every mount that any process sees."""
    seen: dict[str, None] = {}
    mounts: dict[int, Mount] = {}
    pids = [int(name) for name in listed("/proc") if name.isdigit() and int(name) != os.getpid()]
    for pid in (os.getpid(), *pids):
        space = linked(f"/proc/{pid}/ns/mnt")
        if space and space not in seen:
            seen[space] = None
            for mount in mount_table.parse(os.fsencode(read(f"/proc/{pid}/mountinfo"))):
                mounts.setdefault(mount.number, mount)
    opened: list[Open] = []
    for pid in pids:
        command = read(f"/proc/{pid}/comm")
        opened.extend(_opened_by(pid, command, mounts))
        opened.extend(_mapped_by(pid, command))
    return opened, list(mounts.values())


def _opened_by(pid: int, command: str, mounts: dict[int, Mount]) -> Iterator[Open]:
    for name in listed(f"/proc/{pid}/fd"):
        path = linked(f"/proc/{pid}/fd/{name}")
        if not path.startswith("/"):
            continue
        match = re.search(r"^mnt_id:\s*(\d+)$", read(f"/proc/{pid}/fdinfo/{name}"), re.MULTILINE)
        mount = mounts.get(int(match[1])) if match else None
        special = ""
        if mount is not None and mount.kind in ("devtmpfs", "tmpfs"):  # held in memory: may be looked at
            with contextlib.suppress(OSError):
                stat = os.stat(f"/proc/{pid}/fd/{name}")
                special = number(stat.st_rdev) if stat.st_mode & 0o170000 == 0o060000 else ""
        yield Open(pid, command, path, mount.device if mount else "", special)


def _mapped_by(pid: int, command: str) -> Iterator[Open]:
    found = set()
    for line in read(f"/proc/{pid}/maps").splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith("/"):
            major, _, minor = words[3].partition(":")
            found.add((words[5], f"{int(major, 16)}:{int(minor, 16)}"))
    for path, device in sorted(found):
        yield Open(pid, command, path, device)


def standing_on(devices: set[str], known: Table) -> set[str]:
    """The devices (block devices and superblocks) that stand on these, and these."""
    found = set(devices)
    while True:
        more = {
            device
            for device, one in known.blocks.items()
            if found & set(one.below) or _lies_on(one.backing_file, found, known.mounts)
        }
        names = {f"/dev/{known.blocks[device].name}" for device in found | more if device in known.blocks}
        more |= {mount.device for mount in known.mounts if mount.source in names}
        if more <= found:
            return found
        found |= more


def _lies_on(path: str, devices: set[str], mounts: list[Mount]) -> bool:
    mount = mount_of(path, mounts) if path.startswith("/") else None
    return mount is not None and mount.device in devices


def others(place: Json, ours: set[str], known: Table) -> list[str]:
    """Who besides this move uses what would be fenced, in words for people; conservative where it cannot be told.

    `ours`: paths of the move's own new files and directories.
    """
    chain = set(place["chain"])
    cut = standing_on(set(place["cuts"]) | chain, known)
    found = []
    for device in sorted(cut - chain):
        one = known.blocks.get(device)
        if one is not None and not one.partition:
            found.append(f"/dev/{one.name} stands on it")
    for mount in known.mounts:
        if mount.device in cut - chain:
            found.append(f"{mount.source} is mounted at {mount.point}")
    points = [mount for mount in known.mounts if mount.device in cut]
    for one_open in known.opened:
        here = one_open.device in cut or one_open.special in cut
        if not one_open.device:
            here = here or mount_of(one_open.path.removesuffix(" (deleted)"), points) is not None
        if here and not _is_ours(one_open.path, ours):
            found.append(f"{one_open.command or 'a process'} ({one_open.pid}) has {one_open.path} open")
    numbers = {f"/dev/{one.name}": device for device, one in known.blocks.items()}
    for path in known.swaps:
        if numbers.get(path) in cut or _lies_on(path, cut, known.mounts):
            found.append(f"the host swaps to {path}")
    for path in known.exports:
        if _lies_on(path, cut, known.mounts):
            found.append(f"{path} is exported by NFS")
    return list(dict.fromkeys(found))


def _is_ours(path: str, ours: set[str]) -> bool:
    bare = path.removesuffix(" (deleted)")
    if bare in ours:
        return True
    directory, name = os.path.split(bare)
    nameless = path != bare and name.startswith(("#", ".blockferry-"))
    return nameless and directory in ours  # a watch's beat


def across(pairs: list[list[str]], opened: list[Open]) -> list[str]:
    """New images that somebody has open without the old one: they may be a disk already, so nobody may cut them off."""
    by_pid: dict[int, set[str]] = {}
    names: dict[int, str] = {}
    for one in opened:
        by_pid.setdefault(one.pid, set()).add(one.path)
        names[one.pid] = one.command
    return [
        f"{names[pid]} ({pid}) has {dest} open without {source}"
        for pid, paths in by_pid.items()
        if names[pid] not in NOT_A_VM
        for source, dest in pairs
        if dest in paths and source not in paths
    ]


def one_is_open(paths: set[str]) -> bool:
    """Whether a process other than this one has any of these files open."""
    mine = str(os.getpid())
    for pid in listed("/proc"):
        if pid.isdigit() and pid != mine:
            for name in listed(f"/proc/{pid}/fd"):
                if linked(f"/proc/{pid}/fd/{name}") in paths:
                    return True
    return False
