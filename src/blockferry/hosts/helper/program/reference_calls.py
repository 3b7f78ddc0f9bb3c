"""What lies at many paths at once, and what images in directories stand on. Errors are told by their errno."""

from __future__ import annotations

import errno
import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from blockferry.hosts.helper.program import by_mount, mount_table
from blockferry.hosts.helper.program.file_calls import ABSENT
from blockferry.hosts.helper.program.mount_table import NOWHERE, Mount, unescaped

DEPTH = 5  # a datastore's directory, the VMs' homes in it, and what may lie in those
ENTRIES = 100_000
SECONDS = 20  # for all datastores; less than the caller waits (references.PATIENCE_S)
ANSWER_S = 45  # for all paths and datastores of one mount
TOO_DEEP, TOO_MUCH = -1, -2  # instead of an errno
NO_IMAGES = ("proc", "sysfs", "debugfs", "tracefs", "securityfs", "configfs", "cgroup", "cgroup2", "bpf", "pstore")
HEAD = 1 << 16


def mounted() -> dict[str, Mount]:
    """By mount point; a later mount hides an earlier one."""
    return {mount.point: mount for mount in mount_table.mounts()}


def wanted_mounts() -> dict[str, str]:
    """Where file systems are to be mounted by /etc/fstab or a unit of systemd, and of which type; "": not known."""
    found: dict[str, str] = {}
    for directory in ("/etc/systemd/system", "/run/systemd/system"):
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        for name in names:
            if name.endswith((".mount", ".automount")):
                word = name.rsplit(".", 1)[0].replace("-", "/")
                point = "/" + re.sub(r"\\x([0-9a-f]{2})", lambda match: chr(int(match[1], 16)), word)
                found[point] = unit_type(os.path.join(directory, name)) or found.get(point, "")
    try:
        with open("/etc/fstab", "rb") as lines:
            for line in lines:
                words = line.split()
                if len(words) >= 3 and not words[0].startswith(b"#") and words[1].startswith(b"/"):
                    found[os.path.normpath(unescaped(words[1]))] = os.fsdecode(words[2])
    except OSError:
        pass
    return found


def unit_type(path: str) -> str:
    """The type of file system that a unit of systemd mounts; "" where it does not say."""
    try:
        with open(path, "rb") as lines:
            for line in lines:
                key, _, value = line.partition(b"=")
                if key.strip() == b"Type":
                    return os.fsdecode(value.strip())
    except OSError:
        pass
    return ""


def not_mounted(mounts: Mapping[str, Mount], wanted: Mapping[str, str]) -> dict[str, str]:
    """Mount point -> type ("": not known) of what this host mounts at other times, and has not mounted now.

    autofs mounts it when somebody looks; systemd has such mounts in /proc of its own, which hold nobody's files.
    """
    found = {point: kind for point, kind in wanted.items() if point not in mounts}
    for point, mount in mounts.items():
        if mount.kind == "autofs" and not point.startswith(("/proc/", "/sys/", "/dev/")):
            found[point] = wanted.get(point, "")
    return found


EXPORTS = ("/var/lib/nfs/etab", "/proc/fs/nfsd/exports")  # exportfs(8)'s own table, and what clients have asked for


class Exports:
    """The directories that this host gives to others by NFS, links followed.

    By their places in their file systems as well: what is exported is often a bind mount of what VMs name.
    """

    def __init__(self, mounts: Mapping[str, Mount]) -> None:
        self._paths: set[str] = set()
        for table in EXPORTS:
            try:
                with open(table, "rb") as lines:
                    for line in lines:
                        if line.startswith(b"/"):
                            self._paths.add(os.path.realpath(unescaped(line.split()[0])))
            except OSError:
                pass
        self._places = {place_in(mount_of(path, mounts), path) for path in self._paths}

    def hold(self, real: str, place: tuple[str, str]) -> bool:
        """Whether a file of this real path and place lies in one of them."""
        device, path = place
        return any(one in self._paths for one in above(real)) or any(
            (device, one) in self._places for one in above(path)
        )


def mount_of(real: str, mounts: Mapping[str, Mount]) -> Mount:
    """The mount by which a file without links in its path is reached."""
    point = next((one for one in above(real) if one in mounts), "")
    return mounts.get(point, NOWHERE)


def place_in(mount: Mount, real: str) -> tuple[str, str]:
    """The device of a file's file system, and where the file is in that: the same by whatever mount it is reached."""
    return mount.device, os.path.normpath(os.path.join(mount.root, os.path.relpath(real, mount.point or "/")))


