"""The pace of a copy, against simulated devices that guest and copy share."""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import pytest
from decide_support import make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.base.units import MiB
from blockferry.hosts.disk_counters import Counters
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.context import Context
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.pace import effects as pace_effects
from blockferry.storage_move.pace import rules as pace_rules
from blockferry.storage_move.pace.effects import Pacer
from blockferry.storage_move.pace.latency import GuestLatency, Interval, Rhythm, between
from blockferry.storage_move.pace.rules import FLOOR, Pace, Sample
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import LatencyContract
from blockferry.storage_move.switch import block_jobs

pytestmark = pytest.mark.slow

TICK_S = 0.001
LOOK_S = 0.05
STEP_S = 0.1


@dataclass
class Bursts:
    """A device that serves in order. QEMU copies whole buffers until the quota of its 100 ms slice is used up."""

    capacity: float  # bytes/s
    base_s: float = 0.001
    buffer: int = 1 * MiB
    backlog: float = 0.0
    quota: float = 0.0

    def tick(self, now_s: float, speed: float, guest_bytes: float, _random: random.Random) -> tuple[float, float]:
        """Time passes: (bytes copied, seconds that a write which comes now takes)."""
        if round(now_s / TICK_S) % 100 == 0:
            self.quota = min(self.quota, 0.0) + speed * 0.1
        copied = 0.0
        self.backlog = max(0.0, self.backlog + guest_bytes - self.capacity * TICK_S)
        if self.quota > 0 and self.backlog < self.buffer:
            copied = self.buffer - self.backlog
            self.quota -= copied
            self.backlog += copied
        return copied, self.base_s + self.backlog / self.capacity


@dataclass
class Loaded:
    """A device whose latency grows with its load, to the sky near its capacity (M/M/1), each write for itself."""

    capacity: float
    base_s: float = 0.001
    load: float = 0.0

    def tick(self, _now_s: float, speed: float, guest_bytes: float, chance: random.Random) -> tuple[float, float]:
        guest = guest_bytes / TICK_S
        copied = min(speed, max(0.05 * self.capacity, self.capacity - guest))
        self.load += ((copied + guest) / self.capacity - self.load) * 0.02  # queues fill and drain within 50 ms
        return copied * TICK_S, chance.expovariate(1.0) * self.base_s / max(0.004, 1 - self.load)


@dataclass
class Run:
    """A copy under a contract, for some simulated seconds."""

    device: Bursts | Loaded
    limit_s: float
    guest: Callable[[float], float]  # second -> writes/s
    bandwidth: int = 0
    seed: int = 1
    block: int = 16384
    start: int = pace_rules.START
    speeds: list[int] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    writes: list[tuple[float, float]] = field(default_factory=list)  # (when it began, seconds)
    state: Pace | None = None

    def go(self, seconds: float) -> Run:
        chance = random.Random(self.seed)
        now = Pace(self.limit_s, self.start)
        pending: list[tuple[float, float]] = []  # (when it ends, seconds)
        ended, spent_ns = 0, 0
        rhythm = Rhythm()
        before = Counters(0.0, 0, 0)
        intervals: list[Interval] = []
        copied = 0.0
        for tick in range(1, round(seconds / TICK_S) + 1):
            now_s = tick * TICK_S
            rate = self.guest(now_s)
            come = int(rate * TICK_S) + (chance.random() < rate * TICK_S % 1)
            made, takes = self.device.tick(now_s, now.speed, come * self.block, chance)
            copied += made
            for _write in range(come):
                pending.append((now_s + takes, takes))
                self.writes.append((now_s, takes))
            for one in [one for one in pending if one[0] <= now_s]:
                pending.remove(one)
                ended, spent_ns = ended + 1, spent_ns + int(one[1] * 1e9)
            if tick % round(LOOK_S / TICK_S) == 0:
                after = Counters(now_s, ended, spent_ns)
                if found := between(before, after):
                    intervals.append(found)
                    rhythm = rhythm.take(now_s, found)
                before = after
            if tick % round(STEP_S / TICK_S) == 0:
                sample = Sample(STEP_S, tuple(intervals), int(copied), rhythm.silent_s, rhythm.due)
                now = now.step(now_s, sample, self.bandwidth)
                self.speeds.append(now.speed)
                self.copied.append(copied / STEP_S)
                intervals, copied = [], 0.0
        self.state = now
        return self

    def within(self, since_s: float = 0.0, until_s: float = 1e9) -> float:
        """The share of the writes that kept the limit, by the simulation's own knowledge."""
        took = [takes for at, takes in self.writes if since_s <= at < until_s]
        return sum(one <= self.limit_s for one in took) / len(took)

    def speed_between(self, since_s: float, until_s: float) -> list[int]:
        return self.speeds[round(since_s / STEP_S) : round(until_s / STEP_S)]

    def rate_between(self, since_s: float, until_s: float) -> float:
        return statistics.mean(self.copied[round(since_s / STEP_S) : round(until_s / STEP_S)])


