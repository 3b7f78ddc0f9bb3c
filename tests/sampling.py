"""Long products (kill points x methods x disks) are sampled in `make test`; `make test-all` plays all their cases.

A test marked `sampled(part)` plays this part of its cases, at least three, chosen by the commit: each run of
one commit plays the same ones, and over the commits all have their turn. Whoever names a single test, or chooses by
`-k`, gets all that were named.
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    named = bool(config.option.keyword) or any("::" in word for word in config.args)
    if EVERYTHING or named:
        return
    products: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sampled") is not None:
            products[item.nodeid.partition("[")[0]].append(item)
    seed = commit()
    left_out: set[str] = set()
    for cases in products.values():
        mark = cases[0].get_closest_marker("sampled")
        assert mark is not None
        names = [case.nodeid for case in cases]
        left_out |= set(names) - sample(names, mark.args[0], seed)
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left_out])
        items[:] = [item for item in items if item.nodeid not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if not EVERYTHING and any("system" in word or word == "tests" for word in config.args):
        terminalreporter.write_line(
            f"Long products of the system tests were sampled by commit {commit()[:7]}; `make test-all` plays all cases."
        )
