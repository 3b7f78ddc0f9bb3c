"""When a frozen view has to be given up for want of room."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from blockferry.base.errors import HostCommandFailed
from blockferry.base.units import GiB, MiB
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.verify import scratch
from blockferry.storage_move.verify.scratch import LEAST, ScratchSpace


class Place:
    """A VM and a datastore, as far as `Room` asks. A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free = 10 * GiB
        self.now = 100.0
        self.state = PowerState.RUNNING
        self.reason: str | None = None
        self.resumed = 0
        monkeypatch.setattr(
            "blockferry.storage_move.verify.scratch.files.free_bytes", lambda _runner, _place: self.free
        )
        monkeypatch.setattr("blockferry.storage_move.verify.scratch.time", SimpleNamespace(monotonic=lambda: self.now))
        plan = SimpleNamespace(
            vm="web01", disks=[SimpleNamespace(target="vda")], scratch=lambda _: "/ssd/web01/vda.view"
        )
        context: Any = SimpleNamespace(plan=plan, control=self, runner=None)
        self.room = ScratchSpace(context)

    def look(self, _targets: object) -> object:
        return SimpleNamespace(state=self.state, pause_reason=self.reason)

    def resume(self) -> bool:
        self.resumed += 1
        return True

    def lacks(self, free: int, after_s: float = 1.0) -> bool:
        self.now += after_s
        self.free = free
        return self.room.lacks()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(monkeypatch)


def test_room_enough(place: Place) -> None:
    assert not any(place.lacks(free) for free in (10 * GiB, 9 * GiB, 8 * GiB, 8 * GiB))
    assert not place.lacks(LEAST, after_s=10_000)


def test_nearly_none(place: Place) -> None:
    assert place.lacks(LEAST - 1)
    assert "/ssd/web01" in place.room.trouble
    assert place.lacks(10 * GiB), "it stays so: the view is as good as gone"


def test_it_will_be_used_up_in_three_seconds(place: Place) -> None:
    assert not place.lacks(2000 * MiB)
    assert not place.lacks(1500 * MiB)
    assert place.lacks(1000 * MiB), "500 MiB/s, two seconds left"


def test_qemu_has_stopped_the_vm(place: Place) -> None:
    place.state, place.reason = PowerState.PAUSED, "user"
    assert not place.lacks(GiB), "its owner's pause"
    place.reason = "ioerror"
    assert place.lacks(GiB)
    assert "I/O error" in place.room.trouble


def test_it_is_not_looked_at_all_the_time(place: Place) -> None:
    assert not place.lacks(GiB)
    assert not place.lacks(0, after_s=0.1)
    assert place.lacks(0, after_s=0.5)


def test_a_look_that_fails_says_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_runner: object, _place: object) -> int:
        raise HostCommandFailed("stat", 1, "no")

    monkeypatch.setattr("blockferry.storage_move.verify.scratch.files.free_bytes", fails)
    assert not place.lacks(GiB)


@pytest.mark.parametrize(
    ("state", "reason", "runs"),
    [
        (PowerState.PAUSED, "ioerror", True),
        (PowerState.PAUSED, "user", False),
        (PowerState.RUNNING, None, False),
    ],
)
def test_only_what_an_error_has_stopped_is_let_run(
    place: Place, state: PowerState, reason: str | None, runs: bool
) -> None:
    place.state, place.reason = state, reason
    assert scratch.let_run(place) is runs  # type: ignore[arg-type]
    assert place.resumed == runs
