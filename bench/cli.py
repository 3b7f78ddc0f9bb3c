"""`python -m bench`: run everything, or show what a run has found."""

from __future__ import annotations

import random
import signal
import sys
from datetime import datetime
from pathlib import Path

import click

from bench import history, inventory, methods_cli, plot, rendering, tables
from bench.options import Size, new_console
from bench.record import Run, Settings
from bench.running import MEASURES, MORE, perform_all
from lab import LabError
from lab.sizes import MIB

RESULTS = Path(__file__).parent / "results"


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
@click.option(
    "--go-on",
    "interrupted",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Make what this run's JSON file lacks, by its own settings; its trials that failed are made again.",
)
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
    *,
    quick: bool,
    output: Path | None,
    interrupted: Path | None,
) -> None:
    """Blockferry beside virsh, qemu-img and dd: time, stall at the switch, what the guest notices. Needs root.

    Only when asked for: pace (with a latency contract), buffer (QEMU's copy buffers), verify (what a verification
    costs), resume (what is copied again after a break).
    """
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
    name = "-".join((stamp, *(sorted(only) if set(only) - set(MEASURES) else ()), *(("quick",) if quick else ())))
    path = interrupted or output or RESULTS / f"{name}.json"
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the lab is taken down
    console = new_console()
    run = Run.begin(settings) if interrupted is None else Run.go_on(interrupted)
    try:
        perform_all(run, path, console)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    plot.save(run, path.with_suffix(".png"))
    path.with_suffix(".md").write_text(tables.to_markdown(run))
    tables.to_terminal(run, console)
    console.print(f"{path}, .png and .md")
    sys.exit(1 if any(trial.failure for trial in run.trials) else 0)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--into", type=click.Path(exists=True, path_type=Path), help="Write each section between its marks there."
)
def report(file: Path, into: Path | None) -> None:
    """The tables of a run: for a terminal, as Markdown to a pipe. Draws its picture again, too.

    Into a document: only the sections that the run has trials of; the others stay as they are.
    """
    run = Run.load(file)
    plot.save(run, file.with_suffix(".png"))
    if into is not None:
        for section, markdown in tables.sections(run).items():
            rendering.put_into(into, markdown, section)
    elif sys.stdout.isatty():
        tables.to_terminal(run, new_console())
    else:
        click.echo(tables.to_markdown(run), nl=False)


main.add_command(history.history)
main.add_command(inventory.inventory)
main.add_command(methods_cli.methods)
main.add_command(methods_cli.report_methods)
