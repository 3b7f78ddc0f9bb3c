"""Measures A and C: whole moves of one disk, and what the guest notices of them.

A: wall time, idle and with a writer held to a rate. C: the same with a writer that goes as fast as it can; the
guest's figures are taken in both.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

from bench import movers
from bench.place import Place
from bench.record import GuestFigures, Settings, Trial
from lab import FLAT_OUT, Guest

IDLE, WRITING, FLAT = "idle", "writing", "flat out"

_RATE = {WRITING: 300, FLAT: FLAT_OUT}
_SETTLE_S = 1.0


def trials_of_time(settings: Settings, order: random.Random) -> Iterator[Trial]:
    """Per round and format: idle beside the plain copies, then writing; the methods of each in a new order."""
    for number in range(1, settings.rounds + 1):
        for image_format in settings.formats:
            yield from _shuffled("time", (*movers.LIVE, *movers.FLOORS), number, image_format, IDLE, order)
            yield from _shuffled("time", movers.LIVE, number, image_format, WRITING, order)


def trials_of_guest(settings: Settings, order: random.Random) -> Iterator[Trial]:
    """Per round and format: each live method under a writer that goes flat out."""
    for number in range(1, settings.rounds + 1):
        for image_format in settings.formats:
            yield from _shuffled("guest", movers.LIVE, number, image_format, FLAT, order)


def trials_of_pace(settings: Settings, order: random.Random) -> Iterator[Trial]:
    """Per round, format and writer: with a latency contract, without one, and virsh."""
    for number in range(1, settings.rounds + 1):
        for image_format in settings.formats:
            for load in (WRITING, FLAT):
                yield from _shuffled("pace", movers.OF_PACE, number, image_format, load, order)


def _shuffled(
    measure: str, methods: Sequence[str], number: int, image_format: str, load: str, order: random.Random
) -> Iterator[Trial]:
    for position, method in enumerate(order.sample(methods, len(methods))):
        yield Trial(measure, method, number, position, image_format, load)


def perform(place: Place, settings: Settings, trial: Trial) -> None:
    """Make one trial on a VM of its own and fill it in."""
    with place.guest(["vda"], trial.format, settings.size, settings.fill) as guest:
        if trial.method in movers.FLOORS:
            place.cool()
            trial.seconds = movers.copy(place, guest, trial.method)
            trial.fsync_s = movers.fsync_dest(place, guest)
        else:
            guest.start()
            _move(place, settings, trial, guest)


def _move(place: Place, settings: Settings, trial: Trial, guest: Guest) -> None:
    judge = guest.judge
    place.cool()
    writing = trial.load in _RATE
    if writing:
        judge.start(rate=_RATE[trial.load], most_kib=16)
        time.sleep(_SETTLE_S)
    with movers.JobEvents(place, guest) as job:
        before = judge.now()
        time.sleep(settings.before_s)
        moved = movers.move(place, guest, trial.method)
    trial.seconds = moved.seconds
    trial.fsync_s = movers.fsync_dest(place, guest)
    trial.phases = moved.phases
    trial.own_stall_s = moved.stall_s
    trial.own_p99_ms, trial.within = moved.own_p99_ms, moved.within
    if not movers.disks_at(guest, place.dest):
        raise RuntimeError(f"{trial.method} ended well, but the disks are at {guest.sources()}")
    time.sleep(0.3)
    if writing:
        judge.stop()
        trial.before = figures(guest, before, moved.begin_ns)
        trial.during = figures(guest, *job.copying)
    trial.move_gap_s = judge.longest_gap(moved.begin_ns, moved.end_ns)


def figures(guest: Guest, since: int, until: int) -> GuestFigures:
    """What the judge saw between two instants."""
    seconds = (until - since) / 1e9
    (whole,) = guest.judge.throughput(since, until, step_s=seconds + 1)
    latencies = guest.judge.latencies(since, until)
    return GuestFigures(
        seconds=seconds,
        writes_per_s=whole.writes_per_s * (seconds + 1) / seconds,  # the judge counts per step
        bytes_per_s=whole.bytes_per_s * (seconds + 1) / seconds,
        p50_ms=latencies.p50_ms,
        p99_ms=latencies.p99_ms,
        longest_gap_s=guest.judge.longest_gap(since, until),
    )
