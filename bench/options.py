"""What the commands of the benchmark share: sizes as a user writes them, where they print."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from lab.sizes import to_bytes


class Size(click.ParamType[int]):
    name = "size"

    def convert(self, value: int | str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return to_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def new_console() -> Console:
    """As wide as the terminal; a file gets wide tables."""
    return Console() if sys.stdout.isatty() else Console(width=170)
