"""Looking at files on the host where the answer has to be an error number: `looking_program.py` does it there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from blockferry.images.runner import Runner
from blockferry.images.shipping import PYTHON, program

_PROGRAM = program("looking_program")


def stat(runner: Runner, paths: Sequence[str], *, links: bool = False) -> list[dict[str, Any]]:
    """For each path the fields of stat(2), or `errno` and `error`. `links`: of a symbolic link itself.

    Raises HostCommandFailed.
    """
    found = _ask(runner, {"do": "stat", "paths": list(paths), "links": links})
    assert isinstance(found, list)
    return found


def write_seconds(runner: Runner, directory: str, mib: int, timeout_s: float) -> float:
    """How long it takes to write and flush so many MiB there. Raises HostCommandFailed."""
    return float(_ask(runner, {"do": "write_rate", "directory": directory, "blocks": mib}, timeout_s)["seconds"])


def _ask(runner: Runner, wish: dict[str, Any], timeout_s: float | None = None) -> Any:
    result = runner.run([PYTHON, "-I", "-c", _PROGRAM], stdin=json.dumps(wish).encode(), timeout_s=timeout_s)
    return json.loads(result.stdout)
