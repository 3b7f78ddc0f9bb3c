"""The generated parts of docs/ are fresh, and say all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from blockferry.cli import docs, main

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("name", sorted(docs.render()))
def test_generated_documentation_is_fresh(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == docs.render()[name], "run `python -m blockferry.cli.docs`"


def test_every_command_is_described_with_an_example() -> None:
    text = docs.render()["commands.md"]
    for name, command in main.root.load_all().items():
        assert command.hidden or f"### {name}\n" in text
        assert command.hidden or f"\nblockferry {name}" in text or f" {name}\n" in text


def test_every_exit_status_has_a_meaning() -> None:
    assert "|  |" not in docs.render()["exit-statuses.md"].replace("| |", "")


def test_the_programs_help_says_what_the_commands_say() -> None:
    """The program's own help loads no command, so the lines of its list stand in a table."""
    known = main.root.load_all()
    told = {name: entry.short_help for entries in main.SECTIONS.values() for name, entry in entries.items()}
    assert told == {name: known[name].get_short_help_str(100) for name in told}
    assert set(known) == {*told, *main.HIDDEN}


def test_the_programs_help_loads_no_command() -> None:
    """What `--help` waits for is what it loads: nothing of libvirt, of the journal, or of moves."""
    program = (
        "import sys; from blockferry.cli import main\n"
        "try: main.root.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded.startswith("Usage: ")
    modules = loaded.splitlines()[-1].split()
    allowed = {
        "blockferry",
        "blockferry.base",
        "blockferry.base.errors",
        "blockferry.base.log",
        "blockferry.base.units",
    }
    ours = {name for name in modules if name.split(".")[0] == "blockferry"}
    assert {name for name in ours if not name.startswith(("blockferry.cli", "blockferry.base.errors."))} <= allowed
    assert not {"libvirt", "sqlalchemy", "alembic", "lxml"} & set(modules)


@pytest.mark.parametrize("words", [["explain", "JOURNAL_FAILED"], ["completion", "bash"]])
def test_what_speaks_of_no_host_loads_nothing_of_moves(words: list[str]) -> None:
    program = (
        "import sys; from blockferry.cli import main\n"
        f"try: main.root.main({words!r})\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert not {"blockferry.client", "blockferry.moves", "libvirt", "sqlalchemy"} & set(loaded.splitlines()[-1].split())
