"""Files on the host that holds the disks: looking, writing, copying, removing.

Every function that changes something may be repeated after a crash in its middle: what is being written lies
under a temporary name (one name per target, so a repeat takes the leftover over) until it is whole and on disk;
what is gone already is no error. GNU coreutils and util-linux are assumed on the host.
"""

from __future__ import annotations

import errno
import hashlib
import os
import posixpath
import shlex
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from blockferry.errors import FileExists, HostCommandFailed, UsageError
from blockferry.images import looking
from blockferry.images.process import Completed, shown
from blockferry.images.runner import Runner
from blockferry.model.placement import cut
from blockferry.units import MiB

Kind = Literal["file", "directory", "block", "other"]

_STAT_FORMAT = r"%d %i %s %b %B %.9Y %.9Z %f %u %g %t %T %n\0"
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_WRITE = """\
set -e
umask 077
rm -f -- "$2"
cat >"$2"
[ "$(stat -c %s -- "$2")" -eq "$4" ]
chmod -- "$3" "$2"
sync -- "$2"
mv -fT -- "$2" "$1"
sync -- "$5"
"""


MOST_LINKS = 40
"""As many symbolic links in a row does Linux follow."""

ALLOCATION_STEP = 256 * MiB
BATCH_BYTES = 64 * 1024


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


def batches(paths: Iterable[str]) -> Iterator[list[str]]:
    """The paths in as many lists as one command can take each.

    ssh gives the remote shell all of a command as one argument, which Linux limits to 128 KiB (MAX_ARG_STRLEN,
    execve(2)); the rest of the command needs a few.
    """
    batch: list[str] = []
    size = 0
    for path in paths:
        length = len(os.fsencode(shlex.quote(path))) + 1
        if batch and size + length > BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += length
    if batch:
        yield batch


def stat_many(runner: Runner, paths: Iterable[str]) -> dict[str, FileStat | None]:
    """What each path is, or None where nothing is; one command for many. Links are followed.

    Raises HostCommandFailed when one of them cannot be looked at for another reason (no permission, I/O error).
    """
    wanted = tuple(dict.fromkeys(paths))
    absolute(*wanted)
    if not wanted:
        return {}
    found: dict[str, FileStat | None] = dict.fromkeys(wanted)
    for some in batches(wanted):
        result = runner.run(["stat", "-L", f"--printf={_STAT_FORMAT}", "--", *some], check=False)
        for record in result.text.split("\0")[:-1]:
            one = _parse_stat(record)
            found[one.path] = one
    missing = [path for path, one in found.items() if one is None]
    if missing:
        found.update(_look(runner, missing))
    return found


def _look(runner: Runner, paths: Sequence[str], *, links: bool = False) -> dict[str, FileStat | None]:
    """As stat_many, slower, and by error numbers: what is absent is told from what cannot be looked at."""
    found: dict[str, FileStat | None] = {}
    for path, one in zip(paths, looking.stat(runner, paths, links=links), strict=True):
        if "errno" in one:
            if one["errno"] not in _ABSENT:
                raise HostCommandFailed(shown(["stat", "--", path]), 1, f"{path}: {one['error']}")
            found[path] = None
            continue
        mode = one.pop("mode")
        device = tuple(one.pop("device_number")) if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else (0, 0)
        one.pop("device_number", None)
        found[path] = FileStat(path, kind=_kind(mode), mode=stat.S_IMODE(mode), device_number=device, **one)
    return found


def is_there(runner: Runner, path: str) -> bool:
    """Whether something has this name, be it a link to nowhere. Raises HostCommandFailed when that cannot be told."""
    absolute(path)
    return _look(runner, [path], links=True)[path] is not None


def stat_one(runner: Runner, path: str) -> FileStat | None:
    """What `path` is, or None if nothing is there. Errors as `stat_many`."""
    return stat_many(runner, [path])[path]


def fingerprint(runner: Runner, path: str) -> Fingerprint | None:
    """The file's fingerprint, None if it is absent. A running VM's file changes all the time, of course."""
    one = stat_one(runner, path)
    if one is None:
        return None
    return Fingerprint(one.device, one.inode, one.size, one.mtime_ns, one.ctime_ns)


