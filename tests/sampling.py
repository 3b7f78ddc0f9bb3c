"""Long products (kill points x methods x disks) are sampled in `make test`; `make test-all` plays all their cases.

A test marked `sampled(part)` plays this part of its cases, at least three, chosen by the commit: each run of
one commit plays the same ones, and over the commits all have their turn. Of what is left, each file of tests/system
plays SYSTEM_PART by the same rule, so that `make test` stays within 45 minutes however many situations are added; what
is marked `always` is played besides. Whoever names a single test, or chooses by `-k`, gets all that were named.
"""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

EVERYTHING = os.environ.get("BLOCKFERRY_EFFORT") == "all"
LEAST = 3

SYSTEM_PART = 0.4
"""Of the tests of one file of tests/system. Played whole they take 70 minutes on two quiet cores."""


NO_COMMIT = "no commit"


def commit() -> str:
    """The commit that is checked out; NO_COMMIT where there is no git."""
    words = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else NO_COMMIT


def sample(cases: Sequence[str], part: float, seed: str) -> set[str]:
    """Return `part` of the cases (more than 0, at most 1), at least LEAST of them, chosen by the seed."""
    wanted = max(LEAST, math.ceil(len(cases) * part))
    return set(sorted(cases, key=lambda case: hashlib.sha256(f"{seed} {case}".encode()).digest())[:wanted])


def _products(items: list[pytest.Item]) -> list[tuple[list[str], float]]:
    """The cases of each test that is a long product, and which part of them is played."""
    cases: dict[str, list[str]] = defaultdict(list)
    parts: dict[str, float] = {}
    for item in items:
        mark = item.get_closest_marker("sampled")
        if mark is not None:
            test = item.nodeid.partition("[")[0]
            cases[test].append(item.nodeid)
            parts[test] = mark.args[0]
    return [(cases[test], parts[test]) for test in cases]


def _files(items: list[pytest.Item]) -> list[tuple[list[str], float]]:
    """The same of the files of tests/system, apart from what is always played."""
    cases: dict[str, list[str]] = defaultdict(list)
    for item in items:
        if item.path.parent.name == "system" and item.get_closest_marker("always") is None:
            cases[item.path.name].append(item.nodeid)
    return [(names, SYSTEM_PART) for names in cases.values()]


def _left_out(groups: list[tuple[list[str], float]], seed: str) -> set[str]:
    return {name for names, part in groups for name in set(names) - sample(names, part, seed)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = bool(config.option.keyword) or any("::" in word for word in config.args)
    if EVERYTHING or named:
        return
    seed = commit()
    left_out = _left_out(_products(items), seed)
    left_out |= _left_out(_files([item for item in items if item.nodeid not in left_out]), seed)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not EVERYTHING and any("system" in word or word == "tests" for word in config.args):
        terminalreporter.write_line(
            f"The system tests were sampled by commit {commit()[:7]}; `make test-all` plays all of them."
        )
