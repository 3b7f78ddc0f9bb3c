"""What a run writes down: every single case. The JSON file is made of these; its form is a promise (version)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from lab.machine import machine

VERSION = 1


@dataclass(slots=True)
class Result:
    """One case that was played."""

    case: str
    fault: str
    group: str
    method: str
    disks: int
    place: str
    point: str  # the named point, where the place was a phase
    phase: str
    started: str
    seconds: float = 0.0
    reached: bool = False  # the fault struck where it should
    kills: int = 0
    seed: int | None = None  # where results of several seeds are together
    end: str = ""  # how the move ended
    longest_gap_s: float = 0.0  # nothing was heard of the guest for so long
    findings: list[str] = field(default_factory=list)  # what must not be; empty: all is well
    notes: list[str] = field(default_factory=list)  # what was done, in order
    evidence: list[str] = field(default_factory=list)  # of a case with findings: the move's story, logs

    @property
    def ok(self) -> bool:
        return not self.findings


@dataclass(slots=True)
class Run:
    """One or more goes with one seed on one machine."""

    version: int
    seed: int
    started: str
    machine: dict[str, str]
    results: list[Result] = field(default_factory=list)
    planned: int = 0
    finished: str | None = None

    @classmethod
    def begin(cls, seed: int) -> Run:
        return cls(VERSION, seed, now(), machine(Path(__file__).parent))

    @classmethod
    def joined(cls, runs: list[Run]) -> Run:
        """Several runs of one machine as one; each result says by itself of which seed it is."""
        first = min(runs, key=lambda one: one.started)
        results = [result for run in runs for result in run.seeded()]
        return replace(first, results=results, planned=sum(run.planned for run in runs))

    def seeded(self) -> list[Result]:
        """Its results, each with the seed."""
        return [replace(result, seed=self.seed) for result in self.results]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(
            sorted({self.seed if result.seed is None else result.seed for result in self.results} or {self.seed})
        )

    @property
    def kills(self) -> int:
        return sum(result.kills for result in self.results)

    def save(self, path: Path) -> None:
        """Write it whole; a reader never sees half of it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")
        fresh.replace(path)

    @classmethod
    def load(cls, path: Path) -> Run:
        return msgspec.json.decode(path.read_bytes(), type=cls)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
