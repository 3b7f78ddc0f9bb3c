"""A function of the package fits on a screen: 60 lines. ruff limits complexity and arguments, but not the length."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"
MOST_LINES = 60


def long_functions() -> set[tuple[str, str]]:
    """(file, function) for every function of the package with more than MOST_LINES lines, decorators apart."""
    return {
        (str(path.relative_to(SOURCE)), node.name)
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES
    }


def test_functions_fit_on_a_screen() -> None:
    assert long_functions() == set()