def device_size(runner: Runner, path: str) -> int:
    """Bytes of a block device. Raises HostCommandFailed when it is none."""
    absolute(path)
    return int(runner.run(["blockdev", "--getsize64", path]).stdout)


def realpath(runner: Runner, path: str) -> str:
    """The path without links; what does not exist is left as written. Raises HostCommandFailed (link loops)."""
    absolute(path)
    return runner.run(["realpath", "-zm", "--", path]).text.rstrip("\0")


def link_target(runner: Runner, path: str) -> str | None:
    """What a symbolic link says; None when `path` is no link, or is not there."""
    absolute(path)
    result = runner.run(["readlink", "-n", "--", path], check=False)
    return result.text if result.status == 0 else None


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
    return runner.run(["sha256sum", "-z", "--", path]).text.split(" ", 1)[0].lstrip("\\")


def rename(runner: Runner, path: str, new: str) -> None:
    """Rename a file within its directory; on disk after. What has the new name must not exist.

    Raises HostCommandFailed.
    """
    absolute(path, new)
    runner.run(["mv", "--no-clobber", "--no-target-directory", "--", path, new])
    flush(runner, _parent(new))


def make_directory(runner: Runner, path: str, mode: int = 0o711) -> bool:
    """Create a directory; True if this call made it, False if it was there. Its parent must exist.

    The default mode lets QEMU's user through to files whose names it is told, and nobody list them.
    Raises HostCommandFailed, FileExists when something else has that name.
    """
    absolute(path)
    result = runner.run(["mkdir", f"--mode={mode:04o}", "--", path], check=False)
    if result.status == 0:
        flush(runner, _parent(path))
        return True
    one = stat_one(runner, path)
    if one is None and not is_there(runner, path):
        raise _failed(result)
    if one is None or one.kind != "directory":
        raise FileExists(path)
    return False


def _parent(path: str) -> str:
    return posixpath.dirname(path.rstrip("/")) or "/"


def remove_directory_if_empty(runner: Runner, path: str) -> bool:
    """Remove a directory if nothing is in it; True if this call removed it, False if absent or not empty.

    On disk after: a power loss does not bring it back. Raises HostCommandFailed.
    """
    absolute(path)
    result = runner.run(["rmdir", "--", path], check=False)
    if result.status == 0:
        flush(runner, _parent(path))
        return True
    if not is_there(runner, path) or list_directory(runner, path):
        return False
    raise _failed(result)


def list_directory(runner: Runner, path: str) -> tuple[str, ...]:
    """The names in a directory, sorted. Raises HostCommandFailed."""
    absolute(path)
    result = runner.run(["find", "-H", path, "-mindepth", "1", "-maxdepth", "1", "-printf", r"%f\0"])
    return tuple(sorted(result.text.split("\0")[:-1]))


def read_file(runner: Runner, path: str) -> bytes:
    """A small file's content. Raises HostCommandFailed."""
    absolute(path)
    return runner.run(["cat", "--", path]).stdout


def remove_leftover(runner: Runner, path: str) -> bool:
    """Remove what a write or a copy to `path` that was cut short has left beside it; True if something was there."""
    return remove_file(runner, temporary_path(path))


def write_file(runner: Runner, path: str, data: bytes, mode: int = 0o600) -> None:
    """Make `path` a file with this content, in one step: the old content or the new, never less; on disk after.

    Raises HostCommandFailed; then `path` is as it was.
    """
    absolute(path)
    words = [path, temporary_path(path), f"{mode:04o}", str(len(data)), posixpath.dirname(path)]
    runner.run(["sh", "-c", _WRITE, "sh", *words], stdin=data)


def copy_file(runner: Runner, source: str, dest: str) -> bool:
    """Copy a file with its mode, owner and times; on disk after. False if an equal file was at `dest` already.

    It appears at `dest` whole or not at all. Raises FileExists when another file is there, HostCommandFailed.
    """
    absolute(source, dest)
    temporary = temporary_path(dest)
    if stat_one(runner, dest) is None:
        runner.run(["rm", "-f", "--", temporary])
        preserve = "--preserve=mode,ownership,timestamps"
        runner.run(["cp", "--no-target-directory", preserve, "--sparse=auto", "--", source, temporary])
        flush(runner, temporary)
        if appear(runner, temporary, dest):
            return True
    remove_file(runner, temporary)
    if not same_content(runner, source, dest):
        raise FileExists(dest)
    return False


