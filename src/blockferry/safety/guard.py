"""The guard: a process that lets a suspended VM run again when blockferry cannot.

A manager that is killed, frozen or cut off while it has a VM suspended would leave it suspended until somebody
comes. So before the first suspension a second process is started, with a libvirt connection of its own; it is
armed for each suspension and resumes the VM when its parent dies or the time is up. That is safe at any instant:
each disk is whole on the side that its XML names, and a job that is not pivoted goes on copying.

Where libvirt has lost the VM (lost_vm/rules.py), its guest is let run by QEMU's own monitor. While libvirt cannot be
asked at all it goes on asking.

It also puts back the limits of disks whose writes we slow, when its parent has gone without doing so.

And it lets a VM go that is held in a saved state (`--firmware now`), from its memory and never by booting it; for
that it stays, whatever it takes, also while libvirtd is away.

Run as `python -m blockferry.safety.guard URI UUID NAME`; it talks over its standard input and output.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType

from blockferry.base.errors import BlockferryError, HostUnreachable, LibvirtFailed
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.domain import Control
from blockferry.hosts.process import readable, reap
from blockferry.hosts.runner import Runner, SshRunner, runner_for
from blockferry.storage_move.firmware import managed_save_recovery
from blockferry.storage_move.lost_vm import past_libvirt
from blockferry.storage_move.pace import throttle_rules
from blockferry.storage_move.record import Throttle

PATIENCE_S = 20.0
"""How long the guard's process may take to connect."""

GOODBYE_S = 60.0
"""How long one who leaves waits for the guard, which may have a VM to let go."""

RUN_S = 1.0
"""How long a guard may take to let the VM run before we do it ourselves."""

HOLD_S = 30.0
"""A VM that is seen down twice, so far apart, without a word from the parent, is let go: the parent is frozen."""

RECHECK_S = 0.25

LINGER_S = 5.0
"""A dead parent's last call may still be on its way to libvirtd: for so long the VM has to be seen running."""

NOT_KNOWN = "VIR_ERR_NO_DOMAIN"

ASKING = 14400
"""So often, a quarter of a second apart, libvirt is asked again for a VM that may stand still: for an hour."""

SETTLE_S = 1.0
"""The same for the limits, which are looked at before they are put back."""

RETRY_S = 2.0
RETRIES = 1800
"""For an hour; then only libvirt's own start can help."""


class Guard:
    """The parent's end. Use as a context; `arm` and `disarm` around each suspension."""

    def __init__(self, uri: str, uuid: str, name: str, start: bool = True) -> None:
        self._start = start
        self._argv = [sys.executable, "-m", "blockferry.safety.guard", uri, uuid, name]
        self._process: subprocess.Popen[bytes] | None = None
        self._limits: dict[str, Throttle] = {}
        self._told: subprocess.Popen[bytes] | None = None  # the process that knows of the limits
        self._asked = 0
        self._heard = b""  # of an answer that is not whole yet

    def __enter__(self) -> Guard:
        if self._start:
            self.prepare()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            _hang_up(self._process)
            with contextlib.suppress(subprocess.TimeoutExpired):  # then it goes on by itself
                self._process.wait(GOODBYE_S)
            reap(self._process)
            self._process = None

    def prepare(self) -> None:
        """Start the process (again, if it is gone), without waiting for it. That it could not be shows when asked."""
        if self._process is not None and self._process.poll() is None:
            return
        if self._process is not None:
            _hang_up(self._process)
            reap(self._process)
        self._process, self._heard = None, b""
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def works(self) -> bool:
        """Whether the process can be had and has reached libvirt. Nothing is suspended or resumed."""
        self.prepare()
        return self._say("disarm")

    def arm(self, seconds: float) -> bool:
        """Have the VM resumed if we are not back within `seconds`. False: no guard could be had."""
        return self._sure(f"arm {seconds}")

    def hold(self, running: bool, incarnation: int, image: str, files: tuple[str, str]) -> bool:
        """Have the VM let go of its saved state if we die, or are not heard of again. False: no guard could be had.

        `running`: its guest ran before; `incarnation`: libvirt's domain id then; `image`: where its memory is;
        `files`: its old and its new UEFI variables. To be repeated while it lasts.
        """
        return self._sure(f"hold {json.dumps([running, incarnation, image, files])}")

    def _sure(self, words: str = "") -> bool:
        for _attempt in range(2):
            self.prepare()
            if self._knows_limits() and (not words or self._say(words)):
                return True
            if self._process is not None:
                self._process.kill()
                self._process.wait()
        return False

    def restore_limits(self, target: str, noted: Throttle) -> bool:
        """Have a disk's limits before put back if we go without `limits_are_back`. False: no guard could be had.

        Costs nothing when it is known already.
        """
        if self._limits.get(target) != noted:
            self._limits[target] = noted
            self._told = None
        return self._sure()

    def _knows_limits(self) -> bool:
        if self._limits and (self._process is None or self._told is not self._process):
            known = self._say(f"limits {json.dumps({target: asdict(one) for target, one in self._limits.items()})}")
            self._told = self._process if known else None
            return known
        return True

    def limits_are_back(self) -> None:
        if self._limits:
            self._limits = {}
            self._say("limits {}")

    def disarm(self) -> None:
        self._say("disarm")

    def let_run(self) -> bool | None:
        """Have it end the suspension, now: whether it did. None: no answer, so it is for the caller to do.

        It does not if it has let the VM run before, since it was last armed: who has paused it then is its owner.
        Asked and done by one process, so that we may be frozen at any moment.
        """
        match self._ask("run", RUN_S):
            case b"yes":
                return True
            case b"no":
                return False
            case _:
                return None

    def take_over(self) -> None:
        """Have the process do now what it does when we die: let the VM run, and put its limits back."""
        process, self._process, self._told = self._process, None, None
        if process is not None:
            _hang_up(process)
            reap(process)

    def _say(self, words: str) -> bool:
        return self._ask(words) == b"ok"

    def _ask(self, words: str, patience_s: float | None = None) -> bytes:
        """Its answer; empty for none in time. A late one is known by its number, and not taken for another's."""
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return b""
        self._asked += 1
        try:
            process.stdin.write(f"{self._asked} {words}\n".encode())
            process.stdin.flush()
        except OSError:
            return b""
        until = time.monotonic() + (patience_s or PATIENCE_S)
        while (left := until - time.monotonic()) > 0:
            ready = readable(process.stdout.fileno(), left)
            data = os.read(process.stdout.fileno(), 4096) if ready else b""
            if not data:
                break
            *lines, self._heard = (self._heard + data).split(b"\n")
            for line in lines:
                number, _, answer = line.partition(b" ")
                if number == b"%d" % self._asked:
                    return answer
        return b""


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # a word that it did not take, because it is dead
                pipe.close()


