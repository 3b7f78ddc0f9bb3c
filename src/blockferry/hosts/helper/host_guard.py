"""The guard on the VM's own host, from our side: starting it, arming it, asking whether it has acted.

`hosts/helper/program/guard_calls.py` does the work there; it outlives us and the link on purpose.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from blockferry.base.errors import BlockferryError, HostCommandFailed, HostUnreachable, NoAnswer
from blockferry.hosts.helper.host_process import Running
from blockferry.hosts.runner import Runner, SshRunner

READY_S = 20.0
OBEY_S = 5.0
"""Longer than the guard takes for a look at a libvirtd that does not answer."""
ASK_S = 5.0
PROBLEM_S = 40.0

_NUMBERS = itertools.count(1)


class HostGuard:
    """One VM's guard on its host. Where it cannot be had `problem` says why, and the guard beside us still stands."""

    def __init__(self, runner: Runner, uri: str, uuid: str) -> None:
        """Nothing is started yet. `uri`: as it is used from here."""
        self.problem = ""
        self.token = ""  # of the last arming that was answered; "" when it is not armed
        self._runner = runner
        self._uuid = uuid
        self._wish = {"uri": local_uri(uri), "uuid": uuid}
        self._process: Running | None = None
        self._ready = False
        self._rest = b""
        self._until = 0.0  # monotonic seconds: from then on it may have acted

    def prepare(self) -> None:
        """Start it (again, if it is gone), without waiting for it."""
        if self._process is not None and not self._process.over:
            return
        self._process, self._ready, self._rest = None, False, b""
        try:
            self._process = self._runner.start_own("guard_calls", self._wish, stays=True, about=self._uuid)
        except BlockferryError as error:
            self.problem = error.sentence.rstrip(".")

    def works(self) -> bool:
        """Whether it can be had and reaches libvirt there."""
        self.prepare()
        return self._is_ready()

    def arm(self, seconds: float) -> str:
        """Have the VM resumed in `seconds`, or when we are gone: the arming's token, or "" when it cannot be had."""
        self.token = ""
        for _attempt in range(2):
            self.prepare()
            token = f"{os.getpid()}-{time.monotonic_ns()}-{next(_NUMBERS)}"
            began = time.monotonic()
            if self._is_ready() and self._order(f"arm {token} {seconds}", {"armed": token}):
                self.token, self.problem, self._until = token, "", began + seconds
                return token
            if self._process is not None:  # it may be armed all the same, and answer late
                self._process.order(f"disarm {token}")
            self.leave()
        return ""

    def disarm(self) -> None:
        """It acts no more once this returns, if it can be reached."""
        if not self.token:
            return
        token, self.token = self.token, ""
        if not self._order(f"disarm {token}", {"disarmed": token}):
            self.leave()

    def has_acted(self) -> bool:
        """Whether the VM was resumed by a guard since it was armed. Raises HostUnreachable.

        Costs nothing while the time is not up and the guard hears us: it cannot have acted then.
        """
        heard = self._process is not None and not self._process.over
        if not self.token or (heard and time.monotonic() < self._until):
            return False
        try:
            return bool(self._runner.call("guard.acted", timeout_s=ASK_S, uuid=self._uuid, token=self.token))
        except NoAnswer as error:
            raise HostUnreachable(self._runner.uri, error.sentence.rstrip(".")) from None
        except HostCommandFailed:
            return False

    def leave(self) -> None:
        """Give it no more orders. Armed, it resumes the VM now; otherwise it ends."""
        process, self._process = self._process, None
        self._ready = False
        if process is not None and not process.over:
            process.close()

    def _is_ready(self) -> bool:
        if self._process is not None and not self._ready:
            said = self._await("ready", READY_S)
            self._ready = "ready" in said
            if not self._ready:
                self.problem = str(said.get("problem") or "it does not answer")
        return self._ready

    def _order(self, line: str, answer: dict[str, str]) -> bool:
        if self._process is None:
            return False
        self._process.order(line)
        (name,) = answer
        until = time.monotonic() + OBEY_S
        while (left := until - time.monotonic()) > 0:
            said = self._await(name, left)
            if said.get(name) == answer[name]:
                return True
            if not said:
                break
        self.problem = "it does not answer"
        return False

    def _await(self, name: str, seconds: float) -> dict[str, Any]:
        """The next thing that it says under this name, or of a problem; nothing if it does not in time."""
        until = time.monotonic() + seconds
        while self._process is not None:
            line, found, rest = self._rest.partition(b"\n")
            if found:
                self._rest = rest
                said = json.loads(line)
                if name in said or "problem" in said:
                    return dict(said)
                continue
            chunk = self._process.read(max(0.0, until - time.monotonic()))
            if not chunk:
                break
            self._rest += chunk
        return {}


def beside(runner: Runner, uri: str, uuid: str) -> HostGuard | None:
    """The guard for a VM on another host; None on this one, which a cut link does not concern."""
    return HostGuard(runner, uri, uuid) if isinstance(runner, SshRunner) else None


def problem(runner: Runner, uri: str) -> str:
    """Why the guard cannot be had on the host of `uri`, a clause; "" when it can, and on this host, which needs none.

    Raises HostUnreachable.
    """
    if not isinstance(runner, SshRunner):
        return ""
    try:
        return str(runner.call("guard.problem", timeout_s=PROBLEM_S, uri=local_uri(uri)))
    except HostCommandFailed as error:
        return error.sentence.rstrip(".")


def local_uri(uri: str) -> str:
    """The libvirt URI that names on the host itself what `uri` names from here."""
    parts = urlsplit(uri)
    socket = parse_qs(parts.query).get("socket")
    return f"qemu+unix://{parts.path}?socket={quote(socket[-1])}" if socket else f"qemu://{parts.path}"


def acted(runner: Runner, uuid: str, token: str) -> bool:
    """Whether the VM was resumed by a guard for this arming. False also when the host cannot be asked."""
    try:
        return bool(runner.call("guard.acted", timeout_s=ASK_S, uuid=uuid, token=token))
    except BlockferryError:
        return False


def note_acted(runner: Runner, uuid: str, token: str) -> None:
    """Have the guard on the host know that the VM was resumed for this arming. It is best effort."""
    try:
        runner.call("guard.note", timeout_s=ASK_S, uuid=uuid, token=token)
    except BlockferryError:
        return