def above(path: str) -> Iterator[str]:
    """The path and every directory above it."""
    path = "/" + path.lstrip("/")
    while path != "/":
        yield path
        path = os.path.dirname(path)
    yield path


def look(path: str, mounts: Mapping[str, Mount], missing_mounts: set[str], exports: Exports) -> dict[str, Any]:
    """What is at a path, links followed; of an absent one, what can be told of the place where it would be."""
    try:
        stat_result = os.stat(path)
        space = os.statvfs(path)
    except OSError as error:  # of this path alone, whatever the others are
        if error.errno not in ABSENT:
            return {"errno": error.errno}
        return {"absent": absent(path, mounts, missing_mounts)}
    real = os.path.realpath(path)
    mount = mount_of(real, mounts)
    place = place_in(mount, real)
    return {
        "device": stat_result.st_dev,
        "inode": stat_result.st_ino,
        "mode": stat_result.st_mode,
        "size": stat_result.st_size,
        "mtime_ns": stat_result.st_mtime_ns,
        "filesystem": mount.kind,
        "exported": exports.hold(real, place),
        "capacity": space.f_blocks * space.f_frsize,
        "place": [*place],
    }


def absent(path: str, mounts: Mapping[str, Mount], missing_mounts: set[str]) -> str:
    """Whether a file that is absent may be there at another time: a word, and the directory that it goes by.

    "gone": its directory is there and holds other things, or a mounted file system does not have its directory.
    A device never is: an inactive volume group or a LUN that is not logged in has no node, and keeps its content.
    """
    real = os.path.normpath(path)
    for _ in range(40):  # a link that leads nowhere: what counts is the place that it leads to
        if not os.path.islink(real):
            break
        real = os.path.normpath(os.path.join(os.path.dirname(real), os.readlink(real)))
    for one in above(real):
        if one in missing_mounts:
            return "unmounted " + one
    if real.startswith("/dev/") and not any(one in mounts for one in above(real) if one.startswith("/dev/")):
        return "device " + real  # /dev/shm and the like are mounted file systems
    parent = os.path.dirname(real)
    for one in above(parent):
        try:
            empty = not os.listdir(one)
        except OSError as error:
            if error.errno in ABSENT:
                continue
            return "unreadable " + one
        there = one == parent or (one in mounts and one != "/")
        return ("empty " if empty else "gone " if there else "elsewhere ") + one
    return "gone /"


def listed(directory: str, missing_mounts: set[str], skipped: set[str], until: float) -> dict[str, Any]:
    """Every image below a directory that names another file: its path, and those names as they stand in it.

    `skipped`: directories that hold no images. `until`: when to stop, as time.monotonic() tells it.
    """
    for one in above(os.path.normpath(directory)):
        if one in missing_mounts:
            return {"unmounted": one}
    result: dict[str, Any] = {}
    for _ in range(3):
        result = {"found": [], "unread": [], "count": 0, "cut": False}
        try:
            calm = walk(directory, DEPTH, result, skipped, until)
        except OSError as error:
            return {"errno": error.errno}
        if calm:
            return result
    result["unread"].append([directory, errno.EAGAIN])  # it changes all the time
    return result


def walk(directory: str, depth: int, result: dict[str, Any], skipped: set[str], until: float) -> bool:
    """Whether nothing vanished while we looked: a file may have got another name that we did not see.

    What lies too deep, or is too much to be read, is noted as unread.
    """
    calm = True
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda dir_entry: dir_entry.name):
            result["count"] += 1
            if depth == 0:
                result["unread"].append([directory, TOO_DEEP])
                return calm
            if result["count"] > ENTRIES or time.monotonic() > until:
                if not result["cut"]:
                    result["unread"].append([directory, TOO_MUCH])
                result["cut"] = True
                return calm
            try:
                if entry.is_dir() and not entry.is_symlink():
                    if entry.path not in skipped:
                        calm = walk(entry.path, depth - 1, result, skipped, until) and calm
                elif entry.is_file():
                    try:
                        names = below(entry.path)
                    except struct.error:  # its header is cut short
                        result["unread"].append([entry.path, errno.EINVAL])
                        continue
                    if names:
                        result["found"].append([entry.path, names])
            except OSError as error:
                if error.errno in ABSENT:
                    calm = False
                else:
                    result["unread"].append([entry.path, error.errno])
    return calm