def stand_guard(uri: str, uuid: str, name: str) -> None:
    """The child's end: serve until the parent closes the pipe or dies."""
    for one in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    control = Control(Connection(uri), uuid, name)
    runner: Runner | None = None
    armed: float | None = None
    late = 0.0  # for how long it is still looked out for a suspension that was called for, and has not come yet
    resumed = False
    held: managed_save_recovery.SavedVm | None = None
    seen_down = False
    limits: dict[str, Throttle] = {}
    buffer = b""
    while True:
        data = os.read(0, 4096) if readable(0, HOLD_S if held is not None else armed) else None
        if not data:  # the parent is gone, or the time is up
            if armed is not None and not late:
                late = LINGER_S
            done = _resume(control, runner) if armed is not None else False
            if armed is not None and not done and runner is None:  # only now: to make it may fail, and takes time
                runner = _runner(uri)
                done = _resume(control, runner) if runner is not None else done
            if done:
                resumed, late = True, 0.0
            asked = 0
            while data == b"" and late > 0 and asked < ASKING:  # its last call may still be on its way to libvirtd
                time.sleep(RECHECK_S)
                runner = runner or _runner(uri)
                asked, done = asked + 1, _resume(control, runner)
                late = 0.0 if done else late if done is None else late - RECHECK_S
            # libvirtd may have been frozen, and the parent waits in its call: the suspension comes after our look.
            late = max(0.0, late if done is None else late - RECHECK_S)
            armed = RECHECK_S if late else None
            if data is None:
                if held is not None and runner is not None:
                    seen_down = _look_after(control, runner, held, seen_down)
                continue
            if held is not None and runner is not None:
                _let_go(control, runner, held)
            _put_back(control, limits)
            if limits:  # a dead parent's last call may have come after ours
                time.sleep(SETTLE_S)
                _put_back(control, limits)
            if isinstance(runner, SshRunner):
                runner.close()
            return
        seen_down = False
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for numbered in lines:
            number, _, line = numbered.partition(b" ")
            try:
                order = _order(line)
            except (ValueError, TypeError, LookupError, AttributeError):
                continue  # not an order; the parent gets no answer, and starts another guard
            if isinstance(order, dict):
                limits = order
            elif isinstance(order, managed_save_recovery.SavedVm):
                held = order
                runner = runner or runner_for(uri)
            elif line == b"run":
                done = False if resumed else _resume(control, None)
                resumed, late = resumed or done is True, 0.0
                armed = (
                    None if resumed else armed
                )  # "no" may be of a VM that libvirt has lost; the parent says "disarm"
                os.write(1, number + {True: b" yes\n", False: b" no\n", None: b" failed\n"}[done])
                continue
            else:
                held, late = None, 0.0
                armed = order
                resumed = resumed and armed is None
            os.write(1, number + b" ok\n")


