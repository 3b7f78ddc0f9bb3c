"""The mount table, which the kernel answers from memory."""

from __future__ import annotations

import os
import re
from typing import NamedTuple


class Mounted(NamedTuple):
    """One line of /proc/self/mountinfo (proc(5))."""

    point: str
    kind: str
    device: str  # "major:minor" of the file system
    root: str = "/"  # the directory of the file system that is mounted
    source: str = ""


def unescaped(word: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda one: bytes([int(one[1], 8)]), word))


def mounts() -> list[Mounted]:
    """All mounts, in the order in which they were made: a later one hides an earlier one."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            front, _, back = line.partition(b" - ")
            words = front.split()
            kind, source = back.split(b" ")[:2]
            device, root, point = words[2], words[3], words[4]
            found.append(
                Mounted(unescaped(point), os.fsdecode(kind), os.fsdecode(device), unescaped(root), unescaped(source))
            )
    return found


def mount_of(path: str, table: list[Mounted]) -> Mounted:
    """What an absolute path without links lies on; of several at one point the newest."""
    best = Mounted("/", "", "")
    for one in table:
        if (path == one.point or path.startswith(one.point.rstrip("/") + "/")) and len(one.point) >= len(best.point):
            best = one
    return best
