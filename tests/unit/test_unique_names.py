"""A name occurs once (DESIGN.md, 4): no two modules and no two classes of one name in different meanings."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "src" / "blockferry"

ROLES = {"rules", "effects", "record", "plan", "decide", "observe", "points", "planning", "__init__"}
"""What a module is in its room; the room says of what (docs/design/rooms.md)."""


def modules() -> list[Path]:
    """The modules in which a name counts: a command's module in cli/ bears the command's name, whatever it is about."""
    return [path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "cli"]


def twice(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for name, place in names:
        places[name].append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_a_module_name_occurs_once() -> None:
    assert not twice((path.stem, str(path.relative_to(PACKAGE))) for path in modules() if path.stem not in ROLES)


def test_a_class_name_occurs_once() -> None:
    paths = list(PACKAGE.rglob("*.py"))
    assert len(paths) > 200
    assert not twice(
        (node.name, str(path.relative_to(PACKAGE)))
        for path in paths
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
