"""The guard on the VM's own host: the real program and processes, and a virsh of paper whose VM is a file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid as uuids
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockferry.hosts.helper import host_guard
from blockferry.hosts.helper.host_guard import HostGuard, local_uri
from blockferry.hosts.helper.program import guard_calls
from blockferry.hosts.helper.program.suspended_vm import SuspendedVm
from blockferry.hosts.runner import LocalRunner
from lab.process import wait_until

pytestmark = pytest.mark.slow

VIRSH = """\
#!/bin/sh
# virsh -q -c URI COMMAND ...: the VM's state is the file "state"; without it libvirtd is away.
[ "$1 $2 $3" = "-q -c qemu:///system" ] || exit 7
[ "$LC_ALL" = C ] || exit 8
cd {folder}
state=$(cat state 2>/dev/null) || exit 1
case "$4" in
  uri) echo qemu:///system ;;
  domstats)
    case "$state" in
      running*) numbers="1 1" ;; "paused (user)") numbers="3 1" ;; "paused (migrating)") numbers="3 2" ;;
      "paused (I/O error)") numbers="3 5" ;; "paused (watchdog)") numbers="3 6" ;; "shut off"*) numbers="5 2" ;;
      *) exit 1 ;;
    esac
    echo "Domain: 'web01'"; echo "  state.state=${{numbers% *}}"; echo "  state.reason=${{numbers#* }}"; echo ;;
  list) [ "$state" = unknown ] || echo {uuid} ;;
  resume) [ "$state" = "paused (user)" ] || exit 1; printf 'running (unpaused)' >state.new; mv state.new state ;;
  *) exit 9 ;;
esac
"""
RUNS = "running (booted)"
SUSPENDED = "paused (user)"


class PaperVm:
    """The state of one VM, as its owner, blockferry and the paper virsh see it."""

    def __init__(self, folder: Path) -> None:
        self.uuid = str(uuids.uuid4())
        self.file = folder / "state"
        self.set(RUNS)

    def set(self, state: str) -> None:
        new = self.file.with_suffix(".test")
        new.write_text(state)
        new.replace(self.file)

    @property
    def state(self) -> str:
        return self.file.read_text()

    def wait_running(self) -> None:
        wait_until(lambda: self.state.startswith("running"), "the VM to run", timeout=120)


@pytest.fixture
def vm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PaperVm:
    found = PaperVm(tmp_path)
    program = tmp_path / "bin" / "virsh"
    program.parent.mkdir()
    program.write_text(VIRSH.format(folder=tmp_path, uuid=found.uuid))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return found


@pytest.fixture
def runner(vm: PaperVm) -> Iterator[LocalRunner]:
    found = LocalRunner()
    yield found
    found.helper.close()


@pytest.fixture
def guard(runner: LocalRunner, vm: PaperVm) -> Iterator[HostGuard]:
    found = HostGuard(runner, "qemu+ssh://far/system", vm.uuid)
    yield found
    found.disarm()
    found.leave()
    Path(guard_calls.record_path(vm.uuid)).unlink(missing_ok=True)


def processes(vm: PaperVm) -> list[int]:
    """The guards of this VM on this machine, which is the host here."""
    found = subprocess.run(
        ["pgrep", "-f", f"blockferry:guard_calls {vm.uuid}"], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


def test_the_time_is_up(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(0.2)
    vm.set(SUSPENDED)
    vm.wait_running()
    wait_until(guard.has_acted, "the guard's note", timeout=60)
    vm.set(SUSPENDED)
    time.sleep(1)
    assert vm.state == SUSPENDED, "once it ran, a pause is its owner's"


def test_disarmed_it_leaves_a_pause_alone(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(0.5)
    guard.disarm()
    vm.set(SUSPENDED)
    time.sleep(1.5)
    guard.leave()
    wait_until(lambda: not processes(vm), "the guard's end", timeout=60)
    assert vm.state == SUSPENDED
    assert not guard.has_acted()


@pytest.mark.parametrize("state", ["paused (I/O error)", "paused (migrating)", "paused (watchdog)"])
def test_a_vm_that_stands_still_for_another_reason_is_left_alone(guard: HostGuard, vm: PaperVm, state: str) -> None:
    vm.set(state)
    assert guard.arm(0.1)
    time.sleep(1.5)
    assert vm.state == state


def test_a_suspension_that_comes_late_is_ended_too(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(0.1)
    time.sleep(1)
    vm.set(SUSPENDED)
    vm.wait_running()


def test_the_orders_end_while_it_is_armed(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(600)
    vm.set(SUSPENDED)
    guard.leave()
    vm.wait_running()
    wait_until(lambda: not processes(vm), "the guard's end", timeout=60)


def test_the_helper_is_killed_while_it_is_armed(guard: HostGuard, vm: PaperVm, runner: LocalRunner) -> None:
    """The guard lives by itself, acts, and ends; the next arming has another one."""
    token = guard.arm(600)
    assert token
    first = processes(vm)
    vm.set(SUSPENDED)
    os.kill(runner.helper.connection().hello["pid"], signal.SIGKILL)
    vm.wait_running()
    wait_until(guard.has_acted, "the guard's note", timeout=60)
    assert host_guard.acted(runner, vm.uuid, token)
    assert guard.arm(600)
    assert set(processes(vm)) - set(first)


def test_libvirt_is_away_for_a_while(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(0.1)
    vm.file.unlink()
    time.sleep(guard_calls.LINGER_S + 1)
    vm.set(SUSPENDED)
    vm.wait_running()


def test_the_other_guard_has_resumed_it(guard: HostGuard, vm: PaperVm, runner: LocalRunner) -> None:
    """Then a pause is its owner's, though this guard's time is not up yet."""
    token = guard.arm(1)
    host_guard.note_acted(runner, vm.uuid, token)
    vm.set(SUSPENDED)
    time.sleep(2)
    assert vm.state == SUSPENDED


def test_one_that_was_killed_is_started_anew(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(600)
    (first,) = processes(vm)
    os.kill(first, signal.SIGKILL)
    assert guard.arm(0.2)
    assert processes(vm) != [first]
    vm.set(SUSPENDED)
    vm.wait_running()


def test_without_virsh_the_problem_is_told(guard: HostGuard, vm: PaperVm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert guard.arm(1) == ""
    assert guard.problem == "virsh is not installed on the host"


def test_an_order_that_is_not_understood_is_not_answered(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(600)
    assert guard._process is not None
    for words in ("arm", "arm x soon", "what", "disarm"):
        guard._process.order(words)
    assert guard.arm(0.1)
    vm.set(SUSPENDED)
    vm.wait_running()


LOST = """
import sys
from blockferry.hosts.helper.program import monitor_calls, suspended_vm
asked = []
def ask(pid, uuid, wish):
    asked.append((pid, uuid, wish))
    return {"did": True}
