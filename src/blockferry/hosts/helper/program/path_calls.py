"""What paths are: their kind, where links lead, what their file systems can hold. What went wrong is told by errno."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program.mount_table import Mounted, mount_of, mounts

ABSENT = (errno.ENOENT, errno.ENOTDIR)
NAME_MAX, PATH_MAX = 255, 4096


def kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "block" if stat.S_ISBLK(mode) else "other"


def limit(directory: str, name: str, otherwise: int) -> int:
    try:
        found = os.pathconf(directory, name)
    except OSError:
        return otherwise
    return found if found > 0 else otherwise


def nearest(path: str) -> str:
    """The path, or the nearest directory above it that exists."""
    while True:
        try:
            if stat.S_ISDIR(os.stat(path).st_mode) or path == "/":
                return path
        except OSError:
            pass
        path = os.path.dirname(path)


def look(path: str, known: list[Mounted]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "path": path,
        "resolved": os.path.realpath(path),
        "kind": "absent",
        "link": False,
        "errno": 0,
    }
    try:
        found["link"] = stat.S_ISLNK(os.lstat(path).st_mode)
        found["kind"] = "dangling" if found["link"] else "absent"
        one = os.stat(path)
        found["kind"] = kind_of(one.st_mode)
        found["identity"] = [one.st_dev, one.st_ino]
    except OSError as error:
        if error.errno not in (*ABSENT, errno.ELOOP):
            found["kind"], found["errno"] = "unknown", error.errno
    near = nearest(path)
    found["near"] = near
    found["writable"] = os.access(near, os.W_OK | os.X_OK, effective_ids=True)
    found["name_max"] = limit(near, "PC_NAME_MAX", NAME_MAX)
    found["path_max"] = limit(near, "PC_PATH_MAX", PATH_MAX)
    found["file_system"] = mount_of(os.path.realpath(near), known).device
    try:
        space = os.statvfs(near)
        found["free"], found["size"] = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    except OSError:
        found["free"] = found["size"] = 0
    return found


PUNCH_HOLE, KEEP_SIZE = 2, 1
TRIAL = ".blockferry-trial-holes"
SIZE = 1024 * 1024


def unnamed(directory: str) -> int:
    """A file that nobody sees."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    except OSError:
        path = os.path.join(directory, f"{TRIAL}-{os.getpid()}")
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.unlink(path)
        return handle


def holes(directory: str) -> bool | None:
    """Whether QEMU can make a part of a file there read as zeros without writing it; None if it cannot be tried."""
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        handle = unnamed(directory)
    except OSError:
        return None
    try:
        os.ftruncate(handle, SIZE)
        done = libc.fallocate(handle, PUNCH_HOLE | KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(SIZE))
        return None if done != 0 and ctypes.get_errno() != errno.EOPNOTSUPP else done == 0
    except OSError:
        return None
    finally:
        os.close(handle)


def look_all(paths: list[str]) -> list[dict[str, Any]]:
    """What each path is."""
    table = mounts()
    return [look(path, table) for path in paths]


def holes_in(directories: list[str]) -> dict[str, bool | None]:
    """Which of the directories take files with holes."""
    return {path: holes(path) for path in directories}


CALLS: dict[str, Callable[..., Any]] = {"look": look_all, "holes": holes_in}
