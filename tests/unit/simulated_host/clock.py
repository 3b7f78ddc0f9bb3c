"""The machine's time in place of the real one, in blockferry's own modules only."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

START = 1_700_000_000.0


class Clock:
    """`passes` is called whenever somebody waits, with the seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.passes: Callable[[float], None] = self._only_time

    def _only_time(self, seconds: float) -> None:
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return START + self.now

    def sleep(self, seconds: float) -> None:
        self.passes(max(0.0, seconds))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class Event:
    """threading.Event, whose `wait` lets the machine's time pass."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        left = 60.0 if timeout is None else timeout
        while not self._set and left > 0:
            step = min(left, 0.1)
            _current.sleep(step)
            left -= step
        return self._set


class _Threads:
    """The module `threading` with events of the machine's time."""

    Event = Event

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


class _Forward:
    """The module `time` as blockferry's modules see it: of the machine that is in use."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_current, name)


_current = Clock()


def use(clock: Clock) -> None:
    """This machine's time counts from now on."""
    global _current
    _current = clock


@contextlib.contextmanager
def installed(*with_events: ModuleType) -> Iterator[None]:
    """Have blockferry's modules (and tenacity, which they wait with) use the machine's time.

    `with_events`: modules that wait for events.
    """
    forward, changed = _Forward(), []
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("blockferry", "tenacity") and getattr(module, "time", None) is time:
            module.time = forward  # type: ignore[attr-defined]
            changed.append(module)
    for module in with_events:
        module.threading = _Threads()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in changed:
            module.time = time  # type: ignore[attr-defined]
        for module in with_events:
            module.threading = threading  # type: ignore[attr-defined]
