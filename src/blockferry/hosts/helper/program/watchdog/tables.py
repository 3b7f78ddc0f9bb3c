"""Tables of the kernel, which it answers from memory: mounts and block devices. Nothing here touches a storage."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

Json = dict[str, Any]


class Mount(NamedTuple):
    """One line of a mountinfo (proc(5))."""

    number: int
    device: str  # "major:minor" of the superblock
    point: str
    kind: str
    source: str
    options: str


def parse_mountinfo(text: str) -> list[Mount]:
    found = []
    for line in text.splitlines():
        front, _, back = line.partition(" - ")
        one, other = front.split(" "), back.split(" ")
        if len(one) > 5 and len(other) > 2:
            words = [re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), word) for word in (one[4], other[1])]
            found.append(Mount(int(one[0]), one[2], words[0], other[0], words[1], other[2]))
    return found


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount that an absolute path lies on, by names alone; of several at one point the newest."""
    best = None
    for one in mounts:
        whole = path == one.point or path.startswith(one.point.rstrip("/") + "/")
        if whole and (best is None or len(one.point) >= len(best.point)):
            best = one
    return best


def number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def read(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""


def listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def linked(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Block(NamedTuple):
    """A block device by sysfs."""

    name: str  # "sda1"
    below: tuple[str, ...]  # the devices it stands on: slaves of dm and md, the disk of a partition
    backing_file: str = ""  # of a loop device, as it was named when the device was set up
    partition: bool = False


def block(device: str, sys_dir: str = "/sys") -> Block | None:
    home = os.path.realpath(f"{sys_dir}/dev/block/{device}")
    if not os.path.isdir(home):
        return None
    below = [read(f"{home}/slaves/{one}/dev") for one in listed(f"{home}/slaves")]
    partition = os.path.exists(f"{home}/partition")
    if partition:
        below.append(read(os.path.dirname(home) + "/dev"))
    backing = read(f"{home}/loop/backing_file")
    return Block(os.path.basename(home), tuple(one for one in below if one), backing, partition)
