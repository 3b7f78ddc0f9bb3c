"""Files on the host that holds the disks: looking, writing, copying, removing.

Every function that changes something may be repeated after a crash in its middle: what is being written lies
under a temporary name (one name per target, so a repeat takes the leftover over) until it is whole and on disk;
what is gone already is no error. The host's helper does it (hosts/helper/program/file_calls.py).

All raise HostCallFailed (a HostCommandFailed) with the error's number, HostUnreachable, and OutcomeUnknown where the
connection broke and a second try could not tell what the first has done.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from blockferry.base.errors import FileExists, HostCallFailed, HostCommandFailed, UsageError
from blockferry.base.names import cut
from blockferry.base.units import MiB
from blockferry.hosts.runner import Runner

Kind = Literal["file", "directory", "block", "other"]

MOST_LINKS = 40
"""As many symbolic links in a row does Linux follow."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR)


@dataclass(frozen=True, slots=True)
class FileStat:
    """What stat(2) says, symbolic links followed. `device_number` is a device's own (major, minor), else (0, 0).

    `size` and `allocated` are bytes (0 for block devices: see `device_size`); times are nanoseconds.
    """

    path: str
    device: int
    inode: int
    size: int
    allocated: int
    mtime_ns: int
    ctime_ns: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    device_number: tuple[int, int]
    names: int = 1  # hard links


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Equal for two looks at a path when it is the same file and nobody changed it in between."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def absolute(*paths: str) -> None:
    """Raise UsageError unless all paths are absolute.

    QEMU takes `nbd:...` or `json:...` for a protocol, and every program `-x` for an option; a path that begins
    with a slash can be neither.
    """
    for path in paths:
        if not path.startswith("/") or "\0" in path:
            raise UsageError(f"{path!r} is not the absolute path of a file.")


def stat_many(runner: Runner, paths: Iterable[str]) -> dict[str, FileStat | None]:
    """What each path is, or None where nothing is; one call for many. Links are followed.

    Raises HostCallFailed when one of them cannot be looked at for another reason (no permission, I/O error).
    """
    wanted = tuple(dict.fromkeys(paths))
    absolute(*wanted)
    return _stats(wanted, runner.call("files.stat", paths=list(wanted))) if wanted else {}


class LaterStats:
    """`stat_many` whose answer is waited for as long as one likes: storage may hang."""

    def __init__(self, runner: Runner, paths: Iterable[str]) -> None:
        """Ask. Raises HostCommandFailed."""
        self._paths = tuple(dict.fromkeys(paths))
        absolute(*self._paths)
        self._pending = runner.begin("files.stat", paths=list(self._paths))

    def wait(self, seconds: float) -> bool:
        """Whether there is an answer within that time."""
        return self._pending.wait(seconds)

    def result(self) -> dict[str, FileStat | None]:
        """As `stat_many`, once there is an answer."""
        return _stats(self._paths, self._pending.result())


def _stats(paths: Sequence[str], answer: Sequence[dict[str, Any]]) -> dict[str, FileStat | None]:
    found: dict[str, FileStat | None] = {}
    for path, one in zip(paths, answer, strict=True):
        if "errno" in one:
            number = one["errno"]
            if number not in _ABSENT:
                name = errno.errorcode.get(number, "")
                raise HostCallFailed(f"stat {path}", 1, os.strerror(number), number, name)
            found[path] = None
            continue
        mode = one.pop("mode")
        device = tuple(one.pop("device_number"))
        found[path] = FileStat(path, kind=_kind(mode), mode=stat.S_IMODE(mode), device_number=device, **one)
    return found


def identities(runner: Runner, paths: Iterable[str], timeout_s: float) -> dict[str, tuple[int, int] | None]:
    """The device and inode that each path leads to; None where that cannot be told, and where nothing is.

    Raises HostCallFailed when there is no answer within `timeout_s`.
    """
    wanted = tuple(dict.fromkeys(paths))
    absolute(*wanted)
    answer = runner.call("files.stat", timeout_s=timeout_s, paths=list(wanted)) if wanted else []
    return {
        path: None if "errno" in one else (one["device"], one["inode"])
        for path, one in zip(wanted, answer, strict=True)
    }


