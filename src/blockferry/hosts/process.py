"""One program on a host: started, read, ended; and what it left behind.

A program must not outlive the one who asked for it: ssh does not kill the remote side when it is killed
itself, and nothing kills a local child when its parent dies of SIGKILL. So programs run under `_WATCH`, which
ends them as soon as standard input reaches end of file: when we close it, when we die, when the connection is
lost.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import IO

from blockferry.base.errors import HostCommandFailed, HostUnreachable

KILL_AFTER_S = 10.0
TIMED_OUT = 124  # the status that timeout(1) uses
SHOWN = 1000  # characters of an argument in an error; the programs that we send have more

# fd 3 is the pipe whose other end the caller holds. Status 255 is ssh's own word for "no connection", so it is
# never passed on.
_WATCH = f"""\
exec 3<&0
"$@" </dev/null 3<&- &
child=$!
{{ read -r _; kill "$child"; sleep {KILL_AFTER_S:.0f}; kill -9 "$child"; }} <&3 >/dev/null 2>&1 &
watcher=$!
exec 3<&-
wait "$child" 2>/dev/null
status=$?
kill "$watcher" 2>/dev/null
[ "$status" -eq 255 ] && status=254
exit "$status"
"""


def watched(argv: Sequence[str]) -> list[str]:
    """The argument list that runs `argv` and ends it when standard input reaches end of file."""
    return ["sh", "-c", _WATCH, "sh", *argv]


@dataclass(frozen=True, slots=True)
class Completed:
    """What a program left behind. `status` is its exit status, 128 + n when signal n ended it."""

    argv: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text; bytes that are not UTF-8 survive a round trip (surrogateescape)."""
        return self.stdout.decode("utf-8", "surrogateescape")


class Process:
    """A program that runs for long: read its output as it comes, end it early, learn how it ended.

    As a context manager it never leaves the program running.
    """

    def __init__(self, argv: Sequence[str], command: Sequence[str], env: Mapping[str, str], uri: str) -> None:
        """Start `command`, which runs `argv` on the host `uri`. Raises HostCommandFailed if it cannot start."""
        self.argv = tuple(argv)
        self.uri = uri
        self._words = ""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        ours, theirs = _pipe_for_child()
        self._leash: int | None = ours
        try:
            self._popen = spawn(self.argv, command, stdin=theirs, stderr=self._errors, env=env)
        except BaseException:
            self._let_go()
            self._errors.close()
            raise
        finally:
            os.close(theirs)

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def read(self, timeout_s: float | None = None) -> bytes | None:
        """The next bytes of standard output; b"" at its end, None when none came within `timeout_s`."""
        assert self._popen.stdout is not None
        descriptor = self._popen.stdout.fileno()
        if not readable(descriptor, timeout_s):
            return None
        return os.read(descriptor, 65536)

    def lines(self) -> Iterator[str]:
        """Standard output line by line, without the line ends."""
        rest = b""
        while chunk := self.read():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode("utf-8", "surrogateescape") for line in whole)
        if rest:
            yield rest.decode("utf-8", "surrogateescape")

    @property
    def stderr(self) -> str:
        """What it has said on standard error so far."""
        if self._errors.closed:
            return self._words
        return os.pread(self._errors.fileno(), 1 << 20, 0).decode("utf-8", "replace")

    def poll(self) -> int | None:
        """Its exit status (128 + n for signal n), or None while it runs."""
        status = self._popen.poll()
        return None if status is None else exit_status(status)

    def wait(self, timeout_s: float | None = None, *, check: bool = True) -> Completed:
        """Wait for its end; when `timeout_s` passes it is stopped. Raises HostCommandFailed, HostUnreachable."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        output = bytearray()
        while chunk := self.read(None if deadline is None else deadline - time.monotonic()):
            output += chunk
        try:
            if chunk is None:
                raise subprocess.TimeoutExpired(self.argv, timeout_s or 0.0)
            status = self._popen.wait(None if deadline is None else max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.terminate()
            raise too_slow(self.argv, timeout_s) from None
        result = Completed(self.argv, exit_status(status), bytes(output), self.stderr)
        return judge(result, self.uri, check=check)

    def terminate(self) -> None:
        """End it and wait until it is gone; nothing happens if it has ended. May be repeated.

        Raises HostCommandFailed if it cannot be killed (it hangs in the kernel: storage does not answer).
        """
        self._let_go()
        end(self._popen, self.argv)
        if self._popen.stdout is not None:
            self._popen.stdout.close()
        if not self._errors.closed:
            self._words = self.stderr
            self._errors.close()

    def _let_go(self) -> None:
        leash, self._leash = self._leash, None
        if leash is not None:
            os.close(leash)


def readable(descriptor: int, timeout_s: float | None) -> bool:
    """Wait until a descriptor can be read or is closed; False when `timeout_s` passes, None waits without a limit.

    Never select(2): it cannot take a descriptor above 1,023, and a process with that many open files exists.
    """
    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    return bool(poller.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))


def judge(result: Completed, uri: str, *, check: bool) -> Completed:
    """The result itself, or the error it stands for."""
    words = result.stderr.strip()
    if result.status == 255:
        raise HostUnreachable(uri, words.rstrip(".") or "ssh lost the connection")
    if check and result.status != 0:
        raise HostCommandFailed(shown(result.argv), result.status, words or "(it said nothing)")
    return result


def shown(argv: Sequence[str]) -> str:
    """A command for people: of an argument that is a whole program only the first line, of long ones the beginning."""
    words = [word if len(word) <= SHOWN else f"{word.splitlines()[0][:SHOWN]} ..." for word in argv]
    return shlex.join(words)


def too_slow(argv: Sequence[str], timeout_s: float | None) -> HostCommandFailed:
    """The error for a program that was stopped because it took too long."""
    return HostCommandFailed(shown(argv), TIMED_OUT, f"It did not end within {timeout_s or 0:g} s and was stopped.")


def exit_status(returncode: int) -> int:
    """The shell's number for the end of a child: 128 + n when signal n ended it."""
    return returncode if returncode >= 0 else 128 - returncode


def _pipe_for_child() -> tuple[int, int]:
    reading, writing = os.pipe()
    return writing, reading


def spawn(
    argv: Sequence[str], command: Sequence[str], *, stdin: int, stderr: int | IO[bytes], env: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, so that Ctrl-C at our terminal is ours alone."""
    try:
        return subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=dict(env),
            start_new_session=True,
        )
    except (OSError, ValueError) as error:  # not installed; a NUL byte in an argument
        raise HostCommandFailed(shown(argv), 127, str(error)) from None


def reap(popen: subprocess.Popen[bytes]) -> None:
    """Wait for a child that we leave to itself, in a thread: without that it stays as a zombie once it has ended."""
    if popen.poll() is None:
        threading.Thread(target=popen.wait, name=f"reap-{popen.pid}", daemon=True).start()


def end(popen: subprocess.Popen[bytes], argv: Sequence[str], patience_s: float = KILL_AFTER_S + 5) -> None:
    """Wait `patience_s` seconds for it to end by itself, then kill its whole session."""
    try:
        popen.wait(patience_s)
        return
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)
    try:
        popen.wait(KILL_AFTER_S)
    except subprocess.TimeoutExpired:
        raise HostCommandFailed(
            shown(argv),
            TIMED_OUT,
            f"It cannot be killed (process {popen.pid}): storage does not answer.",
        ) from None
