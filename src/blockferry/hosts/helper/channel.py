"""One running helper: what is asked of it, what it answers, and how its end is noticed.

Nobody who asks waits in a read or a write: two threads do that, so a helper that is frozen, and a link that is cut,
hold up only them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import signal
import subprocess
import tempfile
import threading
import time
from typing import Any

from blockferry.base.errors import BlockferryError, HelperEnded, HostCommandFailed, HostUnreachable
from blockferry.hosts.helper import text
from blockferry.hosts.helper.transport import Transport

_LOG = logging.getLogger(__name__)

BEAT_S = 5.0
"""So often something is said, and an answer expected, when nothing else is."""
SILENT_S = 30.0
"""A helper that has not answered for so long is given up: it answers while its storage hangs."""
START_S = 90.0
"""So long may it take until it says anything: ssh has to be let in, and the machine may be busy."""
LEAVE_S = 3.0
_NO_CONNECTION = 255  # ssh's own exit status
_BY_SIGNAL = 128  # from here on a shell tells of what was killed
_NAME = "python3 (blockferry's helper)"


class Call:
    """One question to one helper."""

    def __init__(self, connection: Channel, number: int) -> None:
        self.connection = connection
        self.number = number
        self.over = threading.Event()
        self.answer: dict[str, Any] | None = None  # None when the connection broke first
        self.output: queue.SimpleQueue[bytes] = queue.SimpleQueue()  # of a program; b"" is its end

    def end(self, answer: dict[str, Any] | None) -> None:
        """It is answered, or never will be."""
        self.answer = answer
        self.over.set()
        self.output.put(b"")

    def forget(self) -> None:
        """Nobody waits for the answer any more."""
        self.connection.forget(self.number)


class Channel:
    """A helper process, from its start to its end. It ends when `close` is called, and when this process ends."""

    def __init__(self, transport: Transport) -> None:
        """Start it; nothing is waited for. Raises HostCommandFailed when ssh or python3 is not there."""
        self.uri = transport.uri
        self.heard = 0  # lines so far
        self.greeted = False
        self.hello: dict[str, Any] = {}
        self.broken = threading.Event()
        self._why = ""
        self._said = ""
        self._status: int | None = None
        self._lock = threading.Lock()
        self._numbers = 0
        self._calls: dict[int, Call] = {}
        self._orders: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        try:
            self._popen = subprocess.Popen(
                transport.command(text.ARGV),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                env=dict(transport.env()),
                start_new_session=True,  # Ctrl-C at our terminal is ours alone
            )
        except OSError as error:
            self._errors.close()
            raise HostCommandFailed(_NAME, 127, str(error)) from None
        self._orders.put(text.program(transport.silence_s))
        for work in (self._write, self._read):
            threading.Thread(target=work, name=f"helper-{self._popen.pid}", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process on this machine: the helper itself, or ssh."""
        return self._popen.pid

    def ask(self, do: str, words: dict[str, Any]) -> Call:
        """Put a question; at once, also when the connection has broken: then the call is over already."""
        with self._lock:
            self._numbers += 1
            call = Call(self, self._numbers)
            if self.broken.is_set():
                call.end(None)
                return call
            self._calls[call.number] = call
        self._orders.put(json.dumps({"id": call.number, "do": do, "with": words}).encode() + b"\n")
        return call

    def tell(self, words: dict[str, Any]) -> None:
        """Say something that has no answer of its own."""
        self._orders.put(json.dumps(words).encode() + b"\n")

    def forget(self, number: int) -> None:
        """Drop a question; its answer, if one comes, goes nowhere."""
        with self._lock:
            self._calls.pop(number, None)

    def give_up(self, why: str) -> None:
        """End it from this side, because of that. Every question that is open breaks."""
        self._why = self._why or why
        with contextlib.suppress(OSError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._end()

    def let_go(self) -> None:
        """Have it end, and do not wait for that."""
        self._orders.put(None)

    def close(self) -> None:
        """Have it end, and do not wait for long: storage may not answer."""
        self.let_go()
        if not self.broken.wait(LEAVE_S):
            self.give_up("it was closed")

    @property
    def never_ran(self) -> bool:
        """Whether it is certain that nothing was done by it: python3 did not start, or not our program. A helper that
        was killed may have said no word and yet have done what it was told."""
        return not self.greeted and self._status is not None and 0 < self._status < _BY_SIGNAL

    def problem(self) -> BlockferryError:
        """What its end stands for."""
        words = self._said or self._why or "it ended"
        if self._status == _NO_CONNECTION or (self._why and not self.greeted):
            return HostUnreachable(self.uri, words.rstrip("."))
        if self.greeted:
            status = self._status or 0
            killed = f"it was killed by signal {-status}" if status < 0 and not self._why else ""
            return HelperEnded(self.uri, (self._said or killed or words).rstrip("."))
        return HostCommandFailed(_NAME, self._status or 1, words)

    def _write(self) -> None:
        assert self._popen.stdin is not None
        descriptor = self._popen.stdin.fileno()
        os.set_blocking(descriptor, False)
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        silence = _Silence(self)
        with contextlib.suppress(OSError):  # it has ended; the one who reads knows
            while not self.broken.is_set():
                try:
                    order = self._orders.get(timeout=BEAT_S)
                except queue.Empty:
                    order = b'{"ping":1}\n'
                if order is None:
                    break
                left = memoryview(order)
                silence.look()
                while left and not self.broken.is_set():
                    room.poll(BEAT_S * 1000)
                    silence.look()
                    with contextlib.suppress(BlockingIOError):
                        left = left[os.write(descriptor, left) :]
        with contextlib.suppress(OSError):
            self._popen.stdin.close()

    def _read(self) -> None:
        stdout = self._popen.stdout
        assert stdout is not None
        pieces: list[bytes] = []
        with contextlib.suppress(OSError, ValueError):
            while chunk := os.read(stdout.fileno(), 1 << 16):
                self.heard += 1
                *lines, rest = chunk.split(b"\n")
                for line in lines:
                    self._take(b"".join([*pieces, line]))
                    pieces = []
                pieces.append(rest)
        with contextlib.suppress(OSError):
            stdout.close()
        self._orders.put(None)
        try:
            self._status = self._popen.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(OSError):
                os.killpg(self._popen.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self._said = os.pread(self._errors.fileno(), 4096, 0).decode("utf-8", "replace").strip()
        self._end()
        self._errors.close()
        self._popen.wait()  # this thread is its own, and has nothing else to do

    def _take(self, line: bytes) -> None:
        try:
            words = json.loads(line)
            if "hello" in words:
                self.greeted, self.hello = True, words
            elif "there" in words:  # it has not heard of us for long, and carries out nothing until it does
                self.tell({"there": words["there"]})
            elif "out" in words:
                with self._lock:
                    running = self._calls.get(words["id"])
                if running is not None:
                    running.output.put(words["out"].encode("utf-8", "surrogateescape"))
            elif "id" in words:
                with self._lock:
                    call = self._calls.pop(words["id"], None)
                if call is not None:
                    call.end(words)
        except (ValueError, TypeError, AttributeError):
            # A start-up file of the remote shell that prints; it is no answer to anything
            _LOG.warning("the helper on %s said what is no answer: %r", self.uri, line[:200])

    def _end(self) -> None:
        with self._lock:
            self.broken.set()
            calls, self._calls = list(self._calls.values()), {}
        for call in calls:
            call.end(None)


class _Silence:
    """How long a helper has said nothing. By turns, none of which counts for more than it should take: we may have been
    frozen ourselves."""

    def __init__(self, connection: Channel) -> None:
        self._connection = connection
        self._heard = connection.heard
        self._at = time.monotonic()
        self._seconds = 0.0

    def look(self) -> None:
        """Give the connection up when it has been silent for too long."""
        now, heard = time.monotonic(), self._connection.heard
        self._seconds += min(now - self._at, 2 * BEAT_S)
        self._at = now
        if heard != self._heard:
            self._heard, self._seconds = heard, 0.0
        limit = SILENT_S if self._connection.greeted else START_S
        if self._seconds > limit:
            self._connection.give_up(f"it has not answered for {limit:.0f} s")