def steady(rate: float) -> Callable[[float], float]:
    return lambda _now_s: rate


@pytest.mark.parametrize("capacity", [50 * MiB, 200 * MiB, 1000 * MiB])
def test_a_copy_that_begins_at_full_speed_is_slowed_for_a_guest_that_waits(capacity: int) -> None:
    """What a mirror without a contract does: the first second may hurt, then the guest's writes keep the limit."""
    run = Run(Loaded(capacity), pace_rules.SYNCHRONOUS_LIMIT_S, steady(300), start=pace_rules.FASTEST).go(40)
    assert run.state is not None
    assert run.state.has_slowed
    assert run.within(since_s=3.0) > 0.97
    assert run.rate_between(10, 40) > 0.4 * (capacity - 300 * run.block)


def test_a_copy_that_begins_at_full_speed_stays_there_beside_an_idle_guest() -> None:
    run = Run(Loaded(200 * MiB), pace_rules.SYNCHRONOUS_LIMIT_S, steady(0), start=pace_rules.FASTEST).go(20)
    assert run.state is not None
    assert not run.state.has_slowed
    assert min(run.speeds) == pace_rules.FASTEST


@pytest.mark.parametrize("capacity", [50 * MiB, 200 * MiB, 1000 * MiB])
@pytest.mark.parametrize("rate", [50, 400])
def test_the_contract_holds_and_the_device_is_used(capacity: int, rate: int) -> None:
    run = Run(Loaded(capacity), 0.020, steady(rate)).go(60)
    assert run.within() >= 0.985
    assert run.within(10) >= 0.99
    # p99 is 4.6 times the mean here, so 20 ms are kept up to a load of 0.77.
    best = 0.77 * capacity - rate * 16384
    assert 0.5 * best < run.rate_between(20, 60) < 1.05 * best


@pytest.mark.parametrize("capacity", [100 * MiB, 400 * MiB])
def test_a_device_that_can_bear_it_is_used_in_full(capacity: int) -> None:
    # A buffer takes 10 ms of the slower device. Writes that are all equally slow are taken for an exponential spread.
    run = Run(Bursts(capacity), 0.080, steady(200)).go(20)
    assert run.within() >= 0.99
    assert run.rate_between(5, 20) > 0.9 * (capacity - 200 * 16384)


