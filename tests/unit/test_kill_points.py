"""Each point that is passed is listed by the kill points of the module that passes it."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import blockferry
from blockferry.jobs.kill_points import KillPoints

ROOT = Path(blockferry.__file__).parent


def passed_in(path: Path) -> set[str]:
    """The names with which a module calls `point`."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    return {
        call.args[0].value
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "point" and call.args
        if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str)
    }


PASSING = [path for path in sorted(ROOT.rglob("*.py")) if passed_in(path)]


@pytest.mark.parametrize("path", PASSING, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_point_is_listed(path: Path) -> None:
    """A point that is not listed ends the command as a bug, when a test asks for any point at all."""
    name = ".".join(("blockferry", *path.relative_to(ROOT).with_suffix("").parts))
    points = importlib.import_module(name).point
    assert isinstance(points, KillPoints)
    assert passed_in(path) <= set(points.names)


def test_there_are_points() -> None:
    assert len(PASSING) > 10
