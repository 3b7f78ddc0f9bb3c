"""How results look: tables and details for a terminal, plain columns for a pipe, JSON for programs.

A pipe gets no colours, no box characters, no wrapping, and the same columns whatever the width: one record per
line, columns set apart by two spaces or more, `-` where there is nothing.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

FORMAT_VERSION = 1  # of the JSON documents
NOTHING = "-"

Cell = str | Text | None


@dataclass(frozen=True, slots=True)
class Column:
    """`fold`: may be broken over lines where the terminal is narrow, but not below `least` characters."""

    title: str
    right: bool = False
    fold: bool = False
    least: int | None = None


class Out:
    """One output stream. `pretty`: a terminal (or `--color always`) reads it."""

    def __init__(self, stream: TextIO, color: str) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()
        self.pretty = self.is_terminal or color == "always"
        self.console = Console(
            file=stream,
            force_terminal=self.pretty,
            no_color=True if color == "never" else False if color == "always" else None,  # None: NO_COLOR decides
            highlight=False,
            markup=False,
            emoji=False,
            width=None if self.is_terminal else shutil.get_terminal_size((100, 24)).columns,
        )

    @property
    def width(self) -> int:
        return self.console.width

    def line(self, text: str | Text = "", indent: int = 0) -> None:
        """A sentence; wrapped only for a terminal."""
        if self.pretty:
            self.console.print(Padding(_text(text), (0, 0, 0, indent), expand=False) if indent else _text(text))
        else:
            self.stream.write(" " * indent + str(text) + "\n")
            self.stream.flush()

    def unwrapped(self, text: str) -> None:
        """What is copied and pasted: the terminal may break the line, but no newline stands in it."""
        self.stream.write(text + "\n")
        self.stream.flush()

    def note(self, text: str) -> None:
        """Something said on the side."""
        self.line(Text(text, style="dim") if self.pretty else text)

    def heading(self, text: str) -> None:
        self.line()
        self.line(Text(text, style="bold"))

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], indent: int = 0) -> None:
        if self.pretty:
            self.console.print(Padding(_rich_table(columns, rows), (0, 0, 0, indent), expand=False))
        else:
            for line in plain_table(columns, rows):
                self.stream.write(" " * indent + line + "\n")
            self.stream.flush()

    def details(self, pairs: Iterable[tuple[str, Cell | Sequence[Cell]]], indent: int = 2) -> None:
        """Names and values; a value that is a list takes a line for each item."""
        rows: list[tuple[str, Cell]] = []
        for name, value in pairs:
            items: Sequence[Cell] = [value] if value is None or isinstance(value, str | Text) else value
            rows.extend((name if at == 0 else "", item) for at, item in enumerate(items))
        if self.pretty:
            grid = Table.grid(padding=(0, 2, 0, 0))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            for name, cell in rows:
                grid.add_row(name, _text(cell))
            self.console.print(Padding(grid, (0, 0, 0, indent), expand=False))
        else:
            width = max((len(name) for name, _ in rows), default=0)
            for name, cell in rows:
                self.stream.write(" " * indent + f"{name:<{width}}  {_plain(cell)}\n")
            self.stream.flush()

    def document(self, kind: str, **content: Any) -> None:
        """One JSON document on one line."""
        self.stream.write(document(kind, **content) + "\n")
        self.stream.flush()


def document(kind: str, **content: Any) -> str:
    """`{"version":1,"kind":...}` with the content; dataclasses become objects, enums their values.

    Written in ASCII: a path that is not UTF-8 then survives as an escape instead of breaking the stream.
    """
    return json.dumps(msgspec.to_builtins({"version": FORMAT_VERSION, "kind": kind, **content}), separators=(",", ":"))


def plain_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> list[str]:
    """Lines with aligned columns, a line of titles first."""
    cells = [[column.title for column in columns], *([_plain(cell) for cell in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(columns))]
    lines = []
    for row in cells:
        padded = (
            text.rjust(width) if column.right else text.ljust(width)
            for text, width, column in zip(row, widths, columns, strict=True)
        )
        lines.append("  ".join(padded).rstrip())
    return lines


def _rich_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.fold,
            min_width=column.least,
            overflow="fold" if column.fold else "ellipsis",
        )
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    return table


def stack(*parts: RenderableType | None) -> Group:
    return Group(*(part for part in parts if part is not None))


def clock(at: float) -> str:
    """The local time of day of a wall time (seconds since the epoch)."""
    return datetime.fromtimestamp(at, tz=UTC).astimezone().strftime("%H:%M:%S")


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 disk`, `3 disks`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text("" if cell is None else cell)


def _plain(cell: Cell) -> str:
    return str(cell) if cell is not None and str(cell) else NOTHING