def entries(runner: Runner, paths: Sequence[str], depth: int, timeout_s: float) -> tuple[tuple[str, str, int], ...]:
    """Path, kind (file, directory, link, other) and size of each path; with a depth of what lies so far below it.

    On one file system; what is gone or cannot be looked at is left out. Raises HostCommandFailed.
    """
    absolute(*paths)
    answer = runner.call("files.entries", timeout_s=timeout_s, paths=list(paths), depth=depth)
    return tuple((one["path"], one["kind"], one["size"]) for one in answer)


def is_there(runner: Runner, path: str) -> bool:
    """Whether something has this name, be it a link to nowhere. Raises HostCallFailed when that cannot be told."""
    absolute(path)
    return bool(runner.call("files.there", path=path))


def stat_one(runner: Runner, path: str) -> FileStat | None:
    """What `path` is, or None if nothing is there. Errors as `stat_many`."""
    return stat_many(runner, [path])[path]


def fingerprint(runner: Runner, path: str) -> Fingerprint | None:
    """The file's fingerprint, None if it is absent. A running VM's file changes all the time, of course."""
    file_stat = stat_one(runner, path)
    if file_stat is None:
        return None
    return Fingerprint(file_stat.device, file_stat.inode, file_stat.size, file_stat.mtime_ns, file_stat.ctime_ns)


def device_size(runner: Runner, path: str) -> int:
    """Bytes of a block device. Raises HostCommandFailed when it is none."""
    absolute(path)
    return int(runner.call("files.device_size", path=path))


def device_writes(runner: Runner, path: str) -> str:
    """What changes whenever anybody on this host writes to a block device; "" when the kernel does not count that.

    Raises HostCommandFailed, also when it is no block device.
    """
    absolute(path)
    return str(runner.call("files.device_writes", path=path))


def realpath(runner: Runner, path: str) -> str:
    """The path without links; what does not exist is left as written. Raises HostCommandFailed (link loops)."""
    absolute(path)
    return str(runner.call("files.realpath", path=path))


def realpaths(runner: Runner, paths: Sequence[str], timeout_s: float) -> tuple[str, ...]:
    """Each path without links, in order; what is not there, and what leads in a circle, as written.

    Raises HostCommandFailed.
    """
    absolute(*paths)
    return tuple(runner.call("files.realpaths", timeout_s=timeout_s, paths=list(paths)))


def link_target(runner: Runner, path: str) -> str | None:
    """What a symbolic link says; None when `path` is no link, or is not there."""
    absolute(path)
    found = runner.call("files.link_target", path=path)
    return None if found is None else str(found)


def link_chain(runner: Runner, path: str) -> tuple[str, ...]:
    """The path, and what it leads to when its last part is a symbolic link; the last one is no link, or not there."""
    found = [path]
    while len(found) < MOST_LINKS and (target := link_target(runner, found[-1])) is not None:
        found.append(posixpath.join(posixpath.dirname(found[-1]), target))
    return tuple(found)


def remove_with_links(runner: Runner, path: str) -> tuple[str, ...]:
    """Remove a file and the symbolic links that lead to it from `path`; what was removed, the file first.

    Raises HostCommandFailed.
    """
    return tuple(one for one in reversed(link_chain(runner, path)) if remove_file(runner, one))


def digest(runner: Runner, path: str) -> str:
    """The SHA-256 of a file's content. Raises HostCommandFailed."""
    absolute(path)
    return str(runner.call("files.digest", path=path))


def rename(runner: Runner, path: str, new: str) -> None:
    """Rename a file within its directory; on disk after. What has the new name must not exist.

    Raises HostCommandFailed.
    """
    absolute(path, new)
    runner.call("files.rename", repeat=False, path=path, new=new)


def make_directory(runner: Runner, path: str, mode: int = 0o711) -> bool:
    """Create a directory; True if this call made it, False if it was there. Its parent must exist.

    The default mode lets QEMU's user through to files whose names it is told, and nobody list them.
    Raises HostCommandFailed, FileExists when something else has that name.
    """
    absolute(path)
    try:
        return bool(runner.call("files.make_directory", repeat=False, path=path, mode=mode))
    except HostCallFailed as error:
        raise _taken(error, path) from None


def _taken(error: HostCallFailed, path: str) -> FileExists | HostCallFailed:
    return FileExists(path) if error.errno == errno.EEXIST else error


