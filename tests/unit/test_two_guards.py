"""The guard on this side beside the one on the VM's host: which of them has resumed the VM, the other one knows."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockferry.base.errors import HostUnreachable
from blockferry.hosts.helper.host_guard import Ending, HostGuard
from blockferry.safety import guard as guard_module
from blockferry.safety.guard import Guard
from blockferry.storage_move import guarding
from blockferry.storage_move.context import Context
from lab.process import wait_until

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from blockferry.base.errors import HostUnreachable
from blockferry.hosts.helper.host_guard import Ending
from blockferry.safety import guard
folder = Path(sys.argv[1])
paused = folder / "paused"
def reach():
    if (folder / "hangs").exists():
        (folder / "waiting").touch()
        while (folder / "hangs").exists():
            time.sleep(0.1)
        time.sleep(0.5)
        if (folder / "breaks").exists():
            raise HostUnreachable("qemu+ssh://far/system", "the link was cut")
    if (folder / "cut").exists():
        raise HostUnreachable("qemu+ssh://far/system", "the link is cut")
class Control:
    connection = SimpleNamespace(alive=True, uri="qemu+ssh://far/system")
    def __init__(self, *words): pass
    def resume(self, unless=None):
        reach()
        was = paused.exists()
        if was and unless is not None and unless():
            return False
        paused.unlink(missing_ok=True)
        return was
    def goes_off(self):
        return False
def end_suspension(runner, uri, uuid, token):
    # As hosts/helper/program/guard_calls.py: one step on the host.
    (folder / "asked").touch()
    reach()
    note = folder / "note"
    if note.exists() and note.read_text() == token:
        return Ending.OVER
    if (folder / "no helper").exists():
        return Ending.NO_HELPER
    was = paused.exists()
    paused.unlink(missing_ok=True)
    note.write_text(token)
    return Ending.RESUMED if was else Ending.RUNS
def note_acted(runner, uuid, token):
    (folder / "note").write_text(token)
guard.host_guard = SimpleNamespace(end_suspension=end_suspension, note_acted=note_acted)
guard.Control = Control
guard.Connection = lambda uri: Control.connection
guard._runner = lambda uri: SimpleNamespace()
guard.lost_qemu = SimpleNamespace(let_run=lambda control, runner: False)
guard.stand_guard("qemu+ssh://far/system", "uuid", "web01")
"""


class PaperHostGuard:
    """The guard on the host, which acts when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = ""
        self.problem = ""
        self.number = 0
        self.log: list[str] = []
        self.uri = "qemu+ssh://far/system"
        self.unreachable = False

    def prepare(self) -> None:
        self.log.append("prepare")

    def arm(self, _seconds: float, _suspension: str) -> str:
        self.number += 1
        self.token = "" if self.problem else f"t{self.number}"
        return self.token

    def disarm(self) -> None:
        self.log.append("disarm")
        self.token = ""

    def leave(self) -> None:
        self.log.append("leave")

    def acts(self) -> None:
        (self.folder / "paused").unlink()
        (self.folder / "note").write_text(self.token)

    @property
    def may_have_acted(self) -> bool:
        return self.note == self.token

    def end_suspension(self) -> Ending:
        if self.unreachable:
            raise HostUnreachable(self.uri, "the link is cut")
        return Ending.OVER if self.note == self.token else Ending.RESUMED

    @property
    def note(self) -> str:
        path = self.folder / "note"
        return path.read_text() if path.exists() else ""


@pytest.fixture
def on_host(tmp_path: Path) -> PaperHostGuard:
    return PaperHostGuard(tmp_path)


@pytest.fixture
def guard(tmp_path: Path, on_host: PaperHostGuard) -> Iterator[Guard]:
    found = Guard("qemu+ssh://far/system", "uuid", "web01", on_host=cast(HostGuard, on_host))
    found._argv = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    with found:
        yield found


def test_a_pause_that_comes_after_the_hosts_guard_has_acted_stays(
    guard: Guard, on_host: PaperHostGuard, tmp_path: Path
) -> None:
    """The link was cut; the VM's owner has paused it before the link is back."""
    paused, cut = tmp_path / "paused", tmp_path / "cut"
    assert guard.arm(1)
    paused.touch()
    cut.touch()
    time.sleep(2)
    on_host.acts()
    paused.touch()
    cut.unlink()
    time.sleep(1.5)
    assert paused.exists()
    assert guard.let_run() is False
    assert paused.exists()


