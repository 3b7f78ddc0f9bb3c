"""The beat: a small write, flushed, again and again; and since when a directory has not answered it."""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
import time

from blockferry.hosts.helper.program.watchdog.tables import Json, read

BEAT_S = 0.5
BACKSTOP = 6  # a device that answers others, but not us, is fenced after so many limits


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
    try:
        os.pwrite(descriptor, beat._page, 0)
        os.fdatasync(descriptor)
    finally:  # the helper goes on; on NFS the file has a name (.nfs...) as long as it is open
        os.close(descriptor)


class WatchedDirectory:
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

    def look(self, now: float, *, late: bool, hanging_s: float, limit: float) -> None:
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
