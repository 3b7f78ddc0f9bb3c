"""What a run writes down: a JSON line for each host. The form is a promise (version)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.machine import machine

VERSION = 1


@dataclass(slots=True)
class Line:
    """One host that was played."""

    seed: int
    index: int
    end: str
    seconds: float
    findings: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=list)
    commands: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    found: str = ""  # the shrunk host, where something was found
    version: int = VERSION

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(asdict(self), ensure_ascii=False) + "\n")


def head(path: Path, seed: int, hosts: int, part: str) -> None:
    """The first line of a run: on what it ran."""
    path.parent.mkdir(parents=True, exist_ok=True)
    run = {"seed": seed, "hosts": hosts, "part": part, **machine(Path(__file__).parent)}
    with path.open("a") as file:
        file.write(json.dumps({"version": VERSION, "run": run}) + "\n")


def read(paths: Iterable[Path]) -> tuple[list[dict[str, Any]], list[Line]]:
    """The heads and the lines of runs. A host that was played twice counts as last played."""
    heads, lines = [], {}
    for path in paths:
        for text in path.read_text().splitlines():
            data = json.loads(text)
            if "run" in data:
                heads.append(data["run"])
            else:
                lines[data["seed"], data["index"]] = Line(**data)
    return heads, list(lines.values())


def table(lines: list[Line]) -> str:
    """The summary as Markdown."""
    ends = Counter(line.end for line in lines)
    refused = Counter(code for line in lines if line.end == "refused" for code in line.codes)
    kinds = Counter(kind for line in lines for kind in line.kinds)
    seen = Counter(feature for line in lines for feature in line.features)
    bad = sum(bool(line.findings) for line in lines)
    seconds = sum(line.seconds for line in lines)
    rows = [
        f"{len(lines)} hosts in {seconds / 60:.0f} minutes, {bad} with findings.",
        "",
        "| the move ended as | hosts |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in ends.most_common()),
        "",
        "| refused for | hosts |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in refused.most_common()),
        "",
        "| invariant that did not hold | hosts |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in kinds.most_common()),
        "",
        "| feature | hosts |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in sorted(seen.items())),
    ]
    return "\n".join(rows) + "\n"
