"""The guard's own process, with a VM of paper: its limits are a file of JSON, and it is never suspended."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from blockferry.safety import guard


class PaperControl:
    def __init__(self, _connection: object, _uuid: str, file: str) -> None:
        self._file = Path(file)

    def look(self, _targets: tuple[str, ...]) -> SimpleNamespace:
        return SimpleNamespace(incarnation=1)

    def resume(self) -> bool:
        return True

    def limits(self, target: str) -> dict[str, int | str]:
        return cast(dict[str, dict[str, int | str]], json.loads(self._file.read_text()))[target]

    def set_limits(self, target: str, limits: Mapping[str, int | str]) -> None:
        now = json.loads(self._file.read_text())
        self._file.write_text(json.dumps({**now, target: {**now[target], **limits}}))


if __name__ == "__main__":
    vars(guard).update(Connection=lambda _uri: None, Control=PaperControl)
    guard.stand_guard("test:///default", "uuid", sys.argv[1])
