"""A suspension that libvirt does not answer for: the VM may stand still all the same."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from decide_support import make_plan

from blockferry.engine import act as acting
from blockferry.engine import hanging
from blockferry.engine.context import Context
from blockferry.engine.loop import Loop
from blockferry.engine.observe import Memory, Observer
from blockferry.errors import LibvirtFailed
from blockferry.model import action as act
from blockferry.model.inventory import PowerState
from blockferry.model.observation import DiskView, Observation, Side
from blockferry.model.record import Record

NO_ANSWER = LibvirtFailed("suspend VM web01", "no answer", "VIR_ERR_OPERATION_TIMEOUT")
SEEN = Observation(PowerState.RUNNING, True, (DiskView("vda", Side.SOURCE, Side.SOURCE),), Record())


class Vm:
    """Its control and its guard."""

    def __init__(self, answer: bool | LibvirtFailed) -> None:
        self.answer = answer
        self.armed = False

    def suspend(self) -> bool:
        if isinstance(self.answer, LibvirtFailed):
            raise self.answer
        return self.answer

    def arm(self, _seconds: float) -> bool:
        self.armed = True
        return True

    def disarm(self) -> None:
        self.armed = False


@pytest.mark.parametrize("answer", [True, False, NO_ANSWER])
def test_only_a_vm_that_stood_still_before_needs_no_guard(
    monkeypatch: pytest.MonkeyPatch, answer: bool | LibvirtFailed
) -> None:
    monkeypatch.setattr(hanging, "arm", lambda _context: None)
    noted: list[Record] = []
    vm, memory = Vm(answer), Memory()
    context = SimpleNamespace(control=vm, guard=vm, memory=memory, note=noted.append, tell=lambda *_said: None)
    try:
        acting._suspend(cast(Context, context), act.Suspend(switch=True), SEEN)
    except LibvirtFailed:
        assert answer is NO_ANSWER
    assert vm.armed is (answer is not False)
    assert (memory.suspended_at is not None) is (answer is not False)
    assert noted[-1].suspended is (answer is not False)


@pytest.mark.parametrize("state", [PowerState.PAUSED, PowerState.OFF, PowerState.RUNNING])
def test_what_came_of_it_is_looked_at(state: PowerState) -> None:
    """It stands still, or has gone off meanwhile: then the move has not failed."""
    nothing: Any = lambda *_words: None  # noqa: E731
    context = SimpleNamespace(
        memory=Memory(suspended_at=1.0), control=None, note=nothing, stop=threading.Event(), plan=make_plan(1)
    )
    loop = Loop(cast(Context, context), Record, nothing, nothing, nothing, nothing, follow=nothing, began_at=0.0)
    observer = SimpleNamespace(look=lambda *_words: replace(SEEN, state=state))
    found = loop._overtaken(cast(Observer, observer), SEEN, act.Suspend(switch=True))
    assert found is (state is not PowerState.RUNNING)
    assert not loop._overtaken(cast(Observer, observer), SEEN, act.Pivot(("vda",))), "the guest's time is not for looks"
