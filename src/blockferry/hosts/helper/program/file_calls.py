"""Files: looking, writing, copying, removing. Raises OSError with the number that the kernel gave.

What changes something is on disk when it returns, and may be repeated after a crash in its middle: what is being
written lies under a temporary name, which the caller chooses, until it is whole.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import stat as modes
import time
from collections.abc import Callable, Iterator
from typing import Any

from blockferry.hosts.helper.program.mount_table import NOWHERE, mount_of, mounts

ABSENT = (errno.ENOENT, errno.ENOTDIR)
CHUNK = 1 << 20
ALLOCATION_STEP = 256 << 20
PAGE = 4096
TRIAL = ".blockferry-trial"
RENAME_NOREPLACE, AT_FDCWD = 1, -100
ACL = "system.posix_acl_access"
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def stat(paths: list[str], *, links: bool = False) -> list[dict[str, Any]]:
    """Each path: the fields of stat(2), or `errno`. `links`: of a link itself."""
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            stat_result = os.lstat(path) if links else os.stat(path)
        except OSError as error:
            found.append({"errno": error.errno})
            continue
        device = modes.S_ISBLK(stat_result.st_mode) or modes.S_ISCHR(stat_result.st_mode)
        numbers = {
            "device": stat_result.st_dev,
            "inode": stat_result.st_ino,
            "size": stat_result.st_size,
            "allocated": stat_result.st_blocks * 512,
            "mtime_ns": stat_result.st_mtime_ns,
            "ctime_ns": stat_result.st_ctime_ns,
            "mode": stat_result.st_mode,
            "uid": stat_result.st_uid,
            "gid": stat_result.st_gid,
            "names": stat_result.st_nlink,
            "device_number": [os.major(stat_result.st_rdev), os.minor(stat_result.st_rdev)] if device else [0, 0],
        }
        found.append(numbers)
    return found


def there(path: str) -> bool:
    """Whether something has this name, be it a link to nowhere."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in ABSENT:
            return False
        raise
    return True


def parent(path: str) -> str:
    return os.path.dirname(path.rstrip("/")) or "/"


