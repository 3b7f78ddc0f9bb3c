"""Watches the destination of a copy, and cuts it off when it hangs for too long. Runs by itself on the copy's host.

This file is sent to the host's own python3 as it is (`images/watching.py` does that), so it imports nothing of
blockferry and nothing but the standard library.

argv[1] is JSON with `do`:

- `facts`: what the directories `paths` stand on, device by device, down to what answers or hangs. Printed as JSON.
- `answers`: write and flush once in each of the directories `paths`; the status tells.
- `others`: who else uses what would be cut off with `places`. Printed as JSON.
- `watch`: write and flush a nameless file in each place twice a second; tell on standard output what comes of it;
  take orders from standard input. When a place has not answered for `limit` seconds while the mode is `fence`, carry
  out its steps, unless somebody else uses that storage. Goes on when blockferry is gone, until the copy is closed, or
  until another watch of the same move takes over.

What hangs must not be touched by anybody but the threads that beat: the users of a storage are found by links and
tables of /proc and /sys alone, which the kernel answers from memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import mmap
import os
import re
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

BEAT_S = 0.5
TICK_S = 0.1
LATE_S = 1.0
CLOSED_LOOK_S = 1.0
AGAIN_S = 1.0  # a fence that may be needed more than once, and one that was refused
LOOK_LIMIT_S = 3.0
BACKSTOP = 6  # a device that answers others, but not us, is cut off after so many limits
LOOP_GET_STATUS64 = 0x4C05
MNT_FORCE = 1
NOT_A_VM = ("qemu-img", "qemu-io", "qemu-nbd", "sync", "stat", "cp", "dd", "rm", "fallocate", "python3", "sh")

Json = dict[str, Any]


# ---------------------------------------------------------------- the tables of the kernel


class Mount(NamedTuple):
    """One line of a mountinfo (proc(5))."""

    number: int
    device: str  # "major:minor" of the superblock
    point: str
    kind: str
    source: str
    options: str


def parse_mountinfo(text: str) -> list[Mount]:
    found = []
    for line in text.splitlines():
        front, _, back = line.partition(" - ")
        one, other = front.split(" "), back.split(" ")
        if len(one) > 5 and len(other) > 2:
            words = [re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), word) for word in (one[4], other[1])]
            found.append(Mount(int(one[0]), one[2], words[0], other[0], words[1], other[2]))
    return found


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """The mount that an absolute path lies on, by names alone; of several at one point the newest."""
    best = None
    for one in mounts:
        whole = path == one.point or path.startswith(one.point.rstrip("/") + "/")
        if whole and (best is None or len(one.point) >= len(best.point)):
            best = one
    return best


def number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def read(path: str) -> str:
    try:
        with open(path, errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""


def listed(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def linked(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


class Block(NamedTuple):
    """A block device by sysfs."""

    name: str  # "sda1"
    below: tuple[str, ...]  # the devices it stands on: slaves of dm and md, the disk of a partition
    backing_file: str = ""  # of a loop device, as it was named when the device was set up
    partition: bool = False


def block(device: str, sys_dir: str = "/sys") -> Block | None:
    home = os.path.realpath(f"{sys_dir}/dev/block/{device}")
    if not os.path.isdir(home):
        return None
    below = [read(f"{home}/slaves/{one}/dev") for one in listed(f"{home}/slaves")]
    partition = os.path.exists(f"{home}/partition")
    if partition:
        below.append(read(os.path.dirname(home) + "/dev"))
    backing = read(f"{home}/loop/backing_file")
    return Block(os.path.basename(home), tuple(one for one in below if one), backing, partition)


# ---------------------------------------------------------------- facts


def backing_device(name: str) -> str:
    """The superblock that a loop device's file lies on. By the kernel, not by the name: that may be another's."""
    try:
        descriptor = os.open(f"/dev/{name}", os.O_RDONLY)
    except OSError:
        return ""
    try:
        status = bytearray(232)
        fcntl.ioctl(descriptor, LOOP_GET_STATUS64, status)
        return number(struct.unpack_from("=Q", status)[0])
    except OSError:
        return ""
    finally:
        os.close(descriptor)


def facts(paths: list[str]) -> Json:
    """What the paths stand on. Touches them: only for storage that answers."""
    mounts = parse_mountinfo(read("/proc/self/mountinfo"))
    found: Json = {"root": os.geteuid() == 0, "paths": {}, "mounts": {}, "blocks": {}}
    found["fuse"] = listed("/sys/fs/fuse/connections")
    for path in paths:
        real = os.path.realpath(path)
        while not os.path.exists(real):
            real = os.path.dirname(real)
        device = number(os.stat(real).st_dev)
        here = mount_of(real, [one for one in mounts if one.device == device])
        found["paths"][path] = {"real": os.path.realpath(path), "device": device, "mount": here.point if here else ""}
        collect(device, mounts, found)
    return found


def collect(device: str, mounts: list[Mount], found: Json) -> None:
    """Take down a device, the file systems on it, and all that is below."""
    if device in found["blocks"] or (device.startswith("0:") and device in found["mounts"]):
        return
    here = [one for one in mounts if one.device == device]
    if here:
        one = here[0]
        members = btrfs_members(one.source) if one.kind == "btrfs" else []
        words = {"kind": one.kind, "source": one.source, "point": one.point, "options": one.options}
        found["mounts"][device] = {**words, "members": members}
        for member in members:
            collect(member, mounts, found)
    one_block = None if device.startswith("0:") else block(device)
    if one_block is None:
        return
    home = os.path.realpath(f"/sys/dev/block/{device}")
    below = list(one_block.below)
    if one_block.backing_file:
        below.append(backing_device(one_block.name) or "?")
    found["blocks"][device] = {
        "name": one_block.name,
        "below": below,
        "loop": bool(one_block.backing_file),
        "partition": one_block.partition,
        "dm_name": read(f"{home}/dm/name"),
        "dm_uuid": read(f"{home}/dm/uuid"),
        "scsi": os.path.exists(f"{home}/device/scsi_level"),
        "transport": "iSCSI" if "/session" in home else "Fibre Channel" if "/rport-" in home else "",
        "timeout": read(f"{home}/device/timeout"),
    }
    for one_below in below:
        collect(one_below, mounts, found)


def btrfs_members(source: str) -> list[str]:
    name = os.path.basename(os.path.realpath(source))
    for volume in listed("/sys/fs/btrfs"):
        members = listed(f"/sys/fs/btrfs/{volume}/devices")
        if name in members:
            return [read(f"/sys/fs/btrfs/{volume}/devices/{one}/dev") for one in members]
    return []


# ---------------------------------------------------------------- who else


class Open(NamedTuple):
    """A file that a process has open or mapped."""

    pid: int
    command: str
    path: str
    device: str  # of the superblock it lies on; "": unknown
    special: str = ""  # the number of the block device that it is


class Table(NamedTuple):
    """All that is needed to say who uses a storage, without touching it."""

    mounts: list[Mount]
    blocks: dict[str, Block]
    opened: list[Open]
    swaps: list[str]
    exports: list[str]


def table() -> Table:
    opened, mounts = processes()
    numbers = listed("/sys/dev/block")
    blocks = {one: found for one in numbers if (found := block(one)) is not None}
    swaps = [line.split()[0] for line in read("/proc/swaps").splitlines()[1:]]
    exports = [line.split()[0] for line in read("/proc/fs/nfsd/exports").splitlines() if line.startswith("/")]
    return Table(mounts, blocks, opened, swaps, exports)


def processes() -> tuple[list[Open], list[Mount]]:
    """Every file that any process has open or mapped, and every mount that any process sees."""
    seen: dict[str, None] = {}
    mounts: dict[int, Mount] = {}
    pids = [int(name) for name in listed("/proc") if name.isdigit() and int(name) != os.getpid()]
    for pid in (os.getpid(), *pids):
        space = linked(f"/proc/{pid}/ns/mnt")
        if space and space not in seen:
            seen[space] = None
            for mount in parse_mountinfo(read(f"/proc/{pid}/mountinfo")):
                mounts.setdefault(mount.number, mount)
    opened: list[Open] = []
    for pid in pids:
        command = read(f"/proc/{pid}/comm")
        opened.extend(_opened_by(pid, command, mounts))
        opened.extend(_mapped_by(pid, command))
    return opened, list(mounts.values())


def _opened_by(pid: int, command: str, mounts: dict[int, Mount]) -> Iterator[Open]:
    for name in listed(f"/proc/{pid}/fd"):
        path = linked(f"/proc/{pid}/fd/{name}")
        if not path.startswith("/"):
            continue
        match = re.search(r"^mnt_id:\s*(\d+)$", read(f"/proc/{pid}/fdinfo/{name}"), re.MULTILINE)
        mount = mounts.get(int(match[1])) if match else None
        special = ""
        if mount is not None and mount.kind in ("devtmpfs", "tmpfs"):  # held in memory: may be looked at
            with contextlib.suppress(OSError):
                stat = os.stat(f"/proc/{pid}/fd/{name}")
                special = number(stat.st_rdev) if stat.st_mode & 0o170000 == 0o060000 else ""
        yield Open(pid, command, path, mount.device if mount else "", special)


def _mapped_by(pid: int, command: str) -> Iterator[Open]:
    found = set()
    for line in read(f"/proc/{pid}/maps").splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith("/"):
            major, _, minor = words[3].partition(":")
            found.add((words[5], f"{int(major, 16)}:{int(minor, 16)}"))
    for path, device in sorted(found):
        yield Open(pid, command, path, device)


def standing_on(devices: set[str], known: Table) -> set[str]:
    """The devices (block devices and superblocks) that stand on these, and these."""
    found = set(devices)
    while True:
        more = {
            device
            for device, one in known.blocks.items()
            if found & set(one.below) or _lies_on(one.backing_file, found, known.mounts)
        }
        names = {f"/dev/{known.blocks[device].name}" for device in found | more if device in known.blocks}
        more |= {mount.device for mount in known.mounts if mount.source in names}
        if more <= found:
            return found
        found |= more


def _lies_on(path: str, devices: set[str], mounts: list[Mount]) -> bool:
    mount = mount_of(path, mounts) if path.startswith("/") else None
    return mount is not None and mount.device in devices


def others(place: Json, ours: set[str], known: Table) -> list[str]:
    """Who besides this move uses what would be cut off, in words for people; conservative where it cannot be told.

    `ours`: paths of the move's own new files and directories.
    """
    chain = set(place["chain"])
    cut = standing_on(set(place["cuts"]) | chain, known)
    found = []
    for device in sorted(cut - chain):
        one = known.blocks.get(device)
        if one is not None and not one.partition:
            found.append(f"/dev/{one.name} stands on it")
    for mount in known.mounts:
        if mount.device in cut - chain:
            found.append(f"{mount.source} is mounted at {mount.point}")
    points = [mount for mount in known.mounts if mount.device in cut]
    for one_open in known.opened:
        here = one_open.device in cut or one_open.special in cut
        if not one_open.device:
            here = here or mount_of(one_open.path.removesuffix(" (deleted)"), points) is not None
        if here and not _is_ours(one_open.path, ours):
            found.append(f"{one_open.command or 'a process'} ({one_open.pid}) has {one_open.path} open")
    numbers = {f"/dev/{one.name}": device for device, one in known.blocks.items()}
    for path in known.swaps:
        if numbers.get(path) in cut or _lies_on(path, cut, known.mounts):
            found.append(f"the host swaps to {path}")
    for path in known.exports:
        if _lies_on(path, cut, known.mounts):
            found.append(f"{path} is exported by NFS")
    return list(dict.fromkeys(found))


def _is_ours(path: str, ours: set[str]) -> bool:
    bare = path.removesuffix(" (deleted)")
    if bare in ours:
        return True
    directory, name = os.path.split(bare)
    nameless = path != bare and name.startswith(("#", ".blockferry-"))
    return nameless and directory in ours  # a watch's beat


def across(pairs: list[list[str]], opened: list[Open]) -> list[str]:
    """New images that somebody has open without the old one: they may be a disk already, so nobody may cut them off."""
    by_pid: dict[int, set[str]] = {}
    names: dict[int, str] = {}
    for one in opened:
        by_pid.setdefault(one.pid, set()).add(one.path)
        names[one.pid] = one.command
    return [
        f"{names[pid]} ({pid}) has {dest} open without {source}"
        for pid, paths in by_pid.items()
        if names[pid] not in NOT_A_VM
        for source, dest in pairs
        if dest in paths and source not in paths
    ]


# ---------------------------------------------------------------- the beat


class Beat(threading.Thread):
    """Writes and flushes one small file, and remembers since when it waits. Nobody else touches the storage."""

    def __init__(self, directory: str, move: str) -> None:
        super().__init__(name=f"beat-{directory}", daemon=True)
        self.directory = directory
        self.began: float | None = None  # monotonic seconds: of the one that is under way
        self.error = ""
        self.answers = 0
        self._name = f"{directory}/.blockferry-{move}-{os.getpid()}"
        self._file: int | None = None
        self._page = mmap.mmap(-1, 4096)

    def run(self) -> None:
        while True:
            self.began = time.monotonic()
            try:
                if self._file is None:
                    self._file = self._open()
                os.pwrite(self._file, self._page, 0)
                os.fdatasync(self._file)
                self.error = ""
            except OSError as error:  # an answer, too
                self.error = error.strerror or str(error)
            self.began = None
            self.answers += 1
            time.sleep(BEAT_S)

    def _open(self) -> int:
        """A file without a name: whatever becomes of us, nothing of it is left."""
        for flags in (os.O_TMPFILE | os.O_DIRECT, os.O_TMPFILE):
            with contextlib.suppress(OSError):
                return os.open(self.directory, flags | os.O_RDWR, 0o600)
        descriptor = os.open(self._name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        os.unlink(self._name)
        return descriptor


def answers(path: str) -> None:
    """One beat, here and now. Of a directory that is gone: where it would lie. Raises OSError."""
    while True:
        try:
            os.lstat(path)
            break
        except FileNotFoundError:  # nothing else: a file system that has failed says EIO
            path = os.path.dirname(path)
    beat = Beat(path, "answers")
    descriptor = beat._open()
    os.pwrite(descriptor, beat._page, 0)
    os.fdatasync(descriptor)


class Place:
    """One directory of the destination: its beat, and what was done about it."""

    def __init__(self, wish: Json, move: str) -> None:
        self.wish = wish
        self.beat = Beat(wish["directory"], move)
        self.steps: list[Json] = wish["steps"]
        self.answered_at = 0.0  # of the device below, by its counters
        self.blind_until = 0.0
        self.counters = ""
        self.silent = 0.0
        self.times = 0
        self.longest = 0.0
        self.refused = ""
        self.fenced: float | None = None  # after how many seconds
        self.tried_at = 0.0

    def look(self, now: float, late: bool, hanging_s: float, limit: float) -> None:
        """How long it has been silent. `late`: we were ourselves held up, so nothing is known of the time before."""
        counters = read(f"/sys/dev/block/{self.wish['counter']}/stat") if self.wish["counter"] else ""
        written = " ".join(counters.split()[4:5] + counters.split()[15:16])  # writes and flushes that were completed
        if written != self.counters:
            self.counters, self.answered_at = written, now
        if late:
            self.blind_until = now
        began, before = self.beat.began, self.silent
        if began is None:
            self.silent = 0.0
        else:
            alone = now - max(began, self.blind_until)
            self.silent = alone if limit and alone > BACKSTOP * limit else min(alone, now - self.answered_at)
        if self.silent >= hanging_s > before:
            self.times += 1
        if self.silent >= hanging_s:
            self.longest = max(self.longest, self.silent)
        elif before >= hanging_s:
            self.refused = ""

    def state(self) -> Json:
        return {
            "directory": self.wish["directory"],
            "silent": round(self.silent, 1),
            "times": self.times,
            "longest": round(self.longest, 1),
            "refused": self.refused,
            "fenced": self.fenced,
            "error": self.beat.error,
        }


# ---------------------------------------------------------------- one watch per move


class Claim:
    """A file below /run that names the one watch of a move that may act; and what was cut off already."""

    def __init__(self, move: str) -> None:
        home = "/run/blockferry" if os.geteuid() == 0 else f"/tmp/blockferry-{os.geteuid()}"
        os.makedirs(home, mode=0o700, exist_ok=True)
        if os.lstat(home).st_uid != os.geteuid():
            raise SystemExit(f"{home} is somebody else's")
        self.path = f"{home}/watch-{move}"
        self.token = f"{os.getpid()}-{time.monotonic_ns()}"
        self.before: Json = {}  # what watches before have cut off: directory -> after how many seconds
        with self._locked() as known:
            self.before = known.get("fenced", {})
            self._write({"token": self.token, "fenced": self.before})

    @contextlib.contextmanager
    def _locked(self) -> Iterator[Json]:
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)  # the one before has just taken it away
        try:
            self._file = descriptor
            try:
                yield json.loads(os.pread(descriptor, 65536, 0) or b"{}")
            except ValueError:
                yield {}
        finally:
            os.close(descriptor)

    def _write(self, words: Json) -> None:
        data = json.dumps(words).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))

    def holds(self) -> bool:
        with self._locked() as known:
            return bool(known.get("token") == self.token)

    def note(self, directory: str, after: float) -> bool:
        """Write down that it is cut off, before it is; False: another watch has taken over, and nothing may be done."""
        with self._locked() as known:
            if known.get("token") != self.token:
                return False
            self._write({"token": self.token, "fenced": {**known.get("fenced", {}), directory: after}})
            return True

    def end(self, keep: bool) -> None:
        with self._locked() as known:
            if known.get("token") == self.token and not (keep and known.get("fenced")):
                os.unlink(self.path)


class Watch:
    """The loop. Orders are lines on standard input: `look`, `fence`, `fence SECONDS`, `go`; each is answered."""

    def __init__(self, wish: Json) -> None:
        self.limit = float(wish["limit"])  # seconds, 0: never
        self.hanging_s = float(wish["hanging"])  # seconds: from then on it is told
        self.pairs: list[list[str]] = wish["pairs"]
        self.ours = set(wish["ours"])
        self.mode = wish["mode"]
        self.until: float | None = None
        self.claim = Claim(wish["watch"])
        self.places = [Place(one, wish["watch"]) for one in wish["places"]]
        for place in self.places:
            place.fenced = self.claim.before.get(place.wish["directory"])
            place.beat.start()
        self.parent = True
        self.told = ""
        self.rest = b""
        self.closed_at = 0.0

    def run(self) -> None:
        self.tell()  # first: what one before has cut off
        self.say({"ready": os.getpid()})
        while True:
            before = time.monotonic()
            if not self.orders():
                self.claim.end(keep=False)
                return
            now = time.monotonic()
            late = now - before > LATE_S
            for place in self.places:
                place.look(now, late, self.hanging_s, self.limit)
                self.see_to(place, now)
            self.tell()
            if now - self.closed_at > CLOSED_LOOK_S:
                self.closed_at = now
                if not self.claim.holds():
                    return
                if not self.parent and (not self.armed(now) or not self.copy_is_open()):
                    self.claim.end(keep=True)
                    return

    def armed(self, now: float) -> bool:
        return self.mode == "fence" and (self.until is None or now < self.until)

    def see_to(self, place: Place, now: float) -> None:
        """Cut it off if it is time."""
        if not (self.limit and place.steps and self.armed(now) and place.silent >= self.limit):
            return
        if now - place.tried_at < AGAIN_S:
            return
        place.tried_at = now
        if place.fenced is not None and not any(step.get("again") for step in place.steps):
            return
        place.refused = self.against(place)
        if time.monotonic() - now > LOOK_LIMIT_S + LATE_S:
            return  # frozen in between: it may have answered
        if place.refused or not self.claim.note(place.wish["directory"], place.silent):
            return
        if place.fenced is None:
            place.fenced = round(place.silent, 2)
        for step in place.steps:
            threading.Thread(target=carry_out, args=(step,), daemon=True).start()

    def against(self, place: Place) -> str:
        """Why it must not be cut off; "" when nothing is against it. Looks in a thread of its own, which may hang."""
        if place.wish["anyway"]:
            return "; ".join(across(self.pairs, processes()[0]))
        found: list[str] = []

        def ask() -> None:
            known = table()
            found[:] = ["", *across(self.pairs, known.opened), *others(place.wish, self.ours, known)]

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(LOOK_LIMIT_S)
        return "; ".join(found[1:4]) if found else "the users of the storage could not be listed"

    def copy_is_open(self) -> bool:
        dests = {dest for _, dest in self.pairs} | self.ours
        mine = str(os.getpid())
        for pid in listed("/proc"):
            if pid.isdigit() and pid != mine:
                for name in listed(f"/proc/{pid}/fd"):
                    if linked(f"/proc/{pid}/fd/{name}") in dests:
                        return True
        return False

    def orders(self) -> bool:
        """Take what the parent says; False when we are to go."""
        if not self.parent:
            time.sleep(TICK_S)
            return True
        ready, _, _ = select.select([0], [], [], TICK_S)
        if not ready:
            return True
        data = os.read(0, 4096)
        if not data:
            self.parent = False
            return True
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            words = line.decode().split()
            self.mode = words[0]
            self.until = time.monotonic() + float(words[1]) if len(words) > 1 else None
            self.say({"ok": words[0]})
            if words[0] == "go":
                return False
        return True

    def tell(self) -> None:
        words = {"places": [place.state() for place in self.places]}
        text = json.dumps(words)
        if text != self.told:
            self.told = text
            self.say(words)

    def say(self, words: Json) -> None:
        if self.parent:
            try:
                os.write(1, json.dumps(words).encode() + b"\n")
            except OSError:
                self.parent = False


def carry_out(step: Json) -> None:
    """One step of a fence. May hang: it has a thread of its own."""
    with contextlib.suppress(OSError):
        if step["kind"] == "write":
            with open(step["path"], "w") as file:
                file.write(step["text"])
        elif step["kind"] == "umount":
            # The system call, not umount(8): that looks at the mount point first, and hangs.
            ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(step["path"]), MNT_FORCE)
        else:
            subprocess.run(step["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)


def main() -> None:
    wish = json.loads(sys.argv[1])
    if wish["do"] == "facts":
        sys.stdout.write(json.dumps(facts(wish["paths"])))
    elif wish["do"] == "answers":
        for path in wish["paths"]:
            answers(path)
    elif wish["do"] == "others":
        known = table()
        sys.stdout.write(
            json.dumps([one for place in wish["places"] for one in others(place, set(wish["ours"]), known)])
        )
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        Watch(wish).run()
        os._exit(0)  # a beat that hangs holds nobody up


if __name__ == "__main__":
    main()
