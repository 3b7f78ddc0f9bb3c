"""A run as one picture, a pane for each measure that it has; every single value is shown as a dot."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import movers, moving, resuming
from bench.found import Results
from bench.more_tables import PROMISE
from bench.moving import FLAT, IDLE, WRITING
from bench.record import Run
from lab.sizes import GIB, MIB

mpl.use("Agg")

_COLOURS = {
    movers.MIRROR: "#1f77b4",
    movers.CHANGED: "#17a2b8",
    movers.PACED: "#2ca02c",
    movers.VIRSH: "#ff7f0e",
    movers.CONVERT: "#bbbbbb",
    movers.CONVERT_DIRECT: "#999999",
    movers.DD: "#777777",
}


def save(run: Run, path: Path) -> None:
    results = Results(run)
    measured = {trial.measure for trial in results.good}
    panes = [draw for measures, draw in _PANES if measured.intersection(measures)] or [_time]
    figure = Figure(figsize=(max(8, 5 * len(panes)), 5.5), layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(panes), squeeze=False)[0], panes, strict=True):
        draw(results, axes)
    methods = {trial.method for trial in results.good}
    handles = [mpl.patches.Patch(color=_COLOURS[one], label=one) for one in _COLOURS if one in methods]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if len(panes) < 3 else 7, fontsize="small")
    figure.suptitle(f"blockferry {run.machine.get('blockferry', '')}, {run.started}", fontsize="small")
    figure.savefig(path, dpi=110)


def _time(results: Results, axes: Axes) -> None:
    groups = []
    for image_format in results.run.settings.formats:
        for load in (IDLE, WRITING):
            methods = (*movers.LIVE, *movers.FLOORS) if load == IDLE else movers.LIVE
            bars = [
                (method, [trial.seconds for trial in results.of("time", method, image_format=image_format, load=load)])
                for method in methods
            ]
            groups.append((f"{image_format}\n{load}", bars))
    _grouped(axes, groups)
    axes.set(title=f"time of a move, {results.run.settings.size / 2**30:g} GiB", ylabel="s")


def _stall(results: Results, axes: Axes) -> None:
    groups = []
    for disks in (1, 3):
        bars = []
        for method in movers.LIVE:
            found = results.of("switch", method, disks=disks)
            bars.append((method, [None if trial.stall_s is None else trial.stall_s * 1000 for trial in found]))
        groups.append((f"{disks} disk{'s' if disks > 1 else ''}", bars))
    _grouped(axes, groups)
    axes.axhline(20, color="#cc0000", linewidth=0.8, linestyle="--")
    axes.set(title="longest silence of the guest at the switch", ylabel="ms")


def _latency(results: Results, axes: Axes) -> None:
    groups = []
    for measure, load in (("time", WRITING), ("guest", FLAT)):
        for side in ("before", "during"):
            bars = []
            for method in movers.LIVE:
                found = results.of(measure, method, load=load)
                sides = [trial.before if side == "before" else trial.during for trial in found]
                bars.append((method, [figures.p99_ms for figures in sides if figures]))
            groups.append((f"{load}\n{side}", bars))
    _grouped(axes, groups)
    axes.set(title="guest's write latency, p99", ylabel="ms")


def _pace(results: Results, axes: Axes) -> None:
    groups = []
    for load in (WRITING, FLAT):
        for side in ("before", "during"):
            bars = []
            for method in movers.OF_PACE:
                found = results.of("pace", method, load=load)
                sides = [trial.before if side == "before" else trial.during for trial in found]
                bars.append((method, [figures.p99_ms for figures in sides if figures]))
            groups.append((f"{load}\n{side}", bars))
    _grouped(axes, groups)
    axes.axhline(20, color="#cc0000", linewidth=0.8, linestyle="--")
    axes.set(title="with a contract and without: guest's p99", ylabel="ms", yscale="log")


def _buffer(results: Results, axes: Axes) -> None:
    """Each copy as a point: its rate, and what the guest's writes suffer."""
    for number, size in enumerate(moving.BUFFERS):
        for method in (movers.MIRROR, movers.CHANGED):
            points = [
                (results.run.settings.size / MIB / trial.copy_s, trial.during.p99_ms)
                for load in (WRITING, FLAT)
                for trial in results.of("buffer", method, load=load, buffer=size)
                if trial.copy_s and trial.during
            ]
            if points:
                label = f"{method.removeprefix('blockferry ')}, {size // MIB} MiB"
                axes.scatter(*zip(*points, strict=True), marker="osD^"[number], label=label, color=_COLOURS[method])
    axes.set(title="copy buffer, guest writing", xlabel="copy, MiB/s", ylabel="guest's p99 during it, ms", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")


def _verify(results: Results, axes: Axes) -> None:
    groups = []
    for size in moving.sizes_verified(results.run.settings):
        for disks in moving.DISKS_VERIFIED:
            found = results.of("verify", movers.MIRROR, size=size, disks=disks)
            bars = [
                (movers.MIRROR, [trial.copy_s / trial.verify_s for trial in found if trial.copy_s and trial.verify_s])
            ]
            groups.append((f"{disks} x\n{size / GIB:g} GiB", bars))
    _grouped(axes, groups)
    axes.axhline(1, color="black", linewidth=0.8, linestyle="--")
    axes.set(title="verification's speed / copy's")


def _resume(results: Results, axes: Axes) -> None:
    size = results.run.settings.size
    groups = []
    for share in resuming.SHARES:
        for image_format in results.run.settings.formats:
            broken = [
                trial.broken
                for trial in results.of("resume", movers.CHANGED, image_format=image_format)
                if trial.broken is not None and trial.broken.share == share
            ]
            again = [max(0, one.device_written - one.missing) / size * 100 for one in broken]
            groups.append((f"{share:.0%}\n{image_format}", [(movers.CHANGED, again)]))
    _grouped(axes, groups)
    axes.axhline(100 * PROMISE, color="#cc0000", linewidth=0.8, linestyle="--")
    axes.set(title="copied again after a break (device's counter)", ylabel="% of the disk")


def _grouped(axes: Axes, groups: Sequence[tuple[str, Sequence[tuple[str, Sequence[float | None]]]]]) -> None:
    """Bars of medians in groups, each value as a dot."""
    at, ticks = 0.0, []
    for _title, bars in groups:
        begin = at
        for method, values in bars:
            known = [value for value in values if value is not None]
            if known:
                axes.bar(at, statistics.median(known), width=0.9, color=_COLOURS[method])
                axes.scatter([at] * len(known), known, s=9, color="black", alpha=0.5, zorder=3)
            at += 1
        ticks.append((begin + at - 1) / 2)
        at += 1
    axes.set_xticks(ticks, [title for title, _ in groups])
    axes.grid(axis="y", alpha=0.3)


_PANES: tuple[tuple[tuple[str, ...], Callable[[Results, Axes], None]], ...] = (
    (("time",), _time),
    (("switch",), _stall),
    (("time", "guest"), _latency),
    (("pace",), _pace),
    (("buffer",), _buffer),
    (("verify",), _verify),
    (("resume",), _resume),
)
