"""When the guest's reports arrived: stalls, latencies, throughput.

Under TCG the guest's clocks stand still while the VM is suspended, so a stall is only visible on the host's clock:
gaps are taken from arrival times (CLOCK_MONOTONIC, the clock of time.monotonic_ns). Latencies are the guest's own.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from lab import ledger
from lab.guestspec import BLOCK


@dataclass(frozen=True, slots=True)
class Gap:
    """A time without any report; `begin_ns` is on the host's monotonic clock."""

    begin_ns: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Latencies:
    """Of acknowledged writes, in milliseconds of the guest's clock."""

    count: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Interval:
    begin_ns: int
    writes_per_s: float
    bytes_per_s: float


class Timing:
    """Questions about time.

    `since` and `until` are host monotonic nanoseconds; None: from the beginning, to the end.
    """

    def __init__(self, events: ledger.Events) -> None:
        self._events = events

    def _window(self, since: int | None, until: int | None) -> range:
        times = self._events.host_ns
        begin = 0 if since is None else bisect.bisect_left(times, since)
        end = len(times) if until is None else bisect.bisect_right(times, until)
        return range(begin, end)

    def _writes(self, since: int | None, until: int | None, serial: int | None) -> Iterator[int]:
        events = self._events
        for index in self._window(since, until):
            if events.kind[index] == ledger.WRITE and serial in (None, events.serial[index]):
                yield index

    def gaps(
        self, since: int | None = None, until: int | None = None, *, count: int = 10, serial: int | None = None
    ) -> list[Gap]:
        """The longest times without a report (with `serial`: without a write on that disk), longest first.

        The edges of the window count as reports.
        """
        chosen = self._window(since, until) if serial is None else self._writes(since, until, serial)
        times = [self._events.host_ns[index] for index in chosen]
        if since is not None:
            times.insert(0, since)
        if until is not None:
            times.append(until)
        found = [Gap(a, (b - a) / 1e9) for a, b in itertools.pairwise(times)]
        return sorted(found, key=lambda gap: -gap.seconds)[:count]

    def latencies(self, since: int | None = None, until: int | None = None, *, serial: int | None = None) -> Latencies:
        values = sorted(self._events.latency_us[index] / 1000 for index in self._writes(since, until, serial))
        if not values:
            return Latencies(0, 0.0, 0.0, 0.0)
        return Latencies(len(values), values[len(values) // 2], values[len(values) * 99 // 100], values[-1])

    def throughput(self, since: int | None = None, until: int | None = None, *, step_s: float = 1.0) -> list[Interval]:
        """Writes and bytes per second, one entry per `step_s` of host time."""
        events = self._events
        window = self._window(since, until)
        if not window:
            return []
        begin = since if since is not None else events.host_ns[window[0]]
        end = until if until is not None else events.host_ns[window[-1]]
        step = int(step_s * 1e9)
        writes = [0] * max(1, -(-(end - begin) // step))
        blocks = [0] * len(writes)
        for index in self._writes(since, until, None):
            slot = min((events.host_ns[index] - begin) // step, len(writes) - 1)
            writes[slot] += 1
            blocks[slot] += events.blocks[index]
        return [Interval(begin + n * step, writes[n] / step_s, blocks[n] * BLOCK / step_s) for n in range(len(writes))]
