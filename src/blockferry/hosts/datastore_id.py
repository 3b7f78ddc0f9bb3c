"""What a datastore is, and a file, so that two hosts mean the same by it. Pure; names of pools prove nothing here.

Bytes are taken from a file system (`SpaceId`), a datastore is a directory of one (`DatastoreId`): two pools may be two
directories of one file system, and one export may be mounted under two names.
"""

from __future__ import annotations

import enum
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

NETWORK = frozenset(
    {
        *("nfs", "nfs3", "nfs4", "cifs", "smb3", "smbfs", "ceph", "lustre", "gpfs", "afs"),
        *("fuse.glusterfs", "fuse.sshfs", "fuse.ceph", "fuse.ceph-fuse", "glusterfs"),
    }
)
"""Types of file systems whose source, as the kernel names it, is a server and what it exports."""

CLUSTER = frozenset({"gfs2", "ocfs2"})
"""Types of file systems on a block device that several hosts mount at the same time."""

_SHARED = ("network", "ceph", "block")

_OWN = ("localhost", "127.", "::1", "[::1]")


class SpaceKind(enum.Enum):
    NETWORK = "network"  # of: the server; part: the export
    CEPH = "ceph"  # of: the cluster's fsid; part: the file system in it
    BLOCK = "block"  # of: the UUID of the file system
    POOL = "pool"  # nothing better is known. part: libvirt's UUID of the pool, on `host`


@dataclass(frozen=True, slots=True)
class SpaceId:
    """The file system that bytes are taken from.

    `host`: libvirt's UUID of the host that alone can have it mounted; "" where several can. A copied machine has the
    same UUID on its root file system as the machine that it was copied from, so a UUID by itself proves nothing there.
    """

    kind: SpaceKind
    of: str
    part: str = ""
    host: str = ""

    @property
    def text(self) -> str:
        words = (self.kind.value, self.of, self.part, self.host)
        return " ".join(quote(word, safe="/:") or "-" for word in words)

    def shares_space(self, other: SpaceId) -> bool:
        """Whether what is written to one takes room from the other: one file system, or an export inside another."""
        if self == other:
            return True
        if self.kind is not SpaceKind.NETWORK or (self.kind, self.of, self.host) != (other.kind, other.of, other.host):
            return False
        one, two = self.part.rstrip("/") + "/", other.part.rstrip("/") + "/"
        return one.startswith(two) or two.startswith(one)


@dataclass(frozen=True, slots=True)
class DatastoreId:
    """A directory of a file system, named from the root of that."""

    space: SpaceId
    path: str = "/"

    @property
    def text(self) -> str:
        """For the journal's columns."""
        return f"{self.space.text} {quote(self.path)}"

    def same(self, other: DatastoreId) -> bool:
        """Whether both are proven to be one directory."""
        return self.file("") == other.file("")

    def file(self, below: str) -> FileId:
        """The file of this name below the datastore's directory."""
        path = posixpath.normpath(posixpath.join(self.path, below))
        if self.space.kind is SpaceKind.NETWORK:
            # Whether an export is mounted, or one that holds it: the path from the server's root is the same.
            whole = posixpath.normpath(f"{self.space.part}/{path}")
            return FileId(SpaceId(SpaceKind.NETWORK, self.space.of, "", self.space.host).text, whole)
        return FileId(self.space.text, path)


@dataclass(frozen=True, slots=True)
class FileId:
    """A file: (host or file system, path on it). `place`: `SpaceId.text`, or `host_place` of a host."""

    place: str
    path: str

    @property
    def known(self) -> bool:
        """Whether it is known which file system the file lies on, and not only by what path a host reaches it."""
        return not self.place.startswith(_HOST)

    @property
    def shared(self) -> bool:
        """Whether several hosts can have this file, and mean the same one by this identity."""
        words = self.place.split(" ")
        return words[0] in _SHARED and len(words) == 4 and words[3] == "-"

    @property
    def text(self) -> str:
        """For the journal."""
        return f"{self.place} {quote(self.path, errors='surrogateescape')}"


_HOST = "host "


def host_place(host: str) -> str:
    """Return the place of a file of which only the host is known. That of a host without a UUID proves nothing."""
    return f"{_HOST}{host}"


def on_host(host: str, path: str) -> FileId:
    """Return the file that a host reaches by this path, where nothing better is known."""
    return FileId(host_place(host), posixpath.normpath(path))


