"""A run as one picture: time, stall, the guest's latency; every single value is shown as a dot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import movers
from bench.moving import FLAT, IDLE, WRITING
from bench.record import Run
from bench.tables import Results

mpl.use("Agg")

_COLOURS = {
    movers.MIRROR: "#1f77b4",
    movers.CHANGED: "#17a2b8",
    movers.VIRSH: "#ff7f0e",
    movers.CONVERT: "#bbbbbb",
    movers.CONVERT_DIRECT: "#999999",
    movers.DD: "#777777",
}


def save(run: Run, path: Path) -> None:
    results = Results(run)
    figure = Figure(figsize=(15, 5), layout="constrained")
    time, stall, guest = figure.subplots(1, 3)
    _time(results, time)
    _stall(results, stall)
    _latency(results, guest)
    handles = [mpl.patches.Patch(color=colour, label=method) for method, colour in _COLOURS.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(_COLOURS), fontsize="small")
    figure.suptitle(f"blockferry {run.machine.get('blockferry', '')}, {run.started}", fontsize="small")
    figure.savefig(path, dpi=110)


def _time(results: Results, axes: Axes) -> None:
    groups = []
    for image_format in results.run.settings.formats:
        for load in (IDLE, WRITING):
            methods = (*movers.LIVE, *movers.FLOORS) if load == IDLE else movers.LIVE
            bars = [
                (method, [one.seconds for one in results.of("time", method, image_format=image_format, load=load)])
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
            bars.append((method, [None if one.stall_s is None else one.stall_s * 1000 for one in found]))
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
                sides = [one.before if side == "before" else one.during for one in found]
                bars.append((method, [figures.p99_ms for figures in sides if figures]))
            groups.append((f"{load}\n{side}", bars))
    _grouped(axes, groups)
    axes.set(title="guest's write latency, p99", ylabel="ms")


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
