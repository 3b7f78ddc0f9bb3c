"""A run as tables: for a terminal by rich, for documents as Markdown."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console

from bench import more_tables, movers, rendering, stats
from bench.found import Results
from bench.more_tables import before_during
from bench.moving import FLAT, IDLE, WRITING
from bench.record import Run, Trial
from bench.rendering import Table, spread_text
from bench.stats import Spread

_OWN = (movers.MIRROR, movers.CHANGED)

IN_A_WHOLE_RUN = ("switch", "time", "guest")


def tables(run: Run) -> list[Table]:
    """Those for which the run has trials."""
    return [table for section in _by_section(run).values() for table in section]


def sections(run: Run) -> dict[str, str]:
    """The run's part of each section of docs/performance.md, as Markdown; only those of which it has trials."""
    found = _by_section(run)
    missed = {section: _failures(run, section) for section in found}
    return {
        section: rendering.to_markdown(_head(run), made, missed[section])
        for section, made in found.items()
        if made or missed[section]
    }


def _by_section(run: Run) -> dict[str, list[Table]]:
    results = Results(run)
    made = {
        rendering.RESULTS: [_aims(results), _time(results), _outside_copy(results), _switch(results), _guest(results)],
        "pace": [more_tables.pace(results)],
        "buffer": [more_tables.buffer(results)],
        "verify": [more_tables.verify(results)],
        "resume": [more_tables.promise(results), more_tables.resume(results), more_tables.said(results)],
    }
    return {section: [table for table in of if table.rows] for section, of in made.items()}


def _time(results: Results) -> Table:
    rows = []
    for image_format in results.run.settings.formats:
        floor = results.floor(image_format)
        plain = results.of("time", floor, image_format=image_format) if floor else []
        for load, methods in ((IDLE, (*movers.LIVE, *movers.FLOORS)), (WRITING, movers.LIVE)):
            virsh = results.of("time", movers.VIRSH, image_format=image_format, load=load)
            for method in methods:
                found = results.of("time", method, image_format=image_format, load=load)
                if found:
                    rows.append(
                        (
                            image_format,
                            load if method in movers.LIVE else "VM off",
                            method,
                            spread_text(Spread.of(trial.seconds for trial in found), 2),
                            spread_text(stats.ratios(found, virsh, _seconds), 2),
                            spread_text(stats.ratios(found, plain, _seconds), 2),
                            spread_text(Spread.of(trial.fsync_s for trial in found), 2),
                        )
                    )
    size = results.run.settings.size / 2**30
    note = (
        f"One disk of {size:g} GiB. Seconds of wall time: median (least - most). Ratios are taken within a round, then "
        "median (least - most). Fastest plain copy: of the three with the VM off. fsync afterwards: what "
        "the command left in caches; not part of its time."
    )
    columns = ("format", "guest", "command", "s", "/ virsh blockcopy", "/ fastest plain copy", "fsync afterwards, s")
    return Table("A. Time of a move", columns, rows, note)


def _outside_copy(results: Results) -> Table:
    rows = []
    for image_format in results.run.settings.formats:
        floor = results.floor(image_format)
        plain = results.of("time", floor, image_format=image_format) if floor else []
        for load in (IDLE, WRITING):
            for method in _OWN:
                found = results.of("time", method, image_format=image_format, load=load)
                if found:
                    parts: list[Callable[[Trial], float | None]] = [_around, *(_phase(name) for name in _PHASES)]
                    cells = [spread_text(Spread.of(of(trial) for trial in found), 2) for of in parts]
                    whole = spread_text(Spread.of(trial.outside_copy_s for trial in found), 2)
                    copy = spread_text(stats.ratios(found, plain, _copy_phase), 2)
                    rows.append((image_format, load, method, *cells, whole, copy))
    note = (
        "Seconds. Start and end: the command's wall time less the phases it reports, so Python, connection, pre-check, "
        "exit. Last column: the copy phase alone."
    )
    columns = ("format", "guest", "command", "start and end", *_PHASES, "in all", "copy / fastest plain copy")
    return Table("A. Blockferry's time that is not copying", columns, rows, note)


_PHASES = ("prepare", "switch", "clean up")


def _switch(results: Results) -> Table:
    rows = []
    for disks in sorted({trial.disks for trial in results.good if trial.measure == "switch"}):
        for method in movers.LIVE:
            found = results.of("switch", method, disks=disks)
            stall = Spread.of(one.stall_s for one in found)
            if stall is not None:
                rows.append(
                    (
                        str(disks),
                        method,
                        str(stall.n),
                        _ms(stall.median),
                        _ms(stats.percentile((one.stall_s for one in found), 95)),
                        _ms(stats.percentile((one.stall_s for one in found), 99)),
                        _ms(stall.high),
                        _median_most(Spread.of(one.own_stall_s for one in found)),
                        _median_most(Spread.of(one.calm_s for one in found)),
                        _median_most(Spread.of(one.move_gap_s for one in found)),
                    )
                )
    note = (
        "Milliseconds; median / most. Silence: the longest time without any report of the guest around the switch, on "
        "the host's clock. Calm: the same in a window as long just before the command, so what the machine does by "
        "itself. p99 of n <= 100 tries is the worst one. virsh switches each disk at an instant of its own."
    )
    columns = ("disks", "command", "n", "silence, median", "p95", "p99", "most", "own report", "calm", "whole command")
    return Table("B. Longest stall at the switch", columns, rows, note)


