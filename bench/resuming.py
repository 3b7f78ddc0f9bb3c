"""Copies that break on purpose, gone on with: how much of the disk is copied a second time.

A running VM writes at a known rate to a small part of its disk; the copy (changed-blocks, in the background, held to a
rate so that it can be broken where it is to break) breaks, and what goes on with it is looked at twice: by blockferry's
own report, and by the write counter of the destination's device, which knows nothing of blockferry.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import movers
from bench.moving import WRITING
from bench.place import BLOCKFERRY, Place, traffic, write_out
from bench.record import Broken, Settings, Trial
from lab import Datastore, Guest
from lab.namespaces import HostProcess
from lab.process import ProcessId, kill_and_wait
from lab.sizes import MIB

QEMU_DIES = "QEMU killed, the VM stays off"
BOTH_DIE = "QEMU and blockferry killed, the VM started again"
FULL = "destination full"
CUT_OFF = "destination cut off, back later"
CANCELLED = "cancelled by its user"
CAUSES = (QEMU_DIES, BOTH_DIE, FULL, CUT_OFF, CANCELLED)
SHARES = (0.5, 0.95)

RATE, WRITE_KIB, SPAN_BLOCKS = 50, 4, 512
"""The guest: 50 writes a second of 4 KiB, into the first 2 MiB of its disk."""

COPY_S = 24
"""The copy's bandwidth is such that the whole disk takes so long."""

_LOOK_S = 0.01
_MOVE_FAILED = 5
_LIMIT_S = 900.0


def trials(settings: Settings, order: random.Random) -> list[Trial]:
    """Per round every format, cause and share, in a new order."""
    found = []
    for number in range(1, settings.rounds + 1):
        cases = [(kind, cause, share) for kind in settings.formats for cause in CAUSES for share in SHARES]
        for position, (kind, cause, share) in enumerate(order.sample(cases, len(cases))):
            broken = Broken(cause, share)
            found.append(Trial("resume", movers.CHANGED, number, position, kind, WRITING, broken=broken))
    return found


def perform(place: Place, settings: Settings, trial: Trial) -> None:
    """Make one trial on a VM of its own and fill it in; the judge has the last word on every block."""
    assert trial.broken is not None
    fresh = Broken(trial.broken.cause, trial.broken.share)
    store = place.failing(settings.size) if fresh.cause == CUT_OFF else place.dest
    with place.guest(["vda"], trial.format, settings.size, settings.fill) as guest:
        guest.start()
        place.cool()
        _write(guest)
        attempt = _Attempt(place, guest, store, settings.size, fresh)
        attempt.breaks()
        trial.seconds = attempt.goes_on()
        trial.broken = fresh
        _judge(guest, store)


def _write(guest: Guest) -> None:
    guest.judge.start(rate=RATE, most_kib=WRITE_KIB, span_blocks=SPAN_BLOCKS)
    guest.judge.wait_writes(20)


def _judge(guest: Guest, store: Datastore) -> None:
    """Raises RuntimeError when the VM is not on the destination, or one of its writes is not there."""
    running = guest.state() == "running"
    path = guest.sources(inactive=not running)["vda"]
    if not Path(path).is_relative_to(store.path):
        raise RuntimeError(f"the move ended well, but the disk is at {path}")
    if running:
        live = guest.judge.verify_live(timeout=_LIMIT_S)
        if not live.ok:
            raise RuntimeError(f"LOST WRITES: {live.text}")
    else:
        verdict = guest.judge.check_image("vda", path, guest.disk("vda").format, flushed_only=True)
        if not verdict.ok:
            raise RuntimeError(f"LOST WRITES: {verdict}")


@dataclass(frozen=True, slots=True)
class _Look:
    """libvirt's word on the copy. `asked_ns`: monotonic, before it was asked."""

    asked_ns: int
    copied: int
    whole: int


