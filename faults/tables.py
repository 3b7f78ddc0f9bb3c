"""A run as tables: for a terminal by rich, for documents as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from faults import places
from faults.case import Catalogue
from faults.host_moves import host_places
from faults.record import Result, Run


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def tables(run: Run, known: Catalogue[Any]) -> list[Table]:
    by_place = _by_part(run) if _of_hosts(run) else _by_phase(run)
    return [table for table in (_by_fault(run, known), by_place) if table.rows]


def _by_fault(run: Run, known: Catalogue[Any]) -> Table:
    rows = []
    for fault in known.faults.values():
        found = [result for result in run.results if result.fault == fault.name]
        if found:
            rows.append(
                (
                    fault.group,
                    fault.name,
                    fault.what,
                    _score(found),
                    str(sum(result.kills for result in found) or "-"),
                    _ends(found),
                    _gap(found),
                )
            )
    note = (
        "Right: cases in which nothing was lost, left, stuck or in two places. Longest silence: the longest time "
        "without a sign of a guest in any of its cases, reboots, power cycles and suspensions of its owner included."
    )
    columns = ("group", "fault", "what happens", "right", "kills", "the moves ended", "longest silence")
    return Table("By fault", columns, rows, note)


def _by_phase(run: Run) -> Table:
    rows = []
    phases = dict.fromkeys((*places.PHASES, "back", places.AT_RANDOM))
    for phase in phases:
        cells = []
        for method in places.METHODS:
            for disks in (1, 3):
                at = [
                    result
                    for result in run.results
                    if result.phase == phase and result.method == method and result.disks == disks
                ]
                cells.append(_score(at) if at else "-")
        rows.append((phase, *cells))
    names = [f"{method}, {disks} disk{'s'[: disks - 1]}" for method in places.METHODS for disks in (1, 3)]
    return Table("By phase", ("phase", *names), rows)


def _by_part(run: Run) -> Table:
    """Of moves between hosts: the part of the move against the kind of VM."""
    rows = []
    for part in host_places.PARTS:
        at = [
            [result for result in run.results if result.phase == part and result.method == kind]
            for kind in host_places.KINDS
        ]
        if any(at):
            rows.append((part, *(_score(found) if found else "-" for found in at)))
    return Table("By part of the move", ("part", *host_places.KINDS), rows)


def _of_hosts(run: Run) -> bool:
    return any(result.method in host_places.KINDS for result in run.results)


def _score(found: Sequence[Result]) -> str:
    right = sum(result.ok for result in found)
    return f"{right} of {len(found)}"


def _ends(found: Iterable[Result]) -> str:
    return ", ".join(
        f"{end or 'not known'} {count}" for end, count in Counter(result.end for result in found).most_common()
    )


def _gap(found: Iterable[Result]) -> str:
    longest = max((result.longest_gap_s for result in found), default=0.0)
    return f"{longest:.1f} s" if longest else "-"


# -- rendering ------------------------------------------------------------------------------------------------------


def headline(run: Run) -> str:
    right = sum(result.ok for result in run.results)
    missed = sum(not result.reached for result in run.results)
    hours = sum(result.seconds for result in run.results) / 3600
    seeds = f"seed{'s'[: len(run.seeds) > 1]} {', '.join(map(str, run.seeds))}"
    return (
        f"{len(run.results)} cases, {run.kills} kills, {right} right, {len(run.results) - right} wrong; {seeds}; "
        f"{hours:.1f} h; in {missed} the move was over, or could not be stopped, before the fault"
    )


def to_terminal(run: Run, known: Catalogue[Any], console: Console) -> None:
    for table in tables(run, known):
        shown = RichTable(*table.columns, title=table.title, caption=table.note)
        shown.title_justify = shown.caption_justify = "left"
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for line in _wrong(run):
        console.print(line, style="red", highlight=False, markup=False)
    console.print(headline(run))


def to_markdown(run: Run, known: Catalogue[Any]) -> str:
    machine = "; ".join(f"{name}: {value}" for name, value in run.machine.items())
    lines = [f"Run of {run.started}{'' if run.finished else ' (not finished)'}. {machine}.", "", f"{headline(run)}."]
    for table in tables(run, known):
        lines += ["", f"### {table.title}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (table.columns, ("---",) * len(table.columns), *table.rows)]
        if table.note:
            lines += ["", table.note]
    wrong = _wrong(run)
    return "\n".join([*lines, *([""] if wrong else []), *(f"- {line}" for line in wrong)]) + "\n"


def _wrong(run: Run) -> list[str]:
    found = []
    for result in run.results:
        if not result.ok:
            seed = "" if result.seed is None else f" (seed {result.seed})"
            found.append(f"WRONG: {result.case}{seed}: {' // '.join(text.splitlines()[0] for text in result.findings)}")
    return found