def test_where_the_hosts_guard_has_not_acted_this_one_does(
    guard: Guard, on_host: PaperHostGuard, tmp_path: Path
) -> None:
    paused, cut = tmp_path / "paused", tmp_path / "cut"
    assert guard.arm(1)
    paused.touch()
    cut.touch()
    time.sleep(2)
    cut.unlink()
    wait_until(lambda: not paused.exists(), "the VM to run", timeout=60)
    wait_until(lambda: on_host.note == on_host.token, "the note", timeout=60)


def test_the_hosts_guard_is_told_when_the_parent_is_frozen_after_the_resume(
    guard: Guard, on_host: PaperHostGuard, tmp_path: Path
) -> None:
    assert guard.arm(60)
    (tmp_path / "paused").touch()
    assert guard.let_run() is True
    wait_until(lambda: on_host.note == on_host.token, "the note", timeout=60)


def test_disarmed_soon_nothing_is_noted(guard: Guard, on_host: PaperHostGuard, tmp_path: Path) -> None:
    assert guard.arm(60)
    (tmp_path / "paused").touch()
    assert guard.let_run() is True
    guard.disarm()
    time.sleep(1)
    assert on_host.note == ""
    assert on_host.log[-1] == "disarm"


def test_a_missing_guard_on_the_host_is_told_once(guard: Guard, on_host: PaperHostGuard) -> None:
    told: list[str] = []
    tell: Any = lambda _kind, text: told.append(text)  # noqa: E731
    context = cast(Context, SimpleNamespace(guard=guard, log_event=tell))
    guarding.arm(context, 60)
    assert told == []
    on_host.problem = "virsh is not installed on the host"
    guarding.arm(context, 60)
    guarding.arm(context, 60)
    assert len(told) == 1
    assert "(virsh is not installed on the host)" in told[0]


@pytest.mark.parametrize("breaks", [True, False])
def test_a_link_that_is_back_within_an_attempt(
    guard: Guard, on_host: PaperHostGuard, tmp_path: Path, breaks: bool
) -> None:
    """libvirt's answer comes when the link is back, or the connection breaks and is made anew: the note is read."""
    paused, hangs = tmp_path / "paused", tmp_path / "hangs"
    if breaks:
        (tmp_path / "breaks").touch()
    assert guard.arm(1)
    paused.touch()
    hangs.touch()
    wait_until(lambda: (tmp_path / "waiting").exists(), "the guard's attempt", timeout=60)
    on_host.acts()
    paused.touch()
    hangs.unlink()
    time.sleep(1.5)
    assert paused.exists()


def test_one_that_cannot_ask_the_host_does_not_resume(guard: Guard, on_host: PaperHostGuard, tmp_path: Path) -> None:
    """libvirt's connection works again before ssh does: that nobody could be asked was taken for a no."""
    (tmp_path / "cut").touch()
    assert guard.arm(0.5)
    (tmp_path / "paused").touch()
    wait_until(lambda: (tmp_path / "asked").exists(), "the question to the host", timeout=60)
    time.sleep(1)
    assert (tmp_path / "paused").exists()
    (tmp_path / "cut").unlink()
    wait_until(lambda: not (tmp_path / "paused").exists(), "the VM to run", timeout=60)


def test_where_no_helper_runs_any_more_libvirt_resumes_it(
    guard: Guard, on_host: PaperHostGuard, tmp_path: Path
) -> None:
    (tmp_path / "no helper").touch()
    assert guard.arm(0.5)
    (tmp_path / "paused").touch()
    wait_until(lambda: not (tmp_path / "paused").exists(), "the VM to run", timeout=60)


def test_without_an_answer_nothing_is_sent_into_a_cut_link(
    guard: Guard, on_host: PaperHostGuard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller was to resume the VM itself then: by a call that TCP delivers when the link is back."""
    monkeypatch.setattr(guard_module, "RUN_S", 0.2)
    assert guard.arm(60)
    assert guard._process is not None
    os.kill(guard._process.pid, signal.SIGSTOP)
    try:
        on_host.unreachable = True
        with pytest.raises(HostUnreachable):
            guard.let_run()
        on_host.unreachable = False
        assert guard.let_run() is True
    finally:
        os.kill(guard._process.pid, signal.SIGCONT)


def test_an_order_that_is_carried_out_late_resumes_nothing(
    guard: Guard, on_host: PaperHostGuard, tmp_path: Path
) -> None:
    """The guard's process waits in its call until the link is back; the parent does not wait for it so long."""
    hangs, paused = tmp_path / "hangs", tmp_path / "paused"
    assert guard.arm(60)
    paused.touch()
    hangs.touch()
    assert guard.let_run() is True, "on the host"
    on_host.acts()
    paused.touch()
    hangs.unlink()
    time.sleep(1.5)
    assert paused.exists(), "the owner's pause"
