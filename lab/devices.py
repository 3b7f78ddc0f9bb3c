"""A device that fails on purpose: one file whose reads and writes can be slow, fail, or hang, switched at any time.

nbdkit serves the image through its filters; nbdfuse shows what nbdkit serves as one file, for a loop device to stand
on (with direct I/O, so that nothing of it stays in the page cache). The kernel's own ways (device-mapper, nbd) are not
needed. A request that hangs makes its process unkillable, as on a real host; `fence` ends nbdfuse, and then all that
hung fails with EIO at once: the one thing that always helps.

While a device hangs, sync(2) of the whole machine hangs too, whoever calls it. So a hang is bounded: a watchdog fences
the device after LONGEST_HANG_S, even if the one who made it hang is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.process import LAB_VARIABLE, ProcessId, kill_and_wait, run, tail, wait_until

_FILTERS = ("--filter=pause", "--filter=error", "--filter=rate")

LONGEST_HANG_S = 240


@dataclass(frozen=True, slots=True)
class Device:
    """The failing file over `image`; everything of it lies in `directory`."""

    image: Path
    directory: Path
    lab: Path

    @property
    def file(self) -> Path:
        """What a loop device stands on."""
        return self.directory / "m" / "disk"

    def start(self) -> None:
        """Serve the image, without any fault. Nothing happens if it is served already."""
        if self.serves():
            return
        self.end()
        (self.directory / "m").mkdir(parents=True, exist_ok=True)
        self.file.touch()
        for fault in ("eio-write", "eio-read", "rate"):
            self._path(fault).unlink(missing_ok=True)
        self._spawn(
            "nbdkit", "--foreground", "--unix", self._path("nbd"), "--pidfile", self._path("nbdkit.pid"), *_FILTERS,
            "file", self.image, f"pause-control={self._path('pause')}",
            "error-pwrite=EIO", "error-pwrite-rate=100%", f"error-pwrite-file={self._path('eio-write')}",
            "error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={self._path('eio-read')}",
            f"rate-file={self._path('rate')}",
        )  # fmt: skip
        self._wait(lambda: self._path("nbdkit.pid").exists(), "nbdkit")
        fuse = self._spawn("nbdfuse", "--pidfile", self._path("nbdfuse.pid"), self.file, "--unix", self._path("nbd"))
        self._wait(lambda: fuse.poll() is not None or self._path("nbdfuse.pid").exists(), "nbdfuse")
        if fuse.poll() is not None:
            raise LabError(f"nbdfuse ended at once\n{tail(self._path('log'))}")

    def end(self) -> None:
        """End the processes and take the file away. Whoever still uses it gets EIO."""
        self.fence()
        self._kill("nbdkit")
        run(["umount", "-l", self.file], check=False)
        for name in ("nbd", "pause", "nbdkit.pid", "nbdfuse.pid"):
            self._path(name).unlink(missing_ok=True)
        _reap()

    def serves(self) -> bool:
        """Whether it is there: not ended, not fenced."""
        return self._process("nbdfuse") is not None

    # -- faults -------------------------------------------------------------------------------------------------

    def hang(self, at_most_s: float = LONGEST_HANG_S) -> None:
        """From now on no request is answered; returns when those under way are. Fenced after `at_most_s`."""
        process = self._process("nbdfuse")
        if process is None:
            raise LabError(f"device {self.directory.name}: it is not served")
        dog = self._spawn("sh", "-c", f"sleep {at_most_s:g}; kill -9 {process.pid}")
        self._path("watchdog.pid").write_text(str(dog.pid))
        self._pause(b"p", b"P")

    def go_on(self) -> None:
        """Answer everything that hangs, and what comes."""
        self._pause(b"r", b"R")
        self._call_off()

    def fail_writes(self, *, fail: bool = True) -> None:
        """Every write fails with EIO, from now on or no longer."""
        self._set("eio-write", present=fail)

    def fail_reads(self, *, fail: bool = True) -> None:
        """Every read fails with EIO; what the page cache holds is read from there."""
        self._set("eio-read", present=fail)

    def slow(self, bits_per_s: int) -> None:
        """Limit reads and writes, each; 0: as fast as it goes."""
        self._path("rate").write_text(f"{bits_per_s}\n")

    def fence(self) -> None:
        """Cut the device off for good: what hangs fails with EIO, and so does everything after."""
        self._kill("nbdfuse")
        self._call_off()

    # -- inside -------------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self.directory / name

    def _spawn(self, *argv: str | Path) -> subprocess.Popen[bytes]:
        _reap()
        with self._path("log").open("a") as log:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, LAB_VARIABLE: str(self.lab)},
            )
        _CHILDREN.append(child)
        return child

    def _wait(self, holds: object, what: str) -> None:
        assert callable(holds)
        wait_until(holds, what, timeout=20, step=0.01, report=lambda: tail(self._path("log")))

    def _process(self, name: str) -> ProcessId | None:
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._path(f"{name}.pid").read_text())
            if Path(f"/proc/{pid}/comm").read_text().strip() == name:
                return ProcessId.of(pid)
        return None

    def _kill(self, name: str) -> None:
        process = self._process(name)
        if process is not None:
            kill_and_wait(process, signal.SIGKILL)

    def _call_off(self) -> None:
        path = self._path("watchdog.pid")
        if path.exists():
            dog = ProcessId.of(int(path.read_text()))
            if dog is not None and b"kill -9" in Path(f"/proc/{dog.pid}/cmdline").read_bytes():
                os.killpg(dog.pid, signal.SIGKILL)  # its sleep too
            path.unlink()

    def _pause(self, order: bytes, answer: bytes) -> None:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(30)
            link.connect(str(self._path("pause")))
            link.sendall(order)
            if link.recv(1) != answer:
                raise LabError(f"device {self.directory.name}: nbdkit did not obey {order!r}")

    def _set(self, name: str, *, present: bool) -> None:
        if present:
            self._path(name).touch()
        else:
            self._path(name).unlink(missing_ok=True)


_CHILDREN: list[subprocess.Popen[bytes]] = []
"""What this process has started, until it has ended: they are found by their pid files, but only a parent can reap."""


def _reap() -> None:
    _CHILDREN[:] = [child for child in _CHILDREN if child.poll() is None]
