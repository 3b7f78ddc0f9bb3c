"""A copy that has ended because the VM goes off: libvirt shows it as running for a moment longer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from blockferry.hosts.fencing import ANSWERING
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.record import FencingRecord
from blockferry.storage_move.switch import block_jobs


@pytest.mark.parametrize(
    ("looks", "failed"),
    [
        ([None], False),  # off already
        ([False, False, True, True, None], False),  # running, shutting down, off
        ([False] * 40, True),  # it runs on: the copy has failed by itself
    ],
)
def test_a_copy_that_ended_with_its_vm_is_no_failure(
    monkeypatch: pytest.MonkeyPatch, looks: list[bool | None], failed: bool
) -> None:
    monkeypatch.setattr(block_jobs, "GOING_OFF_S", 0.3)
    left = iter(looks)
    told: list[tuple[str, str]] = []
    noted: list[object] = []

    def goes_off() -> bool | None:
        return next(left, False)

    context = SimpleNamespace(
        control=SimpleNamespace(goes_off=goes_off),
        memory=SimpleNamespace(suspended_at=None),
        should_stop=lambda: False,
        plan=SimpleNamespace(vm="web01"),
        log_event=lambda *said: told.append(said),
        save=noted.append,
    )
    monkeypatch.setattr(block_jobs, "_cause", lambda _context, _disk: "")
    context.plan.disk = lambda target: target
    monkeypatch.setattr(block_jobs, "replace", lambda _record, **changed: changed)
    seen = SimpleNamespace(record=SimpleNamespace(failure=None, fencing=FencingRecord()), health=ANSWERING)
    block_jobs.note_failure(
        cast(Context, context), actions.Fail("the copy of vda ended", "vda"), cast(Observation, seen)
    )
    assert bool(noted) == failed
    assert told[0][0] == ("error" if failed else "action")
