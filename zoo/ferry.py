"""blockferry's command line on the host, with --json, typed as a user types it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import Host
from lab.namespaces import HostProcess
from lab.said import Said

PROGRAM = os.environ.get("ZOO_BLOCKFERRY") or str(Path(sys.executable).with_name("blockferry"))
"""Another version of the program can be put under the judge: ZOO_BLOCKFERRY=/path/to/blockferry."""


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
