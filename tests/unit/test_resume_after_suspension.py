"""A suspension of ours, when something goes wrong: it counts as over only once it is known that the guest runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest
from loop_support import make_loop

from blockferry.base.errors import JournalFailed, LibvirtFailed
from blockferry.hosts.qemu_process import QemuPresence
from blockferry.jobs import loop as jobs_loop
from blockferry.safety import lost_qemu
from blockferry.storage_move.move_loop import MoveLoop
from blockferry.storage_move.observe import Memory

NO_ANSWER = LibvirtFailed("resume VM web01", "no answer", "VIR_ERR_OPERATION_TIMEOUT")


class Host:
    """A suspended VM whose guard, libvirt and processes say what is given, one after the other."""

    def __init__(self, guard: list[bool | None], libvirt: list[bool | None], remains: list[QemuPresence]) -> None:
        self.guard, self.libvirt, self.remains = iter(guard), iter(libvirt), iter(remains)
        self.disarmed = 0

    def let_run(self) -> bool | None:
        return next(self.guard)

    def disarm(self) -> None:
        self.disarmed += 1

    def resume(self) -> bool:
        found = next(self.libvirt)
        if found is None:
            raise NO_ANSWER
        return found


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[MoveLoop, Host]]:
    def make(
        guard: list[bool | None], libvirt: list[bool | None], remains: list[QemuPresence]
    ) -> tuple[MoveLoop, Host]:
        host = Host(guard, libvirt, remains)
        monkeypatch.setattr(lost_qemu, "remains_of_lost", lambda _control, _runner: next(host.remains))
        context = SimpleNamespace(
            guard=host, control=host, runner=None, memory=Memory(suspended_at=1.0), save=lambda _record: None,
            log_event=lambda *_said: None, stop=threading.Event(), plan=SimpleNamespace(move="m1", vm="web01"),
        )  # fmt: skip
        loop = make_loop(context)
        return loop, host

    return make


@pytest.mark.parametrize(
    ("guard", "libvirt", "remains", "over"),
    [
        ([True], [], [], True),
        ([False], [], [QemuPresence()], True),  # it ran, or is off
        ([None], [True], [], True),
        ([None], [None], [], False),  # nobody could let it run
        ([False], [], [QemuPresence(7, "run")], False),  # libvirt takes it for off, and its QEMU lives
        ([None], [False], [QemuPresence(doubt="no fork")], False),  # that could not be looked at
    ],
)
def test_only_a_guest_that_runs_is_let_go(
    made: Callable[..., tuple[MoveLoop, Host]], guard: list[bool | None], libvirt: list[bool | None],
    remains: list[QemuPresence], over: bool,
) -> None:  # fmt: skip
    loop, host = made(guard, libvirt, remains)
    loop.let_go()
    assert (loop.context.memory.suspended_at is None) is over
    assert (host.disarmed == 1) is over


def test_it_is_tried_again_while_the_journal_is_away(
    made: Callable[..., tuple[MoveLoop, Host]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_loop, "JOURNAL_S", 0.001)
    loop, host = made([None, None, None], [None, None, True], [])
    away = JournalFailed("j", "locked", passing=True)
    rounds = iter([away, away, away, None])

    def regain() -> None:
        if (error := next(rounds)) is not None:
            raise error

    monkeypatch.setattr(loop.job, "regain", regain)
    loop._await_journal(away)
    assert loop.context.memory.suspended_at is None
    assert host.disarmed == 1


def test_it_is_tried_again_after_a_bug(
    made: Callable[..., tuple[MoveLoop, Host]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs_loop, "UNFORESEEN_S", 0.001)
    loop, host = made([None, True], [None], [])
    loop._unforeseen(KeyError("x"))
    assert loop.context.memory.suspended_at is None
    assert host.disarmed == 1
