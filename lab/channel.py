"""The host's side of a guest's channels: the collector process, and requests to labd through it."""

from __future__ import annotations

import os
import secrets
import socket
import struct
import subprocess
import time
from pathlib import Path

from lab import bootimage
from lab.errors import GuestRefused, GuestSilent, LabError
from lab.process import LAB_VARIABLE, ProcessId, kill_and_wait, tail, wait_until

_HEAD = struct.Struct("<IIHHI")
_MAGIC = 0x31434642
_REQUEST, _ANSWER = 1, 2


class Collector:
    """The process that receives everything the guest sends (native/collector.c); it outlives libvirtd and QEMU."""

    def __init__(self, directory: Path, lab: Path) -> None:
        self.directory = directory
        self._lab = lab
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        with (self.directory / "collector.log").open("a") as log:
            self._process = subprocess.Popen(
                [bootimage.program("collector"), self.directory],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, LAB_VARIABLE: str(self._lab)},
            )
        (self.directory / "collector.pid").write_text(str(self._process.pid))

        def is_ready() -> bool:
            if self._process is not None and self._process.poll() is not None:
                raise LabError(f"the collector ended at once\n{tail(self.directory / 'collector.log')}")
            return ready.exists()

        wait_until(is_ready, "the collector", timeout=20, step=0.005)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(timeout=20)
            self._process = None
            return
        process = ProcessId.of(int((self.directory / "collector.pid").read_text()))
        if process is not None and str(self.directory).encode() in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            kill_and_wait(process)


class Channel:
    """Asks labd. One connection a request: nothing to repair after anything restarts."""

    def __init__(self, directory: Path, guest: str) -> None:
        self._socket = directory / "command.sock"
        self._guest = guest

    def ask(self, text: str, *, timeout: float = 60) -> tuple[int, str]:
        """(status, answer). Raises GuestSilent when no answer came in `timeout` seconds of host time."""
        number = secrets.randbits(32)
        payload = text.encode()
        deadline = time.monotonic() + timeout
        with socket.socket(socket.AF_UNIX) as link:
            try:
                link.connect(str(self._socket))
                link.sendall(_HEAD.pack(_MAGIC, number, _REQUEST, 0, len(payload)) + payload)
                while True:
                    head = _HEAD.unpack(self._exactly(link, _HEAD.size, deadline))
                    answer = self._exactly(link, head[4], deadline)
                    if head[1] == number and head[2] == _ANSWER:
                        return head[3], answer.decode(errors="replace")
            except (TimeoutError, OSError) as why:
                what = text.split()[0]
                raise GuestSilent(f"guest {self._guest}: no answer to {what!r} in {timeout:g} s ({why})") from why

    def must(self, text: str, *, timeout: float = 60) -> str:
        """The answer; raises GuestRefused when the status is not 0."""
        status, answer = self.ask(text, timeout=timeout)
        if status != 0:
            raise GuestRefused(f"guest {self._guest}: {text.split(chr(10))[0][:200]!r}: status {status}: {answer}")
        return answer

    @staticmethod
    def _exactly(link: socket.socket, count: int, deadline: float) -> bytes:
        parts = b""
        while len(parts) < count:
            rest = deadline - time.monotonic()
            if rest <= 0:
                raise TimeoutError("time is up")
            link.settimeout(rest)
            got = link.recv(count - len(parts))
            if not got:
                raise OSError("the collector closed the connection")
            parts += got
        return parts
