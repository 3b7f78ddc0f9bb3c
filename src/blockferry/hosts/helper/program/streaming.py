"""A call that says something before it is over, and takes orders."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import Any


class Stream:
    """Between a process and whoever wanted it. Orders that come before it is there wait for it."""

    def __init__(self, say: Callable[[dict[str, Any]], None], number: int) -> None:
        self.say = say
        self.number = number
        self.lock = threading.Lock()
        self.process: Any | None = None
        self.waiting: list[dict[str, Any]] = []

    def tell(self, chunk: bytes) -> None:
        self.say({"id": self.number, "out": chunk.decode("utf-8", "surrogateescape")})

    def attach(self, process: Any) -> None:
        os.set_blocking(process.stdin.fileno(), False)  # the loop must not wait for one that does not read
        with self.lock:
            self.process = process
            waiting, self.waiting = self.waiting, []
            for words in waiting:
                self._obey(process, words)

    def detach(self) -> None:
        with self.lock:
            self.process = None

    def hear(self, words: dict[str, Any]) -> None:
        with self.lock:
            if self.process is None:
                self.waiting.append(words)
            else:
                self._obey(self.process, words)

    def _obey(self, process: Any, words: dict[str, Any]) -> None:
        stdin = process.stdin
        with contextlib.suppress(OSError, ValueError):
            if "kill" in words:
                process.kill()
            elif "close" in words:
                stdin.close()
            else:
                os.write(stdin.fileno(), words["line"].encode("utf-8", "surrogateescape"))
