"""The generated parts of docs/ are fresh, and say all."""

from __future__ import annotations

import os
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


def _loaded_by(words: list[str], more: str = "", **environment: str) -> set[str]:
    """The modules that a command has loaded when it ends."""
    program = (
        f"import sys{more}; from blockferry.cli import main\n"
        f"try: main.root.main({words!r})\n"
        "except SystemExit: pass\n"
        "print(); print(*sys.modules)"
    )
    command = [sys.executable, "-c", program]
    got = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ, **environment})
    return set(got.stdout.splitlines()[-1].split())


def test_the_programs_help_loads_no_command() -> None:
    """What `--help` waits for is what it loads: nothing of libvirt, of the journal, of moves, of terminals."""
    modules = _loaded_by(["--help"])
    ours = {name for name in modules if name.split(".")[0] == "blockferry"}
    assert {name for name in ours if not name.startswith("blockferry.base.errors.")} <= {
        "blockferry",
        "blockferry.base",
        "blockferry.base.errors",
        "blockferry.base.lazy",
        "blockferry.cli",
        "blockferry.cli.app",
        "blockferry.cli.command",
        "blockferry.cli.main",
    }
    assert not {"libvirt", "sqlalchemy", "alembic", "lxml", "rich", "msgspec", "platformdirs", "logging"} & modules


def test_a_completion_of_a_vms_name_loads_no_database_and_no_move(tmp_path: Path) -> None:
    """It has 0.3 s, and libvirt's answer is in them. libvirt is not there: what is loaded before that counts."""
    modules = _loaded_by(
        ["--version"],
        "; from blockferry.cli import types; types.COMPLETION_TIMEOUT_S = 60",  # the test's machine may be busy
        _BLOCKFERRY_COMPLETE="bash_complete",
        COMP_WORDS="blockferry\ncheck\nw",
        COMP_CWORD="2",
        BLOCKFERRY_URI=f"qemu:///system?socket={tmp_path}/none",
        BLOCKFERRY_JOURNAL=str(tmp_path / "journal.db"),
    )
    assert "blockferry.moves.name_lists" in modules
    assert not modules & {"sqlalchemy", "alembic", "asyncio", "blockferry.storage_move.survey"}
    assert not modules & {
        "blockferry.moves.storage_planning",
        "blockferry.moves.run_storage_move",
        "blockferry.leftovers.quarantine",
    }
    assert not [name for name in modules if name.startswith(("blockferry.doctor.", "blockferry.tracking."))]


@pytest.mark.parametrize("words", [["explain", "JOURNAL_FAILED"], ["completion", "bash"]])
def test_what_speaks_of_no_host_loads_nothing_of_moves(words: list[str]) -> None:
    assert not {"blockferry.client", "blockferry.moves", "libvirt", "sqlalchemy"} & _loaded_by(words)


_WAY_TO_A_COPY = """
import sys
import blockferry.cli.move, blockferry.moves.run_storage_move, blockferry.moves.storage_planning
from blockferry.storage_move.move_journal import MoveJournal
journal = MoveJournal.open(sys.argv[1], make=len(sys.argv) > 2)
journal.unfinished()
journal.close()
print(*sys.modules)
"""


def test_the_way_to_a_copy_loads_nothing_of_other_databases_and_other_rooms(tmp_path: Path) -> None:
    """Half of the time before a copy begins is loading; what is in vain there is listed here."""
    command = [sys.executable, "-c", _WAY_TO_A_COPY, f"sqlite:///{tmp_path}/journal.db"]
    subprocess.run([*command, "make"], check=True, capture_output=True)  # the first one of all loads Alembic
    got = subprocess.run(command, check=True, capture_output=True, text=True)
    modules = set(got.stdout.split())
    assert {"sqlalchemy.dialects.sqlite", "blockferry.storage_move.survey"} <= modules
    assert not {"sqlalchemy.dialects.postgresql", "sqlalchemy.orm", "sqlalchemy.ext.asyncio", "alembic"} & modules
    assert not [name for name in modules if name.startswith(("blockferry.doctor.", "blockferry.tracking."))]
