"""Who uses files of the host: processes, QEMU's image locks, and the kernel itself. Errors are told by their errno."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import os
import re
import stat
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from blockferry.hosts.helper.program import mount_table
from blockferry.hosts.helper.program.loop_table import loop_file
from blockferry.hosts.helper.program.mount_table import Mount, lies_in, unescaped

Identity = tuple[int, int]  # device and inode

SYS, PROC, DEV, RUN = "/sys", "/proc", "/dev", "/run"
GONE = (errno.ENOENT, errno.ESRCH, errno.ENOTDIR)

# QEMU (docs/system/images, "image locking"): byte 100 + n is locked by whoever uses permission n, byte 200 + n by
# whoever denies it to others. Permission 1 is writing, 3 is changing the size (include/block/block-common.h).
EVERY_PERMISSION = (100, 200)
WRITING = ((101, 1), (103, 1))
F_OFD_GETLK = 36  # linux/fcntl.h; the module fcntl has it since Python 3.9 only where it was built against it
# proc_locks(5). A line of one who waits has an arrow before its kind; "ACCESS" and leases are no locks of bytes.
LOCK = re.compile(rb"^\s*\d+:\s+(?:OFDLCK|POSIX)\s+\S+\s+\S+\s+-?\d+\s+([0-9a-f]+:[0-9a-f]+):(\d+)\s+(\d+)\s+(\d+|EOF)")
# File systems that only one host has mounted, and whose inodes have the same number in stat(2) and in the kernel.
LOCAL = frozenset(("ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs", "zfs", "f2fs", "jfs", "reiserfs", "ramfs"))
READS = 10  # until two in a row are alike

QEMU_NAMES = ("qemu-system", "qemu-kvm", "kvm")


class UsedFile(NamedTuple):
    """A file that is asked about. `devices`: its numbers, as stat(2) and as the kernel's tables have them."""

    path: str
    identity: Identity
    devices: frozenset[int]
    above: frozenset[Identity]  # the directories that it lies in
    block: int | None  # the number of the block device that it is
    local: bool  # of a file system that only this host has mounted

    def same(self, device: int, inode: int) -> bool:
        return inode == self.identity[1] and device in self.devices


class Kernel(NamedTuple):
    """What uses files without a process that has them open. `doubts`: what could not be looked at, clauses."""

    files: list[tuple[int, int, str, bool]]  # device, inode, who, whether it may write
    directories: list[tuple[Identity, str]]  # all that lies in it is used, and not written to
    doubts: list[str]


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def listed(path: str) -> list[str]:
    """The names in a directory, sorted; none when it is not there."""
    try:
        return sorted(os.listdir(path))
    except OSError as error:
        if error.errno in GONE:
            return []
        raise


def device_of(text: bytes, base: int = 10) -> int:
    major, _, minor = text.partition(b":")
    return os.makedev(int(major, base), int(minor, base))


def number_of(mount: Mount) -> int:
    """The device number of a mount's file system."""
    return device_of(os.fsencode(mount.device))


# ------------------------------------------------------------ the files that are asked about


def target(path: str, mounts: list[Mount]) -> UsedFile:
    """Raises OSError."""
    stat_result = os.stat(path)
    block = stat_result.st_rdev if stat.S_ISBLK(stat_result.st_mode) else None
    devices, above, real = {stat_result.st_dev}, set(), os.path.realpath(path)
    mount = next((mount for mount in reversed(mounts) if lies_in(real, mount.point)), None)
    if mount is not None:
        # btrfs has a device number of its own for each subvolume in stat(2), and the file system's elsewhere.
        devices.add(number_of(mount))
    for fromkey in dict.fromkeys((os.path.normpath(path), real)):
        while fromkey != "/":
            fromkey = os.path.dirname(fromkey)
            with contextlib.suppress(OSError):
                directory = os.stat(fromkey)
                above.add((directory.st_dev, directory.st_ino))
    local = block is None and mount is not None and mount.kind in LOCAL
    return UsedFile(path, (stat_result.st_dev, stat_result.st_ino), frozenset(devices), frozenset(above), block, local)


# ------------------------------------------------------------ processes


AGAIN_AFTER = (0.02, 0.2)
"""Seconds, before another look at a process that could be looked at only in part."""


