"""The guard on the VM's own host, from our side: starting it, arming it, ending a suspension on the host.

`hosts/helper/program/guard_calls.py` does the work there; it outlives us and the link on purpose.
"""

from __future__ import annotations

import contextlib
import enum
import time
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from blockferry.base import clock
from blockferry.base.errors import BlockferryError, HostCommandFailed, HostUnreachable, NoAnswer
from blockferry.hosts.helper.host_process import Running
from blockferry.hosts.runner import Runner, SshRunner

READY_S = 20.0
OBEY_S = 5.0
"""Longer than the guard takes for a look at a libvirtd that does not answer."""
ASK_S = 5.0
"""So long the host may take to say what came of `end_suspension`: a cut link is not waited for."""
PROBLEM_S = 40.0


class Ending(enum.Enum):
    """What came of the wish to end a suspension."""

    RESUMED = "resumed"
    RUNS = "runs"  # it was not suspended by a user of libvirt: it runs, is off, or stands still for another reason
    OVER = "over"  # a guard has ended this arming's suspension before: a pause that is seen now is the owner's
    UNCLEAR = "unclear"  # the host answers, and does not know: the arming is not over, and libvirt there is silent
    BUSY = "busy"  # somebody else on the host is ending it at this moment
    NO_HELPER = "no helper"  # the host can be reached, and runs no helper


class HostGuard:
    """One VM's guard on its host. Where it cannot be had `problem` says why, and the guard beside us still stands."""

    def __init__(self, runner: Runner, uri: str, uuid: str) -> None:
        """Nothing is started yet. `uri`: as it is used from here."""
        self.problem = ""
        self.token = ""  # of the last arming that was answered; "" when it is not armed
        self._runner = runner
        self.uri = uri
        self._uuid = uuid
        self._wish = {"uri": local_uri(uri), "uuid": uuid}
        self._process: Running | None = None
        self._ready = False
        self._number = 0  # of armings
        self._until = 0.0  # by clock.seconds(): from then on it may have acted

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

    def arm(self, seconds: float, suspension: str) -> str:
        """Have the VM resumed in `seconds`, or when we are gone: the arming's token, or "" when it cannot be had.

        `suspension`: its name, of which the token is made.
        """
        self.token = ""
        for _attempt in range(2):
            self.prepare()
            self._number += 1
            token = f"{suspension}.{self._number}"
            began = clock.seconds()
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

    @property
    def may_have_acted(self) -> bool:
        """Whether the guard on the host may have ended the suspension: the time is up, or it does not hear us."""
        heard = self._process is not None and not self._process.over
        return bool(self.token) and not (heard and clock.seconds() < self._until)

    def end_suspension(self) -> Ending:
        """Resume the VM by a call that is carried out on its host. Raises HostUnreachable."""
        return end_suspension(self._runner, self.uri, self._uuid, self.token)

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
        return self._process.said(name, seconds) if self._process is not None else {}


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


def end_suspension(runner: Runner, uri: str, uuid: str, token: str) -> Ending:
    """Have the VM resumed on its host if this arming's suspension is not over; the host looks and acts in one step.

    So it does no harm when a cut link delivers the call late. Raises HostUnreachable when the host does not answer.
    """
    words: dict[str, Any] = {"uri": local_uri(uri), "uuid": uuid, "token": token}
    try:
        return Ending(runner.call("guard.end", timeout_s=ASK_S, **words))
    except NoAnswer as error:
        raise HostUnreachable(runner.uri, error.sentence.rstrip(".")) from None
    except HostCommandFailed:
        return Ending.NO_HELPER


def has_ended(runner: Runner, uuid: str, suspension: str) -> bool:
    """Whether a guard has ended the suspension of this name; False also where no helper runs.

    Raises HostUnreachable when the host does not answer.
    """
    try:
        said = runner.call("guard.noted", timeout_s=ASK_S, uuid=uuid, suspension=suspension)
    except NoAnswer as error:
        raise HostUnreachable(runner.uri, error.sentence.rstrip(".")) from None
    except HostCommandFailed:
        return False
    return bool(said == Ending.OVER.value)


def note_acted(runner: Runner, uuid: str, token: str) -> None:
    """Have the guard on the host know that this arming's suspension is over. It is best effort."""
    with contextlib.suppress(BlockferryError):
        runner.call("guard.note", timeout_s=ASK_S, uuid=uuid, token=token)