def _order(line: bytes) -> dict[str, Throttle] | managed_save_recovery.SavedVm | float | None:
    """What a line of the parent's asks for: limits, a VM to hold, seconds to be armed for; None for `run`, `disarm`."""
    name, _, rest = line.partition(b" ")
    match name:
        case b"limits":
            told = json.loads(rest)
            return {target: Throttle(**{**one, "earlier": tuple(one["earlier"])}) for target, one in told.items()}
        case b"hold":
            return managed_save_recovery.SavedVm(*json.loads(rest))
        case b"arm":
            return float(rest)
        case b"run" | b"disarm":
            return None
        case _:
            raise ValueError(line)


def _runner(uri: str) -> Runner | None:
    """None for a host on which no program can be run: then only libvirt can let the VM run."""
    with contextlib.suppress(BlockferryError, OSError):
        return runner_for(uri)
    return None


def _resume(control: Control, runner: Runner | None) -> bool | None:
    """Whether it stood still, and runs now; None when libvirt could not be asked.

    With a `runner` also by QEMU's own monitor, where libvirt has lost the VM.
    """
    for _attempt in range(3):
        try:
            return control.resume() or _resume_lost(control, runner)
        except LibvirtFailed as error:
            if error.libvirt_code == NOT_KNOWN:
                return _resume_lost(control, runner)
        except BlockferryError:
            try:
                control.connection = Connection(control.connection.uri)
            except BlockferryError:
                continue
    return None


def _resume_lost(control: Control, runner: Runner | None) -> bool | None:
    """The same of a VM that libvirt does not know, or takes for off. Whatever goes wrong: it is not known."""
    if runner is None:
        return False
    try:
        return past_libvirt.let_run(control, runner)
    except Exception:  # noqa: BLE001 - the guard may not end while a guest may stand still
        return None


def _look_after(control: Control, runner: Runner, held: managed_save_recovery.SavedVm, seen_down: bool) -> bool:
    """The parent lives and is silent. Let the VM go once it was down the last time, too; whether it is down now."""
    try:
        view = control.look((), closely=True)
        if view.state.active or not view.saved:
            return False
        if seen_down:
            managed_save_recovery.step(control, runner, held, True)
            managed_save_recovery.step(control, runner, held, True)
    except BlockferryError:
        _connect(control)
        return False
    return True


def _let_go(control: Control, runner: Runner, held: managed_save_recovery.SavedVm) -> None:
    """The parent is gone: until the VM goes on as before it was saved."""
    up_since: float | None = None
    was_down = False
    for _attempt in range(RETRIES):
        try:
            done = managed_save_recovery.step(control, runner, held, was_down)
            was_down = was_down or done is managed_save_recovery.RecoveryStep.DOWN
            if done is managed_save_recovery.RecoveryStep.OVER:
                return
            up_since = (up_since or time.monotonic()) if done is managed_save_recovery.RecoveryStep.UP else None
            if up_since is not None and time.monotonic() - up_since > LINGER_S:
                return
            if done is managed_save_recovery.RecoveryStep.UP:
                time.sleep(0.2)
        except BlockferryError:
            up_since = None
            _connect(control)
            time.sleep(RETRY_S)


def _connect(control: Control) -> None:
    with contextlib.suppress(BlockferryError):
        if not control.connection.alive:
            control.connection = Connection(control.connection.uri)


def _put_back(control: Control, limits: Mapping[str, Throttle]) -> None:
    """Put back what is ours to put back: the same QEMU, with limits that we have set."""
    for target, noted in limits.items():
        for _attempt in range(3):
            try:
                again = control.look(()).incarnation == noted.incarnation
                if again and throttle_rules.standing(noted, control.limits(target)) is throttle_rules.LimitOwner.OURS:
                    control.set_limits(target, throttle_rules.own(noted.before))
            except HostUnreachable:
                with contextlib.suppress(BlockferryError):
                    control.connection = Connection(control.connection.uri)
                continue
            except BlockferryError:
                pass  # the VM or the disk is gone, and its limits with it
            break


if __name__ == "__main__":
    stand_guard(sys.argv[1], sys.argv[2], sys.argv[3])
    os._exit(0)  # at once: the parent waits for us