def flush(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def device_size(path: str) -> int:
    """Bytes of a block device."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not modes.S_ISBLK(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), path)
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def device_writes(path: str) -> str:
    """What changes whenever anybody writes to a block device, through whichever node: the kernel's counters.

    "" when the kernel does not count for this device. The time of writing of a node is no such thing: a VM has one of
    its own (libvirt's mount namespace). Sectors, not requests: on a device of the device mapper a flush is a write.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        device = os.fstat(descriptor)
        if not modes.S_ISBLK(device.st_mode):
            raise OSError(errno.ENOTBLK, os.strerror(errno.ENOTBLK), path)
        os.fsync(descriptor)  # what lies in the page cache only is counted when it is written out
    finally:
        os.close(descriptor)
    place = os.path.realpath(f"/sys/dev/block/{os.major(device.st_rdev)}:{os.minor(device.st_rdev)}")
    disk = place if os.path.isdir(f"{place}/queue") else parent(place)  # of a partition
    if _line(f"{disk}/queue/iostats") != "1":
        return ""
    counters = _line(f"{place}/stat").split()
    if counters and counters[0] == "0":  # nobody has read from it yet, or the driver does not count
        _read_past_cache(path)
        counters = _line(f"{place}/stat").split()
    if len(counters) < 11 or counters[0] == "0":
        return ""
    discarded = counters[13] if len(counters) > 13 else "0"
    # The counters begin anew with each boot, and with each device that gets the number.
    return "-".join([_line("/proc/sys/kernel/random/boot_id"), _line(f"{disk}/diskseq"), counters[6], discarded])


def _line(path: str) -> str:
    """The content of a file of one line; "" when it is not there."""
    try:
        with open(path) as file:
            return file.read().strip()
    except OSError:
        return ""


def _read_past_cache(path: str) -> None:
    """Read a block from the device itself."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        with mmap.mmap(-1, PAGE) as page:
            os.preadv(descriptor, [page], 0)
    finally:
        os.close(descriptor)


def realpath(path: str) -> str:
    """The path without links; what does not exist stays as written. Raises ELOOP."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
    return os.path.realpath(path)


def realpaths(paths: list[str]) -> list[str]:
    """Each path without links; what does not exist, and what leads in a circle, stays as written."""
    return [os.path.realpath(path) for path in paths]


def entries(paths: list[str], depth: int) -> list[dict[str, Any]]:
    """What each path is, and with a depth instead what lies so far below it: on its file system, links not followed.

    A path that is a link itself is followed to a directory. What cannot be looked at is left out.
    """
    found: list[dict[str, Any]] = []
    for path in paths:
        try:
            if depth:
                _below(path, depth, os.stat(path).st_dev, found)
            else:
                found.append(_entry(path, os.lstat(path)))
        except OSError:
            continue
    return found


def _below(directory: str, depth: int, device: int, found: list[dict[str, Any]]) -> None:
    for name in sorted(os.listdir(directory)):
        path = os.path.join(directory, name)
        try:
            stat_result = os.lstat(path)
            found.append(_entry(path, stat_result))
            if depth > 1 and modes.S_ISDIR(stat_result.st_mode) and stat_result.st_dev == device:
                _below(path, depth - 1, device, found)
        except OSError:
            continue


def _entry(path: str, stat_result: os.stat_result) -> dict[str, Any]:
    kinds = {modes.S_IFREG: "file", modes.S_IFDIR: "directory", modes.S_IFLNK: "link"}
    kind = kinds.get(modes.S_IFMT(stat_result.st_mode), "other")
    return {"path": path, "kind": kind, "size": stat_result.st_size}


def link_target(path: str) -> str | None:
    """What a symbolic link says; None when the path is none, or is not there."""
    try:
        return os.readlink(path)
    except OSError as error:
        if error.errno in (errno.EINVAL, *ABSENT):
            return None
        raise


def digest(path: str) -> str:
    """The SHA-256 of the content."""
    h_a_s_h = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        for chunk in iter(lambda: file.read(CHUNK), b""):
            h_a_s_h.update(chunk)
    return h_a_s_h.hexdigest()


def rename_new(path: str, new: str) -> None:
    """Rename, never over something: raises EEXIST."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2"):
        done = libc.renameat2(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(new), RENAME_NOREPLACE)
        number = ctypes.get_errno()
        if done == 0:
            return
        if number not in (errno.EINVAL, errno.ENOSYS):  # a file system that cannot
            raise OSError(number, os.strerror(number), new if number == errno.EEXIST else path)
    if there(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(path, new)


def rename(path: str, new: str) -> None:
    rename_new(path, new)
    flush(parent(new))


def make_directory(path: str, mode: int) -> bool:
    """True if this call made it, False if it was there. Raises EEXIST when something else has the name."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        if os.path.isdir(path):
            return False
        raise
    os.chmod(path, mode | os.stat(path).st_mode & modes.S_ISGID)  # whatever the umask is; it inherits the group's bit
    flush(parent(path))
    return True


def remove_directory(path: str) -> bool:
    """Remove it if nothing is in it; True if this call removed it, False if absent or not empty."""
    try:
        os.rmdir(path)
    except OSError:
        if not there(path) or (os.path.isdir(path) and os.listdir(path)):
            return False
        raise
    flush(parent(path))
    return True


def names(path: str) -> list[str]:
    """The names in a directory, sorted."""
    return sorted(os.listdir(path))


def read(path: str) -> str:
    """The content, base64."""
    with open(path, "rb") as file:
        return base64.b64encode(file.read()).decode()


def head(path: str, size: int) -> str:
    """The first bytes of the content, base64."""
    with open(path, "rb") as file:
        return base64.b64encode(file.read(size)).decode()


def write(path: str, temporary: str, data: str, mode: int) -> None:
    """Make `path` a file with this content (base64), in one step: the old content or the new, never less."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        write_all(descriptor, base64.b64decode(data))
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)
        replace(descriptor, temporary, path)
    finally:
        os.close(descriptor)
    flush(parent(path))


def replace(descriptor: int, temporary: str, path: str) -> None:
    """Give a finished file its name. Raises ESTALE when its temporary name is another's by now: while we waited for
    storage we were given up, and the call was made again; what lies there is not whole yet."""
    if not os.path.samestat(os.fstat(descriptor), os.lstat(temporary)):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), temporary)
    os.rename(temporary, path)


def write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def data_of(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, bytes) of a file, without its holes; also of one that has grown, or tells no size (/proc)."""
    at = 0
    while at < size:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
            end = os.lseek(descriptor, at, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                break  # only a hole is left
            end = size  # a file system that does not tell
        while at < end:
            chunk = os.pread(descriptor, min(CHUNK, end - at), at)
            if not chunk:
                return
            yield at, chunk
            at += len(chunk)
    at = max(at, size)
    while chunk := os.pread(descriptor, CHUNK, at):
        yield at, chunk
        at += len(chunk)


def copy_aside(source: str, temporary: str) -> int:
    """Copy content, mode, owner and times into a new file, which has no name of its own yet; on disk after. Its inode
    number."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = os.fstat(reading)
        writing = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            for offset, chunk in data_of(reading, before.st_size):
                left, at = memoryview(chunk), offset
                while left:
                    done = os.pwrite(writing, left, at)
                    left, at = left[done:], at + done
            if os.fstat(writing).st_size < before.st_size:
                os.ftruncate(writing, before.st_size)
            try:
                os.fchown(writing, before.st_uid, before.st_gid)
            except PermissionError:
                if os.geteuid() == 0:
                    raise
            os.fchmod(writing, modes.S_IMODE(before.st_mode))
            with contextlib.suppress(OSError):
                os.setxattr(writing, ACL, os.getxattr(reading, ACL))
            os.utime(writing, ns=(before.st_atime_ns, before.st_mtime_ns))
            os.fsync(writing)
            return os.fstat(writing).st_ino
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def put(temporary: str, inode: int, dest: str) -> None:
    """Give a finished file the name of what is at `dest`. Raises ESTALE when its temporary name is another's by now."""
    if os.lstat(temporary).st_ino != inode:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), temporary)
    os.rename(temporary, dest)
    flush(parent(dest))


def copy_head(source: str, dest: str, size: int) -> None:
    """Copy the first bytes over those of a file that exists; the rest of it stays."""
    reading = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        writing = os.open(dest, os.O_WRONLY | os.O_CLOEXEC)
        try:
            at = 0
            while at < size and (chunk := os.pread(reading, min(CHUNK, size - at), at)):
                write_all(writing, chunk)
                at += len(chunk)
            os.fsync(writing)
        finally:
            os.close(writing)
    finally:
        os.close(reading)


def same(one: str, other: str) -> bool:
    """Whether two files hold the same."""
    with open(one, "rb", buffering=0) as first, open(other, "rb", buffering=0) as second:
        sizes = [os.fstat(file.fileno()) for file in (first, second)]
        if all(modes.S_ISREG(size.st_mode) and size.st_size for size in sizes) and len({s.st_size for s in sizes}) > 1:
            return False
        while True:
            ours, theirs = filled(first), filled(second)
            if ours != theirs:
                return False
            if not ours:
                return True


def filled(file: Any) -> bytes:
    """A whole chunk, or what is left: read(2) may give less."""
    found = b""
    while len(found) < CHUNK and (more := file.read(CHUNK - len(found))):
        found += more
    return found


def remove(path: str) -> bool:
    """Remove a file (a link itself); True if it was there. A power loss does not bring it back, nor one that was
    removed just before by somebody who died."""
    try:
        os.unlink(path)
    except OSError:
        if there(path):
            raise
        with contextlib.suppress(OSError):  # its directory may be gone, too
            flush(parent(path))
        return False
    flush(parent(path))
    return True


def claim(path: str) -> None:
    """Create an empty file that was not there: of two who claim, one succeeds. Raises EEXIST."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def appear(temporary: str, dest: str) -> bool:
    """Give a finished file its name unless that is taken; link(2) is atomic and never overwrites."""
    try:
        os.link(temporary, dest)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:  # a file system without hard links (vfat, some FUSE)
            rename_new(temporary, dest)
        except FileExistsError:
            return False
    remove(temporary)
    flush(parent(dest))
    return True


def allocate(path: str, size: int) -> None:
    """Allocate the first bytes; content stays. In steps: XFS wants as much free space as one call asks for, even where
    all of it is allocated already. Not posix_fallocate(3), which writes where the file system cannot do it."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for offset in range(0, size, ALLOCATION_STEP):
            length = min(ALLOCATION_STEP, size - offset)
            while libc.fallocate(descriptor, 0, ctypes.c_int64(offset), ctypes.c_int64(length)) != 0:
                number = ctypes.get_errno()
                if number != errno.EINTR:
                    raise OSError(number, os.strerror(number), path)
    finally:
        os.close(descriptor)


def free(path: str) -> int:
    """Bytes that programs without privileges may still write to the file system."""
    statvfs_result = os.statvfs(path)
    return statvfs_result.f_bavail * statvfs_result.f_frsize


def unnamed(directory: str) -> int:
    """A file that nobody sees, open for reading and writing. Never one that was there."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        path = os.path.join(directory, f"{TRIAL}-{os.getpid()}")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return file


def write_rate(directory: str, blocks: int) -> float:
    """Write a file without a name, so many MiB, and flush it: how long that took, in seconds."""
    file = unnamed(directory)
    try:
        block = bytes(CHUNK)
        began = time.monotonic()
        for _ in range(blocks):
            write_all(file, block)
        os.fsync(file)
        return time.monotonic() - began
    finally:
        os.close(file)


def existing(path: str) -> str:
    """The path itself, or the nearest directory above it that exists."""
    while not os.path.exists(path):
        path = parent(path)
    return path


def mount_points(paths: list[str]) -> list[str]:
    """Where the file system of each path is mounted; of what does not exist, that of the directory it would lie in."""
    table = mounts()
    return [(mount_of(os.path.realpath(existing(path)), table) or NOWHERE).point for path in paths]


def filesystem(path: str) -> str:
    """The file system's type as the mount table has it: ext4, xfs, btrfs, nfs4, fuse.sshfs ..."""
    os.stat(path)
    return (mount_of(os.path.realpath(path), mounts()) or NOWHERE).kind


def writable(path: str) -> bool:
    """Whether a directory is there, and we may write to it."""
    return os.path.isdir(path) and os.access(path, os.W_OK, effective_ids=True)


CALLS: dict[str, Callable[..., Any]] = {
    one.__name__: one
    for one in (
        *(stat, there, flush, device_size, realpath, realpaths, entries, link_target, digest, rename),
        *(make_directory, remove_directory, device_writes),
        *(names, read, head, write, copy_aside, put, copy_head, same, remove, claim, appear, allocate, free),
        *(write_rate, existing, mount_points, filesystem, writable),
    )
}
