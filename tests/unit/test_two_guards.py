"""The guard on this side beside the one on the VM's host: which of them has resumed the VM, the other one knows."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockferry.hosts.helper.host_guard import HostGuard
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
def acted(runner, uuid, token):
    return (folder / "note").exists() and (folder / "note").read_text() == token
def note_acted(runner, uuid, token):
    (folder / "note").write_text(token)
guard.host_guard = SimpleNamespace(acted=acted, note_acted=note_acted)
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

    def prepare(self) -> None:
        self.log.append("prepare")

    def arm(self, _seconds: float) -> str:
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

    def has_acted(self) -> bool:
        return self.note == self.token

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
