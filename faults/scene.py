"""One case under way: the move is begun, brought to its place, struck, taken up again as a user would, judged."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from faults import places
from faults.case import CANCELLED, NO_MOVE, PARKED, Case, Fault
from faults.ferry import Ferry, MoveRow, now
from faults.ground import FLAKY, NEW, OLD, SQL_ERRORS, Ground
from lab import Guest, GuestSilent, Host, LabError
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

TORN = "cannot be told which of the two was written last"
"""What is said when QEMU and our process have died together in the instant in which an overlay is left for its base."""

BULK_RATE = "6MiB/s"
"""For each disk, where the fault strikes while the bulk is copied: it takes a second or two."""


@dataclass(slots=True)
class Scene:
    """What the fault, the recovery and the verdict share."""

    case: Case
    fault: Fault
    ground: Ground
    guest: Guest
    chance: random.Random
    point: str
    before: str  # the datastore the VM was on
    dest: str
    began: float = field(default_factory=now)
    began_ns: int = field(default_factory=time.monotonic_ns)
    process: HostProcess | None = None
    reached: bool = False
    kills: int = 0
    said: list[Said] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    states: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
    env: dict[str, str] = field(default_factory=dict)
    kept_by_others: set[str] = field(default_factory=set)  # files that the fault itself made
    flushed_only: bool = False  # QEMU or the host died: only what was flushed had to survive
    booted_anew: bool = False
    guest_failures: int = 0  # failed writes in the guest before the case
    errors_before: str = ""  # what QEMU told of I/O errors then
    hang_silence_s: float = 0.0  # the longest wait of the guest for a write while the destination hung
    source_failed: bool = False  # an I/O error in the guest is the source's own
    harmed: bool = False  # the guest lost something by what is not ours, and is of no use any more

    # -- short names --------------------------------------------------------------------------------------------

    @property
    def ferry(self) -> Ferry:
        return self.ground.ferry

    @property
    def host(self) -> Host:
        return self.ground.host

    @property
    def vm(self) -> str:
        return self.guest.name

    @property
    def live(self) -> bool:
        """Whether the VM ran when the move began."""
        return self.case.method != places.COLD

    def note(self, text: str) -> None:
        """For the record: what was done, in order."""
        self.notes.append(text)

    def wrong(self, text: str) -> None:
        """Something that must not be."""
        self.findings.append(text)

    # -- the move -----------------------------------------------------------------------------------------------

    def words(self) -> list[str]:
        """The command: a limit of speed where the fault strikes in the bulk, so that there is a bulk."""
        words = ["move", self.vm, "--to", self.ground.pool(self.dest), "--method", self.case.method]
        place = self.case.place
        if self.live and (place in (places.BULK, places.AT_RANDOM) or self.point in ("copying", *places.BACK)):
            rate = int(BULK_RATE.removesuffix("MiB/s")) * self.case.disks
            words += ["--bandwidth", f"{rate}MiB/s"]
        if self.point in places.VERIFY:
            words.append("--verify")
        return words

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

    def recover(self) -> str:
        """Type what a user types until the move is over; how it ended."""
        said = self.over()
        if said is not None and said.status == 1:
            self.wrong(f"a bug: {said}")
        resumed = 0
        for attempt in range(8):
            move = self.move()
            if move is None:
                return NO_MOVE
            if move.finished:
                return move.outcome or "finished without an outcome"
            if move.parked is not None:
                self.note(f"parked: {move.parked}")
                resumed += 1
                if resumed > 2:
                    return PARKED
                if TORN in move.parked:
                    # The fault struck before the overlay was left, and somebody who has looked into both knows that.
                    self.virsh("start", self.vm)
                    self.guest.wait_ready()
                    self.states.add("running")
                    self.booted_anew = True
                self.do("resume", move.id)
                continue
            self._take_up(move, attempt)
        move = self.move()
        if move is not None and move.finished:
            return move.outcome or "finished without an outcome"
        return "not over"

    def _take_up(self, move: MoveRow, attempt: int) -> None:
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

    def pause(self, least: float, most: float) -> None:
        """Some time, drawn by the seed."""
        time.sleep(self.chance.uniform(least, most))

    def virsh(self, *words: str, seconds: float = 40) -> bool:
        """A virsh command typed by somebody else; whether it worked."""
        try:
            done = self.host.run(["virsh", "-q", *words], check=False, timeout=seconds)
        except LabError as why:
            self.note(f"virsh {' '.join(words)}: {why}")
            return False
        said = done.stderr.strip().removeprefix("error: ").split("\n")[0][:160]
        self.note(f"virsh {' '.join(words)} -> {done.returncode}" + (f" ({said})" if said else ""))
        return done.returncode == 0

    def inside(self, command: str, seconds: float = 5) -> bool:
        """Ask labd in the guest for something; a guest that stands still does not answer."""
        try:
            self.guest.channel.ask(command, timeout=seconds)
        except GuestSilent:
            self.note(f"the guest did not answer to {command.split()[0]!r}")
            return False
        self.note(f"in the guest: {command.split(chr(10))[-1]}")
        return True

    def went_off(self) -> None:
        """QEMU was ended from outside: from now on it is right that the VM is off, and what was not flushed is gone."""
        self.states.add("shut off")
        self.flushed_only = True


def open_scene(case: Case, fault: Fault, ground: Ground, seed: int) -> Scene:
    """Everything ready, nothing begun. Raises LabError."""
    chance = case.chance(seed)
    guest = ground.guest(case.disks, running=case.method != places.COLD)
    before = ground.side(guest)
    if before is None:
        raise LabError(f"{guest.name} is on several datastores: {guest.sources(inactive=True)}")
    dest = fault.dest or (NEW if before == OLD else OLD)
    if fault.source and before != fault.dest:
        move_plainly(ground, guest, fault.dest or before)
        before, dest = fault.dest or before, OLD
    elif dest == before:
        move_plainly(ground, guest, OLD)
        before = OLD
    if FLAKY in (before, dest):
        for other in ground.endangered(guest):  # it would lose its disks in what is another's case
            move_plainly(ground, other, OLD)
    point = case.place
    if case.place in places.PHASES:
        point = chance.choice(places.points(case.place, case.method, case.disks))
    scene = Scene(case, fault, ground, guest, chance, point, before, dest)
    scene.states |= fault.states if scene.live else {"shut off"}
    scene.ends |= fault.ends
    if case.place == places.AT_RANDOM:
        scene.ends.add(NO_MOVE)  # it may strike before the move is written down
    scene.guest_failures = failures(guest)
    scene.errors_before = errors(guest)
    if point in places.START:
        config = Path(ground.lab.directory / "tmp" / "suspended.toml")
        config.write_text("suspended_start = true\n")
        scene.env["BLOCKFERRY_CONFIG"] = str(config)
    return scene


def move_plainly(ground: Ground, guest: Guest, to: str) -> None:
    """Bring a guest to a datastore without any fault. Raises LabError."""
    said = ground.ferry.do("move", guest.name, "--to", ground.pool(to))
    if said.status != 0:
        raise LabError(f"an undisturbed move failed: {said}")


def failures(guest: Guest) -> int:
    """Writes that failed in the guest, ever."""
    return sum(disk.failures for disk in guest.judge.ledger().disks.values())


def errors(guest: Guest) -> str:
    """I/O errors that QEMU tells of, of a running guest."""
    said = guest.host.run(["virsh", "-q", "domblkerror", guest.name], check=False).stdout.strip()
    return "" if "No errors" in said else said


def play(scene: Scene) -> str:
    """The move, the fault, the recovery; how the move ended (or would not end)."""
    fault = scene.fault
    if fault.own:
        fault.strike(scene)
    elif scene.case.place == places.AT_RANDOM:
        process = scene.begin()
        scene.pause(0.2, 2.6)
        scene.reached = process.poll() is None
        fault.strike(scene)
    else:
        scene.stop_at(scene.point)
        fault.strike(scene)
        scene.wake()
    fault.heal(scene)
    end = scene.recover()
    if CANCELLED in scene.ends and end == CANCELLED:
        scene.note("cancelled, as asked")
    return end


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
