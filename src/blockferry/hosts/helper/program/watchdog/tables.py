"""Tables of the kernel, which it answers from memory: block devices, beside the mounts of mount_table.

Nothing here touches a storage.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

Json = dict[str, Any]


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