@pytest.mark.parametrize("capacity", [50 * MiB, 200 * MiB, 1000 * MiB])
def test_it_does_not_swing(capacity: int) -> None:
    run = Run(Loaded(capacity), 0.020, steady(300)).go(80)
    calm = sorted(run.speed_between(20, 80))
    assert calm[-1] < 2.2 * calm[0]
    assert calm[len(calm) * 95 // 100] < 1.6 * calm[len(calm) * 5 // 100]


def test_a_burst_of_the_guest_is_made_room_for_and_forgotten() -> None:
    capacity = 200 * MiB
    run = Run(Loaded(capacity), 0.020, lambda now_s: 8000 if 20 <= now_s < 30 else 300).go(60)
    before = run.rate_between(15, 20)
    assert run.rate_between(22, 30) < capacity - 8000 * 16384
    assert run.within(21, 30) > 0.97
    assert run.rate_between(40, 60) > 0.7 * before  # more careful than before: the burst has used up some of the 1 %


def test_an_idle_guest_is_no_reason_to_wait() -> None:
    run = Run(Loaded(200 * MiB), 0.020, lambda now_s: 0 if now_s < 10 else 200).go(30)
    assert run.rate_between(3, 10) > 0.9 * 200 * MiB
    # The first writes meet a copy at full speed: that lasts for some tenths of a second.
    assert run.within(10.0, 11.5) > 0.5
    assert run.within(11.5) > 0.985


def test_what_it_cannot_help_brings_it_to_its_floor_and_no_further() -> None:
    run = Run(Bursts(300 * MiB, base_s=0.050), 0.020, steady(200)).go(10)
    assert run.speeds[-1] == FLOOR
    assert run.state is not None
    assert "so that it ends" in run.state.reason


def test_the_users_own_limit_is_kept() -> None:
    run = Run(Bursts(300 * MiB), 0.020, steady(100), bandwidth=10 * MiB).go(5)
    assert max(run.speeds) == 10 * MiB
    assert run.state is not None
    assert "limit that was set" in run.state.reason


def test_a_starved_guest_is_not_taken_for_an_idle_one() -> None:
    now = Pace(0.020, speed=500 * MiB)
    busy = Interval(0.05, 15, 0.001)
    for step in range(20):
        now = now.step(step / 10, Sample(0.1, (busy, busy), 50 * MiB, 0.003), 0)
    fast = now.speed
    nothing = Interval(0.05, 0, 0.0)
    now = now.step(2.0, Sample(0.1, (nothing, nothing), 50 * MiB, 0.1, due=30), 0)
    assert now.speed <= fast / 2
    assert "none of the guest's writes has ended" in now.reason


def test_a_silence_counts_once_and_is_forgiven_if_the_guest_had_only_paused() -> None:
    now = Pace(0.020, speed=500 * MiB)
    downs = 0
    for step in range(10):
        before = now.speed
        silent_s = 0.1 * (step + 1)
        now = now.step(step / 10, Sample(0.1, (), int(now.speed * 0.1), silent_s, silent_s * 300), 0)
        downs += now.speed < before
    assert downs == 1
    assert now.speed < 400 * MiB
    paused = now.step(1.0, Sample(0.1, (Interval(0.05, 10, 0.001),), int(now.speed * 0.1)), 0)
    assert paused.speed >= 500 * MiB
    starved = now.step(1.0, Sample(0.1, (Interval(0.05, 1, 1.0),), int(now.speed * 0.1)), 0)
    assert starved.speed < now.speed


def test_a_guest_that_writes_in_bursts_is_not_taken_for_a_starved_one() -> None:
    capacity = 200 * MiB
    run = Run(Loaded(capacity), 0.020, lambda now_s: 600 if now_s % 2 < 1 else 0).go(40)
    assert run.within() > 0.985
    assert run.rate_between(10, 40) > 0.4 * capacity


@given(
    capacity=st.integers(30, 1500),
    rate=st.integers(20, 2000),
    limit_ms=st.integers(5, 100),
    burst=st.integers(0, 3000),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25, deadline=None)
def test_whatever_the_device_the_guest_is_served(
    capacity: int, rate: int, limit_ms: int, burst: int, seed: int
) -> None:
    device = Loaded(capacity * MiB)
    block = 4096
    run = Run(device, limit_ms / 1000, lambda now: rate + (burst if 10 <= now < 14 else 0), seed=seed, block=block)
    run.go(30)
    assert all(speed >= FLOOR for speed in run.speeds)
    alone = (rate + burst) * block / device.capacity
    p99_at_floor = 4.7 * device.base_s / max(0.004, 1 - alone - FLOOR / device.capacity)
    if p99_at_floor < 0.5 * limit_ms / 1000:
        # Nobody foresees a burst: it meets the copy at its speed, and that costs the first tenths of its four seconds.
        assert run.within() >= 0.95
        assert run.within(5, 10) >= 0.96


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50), st.floats(0.0001, 3.0), st.integers(0, 10**9), st.floats(0, 5), st.floats(0, 1000)
        ),
        max_size=60,
    ),
    st.sampled_from([0, 5 * MiB, 100 * MiB]),
)
def test_no_input_takes_it_out_of_its_bounds(looks: list[tuple[int, float, int, float, float]], bandwidth: int) -> None:
    now = Pace(0.020)
    for number, (writes, mean_s, copied, silent_s, due) in enumerate(looks):
        interval = Interval(0.05, writes, mean_s if writes else 0.0)
        now = now.step(number / 10, Sample(0.1, (interval,), copied, silent_s, due), bandwidth)
        assert min(FLOOR, bandwidth or FLOOR) <= now.speed <= (bandwidth or pace_rules.FASTEST)
        assert 0 <= now.within <= 1
        assert now.reason


def test_worse_is_never_answered_by_faster() -> None:
    """The same history, but for one sample in which more writes were slow: the speed after it is no higher."""
    fine = Interval(0.05, 10, 0.001)
    now = Pace(0.020)
    for step in range(30):
        now = now.step(step / 10, Sample(0.1, (fine, fine), int(now.speed * 0.1), 0.0), 0)
        speeds = [
            replace(now).step(step / 10 + 0.1, Sample(0.1, (Interval(0.1, 20, mean),), int(now.speed * 0.1)), 0).speed
            for mean in (0.001, 0.003, 0.006, 0.012, 0.050, 0.5)
        ]
        assert speeds == sorted(speeds, reverse=True)


