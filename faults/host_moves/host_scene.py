"""One case under way: a guest, the host it is on and the one it goes to, the session from outside, the witness."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from faults.case import NO_MOVE, PARKED, Case
from faults.commands import CommandScene
from faults.ferry import Ferry
from faults.host_moves import host_places
from faults.host_moves.host_fault import HostFault
from faults.host_moves.host_ground import COMMON, ECHO_PORT, FLAKY, HostGround
from lab import Guest, Host, LabError
from lab.namespaces import HostProcess

RATE = "6MiB/s"
"""Where the fault strikes while disk and memory go: it takes some seconds."""

_TALK = """
import socket, sys, time
link = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60)
link.settimeout(None)
answers = link.makefile()
for number in range(10**9):
    link.sendall(f"{number}\\n".encode())
    assert answers.readline() == f"{number}\\n", number
    print(number, flush=True)
    time.sleep(0.05)
"""


@dataclass(slots=True, kw_only=True)
class HostScene(CommandScene):
    """What the fault, the recovery and the verdict share."""

    fault: HostFault
    ground: HostGround
    source: Host
    dest: Host
    ends: set[str] = field(default_factory=set)
    may_be_off: bool = False
    flushed_only: bool = False  # a QEMU that had let the guest run, or its host, has died: only what was flushed
    run: int = 0  # of the guest's beacon
    talk: HostProcess | None = None
    heard: Path = Path()
    events: int = 0  # of the ledger, before the case
    guest_failures: int = 0

    @property
    def ferry(self) -> Ferry:
        """See CommandScene."""
        return self.ground.ferry

    @property
    def kind(self) -> str:
        """See host_places."""
        return self.case.method

    @property
    def own(self) -> bool:
        """Whether its disk goes along."""
        return host_places.has_own_disk(self.kind)

    @property
    def state(self) -> str:
        """What it was before, and is to be afterwards."""
        return {host_places.PAUSED: "paused"}.get(self.kind, "shut off" if self.kind in host_places.OFF else "running")

    @property
    def dest_store(self) -> str:
        """The datastore of its disk at the destination."""
        if not self.own:
            return COMMON
        return FLAKY if self.fault.failing_destination else self.dest.name

    @property
    def slow(self) -> bool:
        """Whether the move is slowed, so that something is under way for some seconds."""
        return self.point == host_places.UNDER_WAY or self.point in host_places.back(self.kind)

    def words(self) -> list[str]:
        """See CommandScene."""
        words = ["move", self.vm, "--to-host", self.dest.name]
        words += ["--to", self.ground.stores[self.dest_store].name] if self.own else []
        return words + (["--bandwidth", RATE] if self.slow else [])

    def states(self) -> tuple[str, str]:
        """Of the VM at source and destination, as virsh there says; of a host that is down it is absent."""
        found = [host.vm_state(self.vm) if host.up() else "absent" for host in (self.source, self.dest)]
        return found[0], found[1]

    # -- a session from outside -----------------------------------------------------------------------------------

    def open_session(self) -> None:
        """A TCP session from the desk to the guest, that is to survive."""
        self.heard = self.ground.lab.directory / "tmp" / f"answers-{time.monotonic_ns()}"
        with self.heard.open("w") as file:
            self.talk = self.ground.desk.popen(
                [sys.executable, "-c", _TALK, self.ground.address(self.guest), str(ECHO_PORT)],
                stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        if not self.wait(lambda: self.answers() > 3, 60):
            raise LabError(f"no session with the guest: {self.heard.read_text()[-300:]}")

    def answers(self) -> int:
        """Answers that came from the guest in the session."""
        return len(self.heard.read_text().splitlines())

    def close_session(self) -> None:
        talk, self.talk = self.talk, None
        if talk is not None:
            talk.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                talk.wait(timeout=20)
            self.heard.unlink(missing_ok=True)

    # -- the move -------------------------------------------------------------------------------------------------

    def wait_under_way(self) -> bool:
        """Begin the move, and wait until disk or memory go."""
        process = self.begin()

        def goes() -> bool:
            if process.poll() is not None:
                return True
            if self.kind in host_places.OFF:
                return self.dest.find_process(serves_disks) is not None
            return self.dest.vm_state(self.vm) == "paused"

        self.wait(goes, 90, 0.1)
        self.pause(0.0, 3.0)
        self.reached = process.poll() is None
        return self.reached

    def recover(self) -> str:
        """Type what a user types until the move is over; how it ended."""
        self.over()
        parked = 0
        for attempt in range(10):
            move = self.move()
            if move is None:
                return NO_MOVE
            if move.finished:
                return move.outcome or "finished without an outcome"
            if move.parked is not None:
                self.note(f"parked: {move.parked}")
                parked += 1
                if parked > 2:
                    return PARKED
                self.do("resume", move.id)
                continue
            self.take_up(move, attempt)
        move = self.move()
        return (move.outcome or "finished without an outcome") if move is not None and move.finished else "not over"


def serves_disks(argv: list[str]) -> bool:
    """Whether this is a process that serves a disk to another host."""
    return argv[0].endswith("qemu-nbd")


def open_scene(case: Case, fault: HostFault, ground: HostGround, seed: int) -> HostScene:
    """Everything ready, nothing begun. Raises LabError."""
    guest = ground.guest(case.method)
    source = guest.host = ground.host_of(guest)
    if fault.failing_destination and source is ground.hosts[1]:
        move_plainly(ground, guest)
        source = guest.host = ground.host_of(guest)
    scene = HostScene(
        case=case, guest=guest, chance=case.chance(seed), point=case.place, fault=fault, ground=ground,
        source=source, dest=ground.other(source), ends=set(fault.ends), may_be_off=fault.may_be_off,
    )  # fmt: skip
    scene.events = len(guest.judge.ledger().events.kind)
    scene.guest_failures = sum(disk.failures for disk in guest.judge.ledger().disks.values())
    if case.method not in host_places.OFF:
        scene.run = ground.witness.watch(guest, ground.addresses[guest.name])
        if case.method == host_places.PAUSED:
            guest.suspend()
        else:
            scene.open_session()
    scene.began_ns = time.monotonic_ns()
    return scene


def move_plainly(ground: HostGround, guest: Guest) -> None:
    """Bring a guest to the other host without any fault. Raises LabError."""
    dest = ground.other(ground.host_of(guest))
    said = ground.ferry.do("move", guest.name, "--to-host", dest.name, "--to", ground.stores[dest.name].name)
    if said.status != 0:
        raise LabError(f"an undisturbed move failed: {said}")


def play(scene: HostScene) -> str:
    """The move, the fault, the recovery; how the move ended (or would not end)."""
    fault = scene.fault
    fault.prepare(scene)
    if fault.own:
        fault.strike(scene)
    elif scene.case.place == host_places.UNDER_WAY:
        scene.wait_under_way()
        fault.strike(scene)
    else:
        scene.stop_at(scene.point)
        fault.strike(scene)
        scene.wake()
    fault.heal(scene)
    return scene.recover()
