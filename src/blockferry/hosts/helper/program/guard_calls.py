"""The guard on the VM's own host: resumes a VM that blockferry has suspended when blockferry cannot.

The guard beside blockferry (safety/guard.py) reaches the VM over the network. This one stands where the VM is, so that
a link that is cut while the VM is suspended costs the guest no more than the time for which it was armed. It acts only
while it is armed, and once for each arming.

A file on the host, the arming's note, says for which arming a suspension may be ended, or that it is over. Whoever ends
a suspension reads the note, resumes the VM and writes the note under one lock, here on the host: a VM that is paused
after that was paused by its owner. So a call that blockferry has sent into a cut link, and that is carried out when the
link is back, does nothing (`end_suspension`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from blockferry.hosts.helper.program import state_directory
from blockferry.hosts.helper.program.orders import Orders, say, stay
from blockferry.hosts.helper.program.suspended_vm import SuspendedVm

RECHECK_S = 0.25
SLOW_RECHECK_S = 2.0
SLOW_AFTER = 120
"""After so many looks that libvirt did not answer, it is asked less often; and not for longer than an hour."""
MOST_LOOKS = 1800

LINGER_S = 5.0
"""A suspension that was asked for may be carried out late, by a libvirtd that was frozen: for so long the VM has to be
seen running."""


ARMED = "armed"
RESUMING = "resuming"
OVER = "over"
"""What a note says of an arming: its suspension may be ended; that is being done; it has been ended by a guard."""

RESUMED = "resumed"
RUNS = "runs"
UNCLEAR = "unclear"
BUSY = "busy"
"""What has come of `end_suspension`, beside OVER: it has resumed the VM; the VM was not suspended by a user of libvirt;
libvirt did not answer; somebody else on this host is at it at this moment."""

BUSY_S = 3.0
BUSY_STEP_S = 0.02
"""A call waits so long for somebody else who is ending the suspension."""


def record_path(uuid: str) -> str:
    return f"{state_directory.path()}/guard-{uuid}"


def read(uuid: str) -> tuple[str, str]:
    """Return the note's token and what it says; empty words when there is none."""
    try:
        with open(record_path(uuid)) as file:
            token, _, state = file.read().partition(" ")
    except OSError:
        return "", ""
    return token, state


def noted(uuid: str, token: str) -> str:
    """Return ARMED, RESUMING or OVER for this arming; "" when there is no note of it."""
    named, state = read(uuid)
    return state if named == token else ""


def write(uuid: str, token: str, state: str) -> None:
    """Write the note. Raises OSError."""
    path = record_path(uuid)
    new = f"{path}.{threading.get_native_id()}"
    with open(new, "w") as file:
        file.write(f"{token} {state}")
    os.replace(new, path)


def change(uuid: str, token: str, state: str) -> None:
    """Write the note as best it can be done, but not over that of another arming which is not over."""
    named, other = read(uuid)
    if named in (token, "") or other == OVER:
        with contextlib.suppress(OSError):
            write(uuid, token, state)


def forget(uuid: str, token: str) -> None:
    """Remove the note of this arming; that of another one stays."""
    if noted(uuid, token):
        with contextlib.suppress(OSError):
            os.unlink(record_path(uuid))


@contextlib.contextmanager
def alone_at(uuid: str) -> Iterator[bool]:
    """Whether nobody else on this host is ending a suspension of the VM; nobody does meanwhile. Does not wait.

    True also when the lock cannot be opened: a full directory is no reason to leave a VM suspended.
    """
    path = f"{record_path(uuid)}.lock"
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        yield True
        return
    try:
        yield _locked(descriptor, path)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, path: str) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(path))  # not one that `tidy` has just removed
    except OSError:
        return False


def tidy(uuid: str) -> None:
    """Remove the lock, unless somebody has it."""
    with contextlib.suppress(OSError), alone_at(uuid) as alone:
        if alone:
            os.unlink(f"{record_path(uuid)}.lock")


def end_suspension(vm: SuspendedVm, token: str, states: tuple[str, ...]) -> str:
    """Resume the VM if this arming's suspension is not over: RESUMED, RUNS, OVER, UNCLEAR or BUSY.

    `states`: of the note, with which the VM may be resumed; with another one it is OVER. That it is being resumed is
    noted before: where virsh is not answered in time, or this process is killed, a VM that runs later was resumed.
    """
    with alone_at(vm.uuid) as alone:
        if not alone:
            return BUSY
        before = noted(vm.uuid, token)
        if before not in states:
            return OVER
        done = vm.let_run(lambda: change(vm.uuid, token, RESUMING))
        if done is False and before == RESUMING:
            done = True
        if done:
            change(vm.uuid, token, OVER)
    return UNCLEAR if done is None else RESUMED if done else RUNS