def copy_over(runner: Runner, source: str, dest: str) -> None:
    """Copy a file as `copy_file` does, in place of what is at `dest`: that is there whole, the old one or the new.

    Raises HostCommandFailed.
    """
    absolute(source, dest)
    temporary = temporary_path(dest)
    runner.run(["rm", "-f", "--", temporary])
    preserve = "--preserve=mode,ownership,timestamps"
    runner.run(["cp", "--no-target-directory", preserve, "--sparse=auto", "--", source, temporary])
    flush(runner, temporary)
    runner.run(["mv", "-f", "--no-target-directory", "--", temporary, dest])
    flush(runner, _parent(dest))


def copy_head(runner: Runner, source: str, dest: str, size: int) -> None:
    """Copy the first `size` bytes of a file over those of one that exists; the rest of it stays. On disk afterwards.

    Raises HostCommandFailed.
    """
    absolute(source, dest)
    words = [f"if={source}", f"of={dest}", "bs=64K", f"count={size}", "iflag=count_bytes,fullblock"]
    runner.run(["dd", *words, "conv=notrunc,nocreat,fsync", "status=none"])


def same_content(runner: Runner, one: str, other: str) -> bool:
    """Whether two files hold the same. Raises HostCommandFailed when one cannot be read."""
    absolute(one, other)
    result = runner.run(["cmp", "--silent", "--", one, other], check=False)
    if result.status not in (0, 1):
        raise _failed(result)
    return result.status == 0


def remove_file(runner: Runner, path: str) -> bool:
    """Remove a file (a link itself, not what it points to); True if it was there. Raises HostCommandFailed.

    On disk after: a power loss does not bring it back, nor one that was removed just before by a process that died.
    """
    absolute(path)
    result = runner.run(["unlink", "--", path], check=False)
    if result.status == 0:
        flush(runner, _parent(path))
        return True
    if not is_there(runner, path):
        runner.run(["sync", "--", _parent(path)], check=False)  # its directory may be gone, too
        return False
    raise _failed(result)


def claim(runner: Runner, path: str) -> None:
    """Create an empty file of mode 0600 that was not there before (O_EXCL: of two who claim, one succeeds).

    Raises FileExists, HostCommandFailed.
    """
    absolute(path)
    script = 'umask 077; exec dd if=/dev/null of="$1" conv=excl status=none'
    result = runner.run(["sh", "-c", script, "sh", path], check=False)
    if result.status == 0:
        return
    if is_there(runner, path):
        raise FileExists(path)
    raise _failed(result)


def flush(runner: Runner, path: str) -> None:
    """Return when the file's (or directory's) content is on disk: fsync. Raises HostCommandFailed."""
    absolute(path)
    runner.run(["sync", "--", path])


def fill_allocation(runner: Runner, path: str, size: int) -> None:
    """Allocate the first `size` bytes; content stays as it is, also under a QEMU that writes to it.

    In steps: XFS wants as much free space as one call asks for, even where all of it is allocated already.
    Raises HostCommandFailed when the file system is full or cannot do it.
    """
    absolute(path)
    for offset in range(0, size, ALLOCATION_STEP):
        length = min(ALLOCATION_STEP, size - offset)
        runner.run(["fallocate", "--offset", str(offset), "--length", str(length), "--", path])


def free_bytes(runner: Runner, directory: str) -> int:
    """Bytes that programs without privileges may still write to the directory's file system."""
    absolute(directory)
    blocks, size = runner.run(["stat", "-f", "--printf=%a %S", "--", directory]).stdout.split()
    return int(blocks) * int(size)