def below(path: str) -> list[str]:
    """The names of other files that an image's header holds: backing file, data file; formats as QEMU knows them."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        head = os.pread(handle, 512, 0)
        if head[:4] in (b"QFI\xfb", b"QED\0", b"KDMV", b"COWD") or head.startswith(b"# Disk"):
            return NAMES[head[:4]](handle, os.pread(handle, HEAD, 0))
        return []
    finally:
        os.close(handle)


def qcow(handle: int, head: bytes) -> list[str]:
    """docs/interop/qcow2.txt of QEMU; version 1 has its backing file at the same place."""
    version, offset, size = struct.unpack_from(">IQI", head, 4)
    names = [os.pread(handle, size, offset)] if offset and size < 4096 else []
    if version < 2:
        return texts(names)
    at = struct.unpack_from(">I", head, 100)[0] if version >= 3 else 72
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            break
        if kind == 0x44415441:  # the external data file
            names.append(head[at + 8 : at + 8 + length])
        at += 8 + (length + 7) // 8 * 8
    return texts(names)


def qed(handle: int, head: bytes) -> list[str]:
    """docs/specs/qed_spec.txt of QEMU."""
    features = struct.unpack_from("<Q", head, 16)[0]
    offset, size = struct.unpack_from("<II", head, 56)
    return texts([os.pread(handle, size, offset)] if features & 1 and size < 4096 else [])


def vmdk(handle: int, head: bytes) -> list[str]:
    """The descriptor is the file itself, or lies inside of it; its extents and the parent are names."""
    if head.startswith(b"KDMV"):
        offset, size = struct.unpack_from("<QQ", head, 28)
        head = os.pread(handle, min(size * 512, HEAD), offset * 512) if offset else b""
    names = re.findall(rb'^parentFileNameHint\s*=\s*"([^"\n]+)"', head, re.M)
    names += re.findall(rb'^(?:RW|RDONLY|NOACCESS)\s+\d+\s+\w+\s+"([^"\n]+)"', head, re.M)
    own = os.fsencode(os.path.basename(os.readlink(f"/proc/self/fd/{handle}")))
    return texts([name for name in names if name != own])


def nothing(handle: int, head: bytes) -> list[str]:
    """An extent of a VMDK, which names nothing."""
    return []


NAMES: dict[bytes, Callable[[int, bytes], list[str]]] = {
    b"QFI\xfb": qcow,
    b"QED\0": qed,
    b"KDMV": vmdk,
    b"# Di": vmdk,
    b"COWD": nothing,
}


def texts(names: list[bytes]) -> list[str]:
    return [os.fsdecode(name) for name in names]


def headed(path: str) -> dict[str, Any]:
    """The names of other files in the header of one image, which may be a block device."""
    try:
        return {"names": below(path)}
    except struct.error:  # its header is cut short
        return {"errno": errno.EINVAL}
    except OSError as error:
        return {"errno": error.errno}


def look_all(paths: list[str], directories: list[str], images: Sequence[str] = ()) -> dict[str, Any]:
    """What lies at the paths; what the images in the directories, and these images, stand on; all mounts.

    What lies on a mount that does not answer has its errno, and holds up nothing else.
    """
    mounts = mounted()
    wanted_here = wanted_mounts()
    missing = set(wanted_here) - set(mounts)
    skipped = {point for point, mount in mounts.items() if mount.kind in NO_IMAGES}
    until = time.monotonic() + SECONDS
    exports = Exports(mounts)

    def work(wanted: tuple[str, str]) -> dict[str, Any]:
        what, path = wanted
        if what == "listing":
            return listed(path, missing, skipped, until)
        return headed(path) if what == "header" else look(path, mounts, missing, exports)

    every = [(("path", path), path) for path in paths]
    every += [(("listing", path), os.path.join(path, ".")) for path in directories]
    every += [(("header", path), path) for path in images]
    found = by_mount.look(every, work, ANSWER_S)
    silent = {"errno": errno.ETIMEDOUT}
    return {
        "paths": {path: found.get(("path", path), silent) for path in paths},
        "directories": {path: found.get(("listing", path), silent) for path in directories},
        "headers": {path: found.get(("header", path), silent) for path in images},
        "not_mounted": not_mounted(mounts, wanted_here),
        "mounts": sorted(mounts),
        "mounted": {mount.device: [mount.kind, mount.source] for mount in mounts.values()},
    }


CALLS: dict[str, Callable[..., Any]] = {"look": look_all}
