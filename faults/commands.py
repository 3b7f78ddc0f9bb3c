"""A move that is typed, brought to its place, killed or woken, and taken up again: what every kind of case does."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from faults.case import Case
from faults.ferry import SQL_ERRORS, Ferry, MoveRow, now
from lab import Guest
from lab.namespaces import HostProcess
from lab.said import Said

REACH_S = 60.0
"""For how long a move is waited for on its way to a place."""
END_S = 100.0
"""A command that is not over after this hangs: everything has been put right by then, and the disks are small."""
PATIENCE_S = 90.0
"""For how long a move in the background is watched."""

JOURNAL_FAILED = 8
"""The exit status of a command that could not use the journal (docs/errors.md)."""


@dataclass(slots=True, kw_only=True)
class CommandScene:
    """One case under way, as far as commands and the journal go."""

    case: Case
    guest: Guest
    chance: random.Random
    point: str
    began: float = field(default_factory=now)
    began_ns: int = field(default_factory=time.monotonic_ns)
    process: HostProcess | None = None
    reached: bool = False
    kills: int = 0
    said: list[Said] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)

    @property
    def ferry(self) -> Ferry:
        """The command line of this case."""
        raise NotImplementedError

    @property
    def vm(self) -> str:
        return self.guest.name

    def words(self) -> list[str]:
        """The command that begins the move."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        """For the record: what was done, in order."""
        self.notes.append(text)

    def wrong(self, text: str) -> None:
        """Something that must not be."""
        self.findings.append(text)

    # -- the move -----------------------------------------------------------------------------------------------

    def begin(self, wish: str = "") -> HostProcess:
        """Type the command; `wish` asks named points for something (BLOCKFERRY_POINT)."""
        self.process = self.ferry.start(*self.words(), BLOCKFERRY_POINT=wish, **self.env)
        self.note(" ".join(self.words()) + (f" [{wish}]" if wish else ""))
        return self.process

    def stop_at(self, point: str) -> bool:
        """Begin the move and have it stand still (SIGSTOP) at the point; whether it got there."""
        process = self.begin(f"{point}:stop")
        return self.wait_stopped(process)

    def wait_stopped(self, process: HostProcess, seconds: float = REACH_S) -> bool:
        end = time.monotonic() + seconds
        while process.poll() is None and time.monotonic() < end:
            inner = process.inner_pid()
            if inner is not None and _state(inner) == "T":
                self.reached = True
                return True
            time.sleep(0.005)
        return False

    def wake(self) -> None:
        """Let our stopped process go on, if it is there."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)

    def kill_us(self) -> None:
        """kill -9 of the process that runs the move, and see it dead."""
        process = self.process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)  # nsenter stopped itself along with its child
        self.over(20)
        self.kills += 1

    def over(self, seconds: float = END_S) -> Said | None:
        """Wait for the command's end and take down how it ended."""
        process, self.process = self.process, None
        if process is None:
            return None
        said = self.ferry.end(process, seconds)
        self.said.append(said)
        self.note(str(said))
        if said.killed:
            self.reached = True
        if said.status is None:
            self.wrong(f"a command hangs: {said}")
        return said

    def do(self, *words: str, seconds: float = END_S, **env: str) -> Said:
        """A user's command, run to its end."""
        said = self.ferry.do(*words, timeout_s=seconds, **{**self.env, **env})
        self.said.append(said)
        self.note(str(said))
        if said.status is None:
            self.wrong(f"a command hangs: {said}")
        if said.status == 1 or "Traceback" in said.err:
            self.wrong(f"a bug: {said}")
        return said

    def move(self) -> MoveRow | None:
        """The move as the journal has it."""
        with contextlib.suppress(*SQL_ERRORS, OSError):
            return self.ferry.last_move(self.vm, self.began - 0.5)
        return None

    # -- taking it up again ---------------------------------------------------------------------------------------

    def take_up(self, move: MoveRow, attempt: int) -> None:
        """One of the ways by which a user's move goes on: named, all, or by any other command in the background."""
        way = self.chance.choice(("named", "all", "other")) if attempt == 0 else "named"
        if way == "named":
            self.do("resume", move.id)
        elif way == "all":
            self.do("resume")
        else:
            end = time.monotonic() + PATIENCE_S
            while time.monotonic() < end:
                # More than once: a move that was only just planned is left to its planner for some seconds.
                self.do("vms")
                if self.wait(self._rests, 8, 0.1):
                    return
            self.wrong(f"{move.id} was not brought to an end in the background within {PATIENCE_S:g} s")

    def _rests(self) -> bool:
        """Whether the move is over, or stands still until somebody looks."""
        row = self.move()
        return row is None or row.finished or row.parked is not None

    # -- waiting ------------------------------------------------------------------------------------------------

    def wait(self, holds: Callable[[], bool], seconds: float, step_s: float = 0.05) -> bool:
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                return False
            time.sleep(step_s)
        return True

    def cancel(self, move: str, *words: str) -> Said:
        """The user's wish to cancel; our frozen process may itself be in the middle of writing to the journal."""
        said = self.do("cancel", move, *words)
        if said.status == JOURNAL_FAILED:
            self.note("the process was frozen with the journal locked: it goes on, and the user asks again")
            self.wake()
            said = self.do("cancel", move, *words)
        return said

    def die_on_the_way_back(self, stopped_at: str) -> None:
        """Cancel the move at that point; the process that takes it back dies at ours, and perhaps the next one too."""
        process = self.begin(f"{stopped_at}:stop,{self.point}:kill")
        self.wait_stopped(process)
        move = self.move()
        if move is None:
            self.wrong("no move in the journal")
            return
        self.cancel(move.id, "--no-wait")
        self.wake()
        said = self.over()
        if said is None or not said.killed:
            self.wrong(f"the move did not pass {self.point}, so nothing was tried: {said}")
            return
        self.kills += 1
        if self.chance.random() < 0.5 and self.do("resume", move.id, BLOCKFERRY_POINT=f"{self.point}:kill").killed:
            self.kills += 1

    def take_what_was_kept(self, files: set[str]) -> None:
        """An old disk that was kept, with a reason, is removed as a user would; the next case may want its place."""
        for path in sorted(self.ferry.kept() & files):
            if self.do("quarantine", "purge", "--now", path, "--yes").status != 0:
                self.wrong(f"{path} was kept, and cannot be removed")

    def pause(self, least: float, most: float) -> None:
        """Some time, drawn by the seed."""
        time.sleep(self.chance.uniform(least, most))


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