class Processes(NamedTuple):
    """`found`: path -> {process: whether it can write to it}, of those that have it open or mapped.

    `unseen`: how many could not be looked at, or not wholly. `partly`: those of them that are not closed to us as a
    whole, as another user's process is to an ordinary user: something went wrong there, and it may hide somebody.
    """

    found: dict[str, dict[int, bool]]
    unseen: int
    partly: int


def processes(targets: list[UsedFile]) -> Processes:
    found: dict[str, dict[int, bool]] = {target.path: {} for target in targets}
    unseen = partly = 0
    for name in listed(PROC):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        closed = look_into(int(name), targets, found)
        for pause in AGAIN_AFTER:  # a process that is ending shows a part of itself for a moment
            if closed is not False:
                break
            time.sleep(pause)
            closed = look_into(int(name), targets, found)
        unseen += closed is not None
        partly += closed is False
    return Processes(found, unseen, partly)


def look_into(pid: int, targets: list[UsedFile], found: dict[str, dict[int, bool]]) -> bool | None:
    """Note what a process has open and mapped; each look by itself, so that one that fails hides no other.

    None: all was seen. True: the process is closed to us as a whole. False: a part could not be looked at.
    """

    def note(uses: Iterable[tuple[str, bool]]) -> int:
        """The error that it ended with; 0 for none, and for what has gone this moment."""
        try:
            for path, writes in uses:
                found[path][pid] = found[path].get(pid, False) or writes
        except OSError as error:
            return 0 if error.errno in GONE else error.errno or errno.EIO
        return 0

    numbers, shut = [], 0
    try:
        numbers = os.listdir(f"{PROC}/{pid}/fd")
    except OSError as error:
        shut = 0 if error.errno in GONE else error.errno or errno.EIO
    failed = [note(opened(pid, number, targets)) for number in numbers]
    of_maps = note(mapped(pid, targets))
    if not shut and not any(failed) and not of_maps:
        return None
    # Root without CAP_SYS_PTRACE, or against a security module, may list the descriptors and look at none of them.
    shut = shut or (errno.EACCES if failed and {*failed, of_maps} == {errno.EACCES} else 0)
    return shut == errno.EACCES and of_maps in (0, errno.EACCES)


def opened(pid: int, number: str, targets: list[UsedFile]) -> Iterator[tuple[str, bool]]:
    """Raises OSError when the descriptor cannot be looked at."""
    try:
        stat_result = os.stat(f"{PROC}/{pid}/fd/{number}")
    except OSError as error:
        if error.errno not in GONE and elsewhere(pid, number, targets):
            return
        raise
    for target in targets:
        device = target.block is not None and stat.S_ISBLK(stat_result.st_mode) and stat_result.st_rdev == target.block
        if device or (stat_result.st_dev, stat_result.st_ino) == target.identity:
            yield target.path, writable(pid, number)


def elsewhere(pid: int, number: str, targets: list[UsedFile]) -> bool:
    """Whether a descriptor lies for certain on another file system than all these files. FUSE refuses root a stat."""
    try:
        mount = re.search(rb"^mnt_id:\s*([0-9]+)", read(f"{PROC}/{pid}/fdinfo/{number}"), re.M)
        table = mount_table.parse(read(f"{PROC}/{pid}/mountinfo"))
    except OSError:
        return False
    for on in table:
        if mount is not None and on.number == int(mount[1]):
            return all(target.block is None and number_of(on) not in target.devices for target in targets)
    return False


def writable(pid: int, number: str) -> bool:
    """Whether it can be written to; also when that cannot be told."""
    try:
        flags = re.search(rb"^flags:\s*([0-7]+)", read(f"{PROC}/{pid}/fdinfo/{number}"), re.M)
    except OSError as error:
        return error.errno not in GONE
    return flags is None or bool(int(flags[1], 8) & 3)


def mapped(pid: int, targets: list[UsedFile]) -> Iterator[tuple[str, bool]]:
    """Files in its memory, which may have no descriptor any more. Raises OSError."""
    for line in read(f"{PROC}/{pid}/maps").splitlines():
        words = line.split(None, 5)
        if len(words) < 6 or words[4] == b"0":
            continue
        for target in targets:
            if target.same(device_of(words[3], 16), int(words[4])):
                yield target.path, words[1][1:2] == b"w" and words[1][3:4] == b"s"