monitor_calls.ask = ask
print(suspended_vm.SuspendedVm("qemu:///system", sys.argv[1]).let_run(), len(asked), asked[0][2] if asked else "")
"""


@pytest.mark.parametrize("state", ["unknown", "shut off (destroyed)"])
def test_a_vm_that_libvirt_has_lost_is_resumed_by_its_monitor(vm: PaperVm, state: str) -> None:
    vm.set(state)
    with subprocess.Popen(["sh", "-c", "read line", "qemu", "-uuid", vm.uuid], stdin=subprocess.PIPE):
        said = subprocess.run([sys.executable, "-c", LOST, vm.uuid], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["True", "1", "cont"]
    said = subprocess.run([sys.executable, "-c", LOST, vm.uuid], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["False", "0"], "it is off"


@pytest.mark.parametrize(
    ("uri", "local"),
    [
        ("qemu+ssh://root@kvm2/system", "qemu:///system"),
        ("qemu+ssh://kvm2:2222/session?keyfile=/k", "qemu:///session"),
        ("qemu+ssh://kvm2/system?socket=/run/my sock", "qemu+unix:///system?socket=/run/my%20sock"),
    ],
)
def test_the_uri_on_the_host(uri: str, local: str) -> None:
    assert local_uri(uri) == local


def test_the_record_names_one_arming(vm: PaperVm) -> None:
    assert not guard_calls.acted(vm.uuid, "t1")
    guard_calls.note(vm.uuid, "t1")
    assert guard_calls.acted(vm.uuid, "t1")
    assert not guard_calls.acted(vm.uuid, "t2")
    Path(guard_calls.record_path(vm.uuid)).unlink(missing_ok=True)
    assert json.dumps(guard_calls.acted(vm.uuid, "t1")) == "false"


def test_what_nobody_has_foreseen_does_not_end_it(monkeypatch: pytest.MonkeyPatch, vm: PaperVm) -> None:
    """An error in its look ended the guard, while the guest stood still."""

    def fails() -> bool | None:
        raise BrokenPipeError

    watched = SuspendedVm("qemu:///system", vm.uuid)
    monkeypatch.setattr(watched, "let_run", fails)
    loop = guard_calls.GuardLoop(watched)
    loop.token, loop.linger_s = "t", guard_calls.LINGER_S
    loop.look()
    assert (loop.token, loop.looks) == ("t", 1)


def test_the_note_of_another_arming_is_not_removed(vm: PaperVm) -> None:
    guard_calls.note(vm.uuid, "theirs")
    guard_calls.forget(vm.uuid, "ours")
    assert guard_calls.acted(vm.uuid, "theirs")
    guard_calls.forget(vm.uuid, "theirs")
    assert not guard_calls.acted(vm.uuid, "theirs")
