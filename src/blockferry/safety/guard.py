"""The guard: a process that lets a suspended VM run again when blockferry cannot.

A manager that is killed, frozen or cut off while it has a VM suspended would leave it suspended until somebody
comes. So before the first suspension a second process is started, with a libvirt connection of its own; it is
armed for each suspension and resumes the VM when its parent dies or the time is up. That is safe at any instant:
each disk is whole on the side that its XML names, and a job that is not pivoted goes on copying.

Where libvirt has lost the VM (lost_vm/rules.py), its guest is let run by QEMU's own monitor. While libvirt cannot be
asked at all it goes on asking.

A VM on another host has a second guard, on that host itself (hosts/helper/host_guard.py): this one cannot reach it
while the link is cut. Each is armed for each suspension. Of such a VM this one ends a suspension by a call that is
carried out on the host (`guard.end`), under one lock with the guard there: the VM is resumed once, a pause after that
is its owner's, and a call that a cut link delivers late does nothing. Only where blockferry itself wants the VM
resumed, in time and over a link that has just answered, libvirt is asked from here: that is quicker.

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
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import TracebackType
from uuid import uuid4

from blockferry.base import clock
from blockferry.base.errors import BlockferryError, HostUnreachable, LibvirtFailed
from blockferry.hosts.helper import host_guard
from blockferry.hosts.helper.host_guard import Ending, HostGuard
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.domain import Control
from blockferry.hosts.process import readable, reap
from blockferry.hosts.runner import Runner, SshRunner, runner_for
from blockferry.safety import lost_qemu, managed_save_recovery
from blockferry.storage_move.pace import throttle_rules
from blockferry.storage_move.pace.record import Throttle

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

ARMING_S = 0.5
"""The time of a suspension counts from the arming: after a longer one both guards are armed once more."""

NOTE_S = 0.5
"""A VM that was resumed and not disarmed within this time: the parent is frozen, and the host's guard has to know."""

NO_TOKEN = "-"
"""In the order to arm: there is no guard on the VM's host."""

NOT_KNOWN = "VIR_ERR_NO_DOMAIN"

ASKING_S = 3600.0
"""For so long libvirt, or the host, is asked again for a VM that may stand still."""

SETTLE_S = 1.0
"""The same for the limits, which are looked at before they are put back."""

LATE_STEP_S = 10.0
LATE_LOOKS = 13
"""So often where libvirt answered late: what the parent has sent into a cut link TCP sends again every 2 minutes."""

RETRY_S = 2.0
RETRIES = 1800
"""For an hour; then only libvirt's own start can help."""


