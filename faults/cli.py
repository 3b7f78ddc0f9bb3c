"""`python -m faults`: play the matrix, list it, repeat one case, or show what a run has found."""

from __future__ import annotations

import random
import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from faults import matrix, places, tables
from faults.case import Case, Catalogue
from faults.ground import Ground
from faults.record import Result, Run, now
from lab import LabError

RESULTS = Path(__file__).parent / "results"
KILLS = 1000
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


@click.group(invoke_without_command=True)
@click.option("--seed", type=int, help="Of the order and of all that is left to chance; default: a new one.")
@click.option("--only", metavar="FAULT,..", default="", help="Faults or groups of faults.")
@click.option("--method", "methods", type=click.Choice(places.METHODS), multiple=True, help="Only this; repeatable.")
@click.option("--disks", type=click.Choice(["1", "3"]), multiple=True, help="Only VMs with so many disks.")
@click.option("--count", type=int, help="At most so many cases.")
@click.option("--kills", type=int, help="Go round again until so many processes were killed.  [default: 1000]")
@click.option("--part", metavar="K/N", help="Every Nth case from the Kth on: N runs at once, each with a record.")
@click.option("--budget", type=float, metavar="MINUTES", help="Begin no case after so long.")
@click.option(
    "--json", "output", type=click.Path(path_type=Path), help="The record; one of the same seed is gone on with."
)
@click.option("--again", is_flag=True, help="Play what was wrong in that record once more: after a fix.")
@click.option("--list", "listing", is_flag=True, help="Only say which cases there are.")
@click.option("--repeat", metavar="CASE_ID", help="This case alone, with all that was done.")
@click.pass_context
def main(
    ctx: click.Context,
    seed: int | None,
    only: str,
    methods: tuple[str, ...],
    disks: tuple[str, ...],
    count: int | None,
    kills: int | None,
    part: str | None,
    budget: float | None,
    output: Path | None,
    *,
    again: bool,
    listing: bool,
    repeat: str | None,
) -> None:
    """Break everything that a move stands on, on purpose, and judge what becomes of the VM. Needs root.

    Every case is determined by the seed and its id: --seed N --repeat CASE_ID plays it again.
    """
    if ctx.invoked_subcommand is not None:
        return
    known = matrix.catalogue()
    names = tuple(name for name in only.split(",") if name)
    groups = {fault.group for fault in known.faults.values()}
    for name in names:
        if name not in known.faults and name not in groups:
            raise click.UsageError(f"there is no fault or group {name!r}; --list names them")
    earlier = Run.load(output) if output is not None and output.exists() else None
    if earlier is not None and seed is not None and seed != earlier.seed:
        raise click.UsageError(f"{output} is of seed {earlier.seed}; name another file")
    if seed is None:
        seed = earlier.seed if earlier is not None else random.randrange(2**31)
    counts = tuple(int(disk) for disk in disks)
    wanted = (0 if names or methods or disks else KILLS) if kills is None else kills
    if repeat is not None:
        cases = [_parse(known, repeat)]
    else:
        cases = known.plan(seed, names, methods, counts, wanted)
    if part is not None:
        first, number = _part(part)
        cases = cases[first - 1 :: number]
    if listing:
        for case in cases:
            click.echo(case.id)
        click.echo(f"{len(cases)} cases, seed {seed}", err=True)
        return
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the lab is taken down
    run = earlier or Run.begin(seed)
    if again:
        run.results = [result for result in run.results if result.ok]
    done = {result.case for result in run.results}
    cases = [case for case in cases if case.id not in done or repeat is not None][:count]
    run.planned = len(done) + len(cases)
    console = _console()
    path = output or (None if repeat else RESULTS / f"{time.strftime('%Y-%m-%d')}-{seed}.json")
    complete = _perform(run, known, cases, path, budget, console, verbose=repeat is not None)
    if complete and path is not None:
        run.finished = now()
        run.save(path)
    tables.to_terminal(run, known, console)
    if path is not None:
        console.print(str(path))
    sys.exit(1 if any(not result.ok for result in run.results) else 0)


@main.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--into", type=click.Path(exists=True, path_type=Path), help="Write it between the marks there.")
def report(files: tuple[Path, ...], into: Path | None) -> None:
    """The tables of one or more runs together: for a terminal, as Markdown to a pipe."""
    run, known = Run.joined([Run.load(file) for file in files]), matrix.catalogue()
    if into is not None:
        head, begin, rest = into.read_text().partition(BEGIN)
        _, end, tail = rest.partition(END)
        if not begin or not end:
            raise click.ClickException(f"{into} has no {BEGIN} and {END}")
        into.write_text(f"{head}{BEGIN}\n\n{tables.to_markdown(run, known)}\n{END}{tail}")
    elif sys.stdout.isatty():
        tables.to_terminal(run, known, _console())
    else:
        click.echo(tables.to_markdown(run, known), nl=False)


def _part(text: str) -> tuple[int, int]:
    first, _, number = text.partition("/")
    if not (first.isdecimal() and number.isdecimal() and 1 <= int(first) <= int(number)):
        raise click.UsageError(f"{text!r} is no part of a whole, like 1/2")
    return int(first), int(number)


def _parse(known: Catalogue, text: str) -> Case:
    try:
        case = Case.parse(text)
    except ValueError:
        raise click.UsageError(f"{text!r} is no case's id, like kill-us/mirror/3/pivoted/0") from None
    if case.fault not in known.faults:
        raise click.UsageError(f"there is no fault {case.fault!r}")
    return case


def _perform(
    run: Run,
    known: Catalogue,
    cases: list[Case],
    path: Path | None,
    budget: float | None,
    console: Console,
    *,
    verbose: bool,
) -> bool:
    """Every case, saved as soon as it is judged; whether all were played."""
    end = None if budget is None else time.monotonic() + budget * 60
    try:
        with Ground.open() as ground:
            for case in cases:
                if end is not None and time.monotonic() > end:
                    return False
                result = matrix.play(ground, known, case, run.seed)
                run.results.append(result)
                if path is not None:
                    run.save(path)
                _show(result, len(run.results), run, console, verbose=verbose)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    return True


def _show(result: Result, number: int, run: Run, console: Console, *, verbose: bool) -> None:
    at = "" if result.point == result.place else f" at {result.point}"
    missed = "" if result.reached else ", not reached"
    gap = f", silence {result.longest_gap_s:.1f} s" if result.longest_gap_s else ""
    head = f"{number:4}/{run.planned} {'right' if result.ok else 'WRONG'} {result.case}{at}: {result.end}{missed}{gap}"
    style = None if result.ok else "red"
    console.print(
        f"{head} [{result.seconds:.1f} s, {run.kills} kills]", style=style, highlight=False, markup=False,
        soft_wrap=True,
    )  # fmt: skip
    for line in [*(f"  ! {finding}" for finding in result.findings), *(f"    {note}" for note in result.notes if verbose or not result.ok)]:  # fmt: skip  # noqa: E501
        console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)
    if verbose or not result.ok:
        for line in result.evidence:
            console.print(f"      {line}", highlight=False, markup=False, soft_wrap=True)
    if not result.ok:
        console.print(f"  again: python -m faults --seed {run.seed} --repeat {result.case}", highlight=False)


def _console() -> Console:
    """As wide as the terminal; a file gets wide tables."""
    return Console() if sys.stdout.isatty() else Console(width=200)
