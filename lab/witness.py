"""The witness: outside of all hosts it hears each guest that runs, and from which host; two of one would be heard.

Guests send numbered datagrams (native/beacon.c); the witness stands at the switch, before the cut of a link
(witness_program.py). A number that is heard twice was sent by two instances of one guest: both ran on from one state.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.guests import Guest
from lab.process import LAB_VARIABLE, tail, wait_until

PROGRAM = Path(__file__).with_name("witness_program.py")
EVERY_MS = 20


@dataclass(frozen=True, slots=True)
class Sighting:
    """One datagram: of which guest and run of its beacon, from which host, when (monotonic ns, this machine's)."""

    heard_ns: int
    host: str
    guest: int
    run: int
    number: int


class Witness:
    """Made by `Lab.witness`."""

    def __init__(self, lab: Path, switch_pid: int, hosts: dict[str, str]) -> None:
        """`hosts`: port of the switch -> name of the host."""
        self._file = lab / "network/witness.log"
        self._hosts = hosts
        with (lab / "network/witness.err").open("a") as log:
            self._process = subprocess.Popen(
                ["nsenter", f"--target={switch_pid}", "--net", sys.executable, PROGRAM, self._file],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, LAB_VARIABLE: str(lab)},
            )  # fmt: skip
        wait_until(
            lambda: self._file.exists() and self._file.read_text().startswith("ready"), "the witness",
            timeout=20, report=lambda: tail(lab / "network/witness.err"),
        )  # fmt: skip

    def watch(self, guest: Guest, number: int) -> int:
        """Let a guest that is on the network tell of itself from now on; the run's number, new with each call."""
        run = secrets.randbits(60)
        guest.channel.must(f"beacon guest={number} run={run} every_ms={EVERY_MS}")
        return run

    def heard(self, run: int) -> list[Sighting]:
        """All of a run of a beacon."""
        return [one for one in self._read() if one.run == run]

    def twice(self, run: int) -> list[tuple[Sighting, Sighting]]:
        """The datagrams of a run that were sent by two instances: (the first, the second)."""
        first: dict[int, Sighting] = {}
        found = []
        for one in self.heard(run):
            before = first.setdefault(one.number, one)
            if before is not one:
                found.append((before, one))
        return found

    def _read(self) -> Iterator[Sighting]:
        with self._file.open() as file:
            for line in file:
                words = line.split()
                if len(words) == 5 and line.endswith("\n"):
                    heard, port, *numbers = words
                    guest, run, number = map(int, numbers)
                    yield Sighting(int(heard), self._hosts.get(port, port), guest, run, number)

    def alive(self) -> bool:
        """A witness that is gone has seen nothing."""
        return self._process.poll() is None

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(timeout=20)
