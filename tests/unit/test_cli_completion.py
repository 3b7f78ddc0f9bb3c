"""Completion: the scripts, and what they offer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import cli_fake
import pytest
from click.shell_completion import ShellComplete

from blockferry.cli import command, main, types
from blockferry.cli.app import App
from blockferry.jobs.outcome import Outcome

pytestmark = pytest.mark.slow

FAKE = Path(cli_fake.__file__)


def offered(client: cli_fake.FakeClient, words: str) -> list[str]:
    *args, incomplete = words.split(" ")
    app = App(opener=lambda _uri, _journal: client)
    complete = ShellComplete(main.root, {"obj": app}, command.PROGRAM, command.VARIABLE)
    return [item.value for item in complete.get_completions(args, incomplete)]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        ("mov", ["move", "moves"]),
        ("move ", ["db01", "web01", "web02"]),
        ("move web", ["web01", "web02"]),
        ("move web01 --to ", ["archive", "old-san", "ssd"]),
        ("check web01 --home s", ["ssd"]),
        ("move web01 --disk vdb=a", ["vdb=archive"]),
        ("move web01 --method c", ["changed-blocks", "clone", "cold"]),
        ("watch ", ["web01", "3f2a", "9e01"]),
        ("cancel ", ["web01", "3f2a"]),
        ("explain dest", ["DESTINATION_FULL", "DESTINATION_OVERCOMMITTED", "DESTINATION_TAKEN"]),
        ("run", []),
    ],
)
def test_names_are_offered(words: str, values: list[str]) -> None:
    moves = {
        "3f2a": cli_fake.summary(),
        "9e01": cli_fake.summary("9e01", outcome=Outcome.MOVED),
    }
    client = cli_fake.FakeClient(journal=moves)
    assert offered(client, words) == values
    assert client.log == []  # no move is taken up by a Tab key


def test_without_libvirt_there_are_no_names_and_no_error(capfd: pytest.CaptureFixture[str]) -> None:
    assert offered(cli_fake.FakeClient(raises=RuntimeError("no libvirt")), "move ") == []
    assert capfd.readouterr() == ("", "")


def test_a_libvirt_that_hangs_does_not_hold_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(types, "COMPLETION_TIMEOUT_S", 0.05)
    begun = time.monotonic()
    assert offered(cli_fake.FakeClient(hangs_s=2), "move ") == []
    assert time.monotonic() - begun < 1


def script(shell: str) -> str:
    done = subprocess.run(
        [sys.executable, str(FAKE), "completion", shell], check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_valid(shell: str) -> None:
    text = script(shell)
    assert "_BLOCKFERRY_COMPLETE" in text
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=text, check=True, text=True, timeout=30)


@pytest.mark.parametrize(
    ("words", "reply"),
    [
        (["move", "w"], "web01 web02"),
        (["move", "web01", "--disk", "vdb", "=", "ar"], "archive"),  # as bash breaks words at `=`
        (["move", "web01", "--disk", "vdb", "="], "archive old-san ssd"),
        (["move", "web01", "--to", "=", "s"], "ssd"),
        (["move", "web01", "--to", "s"], "ssd"),
    ],
)
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes(tmp_path: Path, words: list[str], reply: str) -> None:
    program = tmp_path / "blockferry"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE}" "$@"\n')
    program.chmod(0o755)
    quoted = " ".join(f"'{word}'" for word in ["blockferry", *words])
    text = f"""{script("bash")}
    COMP_WORDS=({quoted}); COMP_CWORD={len(words)}
    _blockferry_completion '{program}'
    echo "${{COMPREPLY[*]}}"
    """
    done = subprocess.run(["bash", "--norc"], input=text, capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.strip().splitlines()[-1:] == [reply], done.stderr
