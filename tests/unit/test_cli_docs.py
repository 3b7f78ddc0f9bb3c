"""The generated parts of docs/ are fresh, and say all."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockferry.cli import docs, main

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(docs.render()))
def test_generated_documentation_is_fresh(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == docs.render()[name], "run `python -m blockferry.cli.docs`"


def test_every_command_is_described_with_an_example() -> None:
    text = docs.render()["commands.md"]
    for name, command in main.root.commands.items():
        assert command.hidden or f"### {name}\n" in text
        assert command.hidden or f"\nblockferry {name}" in text or f" {name}\n" in text


def test_every_exit_status_has_a_meaning() -> None:
    assert "|  |" not in docs.render()["exit-statuses.md"].replace("| |", "")
