"""`python -m bench methods`: what VMware published for its three generations of storage migration, on KVM.

After A. Mashtizadeh, E. Celebi, T. Garfinkel, M. Cai: The Design and Evolution of Live Storage Migration in VMware ESX
(USENIX ATC 2011): each method against the guest's write rate, from none to more than the copy's, and the disk's size.

All ways get the same bandwidth. So the write rate can be named as a multiple of it, and the machine's own speed, which
drifts, decides little. Every trial has a fresh VM and fresh images.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench import orders
from bench.moving import figures
from bench.orders import Errand, NotInStep
from bench.place import Place, traffic, write_out
from bench.record import GuestFigures, machine, now, save
from lab import Guest
from lab.sizes import MIB

SIZES = (256 * MIB, 512 * MIB, 1024 * MIB)
BANDWIDTH = 32 * MIB

LOADS = (0.0, 0.25, 0.5, 1.0, 2.0)
"""The guest's writes as multiples of the copy's bandwidth."""

WRITERS, MOST_KIB, RANDOM_PERCENT = 4, 64, 70
MEAN_BYTES = (RANDOM_PERCENT * (4 + MOST_KIB) / 2 + (100 - RANDOM_PERCENT) * MOST_KIB) / 100 * 1024
"""Of one write: random ones take each size from 4 to 64 KiB, sequential ones the largest."""

_SETTLE_S = 1.5
_BEFORE_S = 3.0


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for. Bytes, bytes/s; `patience`: a way is given up after so many times an idle copy's time."""

    rounds: int
    sizes: tuple[int, ...]
    bandwidth: int
    format: str
    ways: tuple[str, ...]
    loads: tuple[float, ...]
    patience: float
    seed: int


@dataclass(slots=True)
class Trial:
    """One way, once. `load` is asked of the guest, as a multiple of the bandwidth; `before` tells what it reached."""

    way: str
    round: int
    size: int
    load: float
    seconds: float | None = None  # the whole command, clean-up included
    read_bytes: int | None = None  # by both datastores' devices, the guest's own included
    written_bytes: int | None = None
    before: GuestFigures | None = None
    during: GuestFigures | None = None  # during the whole command
    stall_s: float | None = None  # longest silence of the guest during the whole command
    not_in_step: str | None = None  # it did not converge: its own words
    failure: str | None = None


@dataclass(slots=True)
class Comparison:
    """One run."""

    started: str
    machine: dict[str, str]
    settings: Settings
    trials: list[Trial] = field(default_factory=list)
    finished: str | None = None

    @classmethod
    def begin(cls, settings: Settings) -> Comparison:
        return cls(now(), machine(), settings)

    def save(self, path: Path) -> None:
        save(path, self)

    @classmethod
    def load(cls, path: Path) -> Comparison:
        return msgspec.json.decode(path.read_bytes(), type=cls)


def trials(settings: Settings) -> Iterator[Trial]:
    """The largest disk under every load, the smaller ones idle; the order of the ways new each time."""
    order = random.Random(settings.seed)
    largest = max(settings.sizes)
    cases = [(size, 0.0) for size in settings.sizes if size != largest] + [(largest, load) for load in settings.loads]
    for number in range(1, settings.rounds + 1):
        for size, load in cases:
            for way in order.sample(settings.ways, len(settings.ways)):
                yield Trial(way, number, size, load)


def perform(place: Place, settings: Settings, trial: Trial) -> None:
    """Make one trial and fill it in."""
    with place.guest(["vda"], settings.format, trial.size, trial.size) as guest:
        guest.start()
        place.cool()
        if trial.load:
            rate = max(1, round(trial.load * settings.bandwidth / MEAN_BYTES / WRITERS))
            guest.judge.start(
                writers=WRITERS, rate=rate, most_kib=MOST_KIB, random_percent=RANDOM_PERCENT, flush_every=0
            )
            time.sleep(_SETTLE_S)
        _move(place, settings, trial, guest)


def _move(place: Place, settings: Settings, trial: Trial, guest: Guest) -> None:
    stores = (place.source, place.dest)
    since = guest.judge.now()
    time.sleep(_BEFORE_S)
    limit_s = settings.patience * trial.size / settings.bandwidth
    before = traffic(*stores)
    errand = Errand(place, guest, place.dest, settings.bandwidth, limit_s)
    try:
        orders.WAYS[trial.way](errand)
    except NotInStep as reason:
        trial.not_in_step = str(reason)
    end = time.monotonic_ns()
    write_out(*stores)
    after = traffic(*stores)
    trial.seconds = (end - errand.begin_ns) / 1e9
    trial.read_bytes, trial.written_bytes = after[0] - before[0], after[1] - before[1]
    time.sleep(0.3)
    if trial.load:
        guest.judge.stop()
        trial.before = figures(guest, since, errand.begin_ns)
        trial.during = figures(guest, errand.begin_ns, end)
    trial.stall_s = guest.judge.longest_gap(errand.begin_ns, end)
    if trial.not_in_step is None and not guest.sources()["vda"].startswith(f"{errand.to.path}/"):
        raise RuntimeError(f"{trial.way} ended well, but the disk is at {guest.sources()['vda']}")
