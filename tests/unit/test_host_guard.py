"""The guard on the VM's own host: the real program and processes, and a virsh of paper whose VM is a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid as uuids
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockferry.base.errors import HostUnreachable
from blockferry.hosts.helper import host_guard
from blockferry.hosts.helper.host_guard import Ending, HostGuard, local_uri
from blockferry.hosts.helper.program import guard_calls
from blockferry.hosts.helper.program.suspended_vm import SuspendedVm
from blockferry.hosts.runner import LocalRunner, SshRunner
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
    for left in Path(guard_calls.record_path(found._uuid)).parent.glob(f"guard-{found._uuid}*"):
        left.unlink()


def is_over(guard: HostGuard) -> bool:
    return guard_calls.noted(guard._uuid, guard.token) == guard_calls.OVER


def processes(vm: PaperVm) -> list[int]:
    """The guards of this VM on this machine, which is the host here."""
    found = subprocess.run(
        ["pgrep", "-f", f"blockferry:guard_calls {vm.uuid}"], capture_output=True, text=True, check=False
    )
    return [int(word) for word in found.stdout.split()]


def test_the_time_is_up(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(0.2, "s")
    vm.set(SUSPENDED)
    vm.wait_running()
    wait_until(lambda: is_over(guard), "the guard's note", timeout=60)
    vm.set(SUSPENDED)
    time.sleep(1)
    assert vm.state == SUSPENDED, "once it ran, a pause is its owner's"


def test_disarmed_it_leaves_a_pause_alone(guard: HostGuard, vm: PaperVm) -> None:
    token = guard.arm(0.5, "s")
    assert token
    guard.disarm()
    vm.set(SUSPENDED)
    time.sleep(1.5)
    guard.leave()
    wait_until(lambda: not processes(vm), "the guard's end", timeout=60)
    assert vm.state == SUSPENDED
    assert not guard_calls.noted(vm.uuid, token)


@pytest.mark.parametrize("state", ["paused (I/O error)", "paused (migrating)", "paused (watchdog)"])
def test_a_vm_that_stands_still_for_another_reason_is_left_alone(guard: HostGuard, vm: PaperVm, state: str) -> None:
    vm.set(state)
    assert guard.arm(0.1, "s")
    time.sleep(1.5)
    assert vm.state == state


def test_a_suspension_that_comes_late_is_ended_too(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(0.1, "s")
    time.sleep(1)
    vm.set(SUSPENDED)
    vm.wait_running()


def test_the_orders_end_while_it_is_armed(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(600, "s")
    vm.set(SUSPENDED)
    guard.leave()
    vm.wait_running()
    wait_until(lambda: not processes(vm), "the guard's end", timeout=60)


def test_the_helper_is_killed_while_it_is_armed(guard: HostGuard, vm: PaperVm, runner: LocalRunner) -> None:
    """The guard lives by itself, acts, and ends; the next arming has another one."""
    token = guard.arm(600, "s")
    assert token
    first = processes(vm)
    vm.set(SUSPENDED)
    os.kill(runner.helper.connection().hello["pid"], signal.SIGKILL)
    vm.wait_running()
    wait_until(lambda: is_over(guard), "the guard's note", timeout=60)
    assert host_guard.end_suspension(runner, guard.uri, vm.uuid, token) is Ending.OVER
    assert guard.arm(600, "s")
    assert set(processes(vm)) - set(first)


def test_libvirt_is_away_for_a_while(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(0.1, "s")
    vm.file.unlink()
    time.sleep(guard_calls.LINGER_S + 1)
    vm.set(SUSPENDED)
    vm.wait_running()


def test_the_other_guard_has_resumed_it(guard: HostGuard, vm: PaperVm, runner: LocalRunner) -> None:
    """Then a pause is its owner's, though this guard's time is not up yet."""
    token = guard.arm(1, "s")
    host_guard.note_acted(runner, vm.uuid, token)
    vm.set(SUSPENDED)
    time.sleep(2)
    assert vm.state == SUSPENDED


def test_one_that_was_killed_is_started_anew(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(600, "s")
    (first,) = processes(vm)
    os.kill(first, signal.SIGKILL)
    assert guard.arm(0.2, "s")
    assert processes(vm) != [first]
    vm.set(SUSPENDED)
    vm.wait_running()


def test_without_virsh_the_problem_is_told(guard: HostGuard, vm: PaperVm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert guard.arm(1, "s") == ""
    assert guard.problem == "virsh is not installed on the host"


def test_an_order_that_is_not_understood_is_not_answered(guard: HostGuard, vm: PaperVm) -> None:
    assert guard.arm(600, "s")
    assert guard._process is not None
    for words in ("arm", "arm x soon", "what", "disarm"):
        guard._process.order(words)
    assert guard.arm(0.1, "s")
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
vm = suspended_vm.SuspendedVm("qemu:///system", sys.argv[1])
print(vm.let_run(lambda: None), len(asked), asked[0][2] if asked else "")
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


def test_the_note_names_one_arming(vm: PaperVm) -> None:
    assert guard_calls.noted(vm.uuid, "s.1") == ""
    guard_calls.write(vm.uuid, "s.1", guard_calls.ARMED)
    assert guard_calls.noted(vm.uuid, "s.1") == guard_calls.ARMED
    assert guard_calls.noted(vm.uuid, "s.2") == ""
    assert guard_calls.call_noted(vm.uuid, "s") == guard_calls.ARMED
    assert guard_calls.call_noted(vm.uuid, "t") == ""
    guard_calls.change(vm.uuid, "s.0", guard_calls.OVER)  # late, of an arming before
    assert guard_calls.noted(vm.uuid, "s.1") == guard_calls.ARMED
    guard_calls.change(vm.uuid, "s.1", guard_calls.OVER)
    assert guard_calls.noted(vm.uuid, "s.1") == guard_calls.OVER


def test_what_nobody_has_foreseen_does_not_end_it(monkeypatch: pytest.MonkeyPatch, vm: PaperVm) -> None:
    """An error in its look ended the guard, while the guest stood still."""

    def fails(_before: Callable[[], None]) -> bool | None:
        raise BrokenPipeError

    watched = SuspendedVm("qemu:///system", vm.uuid)
    monkeypatch.setattr(watched, "let_run", fails)
    loop = guard_calls.GuardLoop(watched)
    loop.token, loop.linger_s = "t", guard_calls.LINGER_S
    loop.look()
    assert (loop.token, loop.looks) == ("t", 1)


def test_the_note_of_another_arming_is_not_removed(vm: PaperVm) -> None:
    guard_calls.write(vm.uuid, "theirs", guard_calls.OVER)
    guard_calls.forget(vm.uuid, "ours")
    assert guard_calls.noted(vm.uuid, "theirs")
    guard_calls.forget(vm.uuid, "theirs")
    assert not guard_calls.noted(vm.uuid, "theirs")


def test_a_call_that_comes_late_resumes_nothing(guard: HostGuard, vm: PaperVm, runner: LocalRunner) -> None:
    """A cut link delivers it when the suspension is over: it was ended by the guard here, or both were disarmed."""
    token = guard.arm(600, "s")
    vm.set(SUSPENDED)
    assert guard.end_suspension() is Ending.RESUMED
    assert guard.end_suspension() is Ending.OVER
    vm.set(SUSPENDED)
    assert guard.end_suspension() is Ending.OVER
    assert vm.state == SUSPENDED, "that is its owner's"
    guard.disarm()
    assert host_guard.end_suspension(runner, guard.uri, vm.uuid, token) is Ending.OVER
    assert vm.state == SUSPENDED


def test_only_one_at_a_time_ends_a_suspension(guard: HostGuard, vm: PaperVm, monkeypatch: pytest.MonkeyPatch) -> None:
    assert guard.arm(600, "s")
    vm.set(SUSPENDED)
    with guard_calls.alone_at(vm.uuid) as alone:
        assert alone
        assert guard_calls.end_suspension(SuspendedVm("qemu:///system", vm.uuid), "s.1", ("armed",)) == guard_calls.BUSY
        assert guard.end_suspension() is Ending.BUSY
        assert vm.state == SUSPENDED
    assert guard.end_suspension() is Ending.RESUMED


def test_a_resume_that_virsh_was_not_answered_for_counts_once_the_vm_runs(guard: HostGuard, vm: PaperVm) -> None:
    """libvirtd was frozen and has carried it out: a pause after that was ended, as though nobody had resumed the VM."""
    token = guard.arm(600, "s")
    guard_calls.change(vm.uuid, token, guard_calls.RESUMING)
    assert guard.end_suspension() is Ending.RESUMED
    vm.set(SUSPENDED)
    assert guard.end_suspension() is Ending.OVER


def test_a_vm_that_was_seen_running_for_long_is_its_owners(guard: HostGuard, vm: PaperVm, runner: LocalRunner) -> None:
    """Blockferry has resumed it and died before it disarmed its guards."""
    token = guard.arm(600, "s")
    guard.leave()
    wait_until(lambda: not processes(vm), "the guard's end", timeout=60)
    vm.set(SUSPENDED)
    assert host_guard.end_suspension(runner, guard.uri, vm.uuid, token) is Ending.OVER
    assert host_guard.has_ended(runner, vm.uuid, "s")
    assert not host_guard.has_ended(runner, vm.uuid, "another")


def test_a_host_that_cannot_be_asked_is_no_answer(vm: PaperVm, tmp_path: Path) -> None:
    """It counted as "nobody has resumed the VM"."""
    ssh = tmp_path / "ssh"
    ssh.write_text("#!/bin/sh\nexit 255\n")
    ssh.chmod(0o755)
    runner = SshRunner("localhost", program=str(ssh))
    try:
        with pytest.raises(HostUnreachable):
            host_guard.end_suspension(runner, "qemu+ssh://localhost/system", vm.uuid, "s.1")
        with pytest.raises(HostUnreachable):
            host_guard.has_ended(runner, vm.uuid, "s")
    finally:
        runner.close()
