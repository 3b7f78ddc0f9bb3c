"""Makes one image read like another, writing only where they differ: a process of its own, with libnbd's binding.

The wish: source, source_format, dest, dest_format (absolute paths; with dest_socket, `dest` is the name of an export on
that unix socket), rate (bytes/s that are read of the source, or written, 0 for no limit), chunk (bytes that are read at
once), write (false: only tell what differs), block (bytes that are compared as one).
Standard input is orders, a line each: another rate. At its end this ends: whoever wanted it is gone.
Standard output is JSON, one object a line: progress, and at the end one with "done". Data never leaves the host.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from blockferry.hosts.helper.program import nbd_binding

nbd: Any = None  # the binding, once it is loaded
WINDOW = 1024 * 1024 * 1024  # asked for at once when it is asked what is allocated
FLUSH_EVERY = 256 * 1024 * 1024  # of what was written: so much may have to be written once more after a crash
SHOW_EVERY_S = 0.3
FIRST_DIFFERENCES = 16
ZERO = 2  # NBD_STATE_ZERO of base:allocation


class ImageSide:
    """One image behind a qemu-nbd of its own, which ends with this process."""

    def __init__(self, path: str, image_format: str, *, writable: bool, socket: str | None = None) -> None:
        self.handle = nbd.NBD()
        self.handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        self.read_bytes = 0
        self._known: list[tuple[int, int, bool]] = []  # (start, end, reads as zeros)
        if socket is None:
            self._serve(path, image_format, writable=writable)
        else:
            self.handle.set_export_name(path)
            self.handle.connect_unix(socket)
        self.size = self.handle.get_size()

    def _serve(self, path: str, image_format: str, *, writable: bool) -> None:
        words = ["qemu-nbd", f"--format={image_format}", "--discard=unmap", "--detect-zeroes=off"]
        words += [] if writable else ["--read-only"]
        for cache in ("none", "writeback"):  # not every file system has O_DIRECT
            try:
                self.handle.connect_systemd_socket_activation([*words, f"--cache={cache}", "--", path])
                break
            except nbd.Error:
                if cache == "writeback":
                    raise
                self.handle = nbd.NBD()
                self.handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)

    def zeros_until(self, offset: int) -> tuple[bool, int]:
        """(whether it is known to read as zeros at `offset`, up to where that holds)."""
        while self._known and self._known[0][1] <= offset:
            self._known.pop(0)
        if not self._known:
            found: list[tuple[int, int, bool]] = []

            def take(_context: str, start: int, entries: list[int], _error: object) -> int:
                for length, flags in zip(entries[::2], entries[1::2]):  # noqa: B905 - Python 3.10
                    found.append((start, start + length, bool(flags & ZERO)))
                    start += length
                return 0

            self.handle.block_status(min(WINDOW, self.size - offset), offset, take)
            self._known = found
        return self._known[0][2], self._known[0][1]

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        return bytes(self.handle.pread(length, offset))


class Brake:
    """Keeps to a rate that may change at any time. Bytes/s; 0 for none."""

    def __init__(self, rate: int) -> None:
        self.changed = threading.Condition()
        self.rate = rate
        self.done = self.since_bytes = 0
        self.since = time.monotonic()

    def set(self, rate: int) -> None:
        with self.changed:
            self.rate, self.since_bytes, self.since = rate, self.done, time.monotonic()
            self.changed.notify()

    def wait(self, done: int, most_s: float) -> bool:
        """Wait until so many bytes may have been done, or for that long; whether there is more to wait for."""
        with self.changed:
            self.done = done
            if not self.rate:
                return False
            ahead = (done - self.since_bytes) / self.rate - (time.monotonic() - self.since)
            if ahead <= 0:
                return False
            self.changed.wait(min(ahead, most_s))
            return True

    def obey(self) -> None:
        """Take orders, in a thread. Not by sys.stdin: Python would die of its lock at the end of the main one."""
        rest = b""
        while got := os.read(0, 4096):
            *lines, rest = (rest + got).split(b"\n")
            if lines and lines[-1].isdigit():  # whatever else comes must not end this thread: it ends the program
                self.set(int(lines[-1]))
        os._exit(1)


class Sync:
    """The walk from the first byte to the last."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.source = ImageSide(wish["source"], wish["source_format"], writable=False)
        self.dest = ImageSide(wish["dest"], wish["dest_format"], writable=wish["write"], socket=wish.get("dest_socket"))
        self.write, self.block, self.chunk = wish["write"], wish["block"], wish["chunk"]
        self.brake = Brake(wish["rate"])
        self.size = self.source.size
        self.at = 0
        self.written = 0  # bytes of data
        self.zeroed = 0  # bytes that were made to read as zeros
        self.differing = 0
        self.first: list[int] = []
        self.unflushed = 0
        self.shown = 0.0
        self.pool = ThreadPoolExecutor(4)

    def pieces(self) -> Iterator[tuple[int, int, bool, bool]]:
        """(offset, length, source is zeros, dest is zeros), each of one kind and no longer than a chunk if read."""
        offset = 0
        while offset < self.size:
            source_zero, source_end = self.source.zeros_until(offset)
            dest_zero, dest_end = self.dest.zeros_until(offset)
            end = min(source_end, dest_end, self.size)
            if not (source_zero and dest_zero):
                end = min(end, offset - offset % self.chunk + self.chunk)
            yield offset, end - offset, source_zero, dest_zero
            offset = end

    def run(self) -> None:
        if self.dest.size < self.size or (not self.write and self.dest.size != self.size):
            raise SystemExit(f"the sizes differ: {self.size} and {self.dest.size}")
        waiting: list[tuple[int, int, Future[bytes] | None, Future[bytes] | None]] = []
        for offset, length, source_zero, dest_zero in self.pieces():
            if source_zero and dest_zero:
                source = dest = None
                if not waiting:
                    self.step(offset + length)
                    continue
            else:
                source = None if source_zero else self.pool.submit(self.source.read, offset, length)
                dest = None if dest_zero else self.pool.submit(self.dest.read, offset, length)
            waiting.append((offset, length, source, dest))
            if len(waiting) > 2:
                self.settle(*waiting.pop(0))
        for one in waiting:
            self.settle(*one)
        if self.write:
            self.dest.handle.flush()
        self.show(done=True)

    def settle(self, offset: int, length: int, source: Future[bytes] | None, dest: Future[bytes] | None) -> None:
        if source is not None or dest is not None:
            zeros = bytes(length)
            ours = zeros if source is None else source.result()
            theirs = zeros if dest is None else dest.result()
            if ours != theirs:
                self.differ(offset, ours, theirs)
        self.step(offset + length)

    def differ(self, offset: int, ours: bytes, theirs: bytes) -> None:
        """Write the blocks that differ, neighbours in one."""
        begin, length = None, len(ours)
        first = offset - offset % self.block
        for edge in range(first, offset + length, self.block):
            low, high = max(0, edge - offset), min(length, edge - offset + self.block)
            same = ours[low:high] == theirs[low:high]
            if same and begin is not None:
                self.put(offset + begin, ours[begin:low])
                begin = None
            elif not same and begin is None:
                begin = low
        if begin is not None:
            self.put(offset + begin, ours[begin:])

    def put(self, offset: int, data: bytes) -> None:
        self.differing += len(data)
        if len(self.first) < FIRST_DIFFERENCES:
            self.first.append(offset)
        if not self.write:
            return
        if data.count(0) == len(data):
            self.dest.handle.zero(len(data), offset)
            self.zeroed += len(data)
        else:
            self.dest.handle.pwrite(data, offset)
            self.written += len(data)
        self.unflushed += len(data)
        if self.unflushed >= FLUSH_EVERY:
            self.dest.handle.flush()
            self.unflushed = 0

    def step(self, at: int) -> None:
        self.at = at
        if time.monotonic() - self.shown >= SHOW_EVERY_S:
            self.show()
        while self.brake.wait(max(self.source.read_bytes, self.written), SHOW_EVERY_S):
            self.show()

    def show(self, *, done: bool = False) -> None:
        self.shown = time.monotonic()
        found = {
            "done": done,
            "at": self.at,
            "size": self.size,
            "source_read": self.source.read_bytes,
            "dest_read": self.dest.read_bytes,
            "written": self.written,
            "zeroed": self.zeroed,
            "differing": self.differing,
            "first": self.first,
        }
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


def alone(wish: dict[str, Any]) -> None:
    """Do it. Ends with a status other than 0 where that fails."""
    global nbd
    nbd = nbd_binding.load()
    try:
        sync = Sync(wish)
        threading.Thread(target=sync.brake.obey, daemon=True).start()
        sync.run()
    except nbd.Error as error:
        sys.exit(f"{error}")