@dataclass(frozen=True, slots=True)
class Directory:
    """The directory by which a host reaches a datastore, as its files are named there, and what that is."""

    path: str
    id: DatastoreId

    def file(self, path: str) -> FileId | None:
        """Which file a path of that host is; None when it does not lie in this directory."""
        inside = _below(path, self.path)
        return None if inside is None else self.id.file(inside)


@dataclass(frozen=True, slots=True)
class Mounted:
    """A path on a mounted file system, as the kernel tells of it (proc(5), mountinfo)."""

    kind: str  # type of the file system
    source: str
    path: str  # from the root of the file system
    uuid: str = ""  # of a file system on a block device


def of_mount(mounted: Mounted, host: str, pool: str) -> DatastoreId:
    """What a datastore stands on. `host`, `pool`: libvirt's UUIDs, for where nothing better is known."""
    if mounted.kind == "ceph" and (parsed := _ceph(mounted.source)) is not None:
        fsid, name, root = parsed
        return DatastoreId(SpaceId(SpaceKind.CEPH, fsid, name), posixpath.normpath(f"{root}/{mounted.path}"))
    if mounted.kind in NETWORK and (split := _server(mounted.source)) is not None:
        server, export = split
        own = host if server.rpartition("@")[2].startswith(_OWN) else ""
        return DatastoreId(SpaceId(SpaceKind.NETWORK, server, export, own), mounted.path)
    if mounted.uuid and (host or mounted.kind in CLUSTER):  # else two hosts without a UUID would be taken for one
        own = "" if mounted.kind in CLUSTER else host
        return DatastoreId(SpaceId(SpaceKind.BLOCK, mounted.uuid.lower(), "", own), mounted.path)
    return DatastoreId(SpaceId(SpaceKind.POOL, "", pool, host), "/")


def file_at(mounted: Mounted | None, host: str, path: str) -> FileId:
    """Return which file a path of a host is. `mounted`: of the directory that it lies in; None: not known."""
    if mounted is not None:
        directory = of_mount(mounted, host, "")
        if directory.space.kind is not SpaceKind.POOL:
            return directory.file(posixpath.basename(path))
    return on_host(host, path)


def file_of(path: str, directories: Iterable[Directory]) -> FileId | None:
    """Which file a path of a host is, by the innermost datastore's directory that it lies in; None when none holds it.

    A path with symbolic links below that directory is taken as it is written.
    """
    holders = [
        (len(directory.path), file_id) for directory in directories if (file_id := directory.file(path)) is not None
    ]
    return max(holders, key=lambda holder: holder[0])[1] if holders else None


def paths_of(files: Mapping[FileId, str], directories: Iterable[Directory]) -> dict[str, str]:
    """Path on a host by which it reaches one of these files -> what is said of that file."""
    found = {}
    for directory in directories:
        root = directory.id.file("")
        for file, said in files.items():
            if file.place == root.place and (inside := _below(file.path, root.path)) is not None:
                found[posixpath.join(directory.path, inside)] = said
    return found


def _below(path: str, directory: str) -> str | None:
    path, top = posixpath.normpath(path), posixpath.normpath(directory).rstrip("/") + "/"
    return path[len(top) :] if path.startswith(top) else None


def _server(source: str) -> tuple[str, str] | None:
    """Server and export of a network mount's source: "nas:/vol", "[fe80::1]:/vol", "//nas/share", "me@kvm2:/dir"."""
    if source.startswith("//"):
        server, _, share = source[2:].partition("/")
        return (server.lower(), posixpath.normpath(f"/{share.lstrip('/')}")) if server and share else None
    if "[" in source.partition(":")[0]:  # an address of IPv6, perhaps behind "user@"
        server, mark, export = source.partition("]:")
        server += "]" if mark else ""
    else:
        server, mark, export = source.partition(":")
    if not (server and mark and export):
        return None
    return server.lower(), posixpath.normpath(f"/{export.lstrip('/')}")


def _ceph(source: str) -> tuple[str, str, str] | None:
    """(fsid, file system, path) of "user@fsid.name=/path" (mount.ceph(8)); None for the older form, which has none."""
    device, mark, path = source.partition("=")
    fsid, dot, name = device.partition("@")[2].partition(".")
    return (fsid.lower(), name, path or "/") if mark and dot and fsid else None
