"""One watch of a move may act, whoever started it; what it has fenced, the next one knows."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator

from blockferry.hosts.helper.program import state_directory
from blockferry.hosts.helper.program.watchdog.tables import Json


class Claim:
    """A file below /run that names the one watch of a move that may act; and what was fenced already."""

    def __init__(self, move: str) -> None:
        self.path = f"{state_directory.path()}/watch-{move}"
        self.token = f"{os.getpid()}-{time.monotonic_ns()}"
        self.before: Json = {}  # what watches before have fenced: directory -> after how many seconds
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
        """Write down that it is fenced, before it is; False: another watch has taken over, and nothing may be done."""
        with self._locked() as known:
            if known.get("token") != self.token:
                return False
            self._write({"token": self.token, "fenced": {**known.get("fenced", {}), directory: after}})
            return True

    def end(self, *, keep: bool) -> None:
        with self._locked() as known:
            if known.get("token") == self.token and not (keep and known.get("fenced")):
                os.unlink(self.path)