@dataclass(slots=True)
class _Attempt:
    """One copy that breaks, and what goes on with it."""

    place: Place
    guest: Guest
    store: Datastore
    size: int
    broken: Broken
    process: HostProcess | None = None
    broke_ns: int = 0
    _qemu: ProcessId | None = None
    _written_before: int = 0

    # -- the break ----------------------------------------------------------------------------------------------

    def breaks(self) -> None:
        options = ["--method", "changed-blocks", "--on-break", "keep", "--bandwidth", str(self.size // COPY_S)]
        if self.broken.cause == FULL:
            options += ["--provision", "thin"]  # else it would be full before it begins
        self.broken.said_before = self._said(*options)
        self.process = self._start("move", self.guest.name, "--to", self.store.name, *options)
        self._qemu = self.place.host.qemu(self.guest.name)  # to look for it takes longer than to kill it
        share = self.broken.share
        look = self._follow(min(share, max(0.1, share - 0.2)) if self.broken.cause == FULL else share)
        look = _BREAKS[self.broken.cause](self, look)
        self.broken.copied, self.broken.whole = look.copied, look.whole
        self.broken.unsure = int((self.broke_ns - look.asked_ns) / 1e9 * self.size / COPY_S)
        self._written_before = traffic(self.store)[1]

    def _now(self) -> None:
        self.broke_ns = time.monotonic_ns()

    def _kill_qemu(self) -> None:
        assert self._qemu is not None
        kill_and_wait(self._qemu)
        self._now()

    def _qemu_dies(self, look: _Look) -> _Look:
        self._kill_qemu()
        return look

    def _both_die(self, look: _Look) -> _Look:
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self._kill_qemu()
        self._end()
        self.guest.wait_state("shut off")
        self.guest.start()
        _write(self.guest)
        return look

    def _full(self, look: _Look) -> _Look:
        there = self.place.image(self.store, self.guest, "vda").stat().st_blocks * 512
        self.store.fill(max(0, int(self.broken.share * look.whole) - there))
        try:
            while (newer := self._look()) is not None:
                look = newer
                time.sleep(_LOOK_S)
            self._now()
            self._end()
        finally:
            self.store.unfill()
        return look

    def _cut_off(self, look: _Look) -> _Look:
        self.store.device.fence()
        self._now()
        self._end()
        self.store.power_on()
        return look

    def _cancelled(self, look: _Look) -> _Look:
        """SIGINT, as Ctrl-C without a terminal: `blockferry cancel` would have to start first, and come too late."""
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        while (newer := self._look()) is not None:  # it goes on until it is told to stop
            look = newer
            time.sleep(_LOOK_S)
        self._now()
        self._end()
        if self.process.returncode == 0:
            raise RuntimeError("the copy was in step before it could be cancelled")
        return look

    def _follow(self, share: float) -> _Look:
        assert self.process is not None
        deadline = time.monotonic() + _LIMIT_S
        while time.monotonic() < deadline:
            look = self._look()
            if look is not None and look.copied >= share * look.whole:
                return look
            if self.process.poll() is not None:
                raise RuntimeError(f"the move ended before {share:.0%} of its copy: {self._end()}")
            time.sleep(_LOOK_S)
        raise RuntimeError(f"{share:.0%} of the copy was not reached in {_LIMIT_S:g} s")

    def _look(self) -> _Look | None:
        """None when there is no job, or none yet that knows its size."""
        asked = time.monotonic_ns()
        words = ["virsh", "blockjob", self.guest.name, "vda", "--info", "--raw"]
        said = self.place.host.run(words, check=False).stdout
        pairs = dict(row.strip().split("=", 1) for row in said.splitlines() if "=" in row)
        whole = int(pairs.get("end", 0))
        return _Look(asked, int(pairs["cur"]), whole) if whole > MIB else None

    # -- going on -----------------------------------------------------------------------------------------------

    def goes_on(self) -> float:
        """Until the VM is where it was to go; seconds from the break, or of the command that went on."""
        begin = self.broke_ns
        if self.broken.cause == QEMU_DIES:
            self.broken.way = "the same command"
            documents = self._end()
        else:
            begin = time.monotonic_ns()
            documents = self._goes_on_by_command()
        assert self.process is not None
        end = time.monotonic_ns()
        if self.process.returncode != 0:
            raise RuntimeError(f"{self.broken.way}: exit status {self.process.returncode}: {_error(documents)}")
        write_out(self.store)
        self.broken.device_written = traffic(self.store)[1] - self._written_before
        report = next(document for document in documents if document["kind"] == "report")["move"]["report"]
        self.broken.rewritten, self.broken.compared = report["rewritten_bytes"], report["compared_bytes"]
        if self.guest.state() == "running":
            self.guest.judge.stop()
            seconds = (end - self.broke_ns) / 1e9
            whole = self.guest.judge.throughput(self.broke_ns, end, step_s=seconds + 1)
            self.broken.guest_wrote = int(sum(interval.bytes_per_s for interval in whole) * (seconds + 1))
        return (end - begin) / 1e9

    def _goes_on_by_command(self) -> list[dict[str, Any]]:
        """A move that was left is taken up; one that is over, or ends on its way back, is followed by the next."""
        for move in self._unfinished():
            self.broken.way = "blockferry resume"
            self.process = self._start("resume", move)
            documents = self._end()
            if self.process.returncode != _MOVE_FAILED:
                return documents
        self.broken.said_after = self._said()
        self.broken.way += f"{', ' if self.broken.way else ''}the next move"
        self.process = self._start("move", self.guest.name, "--to", self.store.name)
        return self._end()

    # -- commands -----------------------------------------------------------------------------------------------

    def _start(self, *words: str) -> HostProcess:
        return self.place.host.popen(
            [BLOCKFERRY, *words, "--json"],
            env={**os.environ, **self.place.journal},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def _end(self) -> list[dict[str, Any]]:
        """What the command printed; its status is noted if its copy broke."""
        assert self.process is not None
        out, err = self.process.communicate(timeout=_LIMIT_S)
        documents = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        if self.broken.ended is None and not self.broken.way:
            self.broken.ended = self.process.returncode
        return documents or [{"kind": "error", "message": err.strip()}]

    def _run(self, *words: str) -> dict[str, Any]:
        done = self.place.host.run([BLOCKFERRY, *words, "--json"], env=self.place.journal, check=False)
        lines = done.stdout.splitlines()
        return dict(json.loads(lines[-1])) if lines else {}

    def _said(self, *options: str) -> list[str]:
        """What `blockferry check` says on going on: the codes."""
        found = self._run("check", self.guest.name, "--to", self.store.name, *options)
        return sorted({one["code"] for one in found["check"]["findings"] if one["code"].startswith("RESUME")})

    def _unfinished(self) -> list[str]:
        """Ids of moves that are not over, from the journal itself: a command of blockferry would take them up."""
        url = f"file:{self.place.journal_file}?mode=ro"
        with contextlib.closing(sqlite3.connect(url, uri=True, timeout=30)) as link:
            return [row[0] for row in link.execute("SELECT id FROM moves WHERE finished IS NULL")]


_BREAKS: dict[str, Callable[[_Attempt, _Look], _Look]] = {
    QEMU_DIES: _Attempt._qemu_dies,
    BOTH_DIE: _Attempt._both_die,
    FULL: _Attempt._full,
    CUT_OFF: _Attempt._cut_off,
    CANCELLED: _Attempt._cancelled,
}


def _error(documents: Sequence[dict[str, Any]]) -> str:
    return next((document["message"] for document in documents if document["kind"] == "error"), "it said nothing")
