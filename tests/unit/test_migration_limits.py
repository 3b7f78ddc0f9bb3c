"""Who tells a running migration its limits: the process that holds the move, and again after a takeover."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from test_host_move_decide import PLAN

from blockferry.base.errors import LeaseLost
from blockferry.host_move import effects
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_observation import HostObservation
from blockferry.hosts.libvirt import migration

SEEN = cast(
    HostObservation, SimpleNamespace(source=SimpleNamespace(migrating=True), stats=SimpleNamespace(memory_total=1))
)


class Limits:
    """What libvirt was told, in order, and the move of the process that tells it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[tuple[str, int]] = []
        self.held = True
        for what in ("set_downtime_limit", "set_bandwidth", "set_disk_bandwidth"):
            monkeypatch.setattr(migration, what, self.teller(what))
        self.context: Any = SimpleNamespace(
            plan=replace(PLAN, downtime_ms=300), source=SimpleNamespace(connection=None), check=self.check,
            bandwidth=lambda: 7, migration=None, bandwidth_set=None, disks_told=False, limit_set=False,
            told_at=float("-inf"),
        )  # fmt: skip

    def teller(self, what: str) -> Any:
        return lambda _connection, _uuid, _name, value: self.told.append((what, value))

    def check(self) -> None:
        if not self.held:
            raise LeaseLost("m1", "another")

    def tune(self) -> None:
        effects._tune(cast(HostMoveContext, self.context), SEEN)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    return Limits(monkeypatch)


ALL = [("set_downtime_limit", 300), ("set_bandwidth", 7), ("set_disk_bandwidth", 7)]


@pytest.mark.parametrize("told_already", [0, 1, 2])
def test_one_that_has_lost_the_move_tells_nothing(limits: Limits, told_already: int) -> None:
    limits.context.migration = object()
    limits.context.limit_set = told_already > 0
    limits.context.bandwidth_set = 7 if told_already > 1 else None
    limits.held = False
    with pytest.raises(LeaseLost):
        limits.tune()
    assert limits.told == []


def test_after_a_takeover_all_is_told_again_after_a_while(limits: Limits) -> None:
    limits.tune()
    limits.tune()
    assert limits.told == ALL
    limits.context.told_at -= 2 * effects.TELL_AGAIN_S
    limits.tune()
    assert limits.told == ALL + ALL


def test_its_own_migration_is_told_once(limits: Limits) -> None:
    limits.context.migration = object()
    limits.tune()
    limits.tune()
    assert limits.told == ALL
