"""Commands on the host that may not end, because storage does not answer: waited for, and said so.

A process that waits for storage in the kernel cannot be killed, and neither can whoever waits for it. The helper on the
host has a thread for each call, and each program has one here; the one who wants it looks up now and then, and can
leave it behind when told to leave.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from blockferry.base.errors import Interrupted, NoAnswer
from blockferry.hosts.helper.host_process import Running
from blockferry.hosts.helper.session import Pending, shown
from blockferry.hosts.process import Completed, Process
from blockferry.hosts.runner import Runner

LOOK_S = 0.5
SILENT_S = 10.0
"""A command that has said nothing for so long is worth a line in the story."""


class WaitingRunner:
    """A Runner around another one. `slow` is called once for each command that does not end soon."""

    def __init__(self, inner: Runner, slow: Callable[[str], None], leave: Callable[[], bool]) -> None:
        self.inner = inner
        self._slow = slow
        self._leave = leave

    @property
    def uri(self) -> str:
        return self.inner.uri

    def start(self, argv: Sequence[str]) -> Process:
        """See Runner."""
        return self.inner.start(argv)

    def start_own(self, module: str, wish: dict[str, Any], *, stays: bool = False, about: str = "") -> Running:
        """See Runner."""
        return self.inner.start_own(module, wish, stays=stays, about=about)

    def run(
        self, argv: Sequence[str], *, stdin: bytes | None = None, timeout_s: float | None = None, check: bool = True
    ) -> Completed:
        """See Runner. Raises Interrupted, too, when it has not ended and we are to leave."""
        done: list[Completed] = []
        failed: list[BaseException] = []

        def work() -> None:
            try:
                done.append(self.inner.run(argv, stdin=stdin, timeout_s=timeout_s, check=check))
            except BaseException as error:  # noqa: BLE001 - raised again in the caller
                failed.append(error)

        thread = threading.Thread(target=work, name=f"run-{argv[0]}", daemon=True)
        thread.start()

        def ended(seconds: float) -> bool:
            thread.join(seconds)
            return not thread.is_alive()

        self._see_through(ended, f"{argv[0]} ... {argv[-1][-120:]}", None)
        if failed:
            raise failed[0]
        return done[0]

    def prepare(self) -> None:
        """See Runner."""
        self.inner.prepare()

    def begin(self, do: str, *, repeat: bool = True, **words: Any) -> Pending:
        """See Runner. Whoever waits for it has the patience himself."""
        return self.inner.begin(do, repeat=repeat, **words)

    def call(self, do: str, *, timeout_s: float | None = None, repeat: bool = True, **words: Any) -> Any:
        """See Runner. Raises Interrupted, too, when there is no answer and we are to leave."""
        pending, what = self.inner.begin(do, repeat=repeat, **words), shown(do, words)
        if not self._see_through(pending.wait, what, timeout_s):
            pending.leave()
            raise NoAnswer(what, 124, f"no answer within {timeout_s or 0:g} s.")
        return pending.result()

    def _see_through(self, ended: Callable[[float], bool], what: str, timeout_s: float | None) -> bool:
        """Wait for its end; False when the time is up. Raises Interrupted."""
        began, told = time.monotonic(), False
        while not ended(LOOK_S if timeout_s is None else min(LOOK_S, timeout_s)):
            passed = time.monotonic() - began
            if timeout_s is not None and passed >= timeout_s:
                return False
            if not told and passed > SILENT_S:
                told = True
                self._slow(f"`{what}` has not ended for {SILENT_S:g} s; waiting for it")
            if told and self._leave():
                raise Interrupted("A command of the move waits for storage that does not answer; it is left behind.")
        return True