class Guard:
    """The parent's end. Use as a context; `arm` and `disarm` around each suspension."""

    def __init__(self, uri: str, uuid: str, name: str, *, start: bool = True, on_host: HostGuard | None = None) -> None:
        """`on_host`: the second guard of a VM on another host. Nothing is started yet."""
        self._start = start
        self._on_host = on_host
        self._suspension = ""  # the name of the one for which is armed
        self._host_problem_told = False
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
        if self._on_host is not None:
            self._on_host.leave()

    def prepare(self) -> None:
        """Start what is gone of the guards, without waiting for it. That it could not be shows when asked."""
        if self._on_host is not None:
            self._on_host.prepare()
        self._prepare_process()

    def _prepare_process(self) -> None:
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
        self._prepare_process()
        return self._say("disarm")

    def name_suspension(self) -> str:
        """Make a name for the next suspension: when a guard has ended it, it writes that down under this name."""
        self._suspension = uuid4().hex
        return self._suspension

    def arm(self, seconds: float) -> bool:
        """Have the VM resumed if we are not back within `seconds`. False: no guard could be had.

        Both guards have answered when this returns, or could not be had: see `host_problem`.
        """
        name = self._suspension or self.name_suspension()
        token = self._on_host.arm(seconds, name) if self._on_host is not None else ""
        began = clock.seconds()
        armed = self._sure(f"arm {seconds} {token or NO_TOKEN} {name}")
        if self._on_host is not None and clock.seconds() - began > ARMING_S:
            token = self._on_host.arm(seconds, name)
            armed = self._sure(f"arm {seconds} {token or NO_TOKEN} {name}")
        return armed or bool(token)

    def host_problem(self) -> str:
        """Why the guard on the VM's host could not be armed, a clause, once; "" when it could, or was told before."""
        if self._on_host is None or self._on_host.token or self._host_problem_told:
            return ""
        self._host_problem_told = True
        return self._on_host.problem or "it does not answer"

    def hold(self, *, running: bool, incarnation: int, image: str, files: tuple[str, str]) -> bool:
        """Have the VM let go of its saved state if we die, or are not heard of again. False: no guard could be had.

        `running`: its guest ran before; `incarnation`: libvirt's domain id then; `image`: where its memory is;
        `files`: its old and its new UEFI variables. To be repeated while it lasts.
        """
        return self._sure(f"hold {json.dumps([running, incarnation, image, files])}")

    def _sure(self, words: str = "") -> bool:
        for _attempt in range(2):
            self._prepare_process()
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
        self._suspension = ""
        self._say("disarm")
        if self._on_host is not None:
            self._on_host.disarm()

    def let_run(self) -> bool | None:
        """Have it end the suspension, now: whether it did. None: no answer, so it is for the caller to do.

        It does not if it has let the VM run before, since it was last armed: who has paused it then is its owner.
        Asked and done by one process, so that we may be frozen at any moment. Raises HostUnreachable when the guard on
        the VM's host may have done it, and cannot be asked.
        """
        on_host = self._on_host if self._on_host is not None and self._on_host.token else None
        if on_host is not None and on_host.may_have_acted:
            done = self._end_on_host(on_host)
            if done is not None:
                return done
        match self._ask(f"run {clock.seconds() + RUN_S}", RUN_S):
            case b"yes":
                return True
            case b"no":
                return False
        # Nothing may be sent from here now: the link may be cut, and would deliver it when the owner has paused the VM.
        return None if on_host is None else self._end_on_host(on_host)

    @staticmethod
    def _end_on_host(on_host: HostGuard) -> bool | None:
        """Whether the call on the host has ended the suspension. None: it could not, though nobody has ended it yet."""
        match on_host.end_suspension():
            case Ending.RESUMED:
                return True
            case Ending.RUNS | Ending.OVER:
                return False
            case Ending.BUSY:
                raise HostUnreachable(on_host.uri, "the VM is being resumed there, and libvirt does not answer")
        return None

    @property
    def may_be_over(self) -> bool:
        """Whether the guard on the VM's host may have ended the suspension: its time is up, or it does not hear us.

        That host does not sleep when this one does.
        """
        return self._on_host is not None and self._on_host.may_have_acted

    def take_over(self) -> None:
        """Have the process do now what it does when we die: let the VM run, and put its limits back."""
        process, self._process, self._told = self._process, None, None
        if process is not None:
            _hang_up(process)
            reap(process)
        if self._on_host is not None:
            self._on_host.leave()

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
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    _Sentry(uri, uuid, name).serve()


class _OtherGuard:
    """The guard on the VM's host as the child sees it: what each has done, the other is told by a note there."""

    def __init__(self, uri: str, uuid: str) -> None:
        self._uri, self._uuid = uri, uuid
        self._runner: Runner | None = None
        self.token = ""  # of the arming; "" when there is no guard on the host
        self._name = ""  # of the suspension
        self.note_due = False

    def armed(self, token: str, name: str) -> None:
        """For a new suspension, or for none ("")."""
        self.token, self._name, self.note_due = token, name, False

    def end_suspension(self) -> Ending | None:
        """Have the VM resumed on its host. None when the host cannot be asked: a link is cut, and nothing is known."""
        runner = self._reach()
        if runner is None:
            return Ending.NO_HELPER
        try:
            return host_guard.end_suspension(runner, self._uri, self._uuid, self.token)
        except HostUnreachable:
            return None

    def resumed(self) -> None:
        """The VM was resumed here: the note is due, unless the parent disarms both guards soon."""
        self.note_due = bool(self._name)

    def tell(self) -> None:
        """Write the note, if it is due."""
        if self.note_due and (runner := self._reach()) is not None:
            host_guard.note_acted(runner, self._uuid, self.token or f"{self._name}.0")
        self.note_due = False

    def _reach(self) -> Runner | None:
        self._runner = self._runner or _runner(self._uri)
        return self._runner

    def close(self) -> None:
        if isinstance(self._runner, SshRunner):
            self._runner.close()


