"""Tables: for a terminal by rich, for documents as Markdown; results put into a document."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table as RichTable

from bench.stats import Spread

RESULTS = "results"
"""The section of a document that has only one."""


@dataclass(frozen=True, slots=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    note: str = ""


def spread_text(spread: Spread | None, digits: int) -> str:
    if spread is None:
        return "-"
    if spread.n == 1:
        return f"{spread.median:.{digits}f}"
    return f"{spread.median:.{digits}f} ({spread.low:.{digits}f} - {spread.high:.{digits}f})"


def headline(started: str, finished: str | None, machine: Mapping[str, str]) -> str:
    facts = "; ".join(f"{name}: {value}" for name, value in machine.items())
    return f"Run of {started}{'' if finished else ' (not finished)'}. {facts}."


def to_terminal(tables: Sequence[Table], failures: Sequence[str], console: Console) -> None:
    for table in tables:
        shown = RichTable(*table.columns, title=table.title, caption=table.note)
        shown.title_justify = shown.caption_justify = "left"
        for column in shown.columns:
            column.no_wrap = column.header in ("command", "way")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    for line in failures:
        console.print(line, style="red")


def to_markdown(head: Sequence[str], tables: Sequence[Table], failures: Sequence[str]) -> str:
    lines = list(head)
    for table in tables:
        lines += ["", f"### {table.title}", ""]
        lines += [f"| {' | '.join(row)} |" for row in (table.columns, ("---",) * len(table.columns), *table.rows)]
        if table.note:
            lines += ["", table.note]
    return "\n".join([*lines, *([""] if failures else []), *(f"- {line}" for line in failures)]) + "\n"


def put_into(document: Path, markdown: str, section: str = RESULTS) -> None:
    """Replace what stands between the section's marks there. Raises click.ClickException when there are none."""
    opening, closing = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    head, begin, rest = document.read_text().partition(opening)
    _, end, tail = rest.partition(closing)
    if not begin or not end:
        raise click.ClickException(f"{document} has no {opening} and {closing}")
    document.write_text(f"{head}{opening}\n\n{markdown}\n{closing}{tail}")
