"""Disks that go before their running VM, by the real effects on a simulated host: killed at every call."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from simulated_host.host_moves import HostRun, build
from simulated_host.moves import installed

from blockferry.jobs.outcome import Outcome


@pytest.fixture(scope="module", autouse=True)
def machine_time() -> Iterator[None]:
    with installed():
        yield


@pytest.mark.parametrize("format", ["qcow2", "raw"])
@pytest.mark.parametrize("delete", [True, False])
def test_well(format: str, *, delete: bool) -> None:
    run = HostRun(*build(1, disks=2, format=format, delete=delete))
    outcome = run.to_the_end()
    run.check_end(outcome)
    assert outcome is Outcome.MOVED, run.journal.story
    names = [name for name in run.names if name != "LookAgain"]
    order = ["MakeImage", "PutOverlaysAbove", "CopyImage", "MakeNewOverlay", "Migrate", "SaveAlone", "RunAtDestination"]
    order += ["BeginCommit", "PivotToBase", "RemoveNewOverlays", "FlushImages", "ReleaseImage"]
    places = [names.index(name) for name in order]
    assert places == sorted(places), names


@pytest.mark.parametrize("delete", [True, False])
def test_killed_at_every_call(*, delete: bool) -> None:
    """The next process goes on; nothing is lost in between, and nothing is left."""
    for dies_at in range(1, 400):
        run = HostRun(*build(dies_at, delete=delete))
        outcome = run.to_the_end([dies_at])
        run.check_end(outcome)
        assert outcome is Outcome.MOVED, run.journal.story
        if not run.deaths:
            break
    else:
        raise AssertionError("no end")


def test_cancelled_at_every_call_and_killed_on_the_way_back() -> None:
    for at in range(1, 400):
        run = HostRun(*build(at))
        dice = random.Random(at)
        outcome = run.process(None, {at: run.cancel})
        for _ in range(20):
            if outcome is not None or run.journal.parked:
                break
            outcome = run.process(dice.choice((None, dice.randrange(1, 12))))
        run.check_end(outcome)
        assert outcome is not None, run.journal.parked
        if outcome is Outcome.MOVED:
            break  # it came too late


def test_killed_and_then_cancelled() -> None:
    for at in range(1, 120):
        run = HostRun(*build(at))
        run.process(at)
        run.cancel()
        outcome = run.to_the_end([at % 17 + 1, at % 5 + 1])
        run.check_end(outcome)
        assert outcome is not None, run.journal.parked


HELD_POINTS = 6
"""Points of a process until both hosts know of it: it saves, and tells each of them."""


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("at", [1, 5, HELD_POINTS + 1, HELD_POINTS + 12, 0])
def test_a_call_of_a_dead_process_comes_late(at: int, *, cancelled: bool) -> None:
    """At this point of the next process, or (0) once the move is over: refused from when the hosts know of the next."""
    sent = 0
    for dies_at in range(1, 400):
        run = HostRun(*build(dies_at))
        outcome = run.process(dies_at)
        if outcome is not None:
            break
        sent += len(run.where.late)
        if cancelled:
            run.cancel()
        done: list[str] = []
        outcome = run.process(None, {at: lambda run=run, done=done: done.extend(run.deliver_late())})  # type: ignore[misc]
        done += run.deliver_late()
        assert not done or 0 < at <= HELD_POINTS, done
        run.check_end(outcome or run.to_the_end())
    assert sent > 20


def test_the_migration_is_refused() -> None:
    for dies_at in range(1, 200, 3):
        run = HostRun(*build(dies_at, disks=2), migrations_fail=1)
        outcome = run.to_the_end([dies_at])
        run.check_end(outcome)
        assert outcome is not None, run.journal.parked


SURE = "cannot be told which of the two was written last"


@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens(seed: int) -> None:
    """Off, on, cancelled, killed, libvirtd away, jobs that fail: what is parked has lost nothing either."""
    dice = random.Random(seed)
    run = HostRun(*build(seed, disks=dice.choice((1, 2)), delete=dice.random() < 0.5))
    known = [
        run.power_off, run.power_on, run.cancel, run.job_fails, run.pivot_refused, run.machine.libvirtd_restarts,
    ]  # fmt: skip
    run.machine.happenings = [dice.choice(known) for _ in range(dice.randrange(1, 4))]
    outcome = run.to_the_end([dice.randrange(1, 90) for _ in range(dice.randrange(3))])
    run.check_end(outcome)
    if outcome is None:
        assert SURE in run.journal.parked, run.journal.parked