def runs_vm(pid: int, name: str) -> bool:
    """Whether a process is the QEMU of a VM, by any sign: its name may be another one (`set_process_name` of libvirt's
    qemu.conf), and so may that of its program."""
    program = ""
    words: list[bytes] = []
    with contextlib.suppress(OSError):
        program = os.path.basename(os.readlink(f"{PROC}/{pid}/exe")).removesuffix(" (deleted)")
    with contextlib.suppress(OSError):
        words = read(f"{PROC}/{pid}/cmdline").split(b"\0")
    if name.startswith(QEMU_NAMES) or program.startswith(QEMU_NAMES) or b"-uuid" in words:
        return True
    if any(b"guest=" in words[at + 1] for at, word in enumerate(words[:-1]) if word == b"-name"):
        return True
    return pid in pid_files()


def pid_files() -> set[int]:
    """The processes that libvirt's own files name, of the system's instance and of users'."""
    found = set()
    for pattern in ("libvirt/qemu/*.pid", "user/*/libvirt/qemu/run/*.pid"):
        for path in glob.glob(f"{RUN}/{pattern}"):
            with contextlib.suppress(OSError, ValueError):
                found.add(int(read(path)))
    return found


def name_of(pid: int) -> str | None:
    """None: it has ended, and has nothing open any more."""
    try:
        return os.fsdecode(read(f"{PROC}/{pid}/comm").rstrip(b"\n"))
    except OSError:
        return None


def hidden() -> bool:
    """Whether /proc does not show us other users' processes (proc(5), hidepid)."""
    if os.geteuid() == 0:
        return False
    options = re.search(rb" /proc proc (\S+)", read(f"{PROC}/self/mounts"))
    return options is not None and re.search(rb"hidepid=[^0o]", options[1]) is not None


# ------------------------------------------------------------ QEMU's locks


def locks_on(path: str) -> dict[str, Any]:
    """`used`: somebody holds any lock of QEMU's; `written`: of one who writes. Or `errno`, and whether it was `opened`.
    Takes no lock itself.

    The kernel asks the server of a network file system, so that users on other hosts are seen.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return {"errno": error.errno, "opened": False}
    try:
        return {"used": locked(file, *EVERY_PERMISSION), "written": any(locked(file, *one) for one in WRITING)}
    except OSError as error:
        return {"errno": error.errno, "opened": True}
    finally:
        os.close(file)


def locks_of(used_file: UsedFile) -> dict[str, Any]:
    """As `locks_on`. Of a file that we may not open, the kernel's table tells, which everybody may read: libvirt gives
    the image of a VM that runs to QEMU's user alone."""
    answer = locks_on(used_file.path)
    if answer.get("opened", True):
        return answer
    held, all_seen = locks_in_table(used_file)
    found = {"used": overlaps(held, *EVERY_PERMISSION), "written": any(overlaps(held, *single) for single in WRITING)}
    # The table has no locks of other hosts.
    return found if found["used"] or (all_seen and used_file.local) else answer


def overlaps(held: set[tuple[int, float]], start: int, length: int) -> bool:
    return any(first < start + length and last >= start for first, last in held)


def locks_in_table(used_file: UsedFile) -> tuple[set[tuple[int, float]], bool]:
    """The (first, last) bytes of it that somebody has locked, and whether that is certain to be all.

    The kernel gives the table page by page, and skips a lock when one before it goes away between two pages.
    """
    held: set[tuple[int, float]] = set()
    before: set[bytes] | None = None
    for _ in range(READS):
        try:
            lines = read(f"{PROC}/locks").splitlines()
        except OSError:
            return held, False
        for match in filter(None, map(LOCK.match, lines)):
            if used_file.same(device_of(match[1], 16), int(match[2])):
                held.add((int(match[3]), float("inf") if match[4] == b"EOF" else int(match[4])))
        # Their ordinal numbers change with any lock before them.
        now = {line.partition(b":")[2] for line in lines}
        if now == before:
            return held, True
        before = now
    return held, False


def locked(file: int, start: int, length: int) -> bool:
    """Whether a lock of somebody else would keep us from locking these bytes. Raises OSError."""
    flock = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    answered = fcntl.fcntl(file, F_OFD_GETLK, flock)
    return bool(struct.unpack_from("h", answered)[0] != fcntl.F_UNLCK)


# ------------------------------------------------------------ the kernel's own users


def mounts_here() -> list[Mount]:
    return mount_table.parse(read(f"{PROC}/self/mountinfo"))