def test_the_limit_of_a_slowdown() -> None:
    contract = LatencyContract(slowdown=1.5)
    assert pace_rules.limit_s(contract, GuestLatency(0.001, 0.010, 500, 3.0)) == pytest.approx(0.015)
    assert pace_rules.limit_s(contract, GuestLatency(0.0001, 0.0002, 500, 3.0)) == pace_rules.NOISE_S
    assert pace_rules.limit_s(contract, GuestLatency(0.1, 0.5, 3, 3.0)) == pace_rules.UNKNOWN_BASELINE_S
    assert pace_rules.limit_s(contract, None) == pace_rules.UNKNOWN_BASELINE_S
    assert pace_rules.limit_s(LatencyContract(latency_s=0.02), None) == 0.02


def test_a_guest_that_nobody_sees_is_not_taken_for_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong where its writes are counted; and it ends when they are counted again."""
    monkeypatch.setattr(pace_effects, "BLIND_S", 0.2)
    monkeypatch.setattr(pace_effects, "LOST_S", 0.02)
    gone = threading.Event()

    def counters() -> dict[str, Counters]:
        if gone.is_set():
            raise KeyError("wr_operations")
        now = time.monotonic()
        return {"vda": Counters(now, int(now * 100), int(now * 100) * 100_000)}

    with Pacer(counters, lambda: False) as pacer:
        pacer.begin(0.020)

        def wait(wanted: Callable[[Pace], bool], bandwidth: int = 0) -> Pace:
            until = time.monotonic() + 20
            while time.monotonic() < until:
                pacer.speed(time.monotonic(), 0, bandwidth)
                assert pacer.pace is not None
                if wanted(pacer.pace):
                    return pacer.pace
                time.sleep(0.01)
            raise AssertionError(pacer.pace)

        wait(lambda now: now.speed > FLOOR)
        gone.set()
        blind = wait(lambda now: "cannot be watched" in now.reason)
        assert blind.speed == FLOOR
        assert "wr_operations" in blind.reason
        wait(lambda now: now.speed == 1 * MiB, bandwidth=1 * MiB)
        gone.clear()
        wait(lambda now: now.speed > FLOOR)


def test_what_follows_the_copy_starts_carefully_anew() -> None:
    """A comparison reads what was not read before: the speed of the copy says nothing of it. The report goes on."""
    before = Pace(0.020, speed=900 * MiB, ceiling=800.0 * MiB, writes=500, slow=3.0)
    after = before.afresh()
    assert (after.speed, after.ceiling) == (pace_rules.START, None)
    assert (after.writes, after.slow, after.limit_s) == (500, 3.0, 0.020)


def test_a_guest_that_is_slow_by_itself_is_told_before() -> None:
    assert pace_rules.hopeless(0.020, GuestLatency(0.01, 0.030, 300, 3.0))
    assert not pace_rules.hopeless(0.020, GuestLatency(0.01, 0.015, 300, 3.0))
    assert not pace_rules.hopeless(0.020, None)


@pytest.mark.parametrize("synchronous", [True, False])
def test_without_a_contract_only_a_copy_that_the_guest_waits_for_is_slowed(*, synchronous: bool) -> None:
    """A guest whose writes take 200 ms: a mirror goes slower for it, a copy in the background as its user wants."""
    record = Record(disks={"vda": DiskRecord(copy=Copy(Stage.CLEAN, synchronous=synchronous))})
    disk = DiskView("vda", DiskSide.SOURCE, DiskSide.SOURCE, job=DiskJob.OURS)
    seen = Observation(PowerState.RUNNING, persistent=True, disks=(disk,), record=record)

    def counters() -> dict[str, Counters]:
        now = time.monotonic()
        return {"vda": Counters(now, int(now * 100), int(now * 100) * 200_000_000)}

    with Pacer(counters, lambda: False) as pacer:
        context = SimpleNamespace(plan=make_plan(), pacer=pacer, memory=SimpleNamespace(made=0))
        until = time.monotonic() + (20 if synchronous else 0.5)
        speed = block_jobs.speed(cast(Context, context), seen)
        assert speed == 0
        while time.monotonic() < until and speed == 0:
            time.sleep(0.05)
            context.memory.made += 5 * MiB
            speed = block_jobs.speed(cast(Context, context), seen)
        assert (0 < speed < pace_rules.FASTEST) == synchronous
        assert (pacer.pace is not None) == synchronous, "a background copy pays for no looks"
