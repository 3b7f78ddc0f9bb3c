"""What lies at many paths of a host, in one call; what images in its directories stand on.

An error at one path says nothing of the others: it is noted with its number (errno), never raised.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from blockferry.base.units import MiB
from blockferry.hosts.filesystems import is_shared
from blockferry.hosts.helper.files import Kind, absolute
from blockferry.hosts.images import qemu_img
from blockferry.hosts.runner import Runner

PATIENCE_S = 60.0
"""A datastore that does not answer for so long is a doubt; each old file of a move waits for it."""
ROUNDING = 64 * MiB
"""NFS tells the size of a file system in blocks of its own, of up to 1 MiB and more."""


@dataclass(frozen=True, slots=True)
class PathSeen:
    """One path, links followed. Exactly one of `identity`, `error` and `absent` tells.

    `identity`: (device, inode). `place`: its file system, and where it is in that, whatever the mount. `capacity`:
    bytes of its file system. `exported`: this host gives it to others by NFS. `error`: why it cannot be looked at, in
    words. `absent`: of a path at which nothing is, why it may be there when its datastore is mounted; "" when nothing
    speaks for that. `nearest`: of an absent path, the directory above it that is there, when its own is not. `empty`:
    that directory, when nothing is in it.
    """

    path: str
    identity: tuple[int, int] | None = None
    kind: Kind = "other"
    size: int = 0
    mtime_ns: int = 0
    filesystem: str = ""
    place: tuple[str, str] = ("", "")
    capacity: int = 0
    exported: bool = False
    error: str = ""
    absent: str = ""
    nearest: str = ""
    empty: str = ""

    @property
    def there(self) -> bool:
        return self.identity is not None

    def holds(self, other: PathSeen) -> bool:
        """Whether the other lies in this directory, by whatever mounts and links both are reached."""
        if not self.there or not other.there or self.place[0] != other.place[0] or not self.place[0]:
            return False
        return other.place[1].startswith(self.place[1].rstrip("/") + "/")


def same_file(one: PathSeen, other: PathSeen) -> bool:
    """Whether two paths lead to one file: the one comparison wherever that counts, by device and inode.

    One mount of a network file system does not tell that another is of the same server, which numbers its devices by
    the mount: there the inode counts, with the size of the file system, and with the size or the name of the file. So
    two files may be taken for one, never the other way.
    """
    if one.identity is None or other.identity is None:
        return False
    if one.identity == other.identity:
        return True
    if one.identity[1] != other.identity[1] or one.kind != other.kind:
        return False
    if not is_shared(one.filesystem) and not is_shared(other.filesystem):
        return False
    if abs(one.capacity - other.capacity) > ROUNDING:
        return False
    return posixpath.basename(one.path) == posixpath.basename(other.path) or one.size == other.size


@dataclass(frozen=True, slots=True)
class DirectoryImages:
    """A directory's images. `stands_on`: image -> the paths that it names. `unread`: image -> why it cannot be read.

    `problem`: why the directory cannot be looked at. `empty`: nothing lies in it.
    """

    stands_on: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""
    empty: bool = False


@dataclass(frozen=True, slots=True)
class ReferencesSeen:
    """The answer of one look."""

    paths: Mapping[str, PathSeen]
    directories: Mapping[str, DirectoryImages]
    mounts: frozenset[str]  # all mount points of the host


def look(runner: Runner, paths: Iterable[str], directories: Iterable[str] = ()) -> ReferencesSeen:
    """Look at paths, and at the images in directories, five levels deep. Raises HostCommandFailed, HostUnreachable.

    Headers are read as they are, without the format that an XML gives: what a guest has written into a raw image may
    be taken for a name, which only makes us keep more.
    """
    wanted, wanted_in = list(dict.fromkeys(paths)), list(dict.fromkeys(directories))
    absolute(*wanted, *wanted_in)
    answer: dict[str, Any] = runner.call("references.look", timeout_s=PATIENCE_S, paths=wanted, directories=wanted_in)
    return ReferencesSeen(
        {path: _seen(path, one) for path, one in answer["paths"].items()},
        {path: _listing(one) for path, one in answer["directories"].items()},
        frozenset(answer["mounts"]),
    )


_PLACES = {
    "unmounted": "{} is not mounted",
    "empty": "{} is empty: its datastore may not be mounted",
    "elsewhere": "its directory is not there, only {}: its datastore may not be mounted",
    "unreadable": "{} cannot be read",
    "device": "the device {} is not there",
    "gone": "",
}


_UNREAD = {-1: "it lies too deep to be looked at", -2: "there is too much to be looked at"}
"""The helper's own numbers (program/reference_calls.py) beside errno."""


def _seen(path: str, one: dict[str, Any]) -> PathSeen:
    if "errno" in one:
        return PathSeen(path, error=os.strerror(one["errno"]))
    if "absent" in one:
        place, _, where = str(one["absent"]).partition(" ")
        nearest, empty = (where if place == word else "" for word in ("elsewhere", "empty"))
        return PathSeen(path, absent=_PLACES[place].format(where), nearest=nearest, empty=empty)
    mode = one["mode"]
    kind: Kind = "file" if stat.S_ISREG(mode) else "directory" if stat.S_ISDIR(mode) else "other"
    return PathSeen(
        path,
        (one["device"], one["inode"]),
        "block" if stat.S_ISBLK(mode) else kind,
        one["size"],
        one["mtime_ns"],
        one["filesystem"],
        (one["place"][0], one["place"][1]),
        one["capacity"],
        bool(one["exported"]),
    )


def _listing(one: dict[str, Any]) -> DirectoryImages:
    if "errno" in one:
        return DirectoryImages(problem=os.strerror(one["errno"]))
    if "unmounted" in one:
        return DirectoryImages(problem=f"{one['unmounted']} is not mounted")
    found = {path: tuple(_absolute(path, name) for name in names) for path, names in one["found"]}
    unread = {path: _UNREAD.get(number) or os.strerror(number) for path, number in one["unread"]}
    return DirectoryImages(found, unread, empty=one["count"] == 0)


def _absolute(image: str, name: str) -> str:
    """A name as it stands in an image's header; a relative one counts from the image's directory.

    Its `..` stay: what they lead to depends on links, which only the host can follow.
    """
    plain = qemu_img.plain_path(name)
    if "://" in plain or plain.startswith("json:"):
        return plain
    return posixpath.join(posixpath.dirname(image), plain)