def remove_directory_if_empty(runner: Runner, path: str) -> bool:
    """Remove a directory if nothing is in it; True if this call removed it, False if absent or not empty.

    On disk after: a power loss does not bring it back. Raises HostCommandFailed.
    """
    absolute(path)
    return bool(runner.call("files.remove_directory", repeat=False, path=path))


def list_directory(runner: Runner, path: str) -> tuple[str, ...]:
    """The names in a directory, sorted. Raises HostCommandFailed."""
    absolute(path)
    return tuple(runner.call("files.names", path=path))


def read_file(runner: Runner, path: str) -> bytes:
    """A small file's content. Raises HostCommandFailed."""
    absolute(path)
    return base64.b64decode(runner.call("files.read", path=path))


def first_bytes(runner: Runner, path: str, count: int, timeout_s: float | None = None) -> bytes:
    """The beginning of a file or device. Raises HostCommandFailed, also when it takes longer than `timeout_s`."""
    absolute(path)
    return base64.b64decode(runner.call("files.head", timeout_s=timeout_s, path=path, size=count))


def remove_leftover(runner: Runner, path: str) -> bool:
    """Remove what a write or a copy to `path` that was cut short has left beside it; True if something was there."""
    return remove_file(runner, temporary_path(path))


def write_file(runner: Runner, path: str, data: bytes, mode: int = 0o600) -> None:
    """Make `path` a file with this content, in one step: the old content or the new, never less; on disk after.

    Raises HostCommandFailed; then `path` is as it was.
    """
    absolute(path)
    content = base64.b64encode(data).decode()
    runner.call("files.write", path=path, temporary=temporary_path(path), data=content, mode=mode)


def write_known(runner: Runner, path: str, data: bytes, made: Callable[[str], None], *, over: bool) -> bool:
    """Make `path` a file with this content, as `write_file` does. False if something has the name, unless `over`.

    `made` is told where it is before it has its name: the same file, by another name. Raises HostCommandFailed.
    """
    absolute(path)
    temporary = temporary_path(path)
    write_file(runner, temporary, data)
    found = stat_one(runner, temporary)
    if found is None:
        raise HostCommandFailed("write", 1, f"{temporary} is not there any more.")
    made(temporary)
    if over:
        runner.call("files.put", repeat=False, temporary=temporary, inode=found.inode, dest=path)
        return True
    if appear(runner, temporary, path):
        return True
    remove_file(runner, temporary)
    return False


def copy_file(runner: Runner, source: str, dest: str, made: Callable[[str], None] = lambda _: None) -> bool:
    """Copy a file with its mode, owner and times; on disk after. False if an equal file was at `dest` already.

    It appears at `dest` whole or not at all. `made` is told where it is before it appears there: the same file, by
    another name. Raises FileExists when another file is there, HostCommandFailed.
    """
    absolute(source, dest)
    temporary = temporary_path(dest)
    if not is_there(runner, dest):
        _copy_aside(runner, source, temporary, made)
        if appear(runner, temporary, dest):
            return True
    remove_file(runner, temporary)
    if not same_content(runner, source, dest):
        raise FileExists(dest)
    return False


def copy_over(runner: Runner, source: str, dest: str, made: Callable[[str], None] = lambda _: None) -> None:
    """Copy a file as `copy_file` does, in place of what is at `dest`: that is there whole, the old one or the new.

    Raises HostCommandFailed.
    """
    absolute(source, dest)
    temporary = temporary_path(dest)
    inode = _copy_aside(runner, source, temporary, made)
    # No second try: it would not find the temporary name when the first has done it.
    runner.call("files.put", repeat=False, temporary=temporary, inode=inode, dest=dest)


def _copy_aside(runner: Runner, source: str, temporary: str, made: Callable[[str], None]) -> int:
    """The inode number of the copy. Nothing is left when `made` raises."""
    inode = int(runner.call("files.copy_aside", source=source, temporary=temporary))
    try:
        made(temporary)
    except BaseException:
        remove_file(runner, temporary)
        raise
    return inode


def copy_head(runner: Runner, source: str, dest: str, size: int) -> None:
    """Copy the first `size` bytes of a file over those of one that exists; the rest of it stays. On disk afterwards.

    Raises HostCommandFailed.
    """
    absolute(source, dest)
    runner.call("files.copy_head", source=source, dest=dest, size=size)


