"""A run: which trials there are, and making those that are still to be made."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path

from rich.console import Console

from bench import movers, moving, resuming, switching
from bench.place import Place
from bench.record import Run, Settings, Trial, now
from lab import LabError
from lab.sizes import GIB, MIB

MEASURES = ("switch", "time", "guest")
MORE = ("pace", "buffer", "verify", "resume")
"""Only when they are asked for."""

_TRIALS: dict[str, Callable[[Settings, random.Random], Iterable[Trial]]] = {
    "switch": switching.trials,
    "time": moving.trials_of_time,
    "guest": moving.trials_of_guest,
    "pace": moving.trials_of_pace,
    "buffer": moving.trials_of_buffer,
    "verify": moving.trials_of_verify,
    "resume": resuming.trials,
}


def planned(settings: Settings) -> list[Trial]:
    """Every trial of a run; the same for the same settings, the seed among them."""
    order = random.Random(settings.seed)
    return [
        trial for measure, make in _TRIALS.items() if measure in settings.measures for trial in make(settings, order)
    ]


def perform_all(run: Run, path: Path, console: Console) -> None:
    """Every trial that the run does not have, saved as soon as it is made.

    One that fails is written down and the rest goes on. Raises LabError when there can be no lab.
    """
    settings = run.settings
    done = {trial.key for trial in run.trials}
    every = planned(settings)
    todo = [trial for trial in every if trial.key not in done]
    if len(todo) < len(every):
        console.print(f"{len(every) - len(todo)} of {len(every)} trials are there already")
    if not todo:
        return
    began, made = time.monotonic(), 0
    room, scratch = _room(todo, settings)
    overlays = "verify" not in settings.measures
    with Place.open(room, overlays=overlays, scratch_bytes=scratch) as place:

        def attempt(trial: Trial, make: Callable[[], None]) -> None:
            nonlocal made
            trial.begin()
            try:
                make()
            except (LabError, RuntimeError, OSError, StopIteration, LookupError, ValueError) as error:
                trial.failure = f"{type(error).__name__}: {error}"
            run.trials.append(trial)
            run.save(path)
            made += 1
            left_s = (time.monotonic() - began) / made * (len(todo) - made)
            console.print(
                f"{made:3}/{len(todo)} {_line(trial)}  [{left_s / 60:.0f} min left]",
                style="red" if trial.failure else None,
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

        console.print(f"{len(todo)} trials; the datastores are ready after {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        of_switch = [trial for trial in todo if trial.measure == "switch"]
        for disks, group in groupby(of_switch, lambda trial: trial.disks):
            with switching.guest_of(place, settings, disks) as guest:
                for trial in group:
                    attempt(trial, partial(switching.perform, place, trial, guest))
        for trial in todo:
            if trial.measure != "switch":
                make = resuming.perform if trial.measure == "resume" else moving.perform
                attempt(trial, partial(make, place, settings, trial))
    run.finished = now()
    run.save(path)


def _room(trials: list[Trial], settings: Settings) -> tuple[int, int]:
    """Bytes of the images that are in a datastore at the same time, and of the largest one."""
    sizes = [(trial.size or (settings.switch_size if trial.measure == "switch" else settings.size)) for trial in trials]
    together = [size * trial.disks for size, trial in zip(sizes, trials, strict=True)]
    return max(*together, GIB // 2), max(sizes)


def _line(trial: Trial) -> str:
    size = f" of {trial.size / GIB:g} GiB" if trial.size else ""
    where = f"{trial.measure:6} round {trial.round:2}  {trial.format:5} {trial.load:8} {trial.disks} disk(s){size}"
    what = trial.method + (f", buffer {trial.buffer // MIB} MiB" if trial.buffer else "")
    if trial.broken is not None:
        what = f"{trial.broken.cause}, {trial.broken.share:.0%}"
    if trial.failure is not None:
        return f"{where}  {what} FAILED: {trial.failure}"
    if trial.method in movers.FLOORS:
        what += " (VM off)"
    return f"{where}  {what:45} {trial.seconds or 0:6.2f} s{_found(trial)}"


def _found(trial: Trial) -> str:
    found = ""
    if trial.measure == "switch" and trial.stall_s is not None and trial.calm_s is not None:
        found = f"  silence {trial.stall_s * 1000:.0f} ms, calm {trial.calm_s * 1000:.0f}"
    if trial.verify_s and trial.copy_s:
        found = f"  copy {trial.copy_s:.1f} s, verification {trial.verify_s:.1f} s"
    elif trial.measure == "buffer" and trial.copy_s:
        found = f"  copy {trial.copy_s:.1f} s"
    if trial.broken is not None and trial.broken.whole:
        broken = trial.broken
        found = (
            f"  broke at {broken.copied / broken.whole:.0%}, {broken.missing / MIB:.0f} MiB missing, "
            f"written {broken.rewritten / MIB:.0f} MiB, by the device {broken.device_written / MIB:.0f} ({broken.way})"
        )
    if trial.during is not None:
        found += f"  p99 {trial.during.p99_ms:.1f} ms"
    return f"{found}  [load {trial.machine_load:.1f}]"
