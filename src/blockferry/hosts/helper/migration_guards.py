"""The guards on both hosts of a migration, from our side: starting them, their orders, what they say.

`hosts/helper/program/host_move_calls.py` and `arrival_calls.py` do the work there; they outlive us and the link on
purpose.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, ClassVar

from blockferry.base.errors import BlockferryError
from blockferry.hosts.helper.host_guard import local_uri
from blockferry.hosts.helper.host_process import Running
from blockferry.hosts.runner import Runner

READY_S = 45.0
OBEY_S = 5.0
ASK_S = 5.0
AGAIN_S = 60.0
"""One that could not be had is tried again so seldom: the loop waits for it."""


class MigrationGuard:
    """A guard on one of the hosts. Where it cannot be had `problem` says why, a clause."""

    MODULE: ClassVar[str]

    def __init__(self, runner: Runner, uri: str, uuid: str, mark: tuple[str, str], **wish: Any) -> None:
        """Nothing is started yet. `uri`: the host's, as used from here. `mark`: the URI of our mark in the VM's
        metadata, and the move's id in it."""
        self.problem = ""
        self.resumed = False  # it has let the guest run, or has seen that it did
        self.cuts: list[float] = []  # each migration that it has ended: for so many seconds nothing arrived
        self._runner = runner
        self._about = f"{mark[1]} {uuid}"
        self._wish = {"uri": local_uri(uri), "uuid": uuid, "mark": mark[0], "move": mark[1], **wish}
        self._process: Running | None = None
        self._again_at = 0.0  # monotonic seconds

    @property
    def alive(self) -> bool:
        """Whether it is there and hears us."""
        return self._process is not None and not self._process.over

    def start(self) -> bool:
        """Start it, if it is not there. Whether it is; else `problem` says why not."""
        if self.alive:
            return True
        if time.monotonic() < self._again_at:
            return False
        self._process, self._again_at = None, time.monotonic() + AGAIN_S
        try:
            self._process = self._runner.start_own(self.MODULE, self._wish, stays=True, about=self._about)
            said = self._await("ready", READY_S)
        except BlockferryError as error:
            self.problem = error.sentence.rstrip(".")
            return False
        if "ready" in said:
            self.problem = ""
            return True
        self.problem = str(said.get("problem") or "it does not answer")
        self.leave()
        return False

    def leave(self) -> None:
        """Give it no more orders: what it guards it guards by itself from now on."""
        process, self._process = self._process, None
        if process is not None and not process.over:
            process.close()

    def done(self) -> None:
        """Nothing is left for it to do."""
        self.order("done")
        self.leave()

    def hear(self) -> None:
        """Take in what it has said meanwhile, without waiting."""
        self._await("", 0.0)

    def order(self, line: str) -> bool:
        """Send an order; nothing is waited for. Whether there is somebody to hear it."""
        if not self.alive or self._process is None:
            return False
        self._process.order(line)
        return True

    def _await(self, name: str, seconds: float) -> dict[str, Any]:
        """What it says under this name, or of a problem; nothing if it does not in time."""
        return self._process.said(name, seconds, self._heard) if self._process is not None else {}

    def _heard(self, said: dict[str, Any]) -> None:
        self.resumed = self.resumed or "resumed" in said
        self.cuts += [float(said["cut"])] if "cut" in said else []


class SourceGuard(MigrationGuard):
    """At the source: it knows by itself when nothing of the VM is left there, and it watches the link.

    Its wish has also `peer` and `address`: of the destination, as the source reaches its libvirt and its QEMU; and
    `resume`: whether the guest is to run there.
    """

    MODULE = "host_move_calls"

    def handed(self) -> None:
        """blockferry has noted that the guest is handed over: what is left of it here is old, and may be ended."""
        self.order("handed")

    def stop(self) -> bool:
        """Before an abort: have it end the migration if nothing arrives at the destination now. Whether it did."""
        return self.order("stop") and self._await("stop", OBEY_S).get("stop") == "yanked"


class DestinationGuard(MigrationGuard):
    """At the destination: it acts only while it is armed."""

    MODULE = "arrival_calls"

    def arm(self, seconds: float) -> bool:
        """Nothing of the VM is left at the source: have the guest let run in `seconds`, or when we are gone. No answer
        is waited for: the guest stands still already."""
        return self.order(f"arm {seconds}")


def acted(runner: Runner, move: str) -> bool:
    """Whether the guest of this move was let run from this host. Raises BlockferryError when the host cannot be asked:
    then nobody knows, and a pause may be its owner's."""
    return bool(runner.call("arrival.acted", timeout_s=ASK_S, move=move))


def note_acted(runner: Runner, move: str) -> None:
    """Have the host know that the guest was let run. It is best effort."""
    with contextlib.suppress(BlockferryError):
        runner.call("arrival.note", timeout_s=ASK_S, move=move)


def forget(runner: Runner, move: str) -> None:
    """Remove the notes of a move that is over. It is best effort: they are gone with the next boot."""
    with contextlib.suppress(BlockferryError):
        runner.call("arrival.forget", timeout_s=ASK_S, move=move)
