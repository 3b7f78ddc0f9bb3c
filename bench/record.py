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
class Broken:
    """A copy that broke on purpose, and what going on with it took. Bytes; all but `cause` and `share` is measured."""

    cause: str
    share: float  # of the copy, at which it was to break
    copied: int = 0  # of `whole`, by libvirt's last word on the job before it broke
    whole: int = 0
    unsure: int = 0  # what may have been copied between that word and the break: one look's time at the copy's rate
    ended: int | None = None  # exit status of the command whose copy broke; None where it went on by itself
    way: str = ""  # what went on with it: the same command, `blockferry resume`, or the next move
    said_before: list[str] = field(default_factory=list)  # codes of `blockferry check` on resuming, before the move
    said_after: list[str] = field(default_factory=list)  # the same, between the break and the next move
    rewritten: int = 0  # by blockferry's own report of what went on
    compared: int = 0  # the same: read on both sides
    device_written: int = 0  # by the destination's device meanwhile, whoever wrote
    guest_wrote: int = 0  # acknowledged writes from the break to the end; in both of the above

    @property
    def missing(self) -> int:
        """What had not been copied at the break and had to be written anyhow; at the least."""
        return max(0, self.whole - self.copied - self.unsure)


@dataclass(slots=True)
class Trial:
    """One command, measured once. Seconds."""

    measure: str  # "time", "switch", "guest", "pace", "buffer", "verify", "resume"
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
    size: int = 0  # bytes of each disk; 0: the settings'
    buffer: int = 0  # bytes of QEMU's copy buffer; 0: as the command has it
    copy_s: float | None = None  # the copy jobs, from the first one's start until all are in step, by QEMU's events
    verify_s: float | None = None  # of the command: from the phase "verify" to the next
    during_verify: GuestFigures | None = None
    read_bytes: int | None = None  # by the devices of both datastores during the command
    written_bytes: int | None = None
    broken: Broken | None = None
    failure: str | None = None

    def begin(self) -> None:
        """Note when, and how busy the machine is."""
        self.started, self.machine_load = now(), os.getloadavg()[0]

    @property
    def key(self) -> tuple[object, ...]:
        """What makes it this trial of its run, and no other."""
        broken = () if self.broken is None else (self.broken.cause, self.broken.share)
        return (
            self.measure, self.method, self.round, self.format, self.load, self.disks, self.size, self.buffer, *broken
        )  # fmt: skip

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
    gone_on: list[str] = field(default_factory=list)  # when it was gone on with, and with which blockferry

    @classmethod
    def begin(cls, settings: Settings) -> Run:
        return cls(VERSION, now(), machine(), settings)

    @classmethod
    def go_on(cls, path: Path) -> Run:
        """One that was interrupted, without the trials that failed: they are made again."""
        run = cls.load(path)
        run.trials = [trial for trial in run.trials if trial.failure is None]
        run.gone_on.append(f"{now()}, blockferry {machine()['blockferry']}")
        run.finished = None
        return run

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
