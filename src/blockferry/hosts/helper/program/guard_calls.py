"""The guard on the VM's own host: resumes a VM that blockferry has suspended when blockferry cannot.

The guard beside blockferry (safety/guard.py) reaches the VM over the network. This one stands where the VM is, so that
a link that is cut while the VM is suspended costs the guest no more than the time for which it was armed. It acts only
while it is armed, and once for each arming. A file beside it says for which arming the VM has been resumed, by
whichever of the two guards: a VM that is paused later was paused by its owner.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program import state_directory
from blockferry.hosts.helper.program.suspended_vm import SuspendedVm

RECHECK_S = 0.25
SLOW_RECHECK_S = 2.0
SLOW_AFTER = 120
"""After so many looks that libvirt did not answer, it is asked less often; and not for longer than an hour."""
MOST_LOOKS = 1800

LINGER_S = 5.0
"""A suspension that was asked for may be carried out late, by a libvirtd that was frozen: for so long the VM has to be
seen running."""


def record_path(uuid: str) -> str:
    return f"{state_directory.path()}/guard-{uuid}"


def acted(uuid: str, token: str) -> bool:
    """Whether a guard has resumed the VM since it was armed with this token."""
    try:
        with open(record_path(uuid)) as file:
            return file.read() == token
    except OSError:
        return False


def note(uuid: str, token: str) -> bool:
    """Write down that the VM was resumed for this arming. Raises OSError."""
    path = record_path(uuid)
    with open(f"{path}.new", "w") as file:
        file.write(token)
    os.replace(f"{path}.new", path)
    return True


def forget(uuid: str, token: str) -> None:
    """Remove what was written down for this arming; a note for another one stays."""
    if acted(uuid, token):
        with contextlib.suppress(OSError):
            os.unlink(record_path(uuid))


class GuardLoop:
    """The loop. Orders are lines on standard input, `arm TOKEN SECONDS` and `disarm TOKEN`; each is answered."""

    def __init__(self, vm: SuspendedVm) -> None:
        self.vm = vm
        self.token = ""  # "": not armed
        self.look_at = 0.0  # monotonic seconds, while armed
        self.linger_s = 0.0  # for so long the VM still has to be seen running, once the time is up
        self.looks = 0  # since the time was up, that told nothing
        self.rest = b""
        self.poll = select.poll()
        self.poll.register(0, select.POLLIN)

    def run(self) -> None:
        say({"ready": os.getpid()})
        while True:
            left_ms = max(0.0, self.look_at - time.monotonic()) * 1000 if self.token else None
            if not self.poll.poll(left_ms):
                self.look()
                continue
            data = os.read(0, 4096)
            if not data:
                break
            *lines, self.rest = (self.rest + data).split(b"\n")
            for line in lines:
                self.obey(line.decode("utf-8", "replace").split())
        while self.token:  # blockferry, its helper or the link is gone
            self.look()
            if self.token:
                time.sleep(max(0.0, self.look_at - time.monotonic()))

    def obey(self, order: list[str]) -> None:
        """An order that is not understood is not answered: blockferry then starts another guard."""
        if order[:1] == ["arm"] and len(order) == 3:
            with contextlib.suppress(ValueError):
                self.look_at = time.monotonic() + float(order[2])
                self.token, self.linger_s, self.looks = order[1], LINGER_S, 0
                say({"armed": self.token})
        elif order[:1] == ["disarm"] and len(order) == 2:
            self.token = ""
            forget(self.vm.uuid, order[1])
            say({"disarmed": order[1]})

    def look(self) -> None:
        """Resume the VM if it stands still; disarmed once that was done, or once the VM was seen running for long."""
        if acted(self.vm.uuid, self.token):
            self.token = ""
            return
        done = self.let_run()
        if done:
            with contextlib.suppress(OSError):
                note(self.vm.uuid, self.token)
            self.token = ""
        elif done is None:
            self.looks += 1
        else:
            self.linger_s -= RECHECK_S
        if self.linger_s <= 0 or self.looks > MOST_LOOKS:
            self.token = ""
        self.look_at = time.monotonic() + (RECHECK_S if self.looks < SLOW_AFTER else SLOW_RECHECK_S)

    def let_run(self) -> bool | None:
        """As SuspendedVm; None also when something nobody has foreseen went wrong: it is tried again, and goes on."""
        try:
            return self.vm.let_run()
        except Exception:  # noqa: BLE001 - it may not end while the guest may stand still
            return None


def say(words: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):  # nobody reads any more
        os.write(1, json.dumps(words).encode() + b"\n")


def alone(wish: dict[str, Any]) -> None:
    """Guard the VM `uuid` of libvirt at `uri`, until the orders end and nothing is left to be resumed."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    vm = SuspendedVm(wish["uri"], wish["uuid"])
    why = vm.problem() or directory_problem()
    if why:
        say({"problem": why})
        return
    GuardLoop(vm).run()


def directory_problem() -> str:
    """Return why nothing can be written down here, a clause; "" when it can."""
    try:
        state_directory.path()
    except (OSError, SystemExit) as error:
        return str(error)
    return ""


def problem(uri: str) -> str:
    """Return why no guard can stand here for VMs of the libvirt at `uri`, a clause; "" when one can."""
    return SuspendedVm(uri, "").problem() or directory_problem()


CALLS: dict[str, Callable[..., Any]] = {"acted": acted, "note": note, "problem": problem}
