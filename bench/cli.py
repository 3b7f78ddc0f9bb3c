"""`python -m bench`: run everything, or show what a run has found."""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from bench import methods_cli, movers, moving, plot, rendering, switching, tables
from bench.options import Size, new_console
from bench.place import Place
from bench.record import Run, Settings, Trial, now
from lab import LabError
from lab.sizes import GIB, MIB

RESULTS = Path(__file__).parent / "results"
MEASURES = ("switch", "time", "guest")
MORE = ("pace",)
"""Only when it is asked for."""


@click.group(invoke_without_command=True)
@click.option("--rounds", default=5, show_default=True, help="Of the whole moves.")
@click.option("--size", type=Size(), default="4GiB", show_default=True, help="Of the disk that is moved.")
@click.option("--fill", type=Size(), help="So much of it holds random data.  [default: all]")
@click.option("--switch-rounds", default=20, show_default=True, help="Of the measure of the switch.")
@click.option("--switch-size", type=Size(), default="256MiB", show_default=True, help="Of its disks.")
@click.option("--format", "formats", type=click.Choice(["raw", "qcow2"]), multiple=True, help="Only this; repeatable.")
@click.option("--only", type=click.Choice((*MEASURES, *MORE)), multiple=True, help="Only this measure; repeatable.")
@click.option("--seed", type=int, help="Of the order; default: a new one.")
@click.option("--quick", is_flag=True, help="1 round, 2 of the switch, small disks: only to see that it works.")
@click.option("--output", type=click.Path(path_type=Path), help="The JSON file.  [default: bench/results/<date>.json]")
@click.pass_context
def main(
    ctx: click.Context,
    rounds: int,
    size: int,
    fill: int | None,
    switch_rounds: int,
    switch_size: int,
    formats: tuple[str, ...],
    only: tuple[str, ...],
    seed: int | None,
    quick: bool,
    output: Path | None,
) -> None:
    """Blockferry beside virsh, qemu-img and dd: time, stall at the switch, what the guest notices. Needs root."""
    if ctx.invoked_subcommand is not None:
        return
    if quick:
        rounds, size, fill, switch_rounds, switch_size = 1, min(size, 512 * MIB), None, 2, min(switch_size, 128 * MIB)
    settings = Settings(
        rounds=rounds,
        size=size,
        fill=size if fill is None else fill,
        switch_rounds=switch_rounds,
        switch_size=switch_size,
        before_s=1.0 if quick else 3.0,
        formats=formats or ("raw", "qcow2"),
        measures=only or MEASURES,
        seed=random.randrange(2**31) if seed is None else seed,
    )
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    path = output or RESULTS / f"{stamp}{'-quick' if quick else ''}.json"
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the lab is taken down
    console = new_console()
    run = Run.begin(settings)
    _perform_all(run, path, console)
    plot.save(run, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(tables.to_markdown(run))
    tables.to_terminal(run, console)
    console.print(f"{path}, .png and .md")
    sys.exit(1 if any(trial.failure for trial in run.trials) else 0)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--into", type=click.Path(exists=True, path_type=Path), help="Write it between the marks there.")
def report(file: Path, into: Path | None) -> None:
    """The tables of a run: for a terminal, as Markdown to a pipe. Draws its picture again, too."""
    run = Run.load(file)
    plot.save(run, file.with_suffix(".png"))
    if into is not None:
        rendering.put_into(into, tables.to_markdown(run))
    elif sys.stdout.isatty():
        tables.to_terminal(run, new_console())
    else:
        click.echo(tables.to_markdown(run), nl=False)


main.add_command(methods_cli.methods)
main.add_command(methods_cli.report_methods)


def _perform_all(run: Run, path: Path, console: Console) -> None:
    """Every trial, saved as soon as it is made; one that fails is written down and the rest goes on."""
    settings = run.settings
    order = random.Random(settings.seed)
    whole = [measure for measure in ("time", "guest", "pace") if measure in settings.measures]
    room = max(settings.size if whole else 0, 3 * settings.switch_size, GIB // 2)
    try:
        with Place.open(room) as place:

            def attempt(trial: Trial, make: Callable[[], None]) -> None:
                trial.begin()
                try:
                    make()
                except (LabError, RuntimeError, OSError, StopIteration, ValueError, KeyError) as error:
                    trial.failure = f"{type(error).__name__}: {error}"
                run.trials.append(trial)
                run.save(path)
                console.print(
                    _line(trial), style="red" if trial.failure else None, highlight=False, markup=False, soft_wrap=True
                )

            if "switch" in settings.measures:
                for trial, make in switching.trials(place, settings, order):
                    attempt(trial, make)
            listed: list[Trial] = []
            if "time" in whole:
                listed += moving.trials_of_time(settings, order)
            if "guest" in whole:
                listed += moving.trials_of_guest(settings, order)
            if "pace" in whole:
                listed += moving.trials_of_pace(settings, order)
            for trial in listed:
                attempt(trial, partial(moving.perform, place, settings, trial))
    except LabError as error:
        raise click.ClickException(str(error)) from error
    run.finished = now()
    run.save(path)


def _line(trial: Trial) -> str:
    where = f"{trial.measure:6} round {trial.round:2}  {trial.format:5} {trial.load:8} {trial.disks} disk(s)"
    if trial.failure is not None:
        return f"{where}  {trial.method} FAILED: {trial.failure}"
    stall = ""
    if trial.stall_s is not None and trial.calm_s is not None:
        stall = f"  silence {trial.stall_s * 1000:.0f} ms, calm {trial.calm_s * 1000:.0f}"
    off = " (VM off)" if trial.method in movers.FLOORS else ""
    return f"{where}  {trial.method + off:45} {trial.seconds or 0:6.2f} s{stall}  [load {trial.machine_load:.1f}]"
