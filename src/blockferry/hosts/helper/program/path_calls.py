"""What paths are: their kind, where links lead, what their file systems can hold. What went wrong is told by errno."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import subprocess
import uuid
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program.file_calls import ABSENT, unnamed
from blockferry.hosts.helper.program.mount_table import NOWHERE, Mount, mount_of, mounts

NAME_MAX, PATH_MAX = 255, 4096


def kind_of(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "block" if stat.S_ISBLK(mode) else "other"


def nearest(path: str) -> str:
    """The path, or the nearest directory above it that exists."""
    while True:
        try:
            if stat.S_ISDIR(os.stat(path).st_mode) or path == "/":
                return path
        except OSError:
            pass
        path = os.path.dirname(path)


def look(path: str, known: list[Mount]) -> dict[str, Any]:
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
        stat_result = os.stat(path)
        found["kind"] = kind_of(stat_result.st_mode)
        found["identity"] = [stat_result.st_dev, stat_result.st_ino]
    except OSError as error:
        if error.errno not in (*ABSENT, errno.ELOOP):
            found["kind"], found["errno"] = "unknown", error.errno
    near = nearest(path)
    found["near"] = near
    found["writable"] = os.access(near, os.W_OK | os.X_OK, effective_ids=True)
    found["name_max"], found["path_max"] = NAME_MAX, PATH_MAX
    found["file_system"] = (mount_of(os.path.realpath(near), known) or NOWHERE).device
    try:
        space = os.statvfs(near)  # never os.pathconf: it holds Python's lock while it waits for storage
        found["name_max"] = space.f_namemax or NAME_MAX
        found["free"], found["size"] = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    except OSError:
        found["free"] = found["size"] = 0
    return found


GET_UUID = 0x80111500  # FS_IOC_GETFSUUID of linux/fs.h: struct fsuuid2 {__u8 len; __u8 uuid[16];}; Linux 6.9 and later
BLKID_S = 10


def uuid_of(path: str, source: str) -> str:
    """The UUID of the file system that a directory is on; "" when it has none, or that cannot be told."""
    answer = bytearray(17)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(handle, GET_UUID, answer)
        finally:
            os.close(handle)
        if answer[0] == 16 and any(answer[1:]):
            return str(uuid.UUID(bytes=bytes(answer[1:])))
    except OSError:
        pass  # an older kernel: the device's own signature tells, where we may read it
    if not source.startswith("/dev/"):
        return ""
    try:
        argv = ["blkid", "-c", "/dev/null", "-s", "UUID", "-o", "value", source]
        told = subprocess.run(argv, capture_output=True, timeout=BLKID_S, check=False).stdout.decode().strip()
    except (OSError, subprocess.SubprocessError):
        told = ""
    return told or uuid_by_link(source)


def uuid_by_link(source: str, links: str = "/dev/disk/by-uuid") -> str:
    """The same by udev's links, for users who may not read the device."""
    device = os.path.realpath(source)
    try:
        names = os.listdir(links)
    except OSError:
        return ""
    return next((name for name in names if os.path.realpath(os.path.join(links, name)) == device), "")


def with_mounts(found: list[dict[str, Any]], table: list[Mount]) -> list[dict[str, Any]]:
    """The same, with what each directory is mounted from. The UUID of each file system is asked for once."""
    known: dict[tuple[str, str], str] = {}
    for one in found:
        if one["kind"] == "directory":
            where = mount_of(one["resolved"], table) or NOWHERE
            key = where.source, where.device
            if key not in known:
                known[key] = uuid_of(one["path"], where.source)
            inside = os.path.normpath(os.path.join(where.root, os.path.relpath(one["resolved"], where.point)))
            one["mounted"] = {"kind": where.kind, "source": where.source, "path": inside, "uuid": known[key]}
    return found


PUNCH_HOLE, KEEP_SIZE = 2, 1
SIZE = 1024 * 1024


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


def look_all(paths: list[str], *, mounted: bool = False) -> list[dict[str, Any]]:
    """What each path is; `mounted`: and what directories are mounted from."""
    table = mounts()
    found = [look(path, table) for path in paths]
    return with_mounts(found, table) if mounted else found


def holes_in(directories: list[str]) -> dict[str, bool | None]:
    """Which of the directories take files with holes."""
    return {path: holes(path) for path in directories}


CALLS: dict[str, Callable[..., Any]] = {"look": look_all, "holes": holes_in}
