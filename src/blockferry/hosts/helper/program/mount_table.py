"""The mount table (proc(5), mountinfo), which the kernel answers from memory."""

from __future__ import annotations

import os
import re
from typing import NamedTuple


class Mount(NamedTuple):
    """One line of a mountinfo."""

    number: int  # what a descriptor's fdinfo calls mnt_id
    device: str  # "major:minor" of the superblock
    point: str
    kind: str
    source: str
    options: str  # the file system's own, escaped as the kernel does
    root: str = "/"  # the directory of the file system that is mounted


NOWHERE = Mount(0, "", "/", "", "", "")
"""Where no line says what a path lies on."""


def unescaped(word: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), word))


def parse(text: bytes) -> list[Mount]:
    """All mounts, in the order in which they were made: a later one hides an earlier one."""
    found = []
    for line in text.split(b"\n"):  # any other line break may stand in a name
        front, _, back = line.partition(b" - ")
        words, rest = front.split(b" "), back.split(b" ")
        if len(words) > 5 and len(rest) > 2:
            root, point, source = unescaped(words[3]), unescaped(words[4]), unescaped(rest[1])
            device, kind, options = os.fsdecode(words[2]), os.fsdecode(rest[0]), os.fsdecode(rest[2])
            found.append(Mount(int(words[0]), device, point, kind, source, options, root))
    return found


def mounts() -> list[Mount]:
    """Our own."""
    with open("/proc/self/mountinfo", "rb") as file:
        return parse(file.read())


def lies_in(path: str, directory: str) -> bool:
    """Whether an absolute path is the directory, or below it, by names alone."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def mount_of(path: str, table: list[Mount]) -> Mount | None:
    """What an absolute path without links lies on, by names alone; of several at one point the newest."""
    best = None
    for mount in table:
        if lies_in(path, mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    return best
