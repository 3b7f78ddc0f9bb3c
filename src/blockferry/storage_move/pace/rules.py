"""How fast the copy may go without the guest's writes breaking their contract. Pure: fed with samples, no clock.

The speed follows the guest as a congestion window follows a network. Nobody knows what the device can bear; it
shows, by latency, shortly before it is too much:

- at first the speed doubles every 0.3 s, from a careful start;
- where the p99 passes 0.7 of the limit, it steps back a little, before anything is broken;
- where more writes than the contract allows were slower than the limit, or the writes stay away that were due, it is
  cut, by up to a half, and that speed is remembered as a ceiling;
- afterwards it grows by the room that is left (so it comes to rest where the p99 is 0.7 of the limit): quickly up to
  near the ceiling, slowly past it, then quickly again. The more of the contract's one percent is used up, the slower.

Silence is not idleness: a starved guest has no write ending for a second, and looks like one that writes nothing. So
a silence longer than the limit, in which many writes were due at the guest's rate so far, is answered by a cut. It is
taken back as soon as the next write shows that the guest had only paused.

Measured (docs/measured.md): QEMU copies a whole buffer at once and rests for the remainder of its 100 ms slice. With
16 MiB, a limited copy gives the guest spikes of 30 ms at any speed, and an unlimited one a second; with 1 MiB 3-4 ms.
So every copy has a small buffer (`COPY_BUFFER`), and only then the speed is what matters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from blockferry.base.units import MiB, format_duration, format_rate
from blockferry.storage_move.pace import latency
from blockferry.storage_move.pace.latency import P99, GuestLatency, Interval
from blockferry.storage_move.request import LatencyContract

FLOOR = 4 * MiB
"""Bytes/s for all disks together below which no contract brings the copy: it shall end some day."""

START = 16 * MiB
FASTEST = 64 * 1024 * MiB

SYNCHRONOUS_LIMIT_S = 0.050
"""The p99 of the guest's writes above which a copy that they wait for (a mirror) goes slower, without any contract.

At full speed the background part of a mirror fills the destination's queues, and a write of the guest stands behind it:
up to 1.4 s were seen (docs/pace.md). It begins at full speed, so a guest that does not write notices nothing of it.
"""

NOISE_S = 0.002
"""A slowdown is not held against less than this: a p99 of some seconds is not known better."""

UNKNOWN_BASELINE_S = 0.020
"""The limit of a slowdown when the guest wrote next to nothing before the copy, so that nothing can be compared."""

BASELINE_WRITES = 20
"""With fewer writes there is no baseline."""

RECENT_S, RECENT_WRITES, RECENT_MOST_S = 1.0, 100, 5.0
"""What is judged: the last second, or as long as it takes to have so many writes, but no longer than that."""

EASE_WRITES = 20
"""A p99 of fewer writes is no reason to step back before anything is broken."""

SETTLE_S = 0.25
"""After a step down: what was in QEMU's and the device's queues ends, then it is looked at again."""

SOFT, CAREFUL = 0.7, 0.5
"""The share of the limit that the p99 may reach; and with half of the contract's one percent used up."""

PRESUMED_S = 2.0
"""After so long a silence the guest is taken to be idle after all."""

CUT, BRAKE = 0.7, 0.5
SLOW_START = 10.0
GROWTH, GROWTH_NEAR, GROWTH_CAREFUL = 3.0, 1.06, 1.025
"""Growth in a second, with all the room there is: before anything was too much (doubles every 0.3 s), away from the
ceiling, near it, and near it with half of the contract's one percent used up."""

CEILING_S, CEILING_CAREFUL_S = 5.0, 20.0
"""How long a ceiling is remembered: guest and device change."""
DUE = 10.0
"""So many writes must have been due in a silence for it to count: a guest that writes at random
intervals is silent for so long once in e^10 times."""


def limit_s(contract: LatencyContract, before: GuestLatency | None) -> float:
    """The p99 that the guest's writes may have, in seconds."""
    if contract.latency_s is not None:
        return contract.latency_s
    if before is None or before.writes < BASELINE_WRITES:
        return UNKNOWN_BASELINE_S
    assert contract.slowdown is not None
    return max(NOISE_S, before.p99_s * contract.slowdown)