def mounts_of_all() -> list[Mount]:
    """Of every mount namespace that a process lives in: a container has its own."""
    seen, found = set(), []
    for name in ["self", *(name for name in listed(PROC) if name.isdigit())]:
        with contextlib.suppress(OSError):  # ended, or not ours to see: `processes` counts those
            space = os.readlink(f"{PROC}/{name}/ns/mnt")
            if space not in seen:
                found += mount_table.parse(read(f"{PROC}/{name}/mountinfo"))
                seen.add(space)
    return list(dict.fromkeys(found))


def kernel(targets: list[UsedFile], here: list[Mount]) -> Kernel:
    """Everything of the kernel's that uses a file. Software RAID, device mapper and network block devices stand on
    loop devices or on processes when they stand on files, so these tell of them."""
    kernel = Kernel([], [], [])
    looks = (
        ("loop devices", loops),
        ("swap files", swaps),
        ("SCSI and NVMe targets", targets_of_kernel),
        ("NFS clients", nfs_clients),
        ("mounts", lambda known: mounted(known, targets, here)),
    )
    for what, look in looks:
        try:
            look(kernel)
        except (OSError, ValueError) as error:
            why = os.strerror(error.errno or 0) if isinstance(error, OSError) else "they cannot be read"
            kernel.doubts.append(f"the host's {what} cannot be looked at ({why})")
    return kernel


def add(kernel: Kernel, path: str, who: str) -> None:
    """Note who uses the file of this path; that it cannot be looked at is a doubt about every file."""
    try:
        stat_result = os.stat(path)
    except OSError as error:
        kernel.doubts.append(f"{who} uses {path}, which cannot be looked at ({os.strerror(error.errno or 0)})")
        return
    kernel.files.append((stat_result.st_dev, stat_result.st_ino, who, True))


def loops(kernel: Kernel) -> None:
    for name in listed(f"{SYS}/block"):
        if not name.startswith("loop"):
            continue
        try:
            path = unended(read(f"{SYS}/block/{name}/loop/backing_file"))
        except OSError as error:
            if error.errno in (*GONE, errno.ENXIO):
                continue  # it stands on nothing
            raise
        try:  # the device itself knows, whatever has become of the name
            number, inode = loop_file(f"{DEV}/{name}")
            kernel.files.append((number, inode, f"loop device /dev/{name}", True))
        except OSError as error:
            if error.errno != errno.ENXIO:
                add(kernel, path, f"loop device /dev/{name}")


def unended(line: bytes) -> str:
    return os.fsdecode(line.rstrip(b"\n"))


def swaps(kernel: Kernel) -> None:
    for line in read(f"{PROC}/swaps").splitlines()[1:]:
        words = line.split()
        if len(words) > 1 and words[1] == b"file":  # the kernel lets nobody unlink one
            add(kernel, unescaped(words[0]), "the host's swap")


def targets_of_kernel(kernel: Kernel) -> None:
    """Files that the kernel serves to others as disks: LIO (iSCSI, FC, vhost-scsi), NVMe, USB."""
    config = f"{SYS}/kernel/config"
    for module, directory in (("target_core_file", "target"), ("nvmet", "nvmet")):
        if os.path.isdir(f"{SYS}/module/{module}") and not os.path.isdir(f"{config}/{directory}"):
            kernel.doubts.append(f"the kernel may serve it ({module} is loaded, and {config} is not mounted)")
    if not os.path.isdir(config):
        return
    for core in (f"{config}/target/core/{one}" for one in listed(f"{config}/target/core")):
        for store in (f"{core}/{one}" for one in listed(core) if os.path.isdir(f"{core}/{one}")):
            info = re.search(rb"File: (.*?)\s+Size: ", read_if_there(f"{store}/info"))
            if info is not None:
                add(kernel, os.fsdecode(info[1]), f"the SCSI target {os.path.basename(store)}")
    places = [("nvmet/subsystems/*/namespaces/*/device_path", "an NVMe target")]
    places += [("usb_gadget/*/functions/mass_storage.*/lun.*/file", "a USB gadget")]
    for pattern, who in places:
        for place in glob.glob(f"{config}/{pattern}"):
            path = unended(read_if_there(place))
            if path.startswith("/"):
                add(kernel, path, who)


def read_if_there(path: str) -> bytes:
    try:
        return read(path)
    except OSError as error:
        if error.errno in (*GONE, errno.ENODEV):
            return b""
        raise