class GuardLoop:
    """The loop. Orders are lines on standard input, `arm TOKEN SECONDS` and `disarm TOKEN`; each is answered."""

    def __init__(self, vm: SuspendedVm) -> None:
        self.vm = vm
        self.token = ""  # "": not armed
        self.look_at = 0.0  # monotonic seconds, while armed
        self.linger_s = 0.0  # for so long the VM still has to be seen running, once the time is up
        self.looks = 0  # since the time was up, that told nothing
        self.orders = Orders()

    def run(self) -> None:
        say({"ready": os.getpid()})
        while self.orders.heard:
            orders = self.orders.wait(max(0.0, self.look_at - time.monotonic()) if self.token else None)
            if orders is None:
                self.look()
                continue
            for order in orders:
                self.obey(order.split())
        while self.token:  # blockferry, its helper or the link is gone
            self.look()
            if self.token:
                time.sleep(max(0.0, self.look_at - time.monotonic()))

    def obey(self, order: list[str]) -> None:
        """An order that is not understood is not answered: blockferry then starts another guard."""
        if order[:1] == ["arm"] and len(order) == 3:
            with contextlib.suppress(ValueError, OSError):
                look_at = time.monotonic() + float(order[2])
                with alone_at(self.vm.uuid):  # so that the lock is there before it is needed
                    write(self.vm.uuid, order[1], ARMED)
                self.look_at = look_at
                self.token, self.linger_s, self.looks = order[1], LINGER_S, 0
                say({"armed": self.token})
        elif order[:1] == ["disarm"] and len(order) == 2:
            self.token = ""
            forget(self.vm.uuid, order[1])
            say({"disarmed": order[1]})

    def look(self) -> None:
        """Resume the VM if it stands still; disarmed once that was done, or once the VM was seen running for long."""
        outcome = self.let_run()
        if outcome in (UNCLEAR, BUSY):
            self.looks += 1
        elif outcome == RUNS:
            self.linger_s -= RECHECK_S
        if outcome in (RESUMED, OVER) or self.linger_s <= 0 or self.looks > MOST_LOOKS:
            change(self.vm.uuid, self.token, OVER)  # from now on a pause is the owner's for both guards
            self.token = ""
        self.look_at = time.monotonic() + (RECHECK_S if self.looks < SLOW_AFTER else SLOW_RECHECK_S)

    def let_run(self) -> str:
        """As `end_suspension`; UNCLEAR also when something nobody has foreseen went wrong: it is tried again.

        Without a note it acts too: it was armed and not disarmed, so somebody has removed the note.
        """
        try:
            return end_suspension(self.vm, self.token, (ARMED, RESUMING, ""))
        except Exception:  # noqa: BLE001 - it may not end while the guest may stand still
            return UNCLEAR


def alone(wish: dict[str, Any]) -> None:
    """Guard the VM `uuid` of libvirt at `uri`, until the orders end and nothing is left to be resumed."""
    stay()
    vm = SuspendedVm(wish["uri"], wish["uuid"])
    why = vm.problem() or state_directory.problem()
    if why:
        say({"problem": why})
        return
    GuardLoop(vm).run()
    tidy(vm.uuid)


def problem(uri: str) -> str:
    """Return why no guard can stand here for VMs of the libvirt at `uri`, a clause; "" when one can."""
    return SuspendedVm(uri, "").problem() or state_directory.problem()


def call_end(uri: str, uuid: str, token: str) -> str:
    """As `end_suspension`, for blockferry: OVER also where the arming is not known any more. It may be called late."""
    vm = SuspendedVm(uri, uuid)
    until = time.monotonic() + BUSY_S
    while (outcome := end_suspension(vm, token, (ARMED, RESUMING))) == BUSY and time.monotonic() < until:
        time.sleep(BUSY_STEP_S)
    return outcome


def call_noted(uuid: str, suspension: str) -> str:
    """Return what the note says of an arming for this suspension: ARMED, RESUMING or OVER; "" for nothing.

    A suspension may be armed for several times: each token is its name, a point and a number.
    """
    token, state = read(uuid)
    return state if token.rpartition(".")[0] == suspension else ""


def call_note(uuid: str, token: str) -> None:
    """Write down that this arming's suspension was ended by the guard beside blockferry."""
    change(uuid, token, OVER)


CALLS: dict[str, Callable[..., Any]] = {"end": call_end, "noted": call_noted, "note": call_note, "problem": problem}
