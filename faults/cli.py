"""`python -m faults`: play a matrix, list it, repeat one case, or show what a run has found."""

from __future__ import annotations

import functools
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from faults import matrix, places, tables
from faults.case import Case, Catalogue
from faults.ground import Ground
from faults.host_moves import host_matrix, host_places
from faults.host_moves.host_ground import HostGround
from faults.record import Result, Run, now
from lab import LabError

RESULTS = Path(__file__).parent / "results"
KILLS = 1000
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
HOSTS_BEGIN, HOSTS_END = "<!-- results of hosts: begin -->", "<!-- results of hosts: end -->"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix: its faults, its ground, how a case is played on it."""

    known: Catalogue[Any]
    open_ground: Callable[[], AbstractContextManager[Any]]
    play: Callable[[Any, Catalogue[Any], Case, int], Result]
    suffix: str
    kills: int
    """How many kills there are at least when nothing is chosen."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be played, as it was typed."""

    seed: int | None
    only: str
    methods: tuple[str, ...]
    disks: tuple[str, ...]
    count: int | None
    kills: int | None
    part: str | None
    budget: float | None
    output: Path | None
    again: bool
    listing: bool
    repeat: str | None


STORAGE = Matrix(matrix.catalogue(), Ground.open, matrix.play, "", KILLS)
HOSTS = Matrix(host_matrix.catalogue(), HostGround.open, host_matrix.play, "-hosts", 0)


def _choices(command: Callable[..., None]) -> Callable[..., None]:
    """The options that both matrices have."""
    options = (
        click.option("--seed", type=int, help="Of the order and of all that is left to chance; default: a new one."),
        click.option("--only", metavar="FAULT,..", default="", help="Faults or groups of faults."),
        click.option("--count", type=int, help="At most so many cases."),
        click.option("--kills", type=int, help="Go round again until so many processes were killed."),
        click.option("--part", metavar="K/N", help="Every Nth case from the Kth on: N at once, each with a record."),
        click.option("--budget", type=float, metavar="MINUTES", help="Begin no case after so long."),
        click.option(
            "--json", "output", type=click.Path(path_type=Path),
            help="The record; one of the same seed is gone on with.",
        ),
        click.option("--again", is_flag=True, help="Play what was wrong in that record once more: after a fix."),
        click.option("--list", "listing", is_flag=True, help="Only say which cases there are."),
        click.option("--repeat", metavar="CASE_ID", help="This case alone, with all that was done."),
    )  # fmt: skip
    return functools.reduce(lambda inner, option: option(inner), reversed(options), command)


@click.group(invoke_without_command=True)
@_choices
@click.option("--method", "methods", type=click.Choice(places.METHODS), multiple=True, help="Only this; repeatable.")
@click.option("--disks", type=click.Choice(["1", "3"]), multiple=True, help="Only VMs with so many disks.")
@click.pass_context
def main(ctx: click.Context, /, **options: Any) -> None:
    """Break everything that a move stands on, on purpose, and judge what becomes of the VM. Needs root.

    Every case is determined by the seed and its id: --seed N --repeat CASE_ID plays it again. This is the matrix of
    storage moves, with 1000 kills; `hosts` is that of moves to another host.
    """
    if ctx.invoked_subcommand is None:
        _run(STORAGE, Choice(**options))


@main.command()
@_choices
@click.option("--kind", "methods", type=click.Choice(host_places.KINDS), multiple=True, help="Only these VMs.")
def hosts(**options: Any) -> None:
    """The matrix of moves from one host to another, with a witness outside that would see two running instances."""
    _run(HOSTS, Choice(**options, disks=()))