class _Sentry:
    """The child's end: what the parent has ordered, and what has been done about it."""

    def __init__(self, uri: str, uuid: str, name: str) -> None:
        self._uri = uri
        self._control = Control(Connection(uri), uuid, name)
        self._runner: Runner | None = None
        self._other = _OtherGuard(uri, uuid)
        self._armed_s: float | None = None
        self._late_s = 0.0  # for how long it is still looked out for a suspension that was called for, and has not come
        self._resumed = False
        self._saved_vm: managed_save_recovery.SavedVm | None = None
        self._seen_down = False
        self._limits: dict[str, Throttle] = {}
        self._unread = b""  # of an order that is not whole yet

    def serve(self) -> None:
        """Obey the parent; act where it is silent for too long, and once more when it is gone. Returns then."""
        while True:
            wait_s = HOLD_S if self._saved_vm is not None else self._armed_s
            data = os.read(0, 4096) if readable(0, NOTE_S if self._other.note_due else wait_s) else None
            if data:
                self._seen_down = False
                self._obey(data)
                continue
            if data is None and self._other.note_due:
                self._other.tell()
                continue
            self._end_suspension(parent_gone=data is not None)
            if data is not None:
                self._finish()
                return
            self._other.tell()
            if self._saved_vm is not None and self._runner is not None:
                self._seen_down = _look_after(self._control, self._runner, self._saved_vm, seen_down=self._seen_down)

    def _end_suspension(self, *, parent_gone: bool) -> None:
        """If we are armed: let the VM run, and go on looking where its suspension may come later than our look."""
        if self._armed_s is not None and not self._late_s:
            self._late_s = LINGER_S
        done = self._let_run_when_armed()
        if done:
            self._resumed, self._late_s = True, 0.0
            self._other.resumed()
        until = time.monotonic() + ASKING_S
        while parent_gone and self._late_s > 0 and time.monotonic() < until:  # its last call may still be on its way
            time.sleep(RECHECK_S)
            self._runner = self._runner or _runner(self._uri)
            done = _resume(self._control, self._runner, self._other)
            self._late_s = 0.0 if done else self._late_s if done is None else self._late_s - RECHECK_S
        if parent_gone and done is not None:  # a pause that whoever takes over sees is the owner's
            self._other.resumed()
            self._other.tell()
        # libvirtd may have been frozen, and the parent waits in its call: the suspension comes after our look.
        self._late_s = max(0.0, self._late_s if done is None else self._late_s - RECHECK_S)
        self._armed_s = RECHECK_S if self._late_s else None

    def _let_run_when_armed(self) -> bool | None:
        """Whether the VM stood still, and runs now; None when libvirt could not be asked. Unless armed, do nothing."""
        if self._armed_s is None:
            return False
        done = _resume(self._control, self._runner, self._other)
        if not done and self._runner is None:  # only now: to make it may fail, and takes time
            self._runner = _runner(self._uri)
            if self._runner is not None:
                done = _resume(self._control, self._runner, self._other)
        return done

    def _finish(self) -> None:
        """The parent is gone: the saved VM goes on, the limits are as they were before."""
        if self._saved_vm is not None and self._runner is not None:
            _let_go(self._control, self._runner, self._saved_vm)
        began = time.monotonic()
        _put_back(self._control, self._limits)
        if self._limits:  # a dead parent's last call may have come after ours
            slow = time.monotonic() - began > SETTLE_S
            for _look in range(LATE_LOOKS if slow else 1):
                time.sleep(LATE_STEP_S if slow else SETTLE_S)
                _put_back(self._control, self._limits)
        if isinstance(self._runner, SshRunner):
            self._runner.close()
        self._other.tell()
        self._other.close()

    def _obey(self, data: bytes) -> None:
        """Follow the orders that are whole, and answer each by its number."""
        *lines, self._unread = (self._unread + data).split(b"\n")
        for numbered in lines:
            number, _, line = numbered.partition(b" ")
            try:
                order = _order(line)
            except (ValueError, TypeError, LookupError, AttributeError):
                continue  # not an order; the parent gets no answer, and starts another guard
            if line.startswith((b"arm ", b"disarm")):
                token, name = line.decode().split()[2:] if line.startswith(b"arm ") else ("", "")
                self._other.armed("" if token == NO_TOKEN else token, name)
            if line.startswith(b"run ") and isinstance(order, float):
                answer = self._run_now(order)
            else:
                answer = self._remember(order)
            os.write(1, number + answer)

    def _remember(self, order: dict[str, Throttle] | managed_save_recovery.SavedVm | float | None) -> bytes:
        if isinstance(order, dict):
            self._limits = order
        elif isinstance(order, managed_save_recovery.SavedVm):
            self._saved_vm = order
            self._runner = self._runner or runner_for(self._uri)
        else:
            self._saved_vm, self._late_s = None, 0.0
            self._armed_s = order
            self._resumed = self._resumed and self._armed_s is None
        return b" ok\n"

    def _run_now(self, until: float) -> bytes:
        """Let the VM run, unless we have since we were last armed: then its owner has paused it.

        So it may be once the order is too late (we were frozen): who gave it has not waited after `until`.
        """
        if clock.seconds() >= until:
            return b" failed\n"
        late = (lambda: clock.seconds() >= until) if self._other.token else None
        done = False if self._resumed else _resume_here(self._control, None, late)
        self._resumed, self._late_s = self._resumed or done is True, 0.0
        if done:
            self._other.resumed()
        if self._resumed:
            self._armed_s = None  # "no" may be of a VM that libvirt has lost; the parent says "disarm"
        return {True: b" yes\n", False: b" no\n", None: b" failed\n"}[done]


