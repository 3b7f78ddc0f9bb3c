"""The guard: a process that lets a suspended VM run again when blockferry cannot.

A manager that is killed, frozen or cut off while it has a VM suspended would leave it suspended until somebody
comes. So before the first suspension a second process is started, with a libvirt connection of its own; it is
armed for each suspension and resumes the VM when its parent dies or the time is up. That is safe at any instant:
each disk is whole on the side that its XML names, and a job that is not pivoted goes on copying.

It also puts back the limits of disks whose writes we slow, when its parent has gone without doing so.

And it lets a VM go that is held in a saved state (`--firmware now`), from its memory and never by booting it; for
that it stays, whatever it takes, also while libvirtd is away.

Run as `python -m blockferry.engine.guard URI UUID NAME`; it talks over its standard input and output.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from blockferry.engine import letting_go
from blockferry.errors import BlockferryError, HostUnreachable
from blockferry.hypervisor.connection import Connection
from blockferry.hypervisor.control import Control
from blockferry.images.runner import Runner, SshRunner, runner_for

PATIENCE_S = 20.0
"""How long the guard's process may take to connect."""

GOODBYE_S = 60.0
"""How long one who leaves waits for the guard, which may have a VM to let go."""

HOLD_S = 30.0
"""A VM that is seen down twice, so far apart, without a word from the parent, is let go: the parent is frozen."""

LINGER_S = 5.0
"""A dead parent's last call may still be on its way to libvirtd: for so long the VM has to be seen running."""

RETRY_S = 2.0
RETRIES = 1800
"""For an hour; then only libvirt's own start can help."""


class Guard:
    """The parent's end. Use as a context; `arm` and `disarm` around each suspension."""

    def __init__(self, uri: str, uuid: str, name: str, start: bool = True) -> None:
        self._start = start
        self._argv = [sys.executable, "-m", "blockferry.engine.guard", uri, uuid, name]
        self._process: subprocess.Popen[bytes] | None = None
        self._limits: dict[str, dict[str, int | str]] = {}
        self._told: subprocess.Popen[bytes] | None = None  # the process that knows of the limits

    def __enter__(self) -> Guard:
        if self._start:
            self.prepare()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
            self._process.stdout.close() if self._process.stdout else None
            with contextlib.suppress(subprocess.TimeoutExpired):  # then it goes on by itself
                self._process.wait(GOODBYE_S)
            self._process = None

    def prepare(self) -> None:
        """Start the process (again, if it is gone), without waiting for it."""
        if self._process is not None and self._process.poll() is None:
            return
        self._process = subprocess.Popen(
            self._argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
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

    def _sure(self, words: str) -> bool:
        for _attempt in range(2):
            self.prepare()
            self._tell_limits()
            if self._say(words):
                return True
            if self._process is not None:
                self._process.kill()
                self._process.wait()
        return False

    def restore_limits(self, target: str, limits: Mapping[str, int | str]) -> None:
        """Have these limits put back if we go without `limits_are_back`. Costs nothing when it is known already."""
        self.prepare()
        if self._limits.get(target) != dict(limits):
            self._limits[target] = dict(limits)
            self._told = None
        self._tell_limits()

    def _tell_limits(self) -> None:
        if self._limits and self._told is not self._process:
            self._told = self._process
            self._say(f"limits {json.dumps(self._limits)}")

    def limits_are_back(self) -> None:
        if self._limits:
            self._limits = {}
            self._say("limits {}")

    def disarm(self) -> None:
        self._say("disarm")

    def has_resumed(self) -> bool:
        """Whether it has let the VM run since it was last armed: a pause that is seen now is not ours, then."""
        return self._ask("resumed?") == b"yes\n"

    def _say(self, words: str) -> bool:
        return self._ask(words) == b"ok\n"

    def _ask(self, words: str) -> bytes:
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            return b""
        try:
            process.stdin.write(words.encode() + b"\n")
            process.stdin.flush()
        except OSError:
            return b""
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
        return os.read(process.stdout.fileno(), 64) if ready else b""


def stand_guard(uri: str, uuid: str, name: str) -> None:
    """The child's end: serve until the parent closes the pipe or dies."""
    for one in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)
    control = Control(Connection(uri), uuid, name)
    runner: Runner | None = None
    armed: float | None = None
    resumed = False
    held: letting_go.Before | None = None
    seen_down = False
    limits: dict[str, dict[str, int | str]] = {}
    buffer = b""
    while True:
        ready, _, _ = select.select([0], [], [], HOLD_S if held is not None else armed)
        data = os.read(0, 4096) if ready else None
        if not data:  # the parent is gone, or the time is up
            if armed is not None:
                _resume(control)
                resumed = True
            armed = None
            if data is None:
                if held is not None and runner is not None:
                    seen_down = _look_after(control, runner, held, seen_down)
                continue
            if held is not None and runner is not None:
                _let_go(control, runner, held)
            _put_back(control, limits)
            if isinstance(runner, SshRunner):
                runner.close()
            return
        seen_down = False
        buffer += data
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if line.startswith(b"limits "):
                limits = json.loads(line.removeprefix(b"limits "))
            elif line.startswith(b"hold "):
                held = letting_go.Before(*json.loads(line.removeprefix(b"hold ")))
                runner = runner or runner_for(uri)
            elif line == b"resumed?":
                os.write(1, b"yes\n" if resumed else b"no\n")
                continue
            else:
                held = None
                armed = float(line.split()[1]) if line.startswith(b"arm ") else None
                resumed = resumed and armed is None
            os.write(1, b"ok\n")


def _resume(control: Control) -> None:
    for _attempt in range(3):
        try:
            control.resume()
        except BlockferryError:
            try:
                control.connection = Connection(control.connection.uri)
            except BlockferryError:
                continue
        else:
            return


def _look_after(control: Control, runner: Runner, held: letting_go.Before, seen_down: bool) -> bool:
    """The parent lives and is silent. Let the VM go once it was down the last time, too; whether it is down now."""
    try:
        view = control.look((), closely=True)
        if view.state.active or not view.saved:
            return False
        if seen_down:
            letting_go.step(control, runner, held, True)
            letting_go.step(control, runner, held, True)
    except BlockferryError:
        _connect(control)
        return False
    return True


def _let_go(control: Control, runner: Runner, held: letting_go.Before) -> None:
    """The parent is gone: until the VM goes on as before it was saved."""
    up_since: float | None = None
    was_down = False
    for _attempt in range(RETRIES):
        try:
            done = letting_go.step(control, runner, held, was_down)
            was_down = was_down or done is letting_go.Step.DOWN
            if done is letting_go.Step.OVER:
                return
            up_since = (up_since or time.monotonic()) if done is letting_go.Step.UP else None
            if up_since is not None and time.monotonic() - up_since > LINGER_S:
                return
            if done is letting_go.Step.UP:
                time.sleep(0.2)
        except BlockferryError:
            up_since = None
            _connect(control)
            time.sleep(RETRY_S)


def _connect(control: Control) -> None:
    with contextlib.suppress(BlockferryError):
        if not control.connection.alive:
            control.connection = Connection(control.connection.uri)


def _put_back(control: Control, limits: Mapping[str, Mapping[str, int | str]]) -> None:
    for target, values in limits.items():
        for _attempt in range(3):
            try:
                control.set_limits(target, values)
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
