"""`python -m bench methods`: what VMware published for its three generations of storage migration, on KVM.

After A. Mashtizadeh, E. Celebi, T. Garfinkel, M. Cai: The Design and Evolution of Live Storage Migration in VMware ESX
(USENIX ATC 2011): each method against the guest's write rate, from none to more than the copy's, and the disk's size.

All ways get the same bandwidth. So the write rate can be named as a multiple of it, and the machine's own speed, which
drifts, decides little. All get the same two datastores, which are on one XFS: so a clone is one of the ways. Every
trial has a fresh VM and fresh images.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench import orders
from bench.moving import figures
from bench.orders import Errand, NotInStep
from bench.place import Place, traffic, write_out
from bench.record import GuestFigures, machine, now, save
from lab import Guest, LabError
from lab.sizes import MIB

SIZES = (128 * MIB, 256 * MIB, 512 * MIB)
BANDWIDTH = 32 * MIB
"""So little that a guest under TCG on two cores can write twice as much beside the copy."""
PATIENCE = 4.0

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

    @property
    def size_under_load(self) -> int:
        """The one in the middle: all loads on the largest disk would take most of the time."""
        return sorted(self.sizes)[len(self.sizes) // 2]

    def limit_s(self, size: int) -> float:
        """When a way is given up."""
        return self.patience * size / self.bandwidth


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

    @property
    def key(self) -> tuple[str, int, int, float]:
        """What makes it this trial of its run, and no other."""
        return self.way, self.round, self.size, self.load


@dataclass(slots=True)
class Comparison:
    """One run. Its trials are in the order in which they were made."""

    started: str
    machine: dict[str, str]
    settings: Settings
    trials: list[Trial] = field(default_factory=list)
    finished: str | None = None  # None while it lacks trials
    gone_on: list[str] = field(default_factory=list)  # when it was gone on with, and with which blockferry

    @classmethod
    def begin(cls, settings: Settings) -> Comparison:
        return cls(now(), machine(), settings)

    @classmethod
    def go_on(cls, path: Path) -> Comparison:
        """One that was interrupted, without the trials that failed: they are made again."""
        run = cls.load(path)
        run.trials = [trial for trial in run.trials if trial.failure is None]
        run.gone_on.append(f"{now()}, blockferry {machine()['blockferry']}")
        run.finished = None
        return run

    def todo(self) -> list[Trial]:
        """What it lacks, in the order in which it is to be made."""
        done = {trial.key for trial in self.trials}
        return [trial for trial in planned(self.settings) if trial.key not in done]

    def save(self, path: Path) -> None:
        save(path, self)

    @classmethod
    def load(cls, path: Path) -> Comparison:
        return msgspec.json.decode(path.read_bytes(), type=cls)


def planned(settings: Settings) -> list[Trial]:
    """Every trial of a run; the same for the same settings, the seed among them.

    One disk under every load, the others idle. Each round is whole before the next one begins, and shuffled: what
    drifts meanwhile does not fall on one way or on one load.
    """
    order = random.Random(settings.seed)
    loaded = settings.size_under_load
    cases = [(size, 0.0) for size in settings.sizes if size != loaded] + [(loaded, load) for load in settings.loads]
    found = []
    for number in range(1, settings.rounds + 1):
        trials = [Trial(way, number, size, load) for size, load in cases for way in settings.ways]
        found += order.sample(trials, len(trials))
    return found


def go_through(
    run: Comparison,
    path: Path,
    make: Callable[[Trial], None],
    *,
    told: Callable[[Trial], None] = lambda _trial: None,
    time_over: Callable[[], bool] = lambda: False,
) -> None:
    """Make what the run lacks until the time is over, which is asked before each trial; saved after each.

    A trial that fails is written down and the rest goes on. `finished` is set when nothing is lacking.
    """
    for trial in run.todo():
        if time_over():
            return
        try:
            make(trial)
        except (LabError, RuntimeError, OSError, StopIteration, ValueError, LookupError) as error:
            trial.failure = f"{type(error).__name__}: {error}"
        run.trials.append(trial)
        run.save(path)
        told(trial)
    run.finished = now()
    run.save(path)


def perform(place: Place, settings: Settings, trial: Trial) -> None:
    """Make one trial and fill it in."""
    with place.guest(["vda"], settings.format, trial.size, trial.size) as guest:
        guest.start()
        place.cool()
        since = guest.judge.now()
        if trial.load:
            rate = max(1, round(trial.load * settings.bandwidth / MEAN_BYTES / WRITERS))
            guest.judge.start(
                writers=WRITERS, rate=rate, most_kib=MOST_KIB, random_percent=RANDOM_PERCENT, flush_every=0
            )
            time.sleep(_SETTLE_S)
            since = guest.judge.now()
            time.sleep(_BEFORE_S)
        _move(place, settings, trial, guest, since)


def _move(place: Place, settings: Settings, trial: Trial, guest: Guest, since: int) -> None:
    before = traffic(*place.devices)
    errand = Errand(place, guest, place.dest, settings.bandwidth, settings.limit_s(trial.size), trial.load)
    try:
        orders.WAYS[trial.way](errand)
    except NotInStep as reason:
        trial.not_in_step = str(reason)
    end = errand.end_ns or time.monotonic_ns()
    write_out(*place.devices)
    after = traffic(*place.devices)
    trial.seconds = (end - errand.begin_ns) / 1e9
    trial.read_bytes, trial.written_bytes = after[0] - before[0], after[1] - before[1]
    time.sleep(0.3)
    if trial.load and not errand.end_ns:
        guest.judge.stop()
    if trial.load:
        trial.before = figures(guest, since, errand.begin_ns)
        trial.during = figures(guest, errand.begin_ns, end)
    trial.stall_s = guest.judge.longest_gap(errand.begin_ns, end)
    if trial.not_in_step is None and not guest.sources()["vda"].startswith(f"{errand.to.path}/"):
        raise RuntimeError(f"{trial.way} ended well, but the disk is at {guest.sources()['vda']}")
