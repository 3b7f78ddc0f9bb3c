"""The guard's process, with a VM that is a file: it is suspended while the file is there."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import pytest

from blockferry.safety import guard as guard_module
from blockferry.safety.guard import Guard
from lab.process import wait_until

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
from pathlib import Path
from blockferry.safety import guard
paused = Path(sys.argv[1])
class Control:
    connection = None
    def __init__(self, *words): pass
    def resume(self):
        was = paused.exists()
        paused.unlink(missing_ok=True)
        return was
    def goes_off(self):
        return False
guard.Control = Control
guard.Connection = lambda uri: None
guard.stand_guard("qemu:///system", "uuid", "web01")
"""


@pytest.fixture
def paused(tmp_path: Path) -> Path:
    return tmp_path / "paused"


@pytest.fixture
def guard(paused: Path) -> Guard:
    found = Guard("qemu:///system", "uuid", "web01")
    found._argv = [sys.executable, "-c", SCRIPT, str(paused)]
    return found


def test_a_vm_that_stands_still_for_too_long_is_let_run(guard: Guard, paused: Path) -> None:
    with guard:
        assert guard.arm(0.2)
        paused.touch()
        wait_until(lambda: not paused.exists(), "the VM to run", timeout=60)
        paused.touch()
        assert guard.let_run() is False, "who has paused it since is its owner"
        assert paused.exists()
        assert guard.arm(60)
        assert guard.let_run() is True
        assert not paused.exists()
        assert guard.let_run() is False


def test_a_suspension_that_comes_late_is_ended_too(guard: Guard, paused: Path) -> None:
    """libvirtd was frozen: the guard's look was answered before the suspension was. It said that it had let the VM run,
    which was then taken for paused by its owner and left so (found by the matrix).
    """
    with guard:
        assert guard.arm(0.1)
        time.sleep(1)
        paused.touch()
        wait_until(lambda: not paused.exists(), "the VM to run", timeout=60)
        paused.touch()
        time.sleep(1)
        assert paused.exists(), "once it ran, a pause is its owner's"


def test_a_suspension_that_comes_after_its_caller_has_died_is_ended_too(guard: Guard, paused: Path) -> None:
    with guard:
        assert guard.arm(60)
        process = guard._process
        assert process is not None
        assert process.stdin is not None
        process.stdin.close()
        time.sleep(0.7)
        paused.touch()
        wait_until(lambda: not paused.exists(), "the VM to run", timeout=60)
        process.wait(60)
        assert process.stdout is not None
        process.stdout.close()
        guard._process = None


def test_who_has_come_back_in_time_is_left_alone(guard: Guard, paused: Path) -> None:
    with guard:
        assert guard.arm(0.5)
        guard.disarm()
        paused.touch()
        time.sleep(1)
        assert paused.exists()
        assert guard.let_run() is True, "it is not the guard that let it run"


def test_an_order_that_comes_too_late_is_not_carried_out(
    guard: Guard, paused: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who gave it has let the VM run otherwise since, and its owner has paused it."""
    with guard:
        assert guard.arm(60)
        assert guard._process is not None
        guard._process.send_signal(signal.SIGSTOP)
        try:
            monkeypatch.setattr(guard_module, "RUN_S", 0.2)
            assert guard.let_run() is None
            paused.touch()
        finally:
            guard._process.send_signal(signal.SIGCONT)
        assert guard.works(), "it has read what came before"
        assert paused.exists()
        monkeypatch.setattr(guard_module, "RUN_S", 60.0)
        assert guard.let_run() is True, "it has ended no suspension yet"
        assert not paused.exists()


def test_a_guard_that_is_not_there_leaves_it_to_us(guard: Guard) -> None:
    assert guard.let_run() is None


LOST = """
import sys
from pathlib import Path
from types import SimpleNamespace
from blockferry.hosts import qemu_process
from blockferry.hosts.helper import qemu_monitor
from blockferry.safety import guard
paused, doubts, failures = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
class Control:
    uuid = "uuid"
    class connection:
        uri = "qemu:///system"
    def __init__(self, *words): pass
    def resume(self):
        return False
    def goes_off(self):
        return None
def remains(*words):
    global doubts
    doubts -= 1
    return qemu_process.QemuPresence(doubt="no fork") if doubts >= 0 else qemu_process.QemuPresence(1, "run")
def ask(*words):
    was = paused.exists()
    paused.unlink(missing_ok=True)
    return qemu_monitor.MonitorAnswer("paused", did=was)
def runner_for(uri):
    global failures
    failures -= 1
    if failures >= 0:
        raise OSError("no space for a temporary directory")
    return SimpleNamespace(call=lambda *words, **more: None)
guard.Control, guard.Connection, guard.runner_for = Control, lambda uri: Control.connection, runner_for
qemu_process.remains, qemu_monitor.ask = remains, ask
guard.stand_guard("qemu:///system", "uuid", "web01")
"""


@pytest.mark.parametrize(("doubts", "failures"), [(0, 0), (3, 0), (0, 1)])
def test_a_vm_that_libvirt_has_lost_is_let_run(guard: Guard, paused: Path, doubts: int, failures: int) -> None:
    """Also after a "no" to the parent, when the processes could not be looked at, or no program could be run at first.

    That "no" disarmed the guard, "cannot be looked at" counted as "it is off", and an OSError ended the guard.
    """
    guard._argv = [sys.executable, "-c", LOST, str(paused), str(doubts), str(failures)]
    with guard:
        paused.touch()
        assert guard.arm(0.3)
        assert guard.let_run() is False, "libvirt takes it for off"
        wait_until(lambda: not paused.exists(), "the VM to run", timeout=60)
        assert guard.works()