def same_content(runner: Runner, one: str, other: str) -> bool:
    """Whether two files hold the same. Raises HostCommandFailed when one cannot be read."""
    absolute(one, other)
    return bool(runner.call("files.same", one=one, other=other))


def remove_file(runner: Runner, path: str) -> bool:
    """Remove a file (a link itself, not what it points to); True if it was there. Raises HostCommandFailed.

    On disk after: a power loss does not bring it back, nor one that was removed just before by a process that died.
    """
    absolute(path)
    return bool(runner.call("files.remove", repeat=False, path=path))


def claim(runner: Runner, path: str) -> None:
    """Create an empty file of mode 0600 that was not there before (O_EXCL: of two who claim, one succeeds).

    Raises FileExists, HostCommandFailed.
    """
    absolute(path)
    try:
        runner.call("files.claim", repeat=False, path=path)
    except HostCallFailed as error:
        raise _taken(error, path) from None


def flush(runner: Runner, path: str) -> None:
    """Return when the file's (or directory's) content is on disk: fsync. Raises HostCommandFailed."""
    absolute(path)
    runner.call("files.flush", path=path)


def fill_allocation(runner: Runner, path: str, size: int) -> None:
    """Allocate the first `size` bytes; content stays as it is, also under a QEMU that writes to it.

    Raises HostCommandFailed when the file system is full or cannot do it.
    """
    absolute(path)
    runner.call("files.allocate", path=path, size=size)


def free_bytes(runner: Runner, directory: str) -> int:
    """Bytes that programs without privileges may still write to the directory's file system."""
    absolute(directory)
    return int(runner.call("files.free", path=directory))


def write_rate(runner: Runner, directory: str, size: int) -> float:
    """Bytes/s at which a file of `size` bytes is written and synced there. It has no name while it is written.

    Raises HostCommandFailed.
    """
    absolute(directory)
    mib = max(1, size // MiB)
    seconds = float(runner.call("files.write_rate", timeout_s=120, directory=directory, blocks=mib))
    return mib * MiB / max(1e-6, seconds)


def filesystem_type(runner: Runner, path: str) -> str:
    """The file system's type as the mount table has it: `ext4`, `xfs`, `btrfs`, `nfs4`, `tmpfs`, `fuse.sshfs`..."""
    absolute(path)
    return str(runner.call("files.filesystem", path=path))


def mount_points(runner: Runner, paths: Iterable[str]) -> dict[str, str]:
    """Where the file system of each path is mounted; of what does not exist, that of the directory it would lie in."""
    wanted = tuple(dict.fromkeys(paths))
    absolute(*wanted)
    return dict(zip(wanted, runner.call("files.mount_points", paths=list(wanted)), strict=True))


def existing_directory(runner: Runner, path: str) -> str:
    """The directory itself, or the nearest one above it that exists."""
    absolute(path)
    return str(runner.call("files.existing", path=path))


def writable_directory(runner: Runner, path: str, timeout_s: float | None = None) -> bool:
    """Whether it is a directory in which we may make files. Raises HostCommandFailed."""
    absolute(path)
    return bool(runner.call("files.writable", timeout_s=timeout_s, path=path))


def same_filesystem(runner: Runner, one: str, other: str) -> bool:
    """Whether both existing paths are on one file system, so that a rename can move a file between them."""
    found = stat_many(runner, [one, other])
    first, second = found[one], found[other]
    if first is None or second is None:
        raise HostCommandFailed("stat", 1, f"{one if first is None else other} does not exist.")
    return first.device == second.device


def appear(runner: Runner, temporary: str, dest: str) -> bool:
    """Give a finished file its name unless that is taken; link(2) is atomic and never overwrites."""
    return bool(runner.call("files.appear", repeat=False, temporary=temporary, dest=dest))


def temporary_path(path: str) -> str:
    """Where a file that is to appear at `path` is made; `remove_leftover` knows it."""
    directory, name = posixpath.split(path)
    short = cut(name, 200)
    if short != name:  # two long names that begin alike must not share one
        short = f"{cut(name, 191)}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return posixpath.join(directory, f".{short}.blockferry-partial")


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "block" if stat.S_ISBLK(mode) else "other"
