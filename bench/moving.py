"""Whole moves, and what the guest notices of them.

A: wall time, idle and with a writer held to a rate. C: the same with a writer that goes as fast as it can; the
guest's figures are taken in both. Further: with a latency contract, with several copy buffers, and verified.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence

from bench import movers
from bench.place import TARGETS, Place, traffic, write_out
from bench.record import GuestFigures, Settings, Trial
from lab import FLAT_OUT, Guest
from lab.sizes import MIB

IDLE, WRITING, FLAT = "idle", "writing", "flat out"

BUFFERS = (MIB, 2 * MIB, 4 * MIB, 16 * MIB)
"""The first one is what a copy has by default (src/blockferry/storage_move/pace/rules.py), the last one QEMU's own."""

DISKS_VERIFIED = (1, 3)

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


def trials_of_buffer(settings: Settings, order: random.Random) -> list[Trial]:
    """Per round, format and guest: each method with each buffer, and virsh with its own, in a new order."""
    found = []
    for number in range(1, settings.rounds + 1):
        for image_format in settings.formats:
            for load in (IDLE, WRITING, FLAT):
                cases = [(movers.MIRROR, buffer) for buffer in BUFFERS]
                # A background copy of an idle guest is the same job.
                cases += [] if load == IDLE else [(movers.CHANGED, buffer) for buffer in BUFFERS]
                cases.append((movers.VIRSH, 0))
                for position, (method, buffer) in enumerate(order.sample(cases, len(cases))):
                    found.append(Trial("buffer", method, number, position, image_format, load, buffer=buffer))
    return found


def sizes_verified(settings: Settings) -> tuple[int, int]:
    """Of each disk: whether the cost is linear shows with two."""
    return settings.size // 4, settings.size


def trials_of_verify(settings: Settings, order: random.Random) -> list[Trial]:
    """Per round every size, format, number of disks and guest, in a new order."""
    found = []
    for number in range(1, settings.rounds + 1):
        cases = [
            (size, image_format, disks, load)
            for size in sizes_verified(settings)
            for image_format in settings.formats
            for disks in DISKS_VERIFIED
            for load in (IDLE, WRITING)
        ]
        for position, (size, image_format, disks, load) in enumerate(order.sample(cases, len(cases))):
            found.append(Trial("verify", movers.MIRROR, number, position, image_format, load, disks, size=size))
    return found


def _shuffled(
    measure: str, methods: Sequence[str], number: int, image_format: str, load: str, order: random.Random
) -> Iterator[Trial]:
    for position, method in enumerate(order.sample(methods, len(methods))):
        yield Trial(measure, method, number, position, image_format, load)


def perform(place: Place, settings: Settings, trial: Trial) -> None:
    """Make one trial on a VM of its own and fill it in."""
    size = trial.size or settings.size
    with place.guest(TARGETS[: trial.disks], trial.format, size, min(size, settings.fill)) as guest:
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
    more = ["--verify"] if trial.measure == "verify" else []
    moved_before = traffic(place.source, place.dest)
    with movers.JobEvents(place, guest) as job:
        before = judge.now()
        time.sleep(settings.before_s)
        moved = movers.move(place, guest, trial.method, *more, buffer=trial.buffer)
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
    write_out(place.source, place.dest)
    read, written = traffic(place.source, place.dest)
    trial.read_bytes, trial.written_bytes = read - moved_before[0], written - moved_before[1]
    trial.copy_s = (job.copying[1] - job.copying[0]) / 1e9
    if moved.verify_ns is not None:
        trial.verify_s = (moved.verify_ns[1] - moved.verify_ns[0]) / 1e9
        if writing:
            trial.during_verify = figures(guest, *moved.verify_ns)
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
