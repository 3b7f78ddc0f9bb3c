"""Tells whoever watches a job what libvirt is being waited for, when a call takes long.

A switch has shown "100 %" for a minute without a word, because libvirt probed QEMU anew each time it wrote the
configuration.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import Generic, TypeVar

from blockferry.base.errors import BlockferryError
from blockferry.base.units import format_duration
from blockferry.jobs.job_summary import JobProgress

ProgressT = TypeVar("ProgressT", bound=JobProgress)

LONG_S = 2.0
EVERY_S = 1.0


class SlowCalls(Generic[ProgressT]):
    """While it is open, publishes the last progress again with a note as long as a call takes longer than LONG_S.

    `slowest`: (what libvirt was asked for, for how many seconds), None when it owes no answer. `quiet`: whether the
    VM is suspended by us, when nobody writes to the journal.
    """

    def __init__(
        self,
        slowest: Callable[[], tuple[str, float] | None],
        publish: Callable[[ProgressT], None],
        quiet: Callable[[], bool],
    ) -> None:
        self._slowest = slowest
        self._publish = publish
        self._quiet = quiet
        self._last: ProgressT | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="slow-calls", daemon=True)

    def __enter__(self) -> SlowCalls[ProgressT]:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()

    def seen(self, progress: ProgressT) -> None:
        """The job has published this."""
        self._last = progress

    def _watch(self) -> None:
        while not self._over.wait(EVERY_S):
            last, slowest = self._last, self._slowest()
            if last is None or slowest is None or slowest[1] < LONG_S or self._quiet():
                continue
            note = _note(*slowest)
            with contextlib.suppress(BlockferryError):  # the loop itself says what is wrong with the journal
                self._publish(replace(last, note=note))


@contextlib.contextmanager
def telling(slowest: Callable[[], tuple[str, float] | None], say: Callable[[str], None]) -> Iterator[None]:
    """While it is open, say what a call is waited for that takes longer than LONG_S: before there is a job to show.

    `slowest`: as of SlowCalls. Said again each time it has taken twice as long.
    """
    over = threading.Event()

    def watch() -> None:
        next_s, before = LONG_S, ""
        while not over.wait(EVERY_S):
            what, seconds = slowest() or ("", 0.0)
            if what != before:
                next_s, before = LONG_S, what
            if seconds >= next_s:
                next_s = 2 * seconds
                with contextlib.suppress(OSError):  # the terminal is gone: the command itself meets that
                    say(_note(what, seconds))

    thread = threading.Thread(target=watch, name="slow-calls-told", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()


def _note(what: str, seconds: float) -> str:
    return f"waiting for libvirt to {what}, {format_duration(seconds)}"