def hopeless(limit: float, before: GuestLatency | None) -> bool:
    """Whether the guest's writes are slower than the contract without any copy."""
    return before is not None and before.writes >= BASELINE_WRITES and before.p99_s > limit


@dataclass(frozen=True, slots=True)
class Sample:
    """What happened since the last one. Seconds and bytes."""

    seconds: float
    intervals: tuple[Interval, ...]
    copied: int
    silent_s: float = 0.0  # for so long no write has ended on one disk, up to now
    due: float = 0.0  # so many would have, had the guest gone on as before


@dataclass(frozen=True, slots=True)
class Pace:
    """The controller's state; `step` gives the next one. Speeds are bytes/s for all disks together."""

    limit_s: float
    speed: int = START
    reason: str = "a careful start"
    ceiling: float | None = None  # the speed that was too much
    ceiling_s: float = 0.0  # when it was
    settled_s: float = -math.inf  # until then it is not looked at
    recent: tuple[tuple[float, Interval], ...] = ()
    copied: tuple[tuple[float, float, int], ...] = ()  # (when, seconds, bytes) of the last RECENT_S
    writes: int = 0
    slow: float = 0.0  # of them, slower than the limit
    presumed: tuple[int, float | None, float] | None = None  # (speed, ceiling, ceiling_s) before a cut for a silence
    silent_s: float = 0.0  # of the silence that has counted

    @property
    def has_slowed(self) -> bool:
        """Whether the copy was too fast for the guest so far, at some time."""
        return self.ceiling is not None

    def blind(self, why: str, bandwidth: int) -> Pace:
        """The speed while nobody sees the guest's writes: that they are not seen does not say that there are none."""
        speed = min(FLOOR, bandwidth or FLOOR)
        words = f"at its least ({format_rate(speed)}): the guest's writes cannot be watched{why and f' ({why})'}"
        return replace(self, speed=speed, reason=words, recent=(), presumed=None)

    def afresh(self) -> Pace:
        """What the guest can bear is not known any more; how it has fared is."""
        return Pace(self.limit_s, writes=self.writes, slow=self.slow)

    @property
    def within(self) -> float:
        """The share of the guest's writes that kept the limit."""
        return 1.0 if not self.writes else 1.0 - min(1.0, self.slow / self.writes)

    def step(self, now_s: float, sample: Sample, bandwidth: int) -> Pace:
        """The speed from now on. `bandwidth` is the user's own limit, 0 for none."""
        after = self._take(now_s, sample)
        after = after._stalled(now_s, sample) or after._judge(now_s, sample)
        if bandwidth and after.speed >= bandwidth:
            return replace(after, speed=bandwidth, reason="the limit that was set")
        return after

    def _take(self, now_s: float, sample: Sample) -> Pace:
        kept = self._kept(now_s)
        fresh = (
            ()
            if now_s < self.settled_s
            else tuple((now_s, interval) for interval in sample.intervals if interval.writes)
        )
        ended = latency.count(sample.intervals)
        slow = latency.slower(sample.intervals, self.limit_s)
        copied = tuple(one for one in self.copied if now_s - one[0] <= RECENT_S)
        return replace(
            self,
            recent=(*kept, *fresh),
            copied=(*copied, (now_s, sample.seconds, sample.copied)),
            writes=self.writes + ended,
            slow=self.slow + slow,
            silent_s=0.0 if sample.silent_s < self.silent_s else self.silent_s,
        )._recover(ended, slow)

    def _recover(self, ended: int, slow: float) -> Pace:
        """After a cut for a silence: the next writes tell whether it was one."""
        if self.presumed is None or not ended:
            return self
        if slow >= 0.5:
            return replace(self, presumed=None)
        speed, ceiling, ceiling_s = self.presumed
        return replace(
            self, speed=max(self.speed, speed), ceiling=ceiling, ceiling_s=ceiling_s, settled_s=-math.inf, presumed=None
        )

    def _kept(self, now_s: float) -> tuple[tuple[float, Interval], ...]:
        kept: list[tuple[float, Interval]] = []
        writes = 0
        for at_s, interval in reversed(self.recent):
            age_s = now_s - at_s
            if age_s > RECENT_MOST_S or (age_s > RECENT_S and writes >= RECENT_WRITES):
                break
            kept.append((at_s, interval))
            writes += interval.writes
        return tuple(reversed(kept))

    @property
    def reached(self) -> float:
        """Bytes/s that the copy has really made of late."""
        seconds = sum(one[1] for one in self.copied)
        return sum(one[2] for one in self.copied) / seconds if seconds > 0 else 0.0

    def _stalled(self, now_s: float, sample: Sample) -> Pace | None:
        """A step down because writes are due that do not end."""
        if sample.silent_s <= self.limit_s or sample.due < DUE or self.silent_s:
            return None
        why = f"none of the guest's writes has ended for {format_duration(sample.silent_s)}"
        before = self.presumed or (self.speed, self.ceiling, self.ceiling_s)
        return replace(self._down(now_s, BRAKE, why), presumed=before, silent_s=sample.silent_s)

    def _judge(self, now_s: float, sample: Sample) -> Pace:
        if now_s < self.settled_s or (self.presumed is not None and sample.silent_s < PRESUMED_S):
            return self
        intervals = [one for _, one in self.recent]
        writes = latency.count(intervals)
        slow = latency.slower(intervals, self.limit_s)
        p99 = latency.quantile_s(intervals, P99)
        figures = f"p99 of the guest's writes {format_duration(p99)}, limit {format_duration(self.limit_s)}"
        if slow >= 0.5 and slow > (1 - P99) * writes:
            return self._down(now_s, BRAKE if slow > 0.1 * writes else CUT, figures)
        if p99 > self._soft_s and writes >= EASE_WRITES:
            return self._down(now_s, max(0.85, float((self._soft_s / p99) ** 0.3)), figures)
        return self._up(now_s, sample.seconds, p99, figures if writes else "the guest writes nothing")

    @property
    def _careful(self) -> bool:
        """Whether half of what the contract allows is used up."""
        return self.slow > 1 and self.slow > 0.5 * (1 - P99) * self.writes

    @property
    def _soft_s(self) -> float:
        return self.limit_s * (CAREFUL if self._careful else SOFT)

    def _down(self, now_s: float, factor: float, why: str) -> Pace:
        """Step down from what the copy really does: a speed that it does not reach is no brake."""
        base = min(float(self.speed), max(FLOOR, 1.5 * self.reached))
        if self.speed <= FLOOR:
            words = f"at its least ({format_rate(FLOOR)}), so that it ends: {why}"
        else:
            words = f"slowed down: {why}"
        learned = factor <= CUT or self.ceiling is None
        return replace(
            self,
            speed=max(FLOOR, int(base * factor)),
            reason=words,
            ceiling=base if learned else self.ceiling,
            ceiling_s=-math.inf if base <= 2 * FLOOR else now_s if learned else self.ceiling_s,  # not our doing
            settled_s=now_s + SETTLE_S,
            recent=(),
        )

    def _up(self, now_s: float, seconds: float, p99: float, why: str) -> Pace:
        if self.speed > 4 * max(float(FLOOR), self.reached):
            return replace(self, reason=f"more than the copy can use: {why}")
        room = max(0.0, 1 - p99 / self._soft_s) * self._evidence(now_s)
        speed = self.speed * self._growth(now_s) ** (room * min(seconds, 0.5))
        return replace(self, speed=int(min(FASTEST, max(FLOOR, speed))), reason=f"room for it: {why}")

    def _evidence(self, now_s: float) -> float:
        """How sure it is that there is room: a guest that writes seldom tells little; one that is idle has no say."""
        writes = latency.count(one for at_s, one in self.recent if now_s - at_s <= RECENT_S)
        return max(0.1, min(1.0, writes / RECENT_WRITES)) if self.recent else 1.0

    def _growth(self, now_s: float) -> float:
        if self.ceiling is None:
            return SLOW_START
        remembered = now_s - self.ceiling_s < (CEILING_CAREFUL_S if self._careful else CEILING_S)
        if not remembered or not 0.85 < self.speed / self.ceiling < 1.1:
            return GROWTH
        return GROWTH_CAREFUL if self._careful else GROWTH_NEAR
