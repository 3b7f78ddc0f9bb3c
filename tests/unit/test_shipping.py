"""Several modules as one text for a host's own python3."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from blockferry.images import shipping

ARGUMENT_LIMIT = 128 * 1024  # MAX_ARG_STRLEN, execve(2)
IMAGES = Path(shipping.__file__).parent
PROGRAMS = sorted(IMAGES.glob("*_program.py"))

FIRST = """\
from __future__ import annotations
from dataclasses import dataclass

QUOTES = 'single "double" \\'\\'\\' \\"\\"\\" {braces} \\\\n'

@dataclass
class Point:
    x: int
"""
SECOND = "from shipped.first import QUOTES, Point\n\ndef told() -> str:\n    return f'{Point(3)} {QUOTES}'\n"
LAST = "import sys\nfrom shipped.second import told\nif __name__ == '__main__':\n    print(told(), sys.argv[1])\n"


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "shipped").mkdir()
    for name, text in (("__init__", ""), ("first", FIRST), ("second", SECOND), ("last", LAST)):
        (tmp_path / "shipped" / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    return "shipped"


def run(text: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-I", "-c", text, *words], capture_output=True, text=True, check=False)


def test_the_parts_find_each_other_where_nothing_is_installed(shipped: str) -> None:
    """Quotes, braces and backslashes arrive as they are; so do arguments."""
    done = run(shipping.program("last", ("first", "second"), shipped), "word")
    assert done.stdout == 'Point(x=3) single "double" \'\'\' """ {braces} \\n word\n', done.stderr


def test_a_part_that_was_forgotten_is_a_failure_that_names_it(shipped: str) -> None:
    done = run(shipping.program("last", ("first",), shipped), "word")
    assert done.returncode != 0
    assert "shipped" in done.stderr


def test_a_failure_names_the_module_and_the_line(shipped: str, tmp_path: Path) -> None:
    (tmp_path / "shipped" / "last.py").write_text("x = 1\nraise RuntimeError('the lamp went out')\n")
    assert 'File "shipped.last", line 2' in run(shipping.program("last", (), shipped)).stderr


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: "/".join(path.parts[-2:]))
def test_our_programs_run_on_hosts_with_an_older_python(path: Path) -> None:
    """Python 3.9: its grammar, and no `strict` of zip, which is a failure only when it is run."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert not [one for one in calls if isinstance(one.func, ast.Name) and one.func.id == "zip" and one.keywords]
