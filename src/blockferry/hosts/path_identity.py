"""What a look at paths of a host told (hosts/helper/references.py), and whether two paths lead to one file."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from blockferry.hosts.datastore_id import Mounted
from blockferry.hosts.filesystem_types import is_of_one_host, is_shared

Kind = Literal["file", "directory", "block", "other"]


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

    @property
    def may_be_reached_by_others(self) -> bool:
        """Whether other hosts may have this file, too, as far as is known. Also of what cannot be looked at."""
        return not self.there or self.exported or not is_of_one_host(self.filesystem)

    def holds(self, other: PathSeen) -> bool:
        """Whether the other lies in this directory, by whatever mounts and links both are reached."""
        if not self.there or not other.there or self.place[0] != other.place[0] or not self.place[0]:
            return False
        return other.place[1].startswith(self.place[1].rstrip("/") + "/")


def same_file(path_seen: PathSeen, other: PathSeen) -> bool:
    """Whether two paths lead to one file: the one comparison wherever that counts, by device and inode.

    One mount of a network file system does not tell that another is of the same server, which numbers its devices by
    the mount: there the inode counts, with the size or the name of the file. The size of the file system does not: one
    export may have a quota of its own, and a file system grows. So two files may be taken for one, never the other way.
    """
    if path_seen.identity is None or other.identity is None:
        return False
    if path_seen.identity == other.identity:
        return True
    if path_seen.identity[1] != other.identity[1] or path_seen.kind != other.kind:
        return False
    if not is_shared(path_seen.filesystem) and not is_shared(other.filesystem):
        return False
    return _alike(path_seen, other)


def same_file_of_hosts(path_seen: PathSeen, other: PathSeen) -> bool:
    """The same of paths on two hosts, whose device numbers say nothing to each other.

    The inode's number is the server's, or stands in the cluster file system itself, so it is the same for every host.
    A file system that one host alone has mounted, and does not export, holds no other host's file.
    """
    if (
        path_seen.identity is None
        or other.identity is None
        or path_seen.identity[1] != other.identity[1]
        or path_seen.kind != other.kind
    ):
        return False
    if not path_seen.may_be_reached_by_others or not other.may_be_reached_by_others:
        return False
    return _alike(path_seen, other)


def _alike(path_seen: PathSeen, other: PathSeen) -> bool:
    """Whether two files with one inode number may be one file, by their names or sizes."""
    return posixpath.basename(path_seen.path) == posixpath.basename(other.path) or path_seen.size == other.size


@dataclass(frozen=True, slots=True)
class Listing:
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
    directories: Mapping[str, Listing]
    mounts: frozenset[str]  # all mount points of the host
    mounted: Mapping[str, Mounted] = field(default_factory=dict)  # device number -> file system, without its UUID
    not_mounted: Mapping[str, str] = field(default_factory=dict)  # mount point -> type ("": not known): at other times
    headers: Mapping[str, Listing] = field(default_factory=dict)  # image (or block device) -> what it stands on