def nfs_clients(kernel: Kernel) -> None:
    """What clients of this host's own NFS server have open; NFS before version 4 does not tell the server."""
    base = f"{PROC}/fs/nfsd/clients"
    for client in listed(base):
        for line in read_if_there(f"{base}/{client}/states").splitlines():
            place = re.search(rb'superblock: "([0-9a-f]+:[0-9a-f]+):(\d+)"', line)
            if place is not None:
                kernel.files.append(
                    (device_of(place[1], 16), int(place[2]), "a client of this host's NFS server", True)
                )


def mounted(kernel: Kernel, targets: list[UsedFile], here: list[Mount]) -> None:
    """Files that are mounted themselves, and directories of which an overlay is made. `here`: what we see mounted."""
    points = {mount.point for mount in here}
    inodes = {target.identity[1] for target in targets}
    for mount in mounts_of_all():
        if mount.kind == "overlay":
            for directory in layers(mount.options):
                with contextlib.suppress(OSError):  # a container's, which it sees by other paths than we do
                    stat_result = os.stat(directory)
                    who = f"the overlay file system at {mount.point} (made of {directory}, in which it lies)"
                    kernel.directories.append(((stat_result.st_dev, stat_result.st_ino), who))
        elif mount.kind == "erofs" and mount.source.startswith("/"):
            with contextlib.suppress(OSError):
                stat_result = os.stat(mount.source)
                kernel.files.append(
                    (stat_result.st_dev, stat_result.st_ino, f"the file system at {mount.point}", False)
                )
        # Only of a local file: another one may not answer.
        same = (
            mount.root != "/"
            and mount.point in points
            and any(number_of(mount) in target.devices for target in targets)
        )
        if same:
            with contextlib.suppress(OSError):
                stat_result = os.stat(mount.point)
                if stat.S_ISREG(stat_result.st_mode) and stat_result.st_ino in inodes:
                    kernel.files.append((stat_result.st_dev, stat_result.st_ino, f"the mount at {mount.point}", False))


def layers(options: str) -> Iterator[str]:
    """The directories of an overlay, as its options name them: a colon that belongs to a name has a backslash."""
    for option in os.fsencode(options).split(b","):
        key, _, value = option.partition(b"=")
        if key in (b"lowerdir", b"lowerdir+", b"datadir+", b"upperdir"):
            for one in re.split(rb"(?<!\\):+", re.sub(rb"\\134", rb"\\", value)):
                path = unescaped(one.replace(b"\\:", b":"))
                if path.startswith("/"):
                    yield path


# ------------------------------------------------------------ all together


def look(paths: list[str], *, locks: bool) -> dict[str, Any]:
    """`files`: path -> `errno`, or `openers` ([process, name, writes, runs a VM]), `kernel` ([who, writes]), `locks`.

    `unseen`: how many processes could not be looked at; `partly`: how many of them only in part, which is one of the
    `doubts` too: what else could not.
    """
    here = mounts_here()
    files: dict[str, dict[str, Any]] = {}
    targets = []
    for path in paths:
        try:
            targets.append(target(path, here))
        except OSError as error:
            files[path] = {"errno": error.errno}
    found, unseen, partly = processes(targets)
    known = kernel(targets, here)
    for used_file in targets:
        files[used_file.path] = {
            "openers": sorted(described(found[used_file.path])),
            "kernel": sorted(kernel_users(used_file, known)),
            "locks": locks_of(used_file) if locks else {},
        }
    doubts = [*known.doubts, *(["the host hides other users' processes (hidepid)"] if hidden() else [])]
    if partly:
        doubts.append(f"{partly} of the host's processes could be looked at only in part")
    return {"files": files, "unseen": unseen, "partly": partly, "doubts": doubts}


def described(pids: dict[int, bool]) -> Iterator[tuple[int, str, bool, bool]]:
    for pid, writes in pids.items():
        name = name_of(pid)
        if name is not None:
            yield pid, name, writes, runs_vm(pid, name)


def kernel_users(used_file: UsedFile, known: Kernel) -> Iterable[tuple[str, bool]]:
    found = {(who, writes) for device, inode, who, writes in known.files if used_file.same(device, inode)}
    return found | {(who, False) for directory, who in known.directories if directory in used_file.above}


CALLS: dict[str, Callable[..., Any]] = {"look": look}
