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


def unescaped(word: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda one: bytes([int(one[1], 8)]), word))


def mounts() -> list[Mounted]:
    """All mounts, in the order in which they were made: a later one hides an earlier one."""
    found = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            front, _, back = line.partition(b" - ")
            words = front.split()
            found.append(Mounted(unescaped(words[4]), os.fsdecode(back.split()[0]), os.fsdecode(words[2])))
    return found


def mount_of(path: str, table: list[Mounted]) -> Mounted:
    """What an absolute path without links lies on; of several at one point the newest."""
    best = Mounted("/", "", "")
    for one in table:
        if (path == one.point or path.startswith(one.point.rstrip("/") + "/")) and len(one.point) >= len(best.point):
            best = one
    return best
