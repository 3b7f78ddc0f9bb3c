"""Measure B: for how long the guest is silent around the switch, by the judge's reports as the host receives them.

One VM for all rounds: only the switch is of interest, so the disks are small. The way back is not measured.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench import movers
from bench.place import TARGETS, Place
from bench.record import Settings, Trial
from lab import Guest

DISKS = (1, 3)
FORMAT, RATE = "raw", 200

_CALM_S = 1.0


def trials(settings: Settings, order: random.Random) -> list[Trial]:
    """Per number of disks and round the methods in a new order."""
    return [
        Trial("switch", method, number, position, FORMAT, "writing", count)
        for count in DISKS
        for number in range(1, settings.switch_rounds + 1)
        for position, method in enumerate(order.sample(movers.LIVE, len(movers.LIVE)))
    ]


@contextmanager
def guest_of(place: Place, settings: Settings, disks: int) -> Iterator[Guest]:
    """The VM of all trials with that many disks, writing."""
    with place.guest(TARGETS[:disks], FORMAT, settings.switch_size, settings.switch_size // 4) as guest:
        guest.start()
        guest.judge.start(rate=RATE, most_kib=16)
        yield guest


def perform(place: Place, trial: Trial, guest: Guest) -> None:
    """Make one trial and fill it in."""
    movers.move_back(place, guest)
    place.cool()
    time.sleep(_CALM_S)
    moved = movers.move_by_pivots(place, guest, trial.method)
    time.sleep(0.4)
    guest.judge.settle()
    trial.seconds = moved.seconds
    trial.phases = moved.phases
    trial.own_stall_s = moved.stall_s
    trial.stall_s = guest.judge.longest_gap(*moved.switch_ns)
    width = min(moved.switch_ns[1] - moved.switch_ns[0], int(_CALM_S * 1e9))
    trial.calm_s = guest.judge.longest_gap(moved.begin_ns - width, moved.begin_ns)
    trial.move_gap_s = guest.judge.longest_gap(moved.begin_ns, moved.end_ns)
    if not movers.disks_at(guest, place.dest):
        raise RuntimeError(f"{trial.method} ended well, but the disks are at {guest.sources()}")