def write_rate(runner: Runner, directory: str, size: int) -> float:
    """Bytes/s at which a file of `size` bytes is written and synced there. It has no name while it is written.

    Raises HostCommandFailed.
    """
    absolute(directory)
    mib = max(1, size // MiB)
    return mib * MiB / max(1e-6, looking.write_seconds(runner, directory, mib, timeout_s=120))


def filesystem_type(runner: Runner, path: str) -> str:
    """The file system's name as coreutils say it: `ext2/ext3`, `xfs`, `btrfs`, `nfs`, `tmpfs`..."""
    absolute(path)
    return runner.run(["stat", "-f", "--printf=%T", "--", path]).text


_MOUNTS = """\
for path; do
  while [ ! -e "$path" ]; do path=$(dirname -- "$path"); done
  stat --printf='%m\\0' -- "$path"
done
"""


def mount_points(runner: Runner, paths: Iterable[str]) -> dict[str, str]:
    """Where the file system of each path is mounted; of what does not exist, that of the directory it would lie in."""
    wanted = tuple(dict.fromkeys(paths))
    absolute(*wanted)
    found: dict[str, str] = {}
    for some in batches(wanted):
        points = runner.run(["sh", "-c", _MOUNTS, "sh", *some]).text.split("\0")
        found.update(zip(some, points[:-1], strict=True))
    return found


def existing_directory(runner: Runner, path: str) -> str:
    """The directory itself, or the nearest one above it that exists."""
    absolute(path)
    script = 'path=$1; while [ ! -e "$path" ]; do path=$(dirname -- "$path"); done; printf %s "$path"'
    return runner.run(["sh", "-c", script, "sh", path]).text


def same_filesystem(runner: Runner, one: str, other: str) -> bool:
    """Whether both existing paths are on one file system, so that a rename can move a file between them."""
    found = stat_many(runner, [one, other])
    first, second = found[one], found[other]
    if first is None or second is None:
        raise HostCommandFailed("stat", 1, f"{one if first is None else other} does not exist.")
    return first.device == second.device


def appear(runner: Runner, temporary: str, dest: str) -> bool:
    """Give a finished file its name unless that is taken; link(2) is atomic and never overwrites."""
    linked = runner.run(["ln", "--no-target-directory", "--", temporary, dest], check=False)
    if linked.status != 0 and not is_there(runner, dest):
        # A file system without hard links (vfat, some FUSE): rename is atomic too, but only mv keeps the old.
        runner.run(["mv", "--no-clobber", "--no-target-directory", "--", temporary, dest])
        if stat_one(runner, temporary) is not None:
            return False
    elif linked.status != 0:
        return False
    remove_file(runner, temporary)
    flush(runner, posixpath.dirname(dest))
    return True


def temporary_path(path: str) -> str:
    """Where a file that is to appear at `path` is made; `remove_leftover` knows it."""
    directory, name = posixpath.split(path)
    short = cut(name, 200)
    if short != name:  # two long names that begin alike must not share one
        short = f"{cut(name, 191)}-{hashlib.sha256(name.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
    return posixpath.join(directory, f".{short}.blockferry-partial")


def _parse_stat(record: str) -> FileStat:
    fields: Sequence[str] = record.split(" ", 12)
    device, inode, size, blocks, block_size, mtime, ctime, raw_mode, uid, gid, major, minor, path = fields
    mode = int(raw_mode, 16)
    return FileStat(
        path,
        int(device),
        int(inode),
        int(size),
        int(blocks) * int(block_size),
        _nanoseconds(mtime),
        _nanoseconds(ctime),
        _kind(mode),
        stat.S_IMODE(mode),
        int(uid),
        int(gid),
        (int(major, 16), int(minor, 16)) if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) else (0, 0),
    )


def _nanoseconds(text: str) -> int:
    seconds, _, fraction = text.replace(",", ".").partition(".")  # the point is a comma in some languages
    whole = int(seconds) * 10**9
    part = int((fraction or "0").ljust(9, "0"))
    return whole - part if text.startswith("-") else whole + part


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "directory"
    return "block" if stat.S_ISBLK(mode) else "other"


def _failed(result: Completed) -> HostCommandFailed:
    return HostCommandFailed(shown(result.argv), result.status, result.stderr.strip())
