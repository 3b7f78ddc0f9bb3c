"""blockferry's command line on a lab host, typed as a user types it, and its journal read by another program."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import Host
from lab.namespaces import HostProcess
from lab.said import Said

SQL_ERRORS = (sqlite3.Error,)

PROGRAM = str(Path(sys.executable).with_name("blockferry"))


@dataclass(frozen=True, slots=True)
class MoveRow:
    """What the journal's file says of a move."""

    id: str
    finished: bool
    parked: str | None
    record: dict[str, Any]

    @property
    def outcome(self) -> str | None:
        return self.record.get("outcome")


class Ferry:
    """`blockferry` on one host with one journal."""

    def __init__(self, host: Host, journal: Path, scratch: Path, config: str = "") -> None:
        """`config`: what stands in its configuration."""
        self.host = host
        self.journal = journal
        self.config = scratch / "faults.toml"
        self.config.write_text(config)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "BLOCKFERRY_JOURNAL": f"sqlite:///{self.journal}",
            "BLOCKFERRY_CONFIG": str(self.config),
            **more,
        }

    def start(self, *words: str, **env: str) -> HostProcess:
        """Start a command with --json; `end` waits for it."""
        return self.host.popen(
            [PROGRAM, *words, "--json"],
            env=self.environment(**env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    @staticmethod
    def end(process: HostProcess, timeout_s: float) -> Said:
        argv = process.args if isinstance(process.args, list) else [str(process.args)]
        words = tuple(map(str, argv[argv.index(PROGRAM) + 1 :]))
        try:
            out, err = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                out, err = process.communicate(timeout=20)
                return Said(words, None, out, err)
            return Said(words, None, "", "it could not even be killed: it hangs in the kernel")
        return Said(words, process.returncode, out, err)

    def do(self, *words: str, timeout_s: float = 120, **env: str) -> Said:
        """Run a command to its end, whatever its status."""
        return self.end(self.start(*words, **env), timeout_s)

    # -- the journal, read without a command that would take moves up ------------------------------------------

    def rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        if not self.journal.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{self.journal}?mode=ro", uri=True, timeout=30)) as link:
            try:
                return link.execute(query, values).fetchall()
            except sqlite3.OperationalError as why:
                if "no such table" in str(why):
                    return []
                raise

    def last_move(self, vm: str, since: float) -> MoveRow | None:
        """The newest move of the VM that was created since then (wall time)."""
        query = "SELECT id, finished, parked, record FROM moves WHERE vm = ? AND created >= ? ORDER BY created DESC"
        for move, finished, parked, record in self.rows(query, vm, since):
            return MoveRow(move, finished is not None, parked, json.loads(record))
        return None

    def story(self, move: str) -> list[str]:
        query = "SELECT kind, text FROM events WHERE move = ? ORDER BY number"
        return [f"{kind}: {text}" for kind, text in self.rows(query, move)]

    def kept(self) -> set[str]:
        """Paths that the journal accounts for as kept."""
        return {str(path) for (path,) in self.rows("SELECT path FROM kept")}

    def orphans(self) -> list[dict[str, Any]] | Said:
        """What `blockferry orphans` lists, or how it failed."""
        said = self.do("orphans")
        for document in said.documents:
            if document.get("kind") == "orphans":
                return list(document["orphans"])
        return said


def now() -> float:
    """Wall time, as the journal's."""
    return time.time()