def _order(line: bytes) -> dict[str, Throttle] | managed_save_recovery.SavedVm | float | None:
    """What a line of the parent's asks for: limits, a VM to hold, seconds to be armed for; None for `disarm`.

    Of `run` it is the time, by `clock.seconds`, from which on it is too late.
    """
    name, _, rest = line.partition(b" ")
    match name:
        case b"limits":
            told = json.loads(rest)
            return {target: Throttle(**{**one, "earlier": tuple(one["earlier"])}) for target, one in told.items()}
        case b"hold":
            return managed_save_recovery.SavedVm(*json.loads(rest))
        case b"arm":
            seconds, _token, _name = rest.split()
            return float(seconds)
        case b"run":
            return float(rest)
        case b"disarm":
            return None
        case _:
            raise ValueError(line)


def _runner(uri: str) -> Runner | None:
    """None for a host on which no program can be run: then only libvirt can let the VM run."""
    with contextlib.suppress(BlockferryError, OSError):
        return runner_for(uri)
    return None


def _resume(control: Control, runner: Runner | None, other: _OtherGuard) -> bool | None:
    """Whether a suspension of ours was ended, by whichever guard; None when that could not be told.

    Of a VM on another host by a call on that host. Where no helper runs there any more, and where its virsh is silent
    though nobody has ended the suspension, by libvirt from here, as of a VM on this host.
    """
    if other.token:
        match other.end_suspension():
            case Ending.RESUMED | Ending.OVER:
                return True
            case Ending.RUNS:
                return False
            case Ending.BUSY | None:
                return None
    return _resume_here(control, runner)


def _resume_here(control: Control, runner: Runner | None, late: Callable[[], bool] | None = None) -> bool | None:
    """Whether it stood still by our doing, and runs now; None when libvirt could not be asked.

    With a `runner` also by QEMU's own monitor, where libvirt has lost the VM. Nothing is done once it is `late`: who
    has given the order does not wait any more, and does it otherwise.
    """
    for _attempt in range(3):
        try:
            done = control.resume(late) if late is not None else control.resume()
            if late is not None and late():
                return True if done else None
            return done or _resume_lost(control, runner)
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
        return lost_qemu.let_run(control, runner)
    except Exception:  # noqa: BLE001 - the guard may not end while a guest may stand still
        return None


def _look_after(control: Control, runner: Runner, held: managed_save_recovery.SavedVm, *, seen_down: bool) -> bool:
    """The parent lives and is silent. Let the VM go once it was down the last time, too; whether it is down now."""
    try:
        view = control.look((), closely=True)
        if view.state.active or not view.saved:
            return False
        if seen_down:
            managed_save_recovery.step(control, runner, held, was_down=True)
            managed_save_recovery.step(control, runner, held, was_down=True)
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
            done = managed_save_recovery.step(control, runner, held, was_down=was_down)
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
