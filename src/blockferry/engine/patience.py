"""Commands on the host that may not end, because storage does not answer: waited for, and said so.

A process that waits for storage in the kernel cannot be killed, and neither can whoever waits for it. So each command
has a thread of its own; the one who wants it looks up now and then, and can leave it behind when told to leave.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Sequence

from blockferry.errors import Interrupted
from blockferry.images.process import Completed, Process
from blockferry.images.runner import Runner

LOOK_S = 0.5
SILENT_S = 10.0
"""A command that has said nothing for so long is worth a line in the story."""


class Patient:
    """A Runner around another one. `slow` is called once for each command that does not end soon."""

    def __init__(self, inner: Runner, slow: Callable[[str], None], leave: Callable[[], bool]) -> None:
        self.inner = inner
        self._slow = slow
        self._leave = leave

    @property
    def uri(self) -> str:
        return self.inner.uri

    def start(self, argv: Sequence[str], *, orders: bool = False) -> Process:
        """See Runner."""
        return self.inner.start(argv, orders=orders)

    def converse(self, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """See Runner."""
        return self.inner.converse(argv)

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
        began, told = time.monotonic(), False
        while thread.is_alive():
            thread.join(LOOK_S)
            if thread.is_alive() and not told and time.monotonic() - began > SILENT_S:
                told = True
                self._slow(f"`{argv[0]} ... {argv[-1][-120:]}` has not ended for {SILENT_S:g} s; waiting for it")
            if thread.is_alive() and told and self._leave():
                raise Interrupted("A command of the move waits for storage that does not answer; it is left behind.")
        if failed:
            raise failed[0]
        return done[0]
