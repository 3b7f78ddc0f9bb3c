"""Files and images in memory. Each holds what is in the page cache, and what is on stable storage.

An image holds the number of the guest's write for each region; names are on stable storage at once, as the helper's
calls leave them.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat as modes
from dataclasses import dataclass, field, replace
from typing import Literal

REGION = 1 << 20
Regions = dict[int, int]
"""Region -> number of the guest's write that it holds; one that is missing reads as what is below, or as zeros."""


@dataclass
class Image:
    """What makes a file an image of a disk. `size`: bytes."""

    format: str
    size: int
    backing: tuple[str, str] | None = None
    regions: Regions = field(default_factory=dict)


@dataclass
class Inode:
    """A file or directory. `stable`: what a loss of power leaves of it; None: nothing, the file is empty then."""

    number: int
    device: int
    kind: Literal["file", "directory"] = "file"
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    mtime: int = 1
    ctime: int = 1
    data: bytes = b""
    image: Image | None = None
    stable: tuple[bytes, Image | None] | None = None

    def flush(self) -> None:
        image = None if self.image is None else replace(self.image, regions=dict(self.image.regions))
        self.stable = (self.data, image)

    def lose_power(self) -> None:
        """Only what was flushed is left."""
        self.data, image = self.stable if self.stable is not None else (b"", None)
        self.image = None if image is None else replace(image, regions=dict(image.regions))

    @property
    def allocated(self) -> int:
        return len(self.data) if self.image is None else 4096 + REGION * len(self.image.regions)

    @property
    def size(self) -> int:
        if self.image is None:
            return len(self.data)
        return self.image.size if self.image.format == "raw" else 200_000 + REGION * len(self.image.regions)


class Files:
    """All names of the host. Raises OSError as the kernel does."""

    def __init__(self, mounts: dict[str, int]) -> None:
        """`mounts`: mount point -> device number."""
        self.mounts = mounts
        self.names: dict[str, Inode] = {}
        self._numbers = 10
        self._times = 1_000_000
        for path in ("/", *mounts):
            if path not in self.names:
                self.names[path] = self._inode(path, "directory", 0o755)

    def _inode(self, path: str, kind: Literal["file", "directory"], mode: int) -> Inode:
        self._numbers += 1
        inode = Inode(self._numbers, self.device_of(path), kind, mode)
        self.touch(inode)
        return inode

    def device_of(self, path: str) -> int:
        return self.mounts[self.mount_of(path)]

    def mount_of(self, path: str) -> str:
        above = [point for point in self.mounts if path == point or path.startswith(point.rstrip("/") + "/")]
        return max(above, key=len)

    def touch(self, inode: Inode) -> None:
        self._times += 1000
        inode.mtime = inode.ctime = self._times

    def find(self, path: str) -> Inode:
        path = posixpath.normpath(path)
        if path not in self.names:
            raise _error(errno.ENOENT, path)
        return self.names[path]

    def get(self, path: str) -> Inode | None:
        return self.names.get(posixpath.normpath(path))

    def directory_of(self, path: str) -> str:
        parent = posixpath.dirname(path)
        if self.find(parent).kind != "directory":
            raise _error(errno.ENOTDIR, parent)
        return parent

    def create(self, path: str, mode: int = 0o600, kind: Literal["file", "directory"] = "file") -> Inode:
        """O_EXCL."""
        self.directory_of(path)
        if path in self.names:
            raise _error(errno.EEXIST, path)
        self.names[path] = self._inode(path, kind, mode)
        return self.names[path]

    def write(self, path: str, data: bytes, mode: int) -> None:
        """Replace it, in one step; on disk after."""
        self.directory_of(path)
        inode = self._inode(path, "file", mode)
        inode.data = data
        inode.flush()
        self.names[path] = inode

    def copy_of(self, source: str, dest: str) -> Inode:
        """A new inode with what the source holds; flushed."""
        old = self.find(source)
        inode = self._inode(dest, "file", old.mode)
        inode.uid, inode.gid, inode.mtime = old.uid, old.gid, old.mtime
        inode.data = old.data
        inode.image = None if old.image is None else replace(old.image, regions=dict(old.image.regions))
        inode.flush()
        return inode

    def below(self, path: str) -> list[str]:
        """The names in a directory, sorted."""
        if self.find(path).kind != "directory":
            raise _error(errno.ENOTDIR, path)
        return sorted(
            posixpath.basename(name) for name in self.names if name != "/" and posixpath.dirname(name) == path
        )

    def unlink(self, path: str) -> None:
        if self.find(path).kind == "directory":
            raise _error(errno.EISDIR, path)
        del self.names[path]

    def rename(self, path: str, new: str) -> None:
        self.directory_of(new)
        self.names[new] = self.names.pop(path)

    def mode_of(self, inode: Inode) -> int:
        return (modes.S_IFDIR if inode.kind == "directory" else modes.S_IFREG) | inode.mode

    def chain(self, path: str) -> list[Inode]:
        """The image and all that it stands on, top first. Raises OSError where one is missing or is no image."""
        found: list[Inode] = []
        next_path: str | None = path
        while next_path is not None:
            inode = self.find(next_path)
            if inode.image is None:
                raise _error(errno.EINVAL, next_path)
            found.append(inode)
            next_path = None if inode.image.backing is None else inode.image.backing[0]
        return found


def read(chain: list[Inode]) -> Regions:
    """What a guest reads from a chain, top first."""
    found: Regions = {}
    for inode in reversed(chain):
        if inode.image is not None:
            found.update(inode.image.regions)
    return found


def read_stable(chain: list[Inode]) -> Regions:
    """The same after a loss of power; nothing where an image's own header was never flushed."""
    found: Regions = {}
    for inode in reversed(chain):
        if inode.stable is None or inode.stable[1] is None:
            return {}
        found.update(inode.stable[1].regions)
    return found


def _error(number: int, path: str) -> OSError:
    return OSError(number, os.strerror(number), path)
