"""Processes and commands: run them with limits, and name them so that a pid taken over by another is noticed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError

LAB_VARIABLE = "BLOCKFERRY_LAB"
"""Environment variable that marks a helper process with the directory of the lab it serves."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A pid together with its start time (clock ticks since boot): a recycled pid is not the same process."""

    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        ticks = start_ticks(pid)
        return None if ticks is None else cls(pid, ticks)

    @classmethod
    def own(cls) -> ProcessId:
        me = cls.of(os.getpid())
        assert me is not None
        return me

    def alive(self) -> bool:
        return start_ticks(self.pid) == self.start_ticks


def start_ticks(pid: int) -> int | None:
    """Start time of `pid` in clock ticks, None when it is gone or only a zombie remains."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    check: bool = True,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: str | os.PathLike[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises LabError with the command's own words when it fails and `check` is set."""
    words = [os.fspath(word) for word in argv]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=timeout, env=env, input=stdin, cwd=cwd, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise LabError(f"{' '.join(words)}: no end after {timeout:g} s") from late
    if check and done.returncode != 0:
        raise failed(words, done.returncode, done.stdout, done.stderr)
    return done


def failed(words: Sequence[str], status: int, stdout: str, stderr: str) -> LabError:
    said = (stderr.strip() or stdout.strip())[-4000:]
    return LabError(f"{' '.join(words)}: exit status {status}\n{said}")


def wait_until(
    holds: Callable[[], bool],
    what: str,
    *,
    timeout: float = 60,
    step: float = 0.02,
    report: Callable[[], str] | None = None,
) -> None:
    """Poll `holds` until it is true. After `timeout` seconds raise LabError, with `report()` as evidence."""
    deadline = time.monotonic() + timeout
    while not holds():
        if time.monotonic() > deadline:
            evidence = f"\n{report()}" if report else ""
            raise LabError(f"waited {timeout:g} s for {what}{evidence}")
        time.sleep(step)


def kill_and_wait(process: ProcessId, number: signal.Signals = signal.SIGKILL, *, timeout: float = 20) -> None:
    """Signal one process and wait until it is gone; a process that is gone already is fine."""
    if process.alive():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
    wait_until(lambda: not process.alive(), f"the end of process {process.pid}", timeout=timeout, step=0.005)


def marked_processes(directory: Path) -> Iterator[ProcessId]:
    """Every process whose environment says it belongs to the lab in `directory`."""
    mark = f"{LAB_VARIABLE}={directory}".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if mark in environment:
            found = ProcessId.of(int(entry.name))
            if found is not None:
                yield found


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a log for a failure message; a missing log is said, not raised."""
    try:
        text = path.read_text(errors="replace")
    except OSError as why:
        return f"({path}: {why.strerror})"
    return "\n".join(text.splitlines()[-lines:])