def _guest(results: Results) -> Table:
    rows = []
    for measure, load in (("time", WRITING), ("guest", FLAT)):
        for image_format in results.run.settings.formats:
            for method in movers.LIVE:
                found = results.of(measure, method, image_format=image_format, load=load)
                both = [(trial.before, trial.during) for trial in found if trial.before and trial.during]
                if both:
                    rows.append((load, image_format, method, *before_during(both)))
    note = (
        "Before → while the copy ran (until it is in step): medians of the rounds; last columns: ratio, median "
        "(least - most). Latencies by the guest's clock."
    )
    columns = ("guest", "format", "command", "writes/s", "MiB/s", "p50 ms", "p99 ms", "throughput ratio", "p99 ratio")
    return Table("C. The guest's writes before and during the copy", columns, rows, note)


def _aims(results: Results) -> Table:
    """The aims of the project beside what was reached; the default method, the median of all rounds."""
    rows: list[tuple[str, ...]] = []

    def aim(what: str, limit: float, reached: float | None, unit: str) -> None:
        if reached is not None:
            verdict = "yes" if reached <= limit else "no"
            rows.append((what, f"<= {limit:g}{unit}", f"{reached:.2f}{unit}", verdict))

    for image_format in results.run.settings.formats:
        for load in (IDLE, WRITING):
            mirror = results.of("time", movers.MIRROR, image_format=image_format, load=load)
            virsh = results.of("time", movers.VIRSH, image_format=image_format, load=load)
            where = f"{image_format}, {load}"
            aim(f"time / virsh blockcopy, {where}", 0.95, _median(stats.ratios(mirror, virsh, _seconds)), "")
            floor = results.floor(image_format)
            if floor and load == IDLE:
                plain = results.of("time", floor, image_format=image_format)
                aim(f"time / {floor}, {where}", 1.05, _median(stats.ratios(mirror, plain, _seconds)), "")
            aim(f"not copying, {where}", 1.0, _median(Spread.of(trial.outside_copy_s for trial in mirror)), " s")
    for disks in (1, 3):
        found = results.of("switch", movers.MIRROR, disks=disks)
        worst = stats.percentile((trial.stall_s for trial in found), 99)
        aim(f"stall at the switch, p99, {disks} disk{'s'[: disks - 1]}", 20, worst and worst * 1000, " ms")
    return Table("Aims", ("what (blockferry mirror)", "aim", "reached", "met"), rows)


def _median(spread: Spread | None) -> float | None:
    return None if spread is None else spread.median


def _seconds(trial: Trial) -> float | None:
    return trial.seconds


def _copy_phase(trial: Trial) -> float | None:
    """Of a plain copy: all of it."""
    return trial.phases.get("copy", trial.seconds)


def _around(trial: Trial) -> float | None:
    return None if trial.seconds is None or not trial.phases else trial.seconds - sum(trial.phases.values())


def _phase(name: str) -> Callable[[Trial], float | None]:
    return lambda trial: trial.phases.get(name)


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f}"


def _median_most(spread: Spread | None) -> str:
    return "-" if spread is None else f"{_ms(spread.median)} / {_ms(spread.high)}"


def to_terminal(run: Run, console: Console) -> None:
    rendering.to_terminal(tables(run), _failures(run), console)


def to_markdown(run: Run) -> str:
    return rendering.to_markdown(_head(run), tables(run), _failures(run))


def _head(run: Run) -> list[str]:
    settings = run.settings
    rounds = f"Rounds: {settings.rounds}; of the switch: {settings.switch_rounds}"
    head = [rendering.headline(run.started, run.finished, run.machine)]
    head += [f"Gone on with: {when}." for when in run.gone_on]
    head.append(f"{rounds}; order shuffled, seed {settings.seed}.")
    return head


def _failures(run: Run, section: str | None = None) -> list[str]:
    return [
        f"FAILED: {trial.measure}, {trial.method}, round {trial.round}, {trial.format}, {trial.load}, "
        f"{trial.disks} disk(s)"
        f"{f', {trial.broken.cause}, {trial.broken.share:.0%}' if trial.broken else ''}: "
        f"{trial.failure.splitlines()[0] if trial.failure else ''}"
        for trial in run.trials
        if trial.failure is not None
        and section in (None, rendering.RESULTS if trial.measure in IN_A_WHOLE_RUN else trial.measure)
    ]
