"""The helper of one host as its users see it: started when it is first needed, made anew when it has broken."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import weakref
from typing import Any, Protocol

from blockferry.base.errors import BlockferryError, HostCallFailed, HostCommandFailed, NoAnswer, OutcomeUnknown
from blockferry.hosts.helper.channel import Call, Channel
from blockferry.hosts.helper.host_process import Running
from blockferry.hosts.helper.transport import Transport

_LOG = logging.getLogger(__name__)

_SHOWN = 200  # characters of what was asked, in an error


class Pending(Protocol):
    """Something that was asked of the host and may not have been answered yet."""

    def wait(self, seconds: float | None) -> bool:
        """Whether it is over within that time. None: wait for it, however long that takes."""
        ...

    def result(self) -> Any:
        """What was answered, once it is over. Raises what `Session.call` raises."""
        ...

    def leave(self) -> None:
        """Leave it behind: its answer is not wanted any more."""
        ...


class Request:
    """See Pending. When the connection breaks it is asked once more, if that does no harm."""

    def __init__(self, session: Session, do: str, words: dict[str, Any], *, repeat: bool) -> None:
        self.shown = shown(do, words)
        self._session = session
        self._do, self._words = do, words
        self._repeat = self._harmless = repeat
        self._problem: BlockferryError | None = None
        self._call: Call = session.connection().ask(do, words)

    def wait(self, seconds: float | None) -> bool:
        """See Pending."""
        until = None if seconds is None else time.monotonic() + seconds
        while self._problem is None:
            if not self._call.over.wait(None if until is None else max(0.0, until - time.monotonic())):
                return False
            if self._call.answer is not None:
                return True
            problem = self._call.connection.problem()
            if not self._repeat or not self._call.connection.greeted:
                self._problem = self._broken(problem)
                return True
            self._repeat = False
            _LOG.info("%s, asked once more to %s", problem.sentence, self.shown)
            try:
                self._call = self._session.connection().ask(self._do, self._words)
            except BlockferryError as error:
                self._problem = error
        return True

    def _broken(self, problem: BlockferryError) -> BlockferryError:
        if self._harmless and not self._call.connection.greeted:
            return problem
        if self._call.connection.never_ran:
            return problem  # nothing was ever done there
        return OutcomeUnknown(self._session.uri, f"{self.shown} ({problem.sentence.rstrip('.')})")

    def result(self) -> Any:
        """See Pending."""
        if self._problem is not None:
            raise self._problem
        answer = self._call.answer
        assert answer is not None
        if "error" not in answer:
            return answer["result"]
        error = answer["error"]
        number = getattr(errno, error["name"], error["errno"]) if error["name"].startswith("E") else error["errno"]
        if number:
            where = error.get("path") or ""
            what = self.shown if not where or where in self.shown else f"{self.shown} ({where})"
            raise HostCallFailed(what, 1, os.strerror(number), number, error["name"])
        raise HostCommandFailed(self.shown, 1, error["words"])

    def leave(self) -> None:
        """See Pending."""
        self._call.forget()


class Session:
    """The helper of one host. Any thread may ask; one that waits holds up nobody."""

    def __init__(self, transport: Transport) -> None:
        """Nothing is started yet."""
        self.uri = transport.uri
        self._transport = transport
        self._lock = threading.Lock()
        self._held = _Held()
        weakref.finalize(self, self._held.let_go)

    def prepare(self) -> None:
        """Start the helper now, without waiting for it, so that the first call finds it. Raises nothing."""
        try:
            self.connection()
        except BlockferryError as error:
            _LOG.debug("the helper of %s was not started: %s", self.uri, error.sentence)

    def connection(self) -> Channel:
        """The one that is up, or a new one. Raises HostCommandFailed when it cannot be started."""
        with self._lock:
            held = self._held.connection
            if held is None or held.broken.is_set():
                held = self._held.connection = Channel(self._transport)
            return held

    def begin(self, do: str, *, repeat: bool = True, **words: Any) -> Pending:
        """Ask, and wait later. `repeat`: asked again, once, when the connection breaks before the answer.

        Raises HostCommandFailed.
        """
        return Request(self, do, words, repeat=repeat)

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        """Ask and wait for the answer.

        Raises HostCallFailed with the error's number, NoAnswer after `timeout_s` (the call may still be done),
        OutcomeUnknown when the connection broke and it must not be repeated, HostUnreachable, HostCommandFailed.
        """
        return answered(self.begin(do, repeat=repeat, **words), shown(do, words), timeout_s)

    def start(self, module: str, wish: dict[str, Any], *, stays: bool = False, about: str = "") -> Running:
        """Run a module of the program as a process of its own on the host, for what takes long.

        It ends with the helper; with `stays` it only learns of that, by the end of its orders. `about`: what ps(1)
        shows there. Raises HostCommandFailed when the helper cannot be started.
        """
        words = {"module": module, "wish": wish, "stays": stays, "about": about}
        call = self.connection().ask("alone.run", words)
        return Running(call, module, self)

    def close(self) -> None:
        """End the helper. A later call starts another one."""
        self._held.close()


class _Held:
    """What a session leaves to be closed when nobody has it any more."""

    def __init__(self) -> None:
        self.connection: Channel | None = None

    def let_go(self) -> None:
        held, self.connection = self.connection, None
        if held is not None:
            held.let_go()

    def close(self) -> None:
        held, self.connection = self.connection, None
        if held is not None:
            held.close()


def answered(pending: Pending, what: str, timeout_s: float | None) -> Any:
    """The answer. Raises NoAnswer when it does not come in time; otherwise as `Session.call`."""
    if not pending.wait(timeout_s):
        pending.leave()
        raise NoAnswer(what, 124, f"no answer within {timeout_s or 0:g} s.")
    return pending.result()


def shown(do: str, words: dict[str, Any]) -> str:
    """What was asked, for people: `files.remove /srv/old.qcow2`."""
    names = [one for value in words.values() for one in (value if isinstance(value, list | tuple) else [value])]
    text = " ".join([do, *(name for name in names if isinstance(name, str) and name.startswith("/"))])
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
