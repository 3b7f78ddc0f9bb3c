"""What the guest's writes cost, from counters: QEMU tells how many ended and how long all of them took together.

libvirt 9 offers no more than that (docs/design/guest-latency.md), so a quantile is estimated. The counters are looked
at often. In one look only some writes have ended: the sum of their times is known, their spread is taken to be
exponential; a single write is known exactly. Slow writes are few in a look by nature (while they are slow, nothing
ends), so the estimate is best where it matters. How it compares with the judge inside the guest: docs/measured.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from blockferry.hosts.disk_counters import Counters

P99 = 0.99

RHYTHM_S = 2.0


@dataclass(frozen=True, slots=True)
class Interval:
    """What ended between two looks at one disk."""

    seconds: float
    writes: int
    mean_s: float  # of those writes; 0 when there were none
    bytes: int = 0

    def slower(self, limit_s: float) -> float:
        """How many of the writes took longer than that, as far as can be told: not always a whole number.

        Of n exponential times whose sum T is known, each exceeds c with the probability (1 - c/T)^(n-1).
        """
        total_s = self.writes * self.mean_s
        if total_s <= limit_s:
            return 0.0
        return float(self.writes * (1 - limit_s / total_s) ** (self.writes - 1))


@dataclass(frozen=True, slots=True)
class GuestLatency:
    """The guest's writes over some time, on all disks that were looked at. Seconds."""

    p50_s: float
    p99_s: float
    writes: int
    seconds: float

    @property
    def writes_per_s(self) -> float:
        return self.writes / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Rhythm:
    """How often writes end on one disk, and for how long none has. Seconds of any monotonic clock."""

    writes_per_s: float = 0.0  # forgotten over RHYTHM_S; as it was when the last write ended
    looked_s: float = 0.0
    ended_s: float = 0.0

    def take(self, now_s: float, interval: Interval) -> Rhythm:
        """After one more look."""
        if not interval.writes:
            return Rhythm(self.writes_per_s, now_s, self.ended_s or now_s)
        fade = math.exp(-(now_s - self.ended_s if self.ended_s else interval.seconds) / RHYTHM_S)
        rate = interval.writes / max(interval.seconds, now_s - self.ended_s if self.ended_s else 0.0)
        return Rhythm(self.writes_per_s * fade + rate * (1 - fade), now_s, now_s)

    @property
    def silent_s(self) -> float:
        return self.looked_s - self.ended_s

    @property
    def due(self) -> float:
        """How many writes would have ended in this silence, had the guest gone on as before."""
        return self.writes_per_s * self.silent_s


def between(before: Counters, after: Counters) -> Interval | None:
    """What ended between two looks; None when the counters began anew (another QEMU)."""
    writes, spent_ns = after.writes - before.writes, after.write_ns - before.write_ns
    if writes < 0 or spent_ns < 0 or after.at_s <= before.at_s:
        return None
    mean_s = spent_ns / writes / 1e9 if writes else 0.0
    return Interval(after.at_s - before.at_s, writes, mean_s, max(0, after.bytes - before.bytes))


def count(intervals: Iterable[Interval]) -> int:
    return sum(interval.writes for interval in intervals)


def slower(intervals: Iterable[Interval], limit_s: float) -> float:
    """How many of all writes took longer than that; estimated."""
    return sum(interval.slower(limit_s) for interval in intervals)


def quantile_s(intervals: Iterable[Interval], q: float) -> float:
    """The time that a share `q` of the writes did not exceed; estimated to a percent. 0 without a write."""
    busy = [interval for interval in intervals if interval.writes]
    allowed = count(busy) * (1 - q)
    if not busy:
        return 0.0
    low, high = 0.0, max(interval.writes * interval.mean_s for interval in busy)
    while high - low > max(1e-6, 0.01 * high):
        middle = (low + high) / 2
        if slower(busy, middle) > allowed:
            low = middle
        else:
            high = middle
    return high


def summary(intervals: Iterable[Interval], seconds: float) -> GuestLatency:
    """Median and p99 of what ended in that time."""
    seen = tuple(intervals)
    return GuestLatency(quantile_s(seen, 0.5), quantile_s(seen, P99), count(seen), seconds)
