"""What a run writes down: every single trial, never only a mean. The JSON file is made of these."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec

VERSION = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What was asked for. Sizes are bytes."""

    rounds: int
    size: int
    fill: int
    switch_rounds: int
    switch_size: int
    before_s: float
    formats: tuple[str, ...]
    measures: tuple[str, ...]
    seed: int


@dataclass(frozen=True, slots=True)
class GuestFigures:
    """What the judge in the guest saw in one window. Latencies by the guest's clock, the gap by the host's."""

    seconds: float
    writes_per_s: float
    bytes_per_s: float
    p50_ms: float
    p99_ms: float
    longest_gap_s: float


@dataclass(slots=True)
class Trial:
    """One command, measured once. Seconds."""

    measure: str  # "time", "switch", "guest"
    method: str
    round: int
    position: int  # in the shuffled order of its round
    format: str
    load: str  # "idle", "writing", "flat out"
    disks: int = 1
    started: str = ""
    machine_load: float = 0.0  # the 1-minute load average then
    seconds: float | None = None  # wall time of the command
    fsync_s: float | None = None  # fsync of the destination afterwards: what the command left in caches
    phases: dict[str, float] = field(default_factory=dict)  # blockferry's own report
    own_stall_s: float | None = None  # blockferry's own report: how long the VM was suspended
    stall_s: float | None = None  # longest silence of the guest around the switch, seen from the host
    calm_s: float | None = None  # the same in a window as long in which nothing happened
    move_gap_s: float | None = None  # longest silence during the whole command
    before: GuestFigures | None = None
    during: GuestFigures | None = None  # while the copy ran
    own_p99_ms: tuple[float, float] | None = None  # before and during, as blockferry's own report estimates them
    within: float | None = None  # the same: the share of the writes that kept the contract
    failure: str | None = None

    def begin(self) -> None:
        """Note when, and how busy the machine is."""
        self.started, self.machine_load = now(), os.getloadavg()[0]

    @property
    def outside_copy_s(self) -> float | None:
        """Time of the command not spent copying; None for commands that do not say."""
        return self.seconds - self.phases["copy"] if self.seconds is not None and "copy" in self.phases else None


@dataclass(slots=True)
class Run:
    """One run of the benchmark on one machine."""

    version: int
    started: str
    machine: dict[str, str]
    settings: Settings
    trials: list[Trial] = field(default_factory=list)
    finished: str | None = None

    @classmethod
    def begin(cls, settings: Settings) -> Run:
        return cls(VERSION, now(), machine(), settings)

    def save(self, path: Path) -> None:
        save(path, self)

    @classmethod
    def load(cls, path: Path) -> Run:
        return msgspec.json.decode(path.read_bytes(), type=cls)


def save(path: Path, document: object) -> None:
    """Write it as JSON, whole; a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n")
    fresh.replace(path)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def machine() -> dict[str, str]:
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "libvirt": _first_line("libvirtd", "--version"),
        "qemu": _first_line("qemu-system-x86_64", "--version"),
        "blockferry": _first_line("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "guests": "TCG (no KVM is used by the lab)",
        "load average at the start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _first_line(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0].strip() or "unknown"