def _run(which: Matrix, choice: Choice) -> None:
    known, output = which.known, choice.output
    names = tuple(name for name in choice.only.split(",") if name)
    groups = {fault.group for fault in known.faults.values()}
    for name in names:
        if name not in known.faults and name not in groups:
            raise click.UsageError(f"there is no fault or group {name!r}; --list names them")
    earlier = Run.load(output) if output is not None and output.exists() else None
    seed = choice.seed
    if earlier is not None and seed is not None and seed != earlier.seed:
        raise click.UsageError(f"{output} is of seed {earlier.seed}; name another file")
    if seed is None:
        seed = earlier.seed if earlier is not None else random.randrange(2**31)
    counts = tuple(int(disk) for disk in choice.disks)
    wanted = (0 if names or choice.methods or counts else which.kills) if choice.kills is None else choice.kills
    if choice.repeat is not None:
        cases = [_parse(known, choice.repeat)]
    else:
        cases = known.plan(seed, names, choice.methods, counts, wanted)
    if choice.part is not None:
        first, number = _part(choice.part)
        cases = cases[first - 1 :: number]
    if choice.listing:
        for case in cases:
            click.echo(case.id)
        click.echo(f"{len(cases)} cases, seed {seed}", err=True)
        return
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(143))  # so that the lab is taken down
    run = earlier or Run.begin(seed)
    if choice.again:
        run.results = [result for result in run.results if result.ok]
    done = {result.case for result in run.results}
    cases = [case for case in cases if case.id not in done or choice.repeat is not None][: choice.count]
    run.planned = len(done) + len(cases)
    console = _console()
    fresh = RESULTS / f"{time.strftime('%Y-%m-%d')}{which.suffix}-{seed}.json"
    path = output or (None if choice.repeat else fresh)
    complete = _perform(which, run, cases, path, choice.budget, console, verbose=choice.repeat is not None)
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
    """The tables of one or more runs of one matrix together: for a terminal, as Markdown to a pipe."""
    run = Run.joined([Run.load(file) for file in files])
    of_hosts = any(result.method in host_places.KINDS for result in run.results)
    which = HOSTS if of_hosts else STORAGE
    begin_mark, end_mark = (HOSTS_BEGIN, HOSTS_END) if of_hosts else (BEGIN, END)
    if into is not None:
        head, begin, rest = into.read_text().partition(begin_mark)
        _, end, tail = rest.partition(end_mark)
        if not begin or not end:
            raise click.ClickException(f"{into} has no {begin_mark} and {end_mark}")
        text = tables.to_markdown(run, which.known)
        into.write_text(f"{head}{begin_mark}\n\n{text}\n{end_mark}{tail}")
    elif sys.stdout.isatty():
        tables.to_terminal(run, which.known, _console())
    else:
        click.echo(tables.to_markdown(run, which.known), nl=False)


def _part(text: str) -> tuple[int, int]:
    first, _, number = text.partition("/")
    if not (first.isdecimal() and number.isdecimal() and 1 <= int(first) <= int(number)):
        raise click.UsageError(f"{text!r} is no part of a whole, like 1/2")
    return int(first), int(number)


def _parse(known: Catalogue[Any], text: str) -> Case:
    try:
        case = Case.parse(text)
    except ValueError:
        raise click.UsageError(f"{text!r} is no case's id, like kill-us/mirror/3/pivoted/0") from None
    if case.fault not in known.faults:
        raise click.UsageError(f"there is no fault {case.fault!r}")
    return case


def _perform(
    which: Matrix,
    run: Run,
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
        with which.open_ground() as ground:
            for case in cases:
                if end is not None and time.monotonic() > end:
                    return False
                result = which.play(ground, which.known, case, run.seed)
                run.results.append(result)
                if path is not None:
                    run.save(path)
                _show(which, result, len(run.results), run, console, verbose=verbose)
    except LabError as error:
        raise click.ClickException(str(error)) from error
    return True


def _show(which: Matrix, result: Result, number: int, run: Run, console: Console, *, verbose: bool) -> None:
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
        command = f"python -m faults{which.suffix.replace('-', ' ')} --seed {run.seed} --repeat {result.case}"
        console.print(f"  again: {command}", highlight=False)


def _console() -> Console:
    """As wide as the terminal; a file gets wide tables."""
    return Console() if sys.stdout.isatty() else Console(width=200)
