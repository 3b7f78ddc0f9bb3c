"""What libvirt is waited for is shown; nothing is written while the VM is suspended."""

from __future__ import annotations

import threading

import pytest

from blockferry.base.errors import JournalFailed
from blockferry.jobs import slow_calls
from blockferry.jobs.slow_calls import SlowCalls
from blockferry.storage_move.summary import Progress


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_calls, "EVERY_S", 0.005)


def test_a_slow_call_is_named() -> None:
    told = threading.Event()
    shown: list[Progress] = []

    def publish(progress: Progress) -> None:
        shown.append(progress)
        told.set()

    with SlowCalls(lambda: ("write the configuration of VM web01", 12.0), publish, lambda: False) as slow:
        assert not told.wait(0.05)  # nothing was published yet: there is nothing to show it with
        slow.seen(Progress("switch"))
        assert told.wait(30)
    assert (shown[0].phase, shown[0].note) == (
        "switch",
        "waiting for libvirt to write the configuration of VM web01, 12.0 s",
    )


@pytest.mark.parametrize(("slowest", "suspended"), [(None, False), (("look", 1.9), False), (("look", 9.0), True)])
def test_what_is_quick_and_what_happens_in_a_suspension_is_not(
    slowest: tuple[str, float] | None, suspended: bool
) -> None:
    asked = threading.Semaphore(0)
    shown: list[Progress] = []

    def ask() -> tuple[str, float] | None:
        asked.release()
        return slowest

    with SlowCalls(ask, shown.append, lambda: suspended) as slow:
        slow.seen(Progress("copy"))
        for _ in range(5):
            assert asked.acquire(timeout=30)
    assert shown == []


def test_a_journal_that_fails_does_not_end_it() -> None:
    tries = threading.Semaphore(0)

    def publish(_: Progress) -> None:
        tries.release()
        raise JournalFailed("journal.db", "its disk is full")

    with SlowCalls(lambda: ("look", 9.0), publish, lambda: False) as slow:
        slow.seen(Progress("copy"))
        assert tries.acquire(timeout=30)
        assert tries.acquire(timeout=30)


def test_before_there_is_a_job_it_is_said_at_growing_distances() -> None:
    said: list[str] = []
    twice = threading.Event()
    times = iter([0.5, 2.0, 3.0, 3.9, 4.0, 5.0])

    def ask() -> tuple[str, float] | None:
        seconds = next(times, None)
        if seconds is None:
            twice.set()
            return None
        return "accept the connection", seconds

    with slow_calls.telling(ask, said.append):
        assert twice.wait(30)
    assert said == [
        "waiting for libvirt to accept the connection, 2.0 s",
        "waiting for libvirt to accept the connection, 4.0 s",
    ]
