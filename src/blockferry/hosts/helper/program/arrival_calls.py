"""A VM that has come to another host and stands still there: letting its guest run, once, when blockferry cannot.

The guard at the destination (`alone`) cannot prove by itself that the source's instance is gone. So it acts only while
it is armed, and blockferry arms it when it has that proof and is about to let the guest run. The guard at the source
(host_move_calls.py) has the proof by itself, and reaches the destination's libvirt from there.

A note on the host of whoever has let the guest run says so: a pause after that is its owner's, and stays.
"""

from __future__ import annotations

import contextlib
import os
import re
import syslog
import time
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program import image_opening, state_directory
from blockferry.hosts.helper.program.orders import Orders, say, stay
from blockferry.hosts.helper.program.suspended_vm import RESUME_S, SUSPENDED, SuspendedVm

RUNNING = 1
PAUSED = 3
PAUSED_MIGRATION = (3, 2)
"""VIR_DOMAIN_PAUSED, VIR_DOMAIN_PAUSED_MIGRATION: at the destination, what has not come in whole yet."""

RECHECK_S = 0.5
MOST_S = 3600.0
"""A libvirt that does not answer is asked for so long."""


def note_path(move: str) -> str:
    return f"{state_directory.path()}/host-move-{move}"


def acted(move: str) -> bool:
    """Whether the guest of this move was let run, by somebody on this host or by a call from here.

    Where we can write nothing down, nobody of us has: no guard stands there.
    """
    return not state_directory.problem() and os.path.exists(note_path(move))


def note(move: str) -> bool:
    """Write that down. Raises OSError."""
    with open(note_path(move), "w"):
        return True


def forget(move: str) -> bool:
    """Remove the note: the move is over."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(note_path(move))
    return True


class Arriving:
    """The VM at the destination, whose libvirt is reached by `uri`. `move`: the id in our mark, which it bears; `mark`:
    the URI of that in its metadata; `targets`: disks whose images this host has."""

    def __init__(self, uri: str, wish: dict[str, Any]) -> None:
        self.vm = SuspendedVm(uri, wish["uuid"])
        self.move: str = wish["move"]
        self.mark: str = wish["mark"]
        self.targets: list[str] = list(wish.get("targets", ()))

    def is_marked(self, vm: SuspendedVm | None = None) -> bool:
        """Whether it bears this move's mark."""
        found = (vm or self.vm).virsh("metadata", self.vm.uuid, self.mark, seconds=RESUME_S) or ""
        return re.search(rf"""<move\b[^>]*\bid=["']{re.escape(self.move)}["']""", found) is not None

    def let_run(self) -> bool | None:
        """Let the guest run, if it has stood still since it came. The caller has proven that it cannot run elsewhere.

        True: it runs, or has run since it came; False: nothing is to be done any more; None: it is to be tried again.

        Also of a guest that runs already a note is written: whoever has let it run may have been killed before its own.
        """
        if acted(self.move):
            return True
        state = self.vm.state()
        if state is None or state == PAUSED_MIGRATION:
            return None
        if state[0] == RUNNING:
            with contextlib.suppress(OSError):
                note(self.move)
            return True
        if state != SUSPENDED:
            self.tell(f"it is not let run at the destination: libvirt there says state {state[0]}, {state[1]}")
            return False
        if not self.is_marked() or not (self._resume() or (self._open_images() and self._resume())):
            return None
        with contextlib.suppress(OSError):
            note(self.move)
        self.tell("its guest was let run at the destination, for nothing is left of it at the source")
        return True

    def _resume(self) -> bool:
        return self.vm.virsh("resume", self.vm.uuid, seconds=RESUME_S) is not None

    def _open_images(self) -> bool:
        """libvirt has refused to let it run: have its QEMU open its images. Whether any was given to it."""
        if not self.targets or self.vm.state() != SUSPENDED:
            return False
        done = image_opening.give(self.vm, self.targets)
        for path, what, number in done["failed"]:
            self.tell(f"{path} could not be given to its QEMU ({what}: {os.strerror(number)})")
        for path in done["given"]:
            self.tell(f"{path} was given to its QEMU")
        return bool(done["given"])

    def tell(self, words: str) -> None:
        """To this host's log: whoever sent us may be gone."""
        with contextlib.suppress(OSError):
            syslog.syslog(syslog.LOG_NOTICE, f"blockferry: move {self.move} of VM {self.vm.uuid}: {words}")


class ArrivalGuard:
    """Orders are lines on standard input: `arm SECONDS`, `done`."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.vm = Arriving(wish["uri"], wish)
        self.act_at: float | None = None  # monotonic seconds, while armed
        self.give_up_at = 0.0
        self.over = False
        self.orders = Orders()

    def run(self) -> None:
        say({"ready": os.getpid()})
        while not self.over and (self.orders.heard or self.act_at is not None):
            left = None if self.act_at is None else max(0.0, self.act_at - time.monotonic())
            if not self.orders.heard:
                time.sleep(left or 0.0)
            elif (orders := self.orders.wait(left)) is not None:
                for order in orders:
                    self.obey(order.split())
                if not self.orders.heard and self.act_at is not None:
                    self.act_at = time.monotonic()
                continue
            self.act()

    def obey(self, order: list[str]) -> None:
        if order == ["done"]:
            self.over = True
        elif len(order) == 2 and order[0] == "arm":
            with contextlib.suppress(ValueError):
                self.act_at = time.monotonic() + float(order[1])
                self.give_up_at = self.act_at + MOST_S
                say({"armed": ""})

    def act(self) -> None:
        done = self.vm.let_run()
        if done:
            say({"resumed": time.time()})
        if done is not None or time.monotonic() > self.give_up_at:
            self.act_at = None
        else:
            self.act_at = time.monotonic() + RECHECK_S


def alone(wish: dict[str, Any]) -> None:
    """Guard the arrival of the VM `uuid` at this host."""
    stay()
    guard = ArrivalGuard(wish)
    why = guard.vm.vm.problem() or state_directory.problem()
    if why:
        say({"problem": why})
        return
    guard.run()


CALLS: dict[str, Callable[..., Any]] = {
    "acted": acted,
    "note": note,
    "forget": forget,
    "open_images": image_opening.call,
}
