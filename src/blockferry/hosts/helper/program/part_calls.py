"""Copies an image in parts by qemu-img, one after the other: what of it is done is known, whatever breaks.

Said on standard output: `{"at": N}`, bytes from the beginning, now and then; `{"done": N}` when a part is on the other
side's storage; `{"failed": STATUS, "program": ..., "words": ...}`. It ends, and its programs with it, when its orders
end.

qemu-img flushes when it closes the target, and ends with 0 also when that fails. So a part is done only after a flush
of the same export by a program of its own, whose exit status is looked at.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program.orders import say

PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")
CACHES = ("none", "writeback")
"""How the source is read: past the page cache; where its file system cannot do that, through it."""
MOST_WORDS = 4096


class Stopped(Exception):
    """The orders have ended."""


class Parts:
    """`argv`: of qemu-img without the images; `flush`: of what flushes the target. `source`, `target`: their options,
    without the place in them."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.argv: list[str] = wish["argv"]
        self.flush: list[str] = wish["flush"]
        self.source: str = wish["source"]
        self.target: str = wish["target"]
        self.at: int = wish["start"]
        self.end: int = wish["end"]
        self.step: int = wish["step"]
        self.caches = list(CACHES)

    def run(self) -> None:
        while self.at < self.end:
            size = min(self.step, self.end - self.at)
            status, words, moved = self.convert(size)
            if status == 0:
                status, words, _ = self.follow(self.flush)
                if status != 0:
                    say({"failed": status, "program": "qemu-io flush", "words": words})
                    return
                self.at += size
                say({"done": self.at})
            elif not moved and len(self.caches) > 1:
                self.caches.pop(0)  # qemu-img has one status for all; another error comes again
            else:
                say({"failed": status, "program": "qemu-img convert", "words": words})
                return

    def convert(self, size: int) -> tuple[int, str, bool]:
        """One part: as `follow`."""
        place = f"driver=raw,offset={self.at},size={size},"
        argv = [*self.argv, "-T", self.caches[0], "-t", "none", "--", place + self.source, place + self.target]
        return self.follow(argv, size)

    def follow(self, argv: list[str], size: int = 0) -> tuple[int, str, bool]:
        """Run a program, on `size` bytes: exit status, what it said on standard error, whether anything was done."""
        moved, rest = False, b""
        with tempfile.TemporaryFile() as errors:
            child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
            assert child.stdout is not None
            try:
                poll = select.poll()
                poll.register(0, select.POLLIN)
                poll.register(child.stdout, select.POLLIN)
                while True:
                    ready = [descriptor for descriptor, _ in poll.poll()]
                    if 0 in ready and not os.read(0, 4096):
                        raise Stopped
                    if child.stdout.fileno() not in ready:
                        continue
                    data = os.read(child.stdout.fileno(), 4096)
                    if not data:
                        break
                    rest = (rest + data)[-200:]
                    found = PERCENT.findall(rest)
                    if found and float(found[-1]) > 0:
                        moved = True
                        say({"at": self.at + int(size * min(100.0, float(found[-1])) / 100)})
                status = child.wait()
            finally:
                with contextlib.suppress(OSError):
                    child.kill()
                child.wait()
                child.stdout.close()
            words = os.pread(errors.fileno(), MOST_WORDS, 0).decode("utf-8", "replace").strip()
        return status if status >= 0 else 128 - status, words, moved


def alone(wish: dict[str, Any]) -> None:
    """Copy from `start` to `end`."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    with contextlib.suppress(Stopped):
        Parts(wish).run()


CALLS: dict[str, Callable[..., Any]] = {}
