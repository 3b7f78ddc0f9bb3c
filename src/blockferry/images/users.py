"""Who has an image open: the last question before a file is removed, and the first before it is read or written.

No single look answers it, so there are three:

- QEMU's own locks in /proc/locks: byte 100 + n of the image is locked while someone uses permission n, byte
  200 + n while someone denies it to others (QEMU docs/system/images: image locking). Looking there touches nothing.
- the same locks through QEMU, where the file system may be shared with other hosts (their locks are not in our
  /proc/locks): open it read-only and deny everything to others. Opening read-write, as is often advised, misses
  a user who shares writing, and may set flags in a qcow2 header. The probe holds its own lock for milliseconds,
  a QEMU that starts just then would fail to open the image; so it is not done on local file systems.
- open file descriptors in /proc/*/fd, by device and inode, for programs that take no locks (and block devices,
  where QEMU's lock sits on a device node of the VM's own mount namespace); and loop devices, which have no process.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from blockferry.errors import HostCommandFailed, ImageUnreadable
from blockferry.images.files import FileStat, absolute, filesystem_type, stat_many, stat_one
from blockferry.images.runner import Runner

# File systems that no other host can have mounted, by the mount table's names.
_LOCAL_FILESYSTEMS = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "bcachefs", "ramfs", "jfs"}
)
_LOCK = re.compile(r"^\d+: .* ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)$")
_QEMU_BYTES = range(100, 300)
_FD = re.compile(r"/proc/(\d+)/fd/\d+")
# Below /proc look only into N/fd, do not descend into anything else.
_DESCRIPTORS = ["find", "/proc", "-mindepth", "2", "-maxdepth", "3", "("]
_DESCRIPTORS += ["-path", "/proc/[0-9]*/fd", "-o", "-path", "/proc/[0-9]*/fd/*"]
_DESCRIPTORS += ["-exec", "stat", "-L", r"--printf=%d %i %t %T %n\n", "{}", "+", "-o", "-prune", ")"]


@dataclass(frozen=True, slots=True)
class Users:
    """Everyone who has an image open, as far as one could look."""

    locked: bool
    """A QEMU (or qemu-img, qemu-nbd...) holds image locks, here or on another host."""
    openers: tuple[tuple[int, str], ...]
    """Processes with the file open: process id and command name."""
    loop_devices: tuple[str, ...]
    unseen_processes: int
    """Processes whose files one may not see; not 0 means that `openers` may lack someone."""

    @property
    def any(self) -> bool:
        """Whether someone uses it for certain."""
        return self.locked or bool(self.openers) or bool(self.loop_devices)


def users_of(runner: Runner, path: str, format: str | None = None) -> Users:
    """All users of the image. Raises ImageUnreadable if it is absent, HostCommandFailed."""
    openers, unseen = _openers(runner, _existing(runner, path))
    loops = runner.run(["losetup", "--noheadings", "--output", "NAME", "--associated", path], check=False)
    locked = in_use(runner, path, format)
    return Users(locked, openers, tuple(loops.text.split()) if loops.status == 0 else (), unseen)


def writer(runner: Runner, path: str) -> str:
    """Who has the file open in a way that lets him write to it, in words; "" when nobody is seen to.

    Whoever only reads it (a VM that stands on it) does not count. Raises ImageUnreadable if it is absent,
    HostCommandFailed.
    """
    one = _existing(runner, path)
    loops = runner.run(["losetup", "--noheadings", "--output", "NAME", "--associated", path], check=False)
    if loops.status == 0 and loops.text.split():
        return f"loop device {loops.text.split()[0]}"
    descriptors, _ = _descriptors(runner, one)
    writing = {int(name.split("/")[2]) for name in _writing(runner, descriptors)}
    if named := _with_names(runner, writing):
        return f"{named[0][1]} ({named[0][0]})"
    if filesystem_type(runner, path) in _LOCAL_FILESYSTEMS:
        return ""
    alone = _can_have_alone(runner, path, "file", ("write", "resize"))
    return "" if alone else "a QEMU, here or on another host,"


_QEMU_NAMES = ("qemu-system", "qemu-kvm", "kvm")


def writing_qemus(runner: Runner, paths: Iterable[str]) -> tuple[tuple[int, str], ...]:
    """(process id, path) of every QEMU of a VM on this host that has one of these files open for writing.

    Programs like qemu-img and qemu-nbd do not count. Files that are absent have none. Raises HostCommandFailed.
    """
    stats = {path: one for path, one in stat_many(runner, paths).items() if one is not None}
    listing = runner.run(_DESCRIPTORS, check=False) if stats else None
    if listing is None or not stats:
        return ()
    if listing.status > 1:
        raise HostCommandFailed(_DESCRIPTORS[0], listing.status, listing.stderr.strip()[:500])
    found = {name: path for path, one in stats.items() for name in _opened(listing.text, one)}
    writing = _writing(runner, list(found))
    named = dict(_with_names(runner, {int(name.split("/")[2]) for name in writing}))
    pairs = {(int(name.split("/")[2]), found[name]) for name in writing}
    return tuple(sorted((pid, path) for pid, path in pairs if named.get(pid, "").startswith(_QEMU_NAMES)))


def in_use(runner: Runner, path: str, format: str | None = None) -> bool:
    """Whether a QEMU has the image open, also read-only, as a backing file or on another host of a shared
    file system. Changes nothing in the image, not even its times.

    The format does not matter: locks lie on the file below it. Raises ImageUnreadable if it is absent or cannot
    be opened, HostCommandFailed.
    """
    one = _existing(runner, path)
    if one.kind == "file" and _locked_here(runner, path, one):
        return True
    if one.kind == "file" and filesystem_type(runner, path) in _LOCAL_FILESYSTEMS:
        return False
    return not _can_have_alone(runner, path, "file" if one.kind == "file" else "host_device")


def openers(runner: Runner, path: str) -> tuple[tuple[int, str], ...]:
    """Process id and command name of everyone on this host who has the file or block device open.

    Without root's rights only one's own processes are seen (`users_of` says how many were not).
    Raises ImageUnreadable if it is absent, HostCommandFailed.
    """
    return _openers(runner, _existing(runner, path))[0]


def _existing(runner: Runner, path: str) -> FileStat:
    one = stat_one(runner, path)
    if one is None:
        raise ImageUnreadable(path, "It does not exist.")
    return one


def _locked_here(runner: Runner, path: str, one: FileStat) -> bool:
    # Not stat's device: btrfs shows one per subvolume there, the mount table and /proc/locks the file system's.
    mounted = runner.run(["findmnt", "--noheadings", "--output", "MAJ:MIN", "--target", path], check=False)
    devices = {tuple(int(number) for number in word.split(":")) for word in mounted.text.split()}
    for line in runner.run(["cat", "/proc/locks"]).text.splitlines():
        lock = _LOCK.match(line)
        if lock is None or int(lock[3]) != one.inode:
            continue
        if devices and (int(lock[1], 16), int(lock[2], 16)) not in devices:
            continue
        if int(lock[4]) < _QEMU_BYTES.stop and (lock[5] == "EOF" or int(lock[5]) >= _QEMU_BYTES.start):
            return True
    return False


def _can_have_alone(
    runner: Runner, path: str, driver: str, denied: tuple[str, ...] = ("consistent-read", "write")
) -> bool:
    """Whether QEMU lets us open it (read-only) while we deny these to everyone else."""
    absolute(path)
    options = f"driver=blkdebug,image.driver={driver},image.filename={path.replace(',', ',,')},"
    options += ",".join(f"unshare-child-perms.{number}={one}" for number, one in enumerate(denied))
    result = runner.run(["qemu-io", "-r", "--image-opts", "-c", "length", options], check=False)
    # Some versions report a file that cannot be opened with status 0.
    if "Failed to get" in result.stderr or "another process" in result.stderr:
        return False
    if result.status != 0 or result.stderr.strip():
        raise ImageUnreadable(path, result.stderr.strip() or f"qemu-io ended with status {result.status}")
    return True


def _openers(runner: Runner, one: FileStat) -> tuple[tuple[tuple[int, str], ...], int]:
    names, unseen = _descriptors(runner, one)
    return _with_names(runner, {int(match[1]) for name in names if (match := _FD.match(name))}), unseen


def _descriptors(runner: Runner, one: FileStat) -> tuple[list[str], int]:
    """The descriptors (/proc/PID/fd/N) that the file is open by, and how many processes could not be looked at."""
    listing = runner.run(_DESCRIPTORS, check=False)
    if listing.status > 1:
        raise HostCommandFailed(_DESCRIPTORS[0], listing.status, listing.stderr.strip()[:500])
    unseen = set(re.findall(r"/proc/(\d+)/fd.*Permission denied", listing.stderr))
    return _opened(listing.text, one), len(unseen)


def _opened(listing: str, one: FileStat) -> list[str]:
    """Of a listing of all descriptors, those by which this file is open."""
    found: list[str] = []
    for line in listing.splitlines():
        device, inode, major, minor, name = line.split(" ", 4)
        number = (int(major, 16), int(minor, 16))
        same = number == one.device_number if one.kind == "block" else False
        if same or (int(device), int(inode)) == (one.device, one.inode):
            found += [name] if _FD.match(name) else []
    return found


def _writing(runner: Runner, descriptors: list[str]) -> list[str]:
    """Those of the descriptors (/proc/PID/fd/N) that can be written through."""
    infos = [name.replace("/fd/", "/fdinfo/") for name in descriptors]
    flags = runner.run(["grep", "-sH", "^flags:", "--", *infos], check=False).text if infos else ""
    return [
        f"/proc/{match[1]}/fd/{match[2]}"
        for line in flags.splitlines()
        if (match := re.match(r"/proc/(\d+)/fdinfo/(\d+):flags:\s*([0-7]+)$", line)) and int(match[3], 8) & 3
    ]


def _with_names(runner: Runner, processes: set[int]) -> tuple[tuple[int, str], ...]:
    """A process that has ended meanwhile is left out: it has nothing open any more."""
    if not processes:
        return ()
    comms = [f"/proc/{process}/comm" for process in sorted(processes)]
    result = runner.run(["grep", "-sH", ".", "--", *comms], check=False)
    pairs = (line.split(":", 1) for line in result.text.splitlines())
    return tuple((int(name.split("/")[2]), command) for name, command in pairs)
