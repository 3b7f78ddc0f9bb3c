"""Watching the guest's writes while they are copied, and setting the copy's speed by them (storage_move/pace/rules.py).

A thread looks at QEMU's counters through libvirt's API, many times a second; the loop asks for the speed in its own
rounds. While the VM is suspended nothing is asked: those milliseconds are the guest's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType

from blockferry.base.errors import BlockferryError
from blockferry.hosts.disk_counters import Counters
from blockferry.storage_move.pace import latency
from blockferry.storage_move.pace.latency import GuestLatency, Interval, Rhythm
from blockferry.storage_move.pace.rules import START, Pace, Sample

LOOK_S = 0.05
"""A look costs libvirt and QEMU's main loop 1-5 ms a disk (docs/measured.md)."""

LOST_S = 1.0
BLIND_S = 3.0
"""When nobody has seen the guest's writes for so long, the copy goes at its least."""

KEPT = 100_000
"""Looks that are kept for the report: of a longer copy, the last."""


class Pacer:
    """Looks at the guest's writes while the context is open. `counters` may raise BlockferryError; `busy`: not now."""

    def __init__(self, counters: Callable[[], Mapping[str, Counters]], busy: Callable[[], bool]) -> None:
        self._counters = counters
        self._busy = busy
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._fresh: list[Interval] = []
        self._rhythms: dict[str, Rhythm] = {}
        self._all: deque[Interval] = deque(maxlen=KEPT)
        self._watched_s = 0.0
        self._copied = 0
        self._stepped_s: float | None = None
        self._looked_s = 0.0  # when a look last succeeded, or was not due
        self._trouble = ""  # why the last one failed
        self._thread = threading.Thread(target=self._run, name="pace", daemon=True)
        self.pace: Pace | None = None

    def __enter__(self) -> Pacer:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=LOST_S)  # a libvirt that hangs must not hold the process: the thread is a daemon

    def _begin_looking(self) -> None:
        """Only a move that needs it pays for the looks."""
        if self._thread.ident is None:
            self._looked_s = time.monotonic()
            self._thread.start()

    def measure(self, seconds: float, should_stop: Callable[[], bool]) -> GuestLatency:
        """The guest's writes over the next seconds (fewer when it should stop)."""
        self._begin_looking()
        self._take()
        began = time.monotonic()
        while time.monotonic() - began < seconds and not should_stop():
            time.sleep(LOOK_S)
        return latency.summary(self._take(), time.monotonic() - began)

    def begin(self, limit_s: float, speed: int = START) -> None:
        """From now on a speed can be asked for. `speed`: bytes/s to begin with."""
        self._begin_looking()
        self._take()
        self.pace = Pace(limit_s, speed)

    def afresh(self, limit_s: float) -> None:
        """Something else begins, beside which nobody knows yet what the guest can bear. What is reported goes on."""
        self._begin_looking()
        self._take()
        self.pace = Pace(limit_s) if self.pace is None else self.pace.afresh()

    def speed(self, now_s: float, copied: int, bandwidth: int) -> int:
        """The speed to set now, bytes/s for all disks together. `copied`: bytes that the copies have made in all."""
        assert self.pace is not None
        if self._stepped_s is not None and now_s - self._stepped_s < LOOK_S:
            return min(self.pace.speed, bandwidth or self.pace.speed)
        seconds = LOOK_S if self._stepped_s is None else now_s - self._stepped_s
        made, self._copied, self._stepped_s = max(0, copied - self._copied), copied, now_s
        intervals = self._take()
        self._all.extend(interval for interval in intervals if interval.writes)
        self._watched_s += seconds
        with self._lock:
            silence = max(self._rhythms.values(), key=lambda rhythm: rhythm.due, default=Rhythm())
        if now_s - self._looked_s > BLIND_S:
            self.pace = self.pace.blind(self._trouble, bandwidth)
            return self.pace.speed
        self.pace = self.pace.step(now_s, Sample(seconds, intervals, made, silence.silent_s, silence.due), bandwidth)
        return self.pace.speed

    def during(self) -> GuestLatency | None:
        """The guest's writes while it was copied; None without a look."""
        return latency.summary(self._all, self._watched_s) if self._watched_s else None

    def _take(self) -> tuple[Interval, ...]:
        with self._lock:
            found, self._fresh = tuple(self._fresh), []
        return found

    def _run(self) -> None:
        before: Mapping[str, Counters] = {}
        while not self._stop.wait(LOOK_S):
            if self._busy():
                before, self._looked_s = {}, time.monotonic()
                continue
            try:
                after = self._counters()
            except Exception as error:  # noqa: BLE001 - whatever it is: a thread that ends says nothing, for ever
                before = {}
                self._trouble = error.sentence if isinstance(error, BlockferryError) else repr(error)
                self._stop.wait(LOST_S)
                continue
            self._looked_s, self._trouble = time.monotonic(), ""
            if self._busy():
                before = {}
                continue
            self._look(before, after)
            before = after

    def _look(self, before: Mapping[str, Counters], after: Mapping[str, Counters]) -> None:
        with self._lock:
            for target, now in after.items():
                interval = latency.between(before[target], now) if target in before else None
                if interval is None:
                    self._rhythms.pop(target, None)
                else:
                    self._fresh.append(interval)
                    self._rhythms[target] = self._rhythms.get(target, Rhythm()).take(now.at_s, interval)
