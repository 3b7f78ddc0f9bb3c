"""Progress of a copy: the bulk, then passes over what changed. Pure: fed with samples, holds no clock.

QEMU's background mirror reports `cur` (bytes copied since the start) and `end` (bytes that are to be copied
in all); `end` grows by what the guest dirties. What is outstanding when the bulk is across is the first pass;
what is outstanding when that is across is the second; and so on. The sum of the passes is `end` less the
bulk, so no byte is counted twice or left out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

RATE_WINDOW_S = 4.0

STUCK_PASSES = 4
"""So many passes that do not shrink are called no convergence."""

FIRST_LOOK_S = 0.3
"""For so long a growing `end` is taken for QEMU's first look at the disk rather than for the guest's writes."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over changed blocks: what was outstanding at its start, and how long it took."""

    number: int
    size: int  # bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class Shown:
    """How far a copy is, in bytes that are read and written. `share`: of them in a byte of QEMU's own count."""

    bulk: int
    cur: int
    end: int
    share: float


@dataclass(frozen=True, slots=True)
class CopyProgress:
    """The progress of one disk's copy."""

    bulk: int = 0  # bytes of the first, full pass; 0 until the job has looked at the disk
    cur: int = 0
    end: int = 0
    goal: int = 0  # `cur` at which the present pass is over
    started_s: float = 0.0  # when the present pass began
    passes: tuple[Pass, ...] = ()
    samples: tuple[tuple[float, int, int], ...] = ()  # (seconds, cur, end) of the last RATE_WINDOW_S
    bulk_s: float | None = None  # how long the bulk took

    def sample(self, now_s: float, cur: int, end: int) -> CopyProgress:
        """The progress after one more look at the job. `now_s` is any monotonic clock."""
        if end == 0 or cur < self.cur:  # not initialised yet, or a new job
            fresh = CopyProgress(started_s=now_s, samples=((now_s, cur, end),))
            return fresh if end == 0 else replace(fresh, bulk=end, goal=end, cur=cur, end=end)
        samples = (*(sample for sample in self.samples if now_s - sample[0] <= RATE_WINDOW_S), (now_s, cur, end))
        if self.bulk == 0:
            return replace(self, bulk=end, goal=end, cur=cur, end=end, started_s=now_s, samples=samples)
        if now_s - self.started_s < FIRST_LOOK_S and not self.passes and self.bulk_s is None:
            # With synchronous writes `end` shows before QEMU has looked at the whole disk.
            return replace(self, bulk=end, goal=end, cur=cur, end=end, samples=samples)
        after = replace(self, cur=cur, end=end, samples=samples)
        if cur < self.goal:
            return after
        if after.bulk_s is None:
            after = replace(after, bulk_s=now_s - self.started_s)
        elif self.goal > self.pass_base:
            done = Pass(len(self.passes) + 1, self.goal - self.pass_base, now_s - self.started_s)
            after = replace(after, passes=(*self.passes, done))
        if end > cur or self.goal != cur:
            after = replace(after, goal=end, started_s=now_s)
        return after

    def planned_as(self, planned: int) -> Shown:
        """This progress in bytes that are really read and written, for people and for what is promised.

        QEMU's job may go over the whole disk and skip what reads as zeros (docs/measured.md): then `bulk` is the length
        of the disk, and counts for the bytes that were planned. What the guest changed is counted as it is.
        """
        if planned <= 0 or self.bulk <= planned:
            return Shown(self.bulk, self.cur, self.end, 1.0)
        share = planned / self.bulk
        cur = round(min(self.cur, self.bulk) * share) + max(0, self.cur - self.bulk)
        return Shown(planned, cur, planned + self.changed, share)

    @property
    def pass_base(self) -> int:
        """`cur` at which the present pass began."""
        return self.bulk + sum(pass_.size for pass_ in self.passes)

    @property
    def changed(self) -> int:
        """Bytes that were or are to be copied because the guest changed them."""
        return max(0, self.end - self.bulk)

    @property
    def remaining(self) -> int:
        return max(0, self.end - self.cur)

    @property
    def stuck(self) -> bool:
        """Whether pass after pass leaves as much as the one before: the guest writes as fast as we copy."""
        last = [pass_.size for pass_ in self.passes[-STUCK_PASSES:]]
        return len(last) == STUCK_PASSES and min(last) >= 0.9 * max(last) and self.expected_drain_s > 0.05

    @property
    def rate(self) -> float:
        """Bytes per second over the last seconds."""
        if len(self.samples) < 2:
            return 0.0
        (then_s, then, _), (now_s, now, _) = self.samples[0], self.samples[-1]
        return (now - then) / (now_s - then_s) if now_s > then_s else 0.0

    @property
    def window_s(self) -> float:
        """How long the samples behind `rate` and `dirty_rate` span."""
        return self.samples[-1][0] - self.samples[0][0] if self.samples else 0.0

    @property
    def dirty_rate(self) -> float:
        """Bytes per second over the last seconds that were copied already, and that the guest has changed since."""
        if self.window_s <= 0:
            return 0.0
        return max(0, self.samples[-1][2] - self.samples[0][2]) / self.window_s

    @property
    def peak_rate(self) -> float:
        """Bytes per second of the bulk: what the copy can do when there is something to copy."""
        if self.bulk_s:
            return self.bulk / self.bulk_s
        return self.rate

    @property
    def expected_drain_s(self) -> float:
        """Seconds to copy what is outstanding now; infinite while no rate is known."""
        return self.drain_s()

    def drain_s(self, at_least: float = 0.0) -> float:
        """The same for a copy that is known to make so many bytes/s, whatever it has shown yet."""
        if self.remaining == 0:
            return 0.0
        rate = max(self.peak_rate, self.rate, at_least)
        return self.remaining / rate if rate > 0 else float("inf")
