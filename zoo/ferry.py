"""blockferry's command line on the host, with --json, typed as a user types it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Host
from lab.namespaces import HostProcess

PROGRAM = os.environ.get("ZOO_BLOCKFERRY") or str(Path(sys.executable).with_name("blockferry"))
"""Another version of the program can be put under the judge: ZOO_BLOCKFERRY=/path/to/blockferry."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended. `status` is None when it did not end in time and was killed."""

    words: tuple[str, ...]
    status: int | None
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        found = []
        for line in self.out.splitlines():
            with contextlib.suppress(ValueError):
                one = json.loads(line)
                if isinstance(one, dict):
                    found.append(one)
        return found

    @property
    def codes(self) -> tuple[str, ...]:
        """The reasons of a refusal, or the code of the error."""
        for one in reversed(self.documents):
            if one.get("kind") == "error":
                facts = one.get("facts") or {}
                return tuple(facts.get("codes") or [str(one.get("code"))])
        return ()

    @property
    def message(self) -> str:
        for one in reversed(self.documents):
            if one.get("kind") == "error":
                return str(one.get("message"))
        return self.err.strip()[-400:]

    @property
    def sources(self) -> tuple[str, ...]:
        """The report's sentences about the old files."""
        for one in reversed(self.documents):
            if one.get("kind") == "report":
                report = one["move"].get("report") or {}
                return tuple(report.get("sources") or ())
        return ()

    @property
    def plan(self) -> dict[str, Any]:
        for one in self.documents:
            if one.get("kind") == "started":
                return dict(one["move"].get("plan") or {})
        return {}


class Ferry:
    """`blockferry` on one host with one journal."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.host = host
        self._config = directory / "empty.toml"
        self._config.write_text("")
        self._journal = directory / "journal.db"

    def start(self, words: Sequence[str], point: str = "") -> HostProcess:
        """Start a command. `point`: named points of the program at which it stands still, as BLOCKFERRY_POINT."""
        environment = {
            **os.environ,
            "BLOCKFERRY_JOURNAL": f"sqlite:///{self._journal}",
            "BLOCKFERRY_CONFIG": str(self._config),
            "BLOCKFERRY_POINT": point,
        }
        return self.host.popen(
            [PROGRAM, "--json", *words], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    @staticmethod
    def end(process: HostProcess, words: Sequence[str], seconds: float) -> Said:
        try:
            out, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate(timeout=30)
            return Said(tuple(words), None, out, err)
        return Said(tuple(words), process.returncode, out, err)
