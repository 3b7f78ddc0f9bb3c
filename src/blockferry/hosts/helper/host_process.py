"""A module of the program that runs as a process of its own on the host: its output, its orders, its end."""

from __future__ import annotations

import contextlib
import json
import queue
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from blockferry.base.errors import HostCallFailed, HostCommandFailed, NoAnswer
from blockferry.hosts.helper.channel import Call

END_S = 15.0


class Running:
    """As a context manager it never leaves the process running."""

    def __init__(self, call: Call, what: str, owner: object) -> None:
        """`owner`: the session, which lives as long as this, however few others want it."""
        self._owner = owner
        self._call = call
        self._what = what
        self._ended = False
        self._rest = b""  # of its output: what has no end of a line yet

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.terminate()

    def read(self, timeout_s: float | None = None) -> bytes | None:
        """The next bytes of its output; b"" at its end, None when none came within `timeout_s`."""
        if self._ended:
            return b""
        with contextlib.suppress(queue.Empty):
            chunk = self._call.output.get(timeout=timeout_s)
            self._ended = not chunk
            return chunk
        return None

    def said(
        self, name: str, seconds: float, heard: Callable[[dict[str, Any]], None] = lambda _said: None
    ) -> dict[str, Any]:
        """The next thing that it says under this name, or of a problem; nothing if it does not in time.

        Of a process that says JSON documents, one a line. `heard` is told of each.
        """
        until = time.monotonic() + seconds
        while True:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                said = json.loads(line)
                heard(said)
                if name in said or "problem" in said:
                    return dict(said)
                continue
            chunk = self.read(max(0.0, until - time.monotonic()))
            if not chunk:
                return {}
            self._rest += chunk

    def order(self, line: str) -> None:
        """A line for its standard input; one that has ended hears nothing."""
        self._call.connection.tell({"to": self._call.number, "line": f"{line}\n"})

    def close(self) -> None:
        """No more orders: the end of its standard input."""
        self._call.connection.tell({"to": self._call.number, "close": True})

    @property
    def ended(self) -> bool:
        """Whether all of its output was read: nothing more will be said."""
        return self._ended

    @property
    def over(self) -> bool:
        """Whether it has ended, or cannot be heard any more."""
        return self._call.over.is_set()

    def wait(self) -> tuple[int, str]:
        """Wait for its end: (exit status, what it said on standard error).

        Raises HostUnreachable when the connection broke, HostCommandFailed when it could not be started.
        """
        self._call.over.wait()
        answer = self._call.answer
        if answer is None:
            raise self._call.connection.problem()
        if "error" in answer:
            error = answer["error"]
            if error["errno"]:
                raise HostCallFailed(self._what, 1, error["name"], error["errno"], error["name"])
            raise HostCommandFailed(self._what, 1, error["words"])
        return int(answer["result"]["status"]), str(answer["result"]["words"])

    def terminate(self) -> None:
        """End it and wait until it is gone. May be repeated. Raises NoAnswer when it cannot be ended."""
        if self._call.over.is_set():
            return
        self.close()
        if not self._call.over.wait(END_S):
            self._call.connection.tell({"to": self._call.number, "kill": True})
            if not self._call.over.wait(END_S):
                raise NoAnswer(f"end {self._what}", 124, "it cannot be killed: storage does not answer.")
