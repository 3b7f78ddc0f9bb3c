"""One case under way: the move is begun, brought to its place, struck, taken up again as a user would, judged."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from faults import places
from faults.case import CANCELLED, NO_MOVE, PARKED, Case, Fault
from faults.commands import CommandScene
from faults.ferry import Ferry
from faults.ground import FLAKY, NEW, OLD, Ground
from lab import Guest, GuestSilent, Host, LabError

TORN = "cannot be told which of the two was written last"
"""What is said when QEMU and our process have died together in the instant in which an overlay is left for its base."""

BULK_RATE = "6MiB/s"
"""For each disk, where the fault strikes while the bulk is copied: it takes a second or two."""


@dataclass(slots=True, kw_only=True)
class Scene(CommandScene):
    """What the fault, the recovery and the verdict share."""

    fault: Fault
    ground: Ground
    before: str  # the datastore the VM was on
    dest: str
    states: set[str] = field(default_factory=set)
    ends: set[str] = field(default_factory=set)
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
    def live(self) -> bool:
        """Whether the VM ran when the move began."""
        return self.case.method != places.COLD

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
            self.take_up(move, attempt)
        move = self.move()
        if move is not None and move.finished:
            return move.outcome or "finished without an outcome"
        return "not over"

    # -- others ---------------------------------------------------------------------------------------------------

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
    scene = Scene(
        case=case, fault=fault, ground=ground, guest=guest, chance=chance, point=point, before=before, dest=dest
    )
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
