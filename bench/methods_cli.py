"""`python -m bench methods`, `python -m bench report-methods`."""

from __future__ import annotations

import random
import signal
import sys
from datetime import datetime
from pathlib import Path

import click

from bench import methods_report, rendering
from bench.methods import BANDWIDTH, LOADS, SIZES, Comparison, Settings, Trial, perform, trials
from bench.options import Size, new_console
from bench.orders import WAYS
from bench.place import Place
from bench.record import now
from lab import LabError
from lab.sizes import MIB

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.option("--rounds", default=2, show_default=True)
@click.option(
    "--size", "sizes", type=Size(), multiple=True, help="Of the disk; repeatable.  [default: 256, 512, 1024 MiB]"
)
@click.option("--bandwidth", type=Size(), default=BANDWIDTH, help="Bytes/s for each copy.  [default: 32MiB]")
@click.option("--format", "image_format", type=click.Choice(["raw", "qcow2"]), default="qcow2", show_default=True)
@click.option("--way", "ways", type=click.Choice(list(WAYS)), multiple=True, help="Only this; repeatable.")
@click.option("--load", "loads", type=float, multiple=True, help="Guest's writes / bandwidth; repeatable.")
@click.option("--patience", default=4.0, show_default=True, help="Given up after so many times an idle copy's time.")
@click.option("--seed", type=int, help="Of the order; default: a new one.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: bench/results/methods-<date>.json]")
def methods(
    rounds: int,
    sizes: tuple[int, ...],
    bandwidth: int,
    image_format: str,
    ways: tuple[str, ...],
    loads: tuple[float, ...],
    patience: float,
    seed: int | None,
    output: Path | None,
) -> None:
    """Every way to move a disk, against the guest's write rate and the disk's size. Needs root."""
    settings = Settings(
        rounds=rounds,
        sizes=tuple(sorted(sizes)) or SIZES,
        bandwidth=bandwidth,
        format=image_format,
        ways=ways or tuple(WAYS),
        loads=tuple(sorted(loads)) or LOADS,
        patience=patience,
        seed=random.randrange(2**31) if seed is None else seed,
    )
    path = output or RESULTS / f"methods-{datetime.now().astimezone().strftime('%Y-%m-%d-%H%M%S')}.json"
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the lab is taken down
    run = Comparison.begin(settings)
    try:
        _perform_all(run, path)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    run.finished = now()
    run.save(path)
    _write(run, path)
    rendering.to_terminal(methods_report.tables(run), methods_report.failures(run), new_console())
    click.echo(f"{path}, .png and .md")
    sys.exit(1 if any(trial.failure for trial in run.trials) else 0)


def _perform_all(run: Comparison, path: Path) -> None:
    console = new_console()
    planned = list(trials(run.settings))
    with Place.open(max(run.settings.sizes)) as place:
        for number, trial in enumerate(planned, 1):
            try:
                perform(place, run.settings, trial)
            except (LabError, RuntimeError, OSError, StopIteration, ValueError, KeyError) as error:
                trial.failure = f"{type(error).__name__}: {error}"
            run.trials.append(trial)
            run.save(path)
            console.print(
                f"{number:3}/{len(planned)} {_line(trial)}",
                style="red" if trial.failure else None,
                highlight=False,
                markup=False,
                soft_wrap=True,
            )


def _line(trial: Trial) -> str:
    where = f"{trial.size // MIB:5} MiB, load {trial.load:4}: {trial.way:40}"
    if trial.failure is not None:
        return f"{where} FAILED: {trial.failure}"
    reached = f", guest {trial.before.bytes_per_s / MIB:.0f} MiB/s" if trial.before else ""
    over = f", NOT IN STEP: {trial.not_in_step}" if trial.not_in_step else ""
    return f"{where} {trial.seconds or 0:6.1f} s{reached}{over}"


def _write(run: Comparison, path: Path) -> None:
    methods_report.picture(run, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(_markdown(run))


def _markdown(run: Comparison) -> str:
    head = [rendering.headline(run.started, run.finished, run.machine)]
    head.append(f"Rounds: {run.settings.rounds}; order shuffled, seed {run.settings.seed}.")
    return rendering.to_markdown(head, methods_report.tables(run), methods_report.failures(run))


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--into", type=click.Path(exists=True, path_type=Path), help="Write it between the marks there.")
def report_methods(file: Path, into: Path | None) -> None:
    """The tables of a comparison of methods; draws its picture again, too."""
    run = Comparison.load(file)
    _write(run, file)
    if into is not None:
        rendering.put_into(into, _markdown(run))
    elif sys.stdout.isatty():
        rendering.to_terminal(methods_report.tables(run), methods_report.failures(run), new_console())
    else:
        click.echo(_markdown(run), nl=False)
