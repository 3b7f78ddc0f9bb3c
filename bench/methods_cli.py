"""`python -m bench methods`, `python -m bench report-methods`."""

from __future__ import annotations

import random
import signal
import sys
import time
from datetime import datetime
from pathlib import Path

import click

from bench import methods_report, rendering
from bench.methods import BANDWIDTH, LOADS, PATIENCE, SIZES, Comparison, Settings, Trial, go_through, perform
from bench.options import Size, new_console
from bench.orders import COMPARED, WAYS
from bench.place import Place
from lab import LabError
from lab.sizes import MIB

RESULTS = Path(__file__).parent / "results"


@click.command()
@click.option("--rounds", default=2, show_default=True, help="One is whole before the next one begins.")
@click.option("--minutes", type=click.FloatRange(min=0), help="Begin no trial after so many; --go-on makes the rest.")
@click.option(
    "--size", "sizes", type=Size(), multiple=True, help="Of the disk; repeatable.  [default: 128, 256, 512 MiB]"
)
@click.option("--bandwidth", type=Size(), default=BANDWIDTH, help="Bytes/s for each copy.  [default: 32MiB]")
@click.option("--format", "image_format", type=click.Choice(["raw", "qcow2"]), default="qcow2", show_default=True)
@click.option(
    "--way", "ways", type=click.Choice(list(WAYS)), multiple=True, help="Only this; repeatable.  [default: the seven]"
)
@click.option("--load", "loads", type=float, multiple=True, help="Guest's writes / bandwidth; repeatable.")
@click.option(
    "--patience", default=PATIENCE, show_default=True, help="Given up after so many times an idle copy's time."
)
@click.option("--seed", type=int, help="Of the order; default: a new one.")
@click.option("--output", type=click.Path(path_type=Path), help="[default: bench/results/methods-<date>.json]")
@click.option(
    "--go-on",
    "interrupted",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Make what this run's JSON file lacks, by its own settings; its trials that failed are made again.",
)
def methods(
    rounds: int,
    minutes: float | None,
    sizes: tuple[int, ...],
    bandwidth: int,
    image_format: str,
    ways: tuple[str, ...],
    loads: tuple[float, ...],
    patience: float,
    seed: int | None,
    output: Path | None,
    interrupted: Path | None,
) -> None:
    """Every way to move a disk, against the guest's write rate and the disk's size. Needs root.

    As it is, a round has 49 trials and takes about 25 minutes: docs/methods.md tells how that is reckoned. It can be
    made in pieces: every trial is saved when it is made.
    """
    settings = Settings(
        rounds=rounds,
        sizes=tuple(sorted(sizes)) or SIZES,
        bandwidth=bandwidth,
        format=image_format,
        ways=ways or COMPARED,
        loads=tuple(sorted(loads)) or LOADS,
        patience=patience,
        seed=random.randrange(2**31) if seed is None else seed,
    )
    path = interrupted or output or RESULTS / f"methods-{datetime.now().astimezone().strftime('%Y-%m-%d-%H%M%S')}.json"
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the lab is taken down
    run = Comparison.begin(settings) if interrupted is None else Comparison.go_on(interrupted)
    try:
        _perform_all(run, path, minutes)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    _write(run, path)
    rendering.to_terminal(methods_report.tables(run), methods_report.failures(run), new_console())
    click.echo(f"{path}, .png and .md")
    if lacking := len(run.todo()):
        click.echo(f"{lacking} trials are lacking; --go-on {path} makes them")
    sys.exit(1 if any(trial.failure for trial in run.trials) else 0)


def _perform_all(run: Comparison, path: Path, minutes: float | None) -> None:
    began, lacking, made = time.monotonic(), len(run.todo()), 0
    console = new_console()
    with Place.open(max(run.settings.sizes), shared=True) as place:
        ready = time.monotonic()

        def told(trial: Trial) -> None:
            nonlocal made
            made += 1
            left_s = (time.monotonic() - ready) / made * (lacking - made)
            console.print(
                f"{made:3}/{lacking} {_line(trial)}  [{left_s / 60:.0f} min left]",
                style="red" if trial.failure else None,
                highlight=False,
                markup=False,
                soft_wrap=True,
            )

        go_through(
            run,
            path,
            lambda trial: perform(place, run.settings, trial),
            told=told,
            time_over=lambda: minutes is not None and time.monotonic() - began > minutes * 60,
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
    head.append(f"{_amount(run)}; order shuffled, seed {run.settings.seed}.")
    head += [f"Gone on with {each}." for each in run.gone_on]
    return rendering.to_markdown(head, methods_report.tables(run), methods_report.failures(run))


def _amount(run: Comparison) -> str:
    rounds = f"{run.settings.rounds} round{'s' if run.settings.rounds > 1 else ''}"
    lacking = len(run.todo())
    return f"{rounds}, {len(run.trials)} trials" + (f"; {lacking} more are lacking" if lacking else "")


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
