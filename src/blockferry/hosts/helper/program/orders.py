"""The orders of a guard, lines on standard input, and what it says: one JSON document a line on standard output.

A guard outlives whoever sent it: the end of its orders is news, and that nobody reads what it says is none.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
from typing import Any


class Orders:
    """`heard`: whether somebody is there who may give another order."""

    def __init__(self) -> None:
        self.heard = True
        self._rest = b""
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)

    def wait(self, seconds: float | None) -> list[str] | None:
        """Return the orders that have come; [] also at their end. None: none came within `seconds` (None: for ever)."""
        if not self._poll.poll(None if seconds is None else seconds * 1000):
            return None
        data = os.read(0, 4096)
        if not data:
            self.heard = False
            return []
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", "replace").strip() for line in lines]


def say(words: dict[str, Any]) -> None:
    """Say it to whoever sent us, who may be gone."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps(words).encode() + b"\n")


def stay() -> None:
    """Live on whatever becomes of the terminal, the helper and the link."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
