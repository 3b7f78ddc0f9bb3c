"""Beside a migration, on its source host: blockferry, its helper and the link may be gone at any instant.

It does two things (docs/design/host-move.md). It ends a migration whose link is cut, before that freezes the guest. And
when nothing of the VM is left on this host it lets the guest run at the destination, if blockferry has not done so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program import stalled_link, state_directory
from blockferry.hosts.helper.program.handover import Handover, LeftAtSource
from blockferry.hosts.helper.program.orders import Orders, say, stay
from blockferry.hosts.helper.program.stalled_link import StallWatch

LOOK_S = 0.1
GRACE_S = 2.0
"""So long blockferry has, once nothing is left here, to let the guest run itself. None when its orders have ended."""
RECHECK_S = 0.5
SLOW_RECHECK_S = 5.0
SLOW_AFTER_S = 60.0
OFF_S = 60.0
"""A VM that is off here for another reason than its migration is looked at for so long after the orders' end."""
MARK_S = 60.0
"""So often, once the orders have ended, it is looked whether the VM still bears our mark here."""
MOST_S = 24 * 3600.0
"""A destination that does not answer is asked for so long; then only a person lets the guest run."""


class SourceWatch:
    """Orders are lines on standard input: `handed`, `stop`, `done`; each is answered with its name."""

    def __init__(self, wish: dict[str, Any]) -> None:
        self.vm = Handover(wish)
        self.resume = bool(wish["resume"])
        self.grace_s = float(wish.get("grace_s", GRACE_S))
        self.watch = StallWatch(stalled_link.resolved(wish["address"]), self.vm.query)
        self.handed_at: float | None = None
        self.gone_at: float | None = None
        self.off_at: float | None = None
        self.next_at = 0.0
        self.over = False
        self.orders = Orders()

    def run(self) -> None:
        say({"ready": os.getpid()})
        while not self.over:
            if self.orders.heard:
                self.listen()
            else:
                time.sleep(LOOK_S)
            if self.over:
                break
            known = self.vm.pid
            if pid := self.vm.same_qemu():
                self.watch_link(pid)
            elif known:
                self.vm.pid, self.next_at = 0, 0.0  # it has ended since the last look
            if time.monotonic() >= self.next_at:
                self.look(self.vm.qemu())

    def listen(self) -> None:
        for order in self.orders.wait(LOOK_S) or ():
            self.obey(order)
        if not self.orders.heard:
            self.next_at = 0.0

    def obey(self, order: str) -> None:
        if order == "done":
            self.over = True
            say({"done": ""})
        elif order == "handed":
            if self.gone_at is None:  # else what might come here later is not what was handed over
                self.handed_at = self.handed_at or time.monotonic()
            self.next_at = 0.0
            say({"handed": ""})
        elif order == "stop":
            pid = self.vm.qemu()
            say({"stop": "yanked" if pid and self.watch.end_if_stalled(pid) else "sound"})

    def watch_link(self, pid: int) -> None:
        seconds = self.watch.look(pid)
        if seconds is not None:
            self.vm.tell(f"the link to the destination was cut for {seconds:.1f} s; its migration is ended")
            say({"cut": seconds})

    def look(self, pid: int) -> None:
        """See what is left here, and do what is next."""
        now = time.monotonic()
        self.next_at = now + RECHECK_S
        left = LeftAtSource.QEMU if pid else self.vm.left()
        if self.gone_at is not None and left in (LeftAtSource.QEMU, LeftAtSource.DEFINITION):
            self.vm.tell("it is here again after nothing of it was left; that is its owner's, and not touched")
            self.over = True
        elif left is LeftAtSource.QEMU:
            self.off_at = None
            if self.handed_at is not None:
                if self.impatient(self.handed_at, now):
                    self.vm.finish_here(handed=True)
            elif not self.orders.heard:
                self.next_at = now + MARK_S
                self.over = not self.vm.is_marked() and self.vm.here.state() is not None
        elif left is LeftAtSource.NOTHING:
            self.gone_at, self.handed_at = self.gone_at or now, None
            if self.impatient(self.gone_at, now):
                self.arrive(now)
        elif left is LeftAtSource.DEFINITION:
            self.off_at = self.off_at or now
            if self.impatient(self.handed_at or self.off_at, now):
                self.vm.finish_here(handed=self.handed_at is not None)
            if self.handed_at is None and not self.orders.heard and now - self.off_at > OFF_S:
                self.over = True

    def impatient(self, since: float, now: float) -> bool:
        """Whether blockferry has had its time."""
        return not self.orders.heard or now - since >= self.grace_s

    def arrive(self, now: float) -> None:
        """The guest at the destination, if it is to run."""
        if not self.resume:
            self.over = not self.orders.heard
            return
        assert self.gone_at is not None
        done = self.vm.there.let_run()
        if done:
            say({"resumed": time.time()})
        if done is not None:
            self.resume, self.over = False, not self.orders.heard
        elif now - self.gone_at > MOST_S:
            self.vm.tell("the destination does not answer; the guest stands still there")
            self.over = True
        elif now - self.gone_at > SLOW_AFTER_S:
            self.next_at = time.monotonic() + SLOW_RECHECK_S


def alone(wish: dict[str, Any]) -> None:
    """Stand beside the migration of the VM `uuid`, until blockferry says `done` or nothing is left to be done."""
    stay()
    try:
        beside = SourceWatch(wish)
    except OSError as error:
        say({"problem": f"the host cannot look up {wish['address']} ({error})"})
        return
    why = beside.vm.here.problem() or state_directory.problem()
    if why:
        say({"problem": why})
        return
    beside.run()


CALLS: dict[str, Callable[..., Any]] = {}
