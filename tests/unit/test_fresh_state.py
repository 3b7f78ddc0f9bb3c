"""Calls that stop or let run a guest: not made on the strength of an answer that a cut link has delivered late."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any, cast

import libvirt
import pytest

from blockferry.hosts.libvirt import domain as domain_module
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.domain import Control


class Clock:
    """Seconds, which pass only where the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Domain:
    """A VM: how long libvirt takes for each answer about its state, and what the answer is then."""

    def __init__(self, clock: Clock, answers: list[tuple[float, int]]) -> None:
        self.clock, self.answers = clock, answers
        self.did: list[str] = []

    def state(self, _flags: int = 0) -> list[int]:
        seconds, state = self.answers.pop(0)
        self.clock.now += seconds
        return [state, 1]

    def resume(self) -> None:
        self.did.append("resume")

    def suspend(self) -> None:
        self.did.append("suspend")


RUNS, PAUSED = libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_PAUSED


def control(domain: Domain) -> Control:
    raw = SimpleNamespace(lookupByUUIDString=lambda _uuid: domain)
    doing: Any = lambda _what: contextlib.nullcontext()  # noqa: E731
    return Control(cast(Connection, SimpleNamespace(doing=doing, raw=raw)), "uuid", "web01")


@pytest.mark.parametrize(
    ("answers", "did"),
    [
        ([(0.001, PAUSED)], ["resume"]),
        ([(0.001, RUNS)], []),
        ([(7.0, PAUSED), (0.001, RUNS)], []),  # the link was cut; the host's guard has resumed it meanwhile
        ([(7.0, RUNS), (0.001, PAUSED)], ["resume"]),
        ([(7.0, PAUSED), (7.0, PAUSED), (7.0, PAUSED)], ["resume"]),  # libvirtd is slow, all the time
    ],
)
def test_a_vm_is_resumed_only_after_an_answer_of_this_moment(
    answers: list[tuple[float, int]], did: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = Domain(Clock(), answers)
    monkeypatch.setattr(domain_module, "time", domain.clock)
    assert control(domain).resume() is bool(did)
    assert domain.did == did
    assert domain.answers == []


@pytest.mark.parametrize(
    ("answers", "did"),
    [
        ([(0.001, RUNS)], ["suspend"]),
        ([(7.0, RUNS), (0.001, PAUSED)], []),  # its owner has paused it meanwhile
    ],
)
def test_a_vm_is_suspended_only_after_an_answer_of_this_moment(
    answers: list[tuple[float, int]], did: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = Domain(Clock(), answers)
    monkeypatch.setattr(domain_module, "time", domain.clock)
    assert control(domain).suspend() is bool(did)
    assert domain.did == did
