"""A comparison of methods as tables and as one picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from itertools import takewhile
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.methods import Comparison, Trial
from bench.rendering import Table, spread_text
from bench.stats import Spread

mpl.use("Agg")

_SHAPES = "osD^vPX*"


def tables(run: Comparison) -> list[Table]:
    """Those for which the run has trials."""
    made = [_in_step(run), _by_load(run), _by_size(run)]
    return [table for table in made if table.rows]


def failures(run: Comparison) -> list[str]:
    return [
        f"FAILED: {trial.way}, round {trial.round}, {trial.size >> 20} MiB, load {trial.load:g}: "
        f"{trial.failure.splitlines()[0]}"
        for trial in run.trials
        if trial.failure
    ]


def _of(run: Comparison, way: str, *, load: float | None = None, size: int | None = None) -> list[Trial]:
    return [
        trial
        for trial in run.trials
        if trial.failure is None
        and trial.seconds is not None
        and trial.way == way
        and load in (None, trial.load)
        and size in (None, trial.size)
    ]


def _in_step(run: Comparison) -> Table:
    """Way by load: how long it takes while it comes to its end at all, and from where on it does not."""
    size = run.settings.size_under_load
    rows = []
    for way in run.settings.ways:
        by_load = {load: _of(run, way, load=load, size=size) for load in run.settings.loads}
        if any(by_load.values()):
            rows.append((way, *(_in_step_at(found) for found in by_load.values()), _limit(by_load)))
    loads = map(_named, run.settings.loads)
    note = (
        f"Seconds of the whole command, {size >> 20} MiB {run.settings.format}, by the guest's writes as multiples of "
        f"the {run.settings.bandwidth >> 20} MiB/s that the copy has. Never: it was given up after "
        f"{run.settings.limit_s(size):.0f} s, {run.settings.patience:g} times an idle copy's time, or it gave up by "
        "itself. The last column: the heaviest of these loads at which it always came to its end, as at all "
        "lighter ones."
    )
    return Table("Where each way stops converging", ("way", *loads, "converges up to"), rows, note)


def _in_step_at(found: list[Trial]) -> str:
    if not found:
        return "not tried"
    ended = [trial for trial in found if trial.not_in_step is None]
    if not ended:
        return "never"
    seconds = spread_text(Spread.of(trial.seconds for trial in ended), 1)
    return seconds if len(ended) == len(found) else f"{seconds}; never in {len(found) - len(ended)} of {len(found)}"


def _limit(by_load: Mapping[float, list[Trial]]) -> str:
    tried = sorted((load, found) for load, found in by_load.items() if found)
    good = list(takewhile(lambda case: all(trial.not_in_step is None for trial in case[1]), tried))
    if len(good) == len(tried):
        return f"{_named(good[-1][0])}, all that were tried"
    return _named(good[-1][0]) if good else "none"


def _named(load: float) -> str:
    return f"{load:g} x" if load else "idle"


def _by_load(run: Comparison) -> Table:
    size = run.settings.size_under_load
    rows = []
    for load in run.settings.loads:
        for way in run.settings.ways:
            found = _of(run, way, load=load, size=size)
            if found:
                ended = [trial for trial in found if trial.not_in_step is None]
                rows.append((_load(found), way, *_figures(found, ended, size)))
    copy_rate = f"{run.settings.bandwidth >> 20} MiB/s"
    note = (
        f"{size >> 20} MiB {run.settings.format}, {copy_rate} for the copy. Guest's writes: what it reached before "
        "the copy, and what it was asked for as a multiple of the copy's rate. Read, written: by both devices, "
        "as multiples of the disk, the guest's own included. Guest during: its writes in the whole command, and as a "
        "share of before. Longest silence: of the guest, in the whole command. Not in step: given up after "
        f"{run.settings.patience:g} times the time of an idle copy, or by itself."
    )
    columns = ("guest's writes", "way", "s", "read x", "written x", "guest during", "p99 ms before → during",
               "longest silence ms", "not in step")  # fmt: skip
    return Table("Against the guest's write rate", columns, rows, note)


def _figures(found: list[Trial], ended: list[Trial], size: int) -> tuple[str, ...]:
    part = Spread.of(_part(trial) for trial in found)
    during = Spread.of(trial.during.bytes_per_s / 2**20 for trial in found if trial.during)
    p99 = [Spread.of(side.p99_ms for trial in found if (side := getattr(trial, name))) for name in ("before", "during")]
    return (
        spread_text(Spread.of(trial.seconds for trial in ended), 1),
        spread_text(_times(ended, lambda trial: trial.read_bytes, size), 2),
        spread_text(_times(ended, lambda trial: trial.written_bytes, size), 2),
        "-" if during is None else f"{during.median:.0f} MiB/s: {spread_text(part, 2)}",
        " → ".join(f"{one.median:.1f}" for one in p99 if one) or "-",
        spread_text(Spread.of(trial.stall_s * 1000 for trial in found if trial.stall_s is not None), 0),
        f"{len(found) - len(ended)} of {len(found)}" if len(ended) < len(found) else "",
    )


def _times(found: list[Trial], of: Callable[[Trial], int | None], size: int) -> Spread | None:
    return Spread.of(value / size for trial in found if (value := of(trial)) is not None)


def _load(found: list[Trial]) -> str:
    asked = found[0].load
    if not asked:
        return "idle"
    reached = Spread.of(trial.before.bytes_per_s for trial in found if trial.before)
    return f"{asked:g}" if reached is None else f"{reached.median / 2**20:.0f} MiB/s ({asked:g} x)"


def _by_size(run: Comparison) -> Table:
    """Idle: seconds = a + b * size by least squares, what that leaves unexplained, and the bytes moved."""
    rows = []
    for way in run.settings.ways:
        found = [trial for trial in _of(run, way, load=0.0) if trial.not_in_step is None]
        sizes = sorted({trial.size for trial in found})
        if len(sizes) < 2:
            continue
        points = [(trial.size / 2**30, trial.seconds) for trial in found if trial.seconds is not None]
        line = statistics.linear_regression(*zip(*points, strict=True))
        # Two sizes lie on a line whatever they cost.
        squared = f"{statistics.correlation(*zip(*points, strict=True)) ** 2:.4f}" if len(sizes) > 2 else "-"
        cells = [
            spread_text(Spread.of(trial.seconds for trial in found if trial.size == size), 1)
            for size in run.settings.sizes
        ]
        per_byte = [_bytes_text([trial for trial in found if trial.size == size], size) for size in run.settings.sizes]
        rows.append((way, *cells, f"{line.slope:.1f}", f"{line.intercept:.1f}", squared, " / ".join(per_byte)))
    columns = ("way", *(f"{size >> 20} MiB, s" for size in run.settings.sizes), "s per GiB", "s besides", "R²",
               "read + written x")  # fmt: skip
    note = (
        "The guest is idle. A straight line through all tries by least squares; R² = 1: the cost is linear in the "
        "size (of a cost that does not depend on the size it says nothing). Read + written: by the devices, as "
        "multiples of the disk, for each size."
    )
    return Table("Against the size of the disk", columns, rows, note)


def picture(run: Comparison, path: Path) -> None:
    """Cost against the size; cost and what the guest notices against the load; medians. A hollow mark: not in step."""
    figure = Figure(figsize=(20, 8), layout="constrained")
    axes = figure.subplots(2, 4)
    size = run.settings.size_under_load
    plots: list[tuple[str, Callable[[Trial], float | None], bool]] = [
        ("time of the whole command, s", lambda trial: trial.seconds, False),
        ("written, multiples of the disk", lambda trial: (trial.written_bytes or 0) / size, False),
        ("read, multiples of the disk", lambda trial: (trial.read_bytes or 0) / size, False),
        ("guest's throughput during / before", _part, False),
        ("p99 of the guest's writes, ms", lambda trial: trial.during.p99_ms if trial.during else None, True),
        (
            "longest silence of the guest, ms",
            lambda trial: None if trial.stall_s is None else trial.stall_s * 1000,
            True,
        ),
    ]
    _against_size(run, axes[0][0], "time of the whole command, s", lambda trial: trial.seconds)
    _against_size(run, axes[1][0], "read + written, MiB", lambda trial: _moved(trial) / 2**20)
    for place, (title, of, logarithmic) in zip(axes[:, 1:].flat, plots, strict=True):
        _against_load(run, place, of)
        place.set(title=title, xlabel="guest's writes / copy's bandwidth, as asked")
        if logarithmic:
            place.set_yscale("log")
        place.grid(alpha=0.3)
    handles, labels = axes[0][1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize="small")
    figure.suptitle(f"{run.machine.get('blockferry', '')}, {run.started}", fontsize="small")
    figure.savefig(path, dpi=110)


def _part(trial: Trial) -> float | None:
    if trial.during is None or trial.before is None or not trial.before.bytes_per_s:
        return None
    return trial.during.bytes_per_s / trial.before.bytes_per_s


def _moved(trial: Trial) -> int:
    return (trial.read_bytes or 0) + (trial.written_bytes or 0)


def _bytes_text(found: list[Trial], size: int) -> str:
    return spread_text(_times(found, _moved, size), 2)


def _against_size(run: Comparison, axes: Axes, title: str, of: Callable[[Trial], float | None]) -> None:
    for number, way in enumerate(run.settings.ways):
        points = []
        for size in run.settings.sizes:
            found = [trial for trial in _of(run, way, load=0.0, size=size) if trial.not_in_step is None]
            value = Spread.of(of(trial) for trial in found)
            if value is not None:
                points.append((size / 2**20, value.median))
        if points:
            axes.plot(*zip(*points, strict=True), _SHAPES[number % len(_SHAPES)] + "-", linewidth=1, alpha=0.8)
    axes.set(title=f"idle: {title}", xlabel="disk, MiB")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _against_load(run: Comparison, axes: Axes, of: Callable[[Trial], float | None]) -> None:
    for number, way in enumerate(run.settings.ways):
        points = []
        for load in run.settings.loads:
            found = _of(run, way, load=load, size=run.settings.size_under_load)
            value = Spread.of(of(trial) for trial in found)
            if value is not None:
                points.append((load, value.median, any(trial.not_in_step for trial in found)))
        if not points:
            continue
        (line,) = axes.plot(
            [point[0] for point in points], [point[1] for point in points], label=way, linewidth=1, alpha=0.8
        )
        for at, value_at, given_up in points:
            axes.plot(
                at,
                value_at,
                _SHAPES[number % len(_SHAPES)],
                color=line.get_color(),
                markerfacecolor="white" if given_up else line.get_color(),
            )
