"""A VM between two lab hosts, and nobody who drives the move: killed or frozen at the switch, or the link cut."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host
from lab.namespaces import HostProcess
from lab.process import wait_until
from tests.system.test_host_move import LIMIT_S, Crossing, crossing, kvm2, kvm2_disks

__all__ = ["crossing", "kvm2", "kvm2_disks"]

pytestmark = pytest.mark.lab

Make = Callable[..., Crossing]


@pytest.fixture
def whole(kvm2: Host, far: Host) -> Iterator[None]:
    """Whatever a test cuts is whole again afterwards."""
    yield
    for host in (kvm2, far):
        host.mend_network()
        host.run(["iptables", "-F"], check=False)


def writing(make: Make, *disks: Disk, **options: object) -> Crossing:
    one = make(*disks, **options)
    one.guest.judge.start(rate=50, most_kib=16)
    one.guest.judge.wait_writes(20)
    return one


def wait_running_there(one: Crossing) -> None:
    def there() -> bool:
        states = one.states()
        assert states.count("running") <= 1, states
        return states == ("absent", "running")

    wait_until(there, "the guest to run at the destination", timeout=LIMIT_S, step=0.1, report=one.story)
    one.guest.host = one.dest
    one.guest.judge.wait_writes(20)


def assert_well(one: Crossing) -> None:
    one.guest.judge.wait_writes(20)
    assert one.guest.judge.verify_live().ok


def no_guard_is_left(one: Crossing) -> None:
    def without(host: Host) -> bool:
        return host.find_process(lambda argv: any(word in GUARDS for word in argv)) is None

    for host in (one.source, one.dest):
        wait_until(partial(without, host), "the guards' end", timeout=90)


def wait_stopped(process: HostProcess, one: Crossing) -> None:
    def stopped() -> bool:
        assert process.poll() is None, one.story()
        return "\nState:\tT" in Path(f"/proc/{process.pid}/status").read_text()

    wait_until(stopped, "the manager to stand still", timeout=LIMIT_S, report=one.story)


GUARDS = ("blockferry:host_move_calls", "blockferry:arrival_calls")

POINTS = ["handed-noted", "alone-noted", "destination-armed", "resumed"]


@pytest.mark.parametrize("point", POINTS)
def test_killed_and_nobody_resumes_the_move(crossing: Make, ssd: Datastore, point: str) -> None:
    """The guest runs at the destination all the same; whoever resumes the move later ends it."""
    one = writing(crossing, Disk("vda", ssd, size="48MiB"))
    one.plan(to="kvm2-disks")
    assert one.run(f"{point}:kill") == {"killed": True}
    wait_running_there(one)
    no_guard_is_left(one)
    one.assert_moved(one.run())
    assert_well(one)


def test_killed_while_the_migration_goes_on(crossing: Make, ssd: Datastore) -> None:
    """libvirt brings it to its end, and nobody but the guard at the source sees that."""
    one = writing(crossing, Disk("vda", ssd, size="256MiB", fill="128MiB"))
    one.plan(to="kvm2-disks", bandwidth=32 << 20)
    process = one.start("run", one.move)
    wait_until(lambda: one.states()[1] == "paused", "the beginning", timeout=LIMIT_S, step=0.1, report=one.story)
    process.send_signal(signal.SIGKILL)
    assert one.end(process) == {"killed": True}
    wait_running_there(one)
    no_guard_is_left(one)
    one.assert_moved(one.run())
    assert_well(one)


@pytest.mark.parametrize("point", ["handed-noted", "destination-armed"])
def test_frozen_at_the_switch_and_woken_late(crossing: Make, ssd: Datastore, point: str) -> None:
    """Its owner pauses the guest meanwhile: neither whoever takes the move up, nor who wakes late, ends that."""
    one = writing(crossing, Disk("vda", ssd, size="48MiB"))
    one.plan(to="kvm2-disks")
    frozen = one.start("run", one.move, point=f"{point}:stop")
    wait_stopped(frozen, one)
    wait_running_there(one)
    one.guest.judge.stop()
    one.guest.suspend()

    def taken_up() -> bool:
        return one.run().get("state") == "moved"  # not before the lease of the frozen one is over

    wait_until(taken_up, "the other manager to end the move", timeout=LIMIT_S, step=2, report=one.story)
    assert one.states() == ("absent", "paused")
    frozen.send_signal(signal.SIGCONT)
    one.end(frozen)
    assert one.states() == ("absent", "paused"), one.story()
    one.guest.resume()
    assert one.guest.judge.verify_live().ok


def test_the_guard_at_the_source_is_gone_too(crossing: Make, ssd: Datastore) -> None:
    """Then that at the destination acts, once it was armed."""
    one = writing(crossing, Disk("vda", ssd, size="48MiB"))
    one.plan(to="kvm2-disks")
    process = one.start("run", one.move, point="migration-called:stop,destination-armed:sleep=1,resuming:stop")
    wait_stopped(process, one)
    kill_guards(one.source)
    process.send_signal(signal.SIGCONT)
    wait_running_there(one)
    wait_stopped(process, one)
    process.send_signal(signal.SIGCONT)
    one.assert_moved(one.end(process))
    assert_well(one)


def kill_guards(host: Host) -> None:
    found = host.find_process(lambda argv: any("host_move_calls" in word for word in argv))
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)


# ------------------------------------------------------------ the link


def memory_goes(one: Crossing) -> None:
    """Wait until the migration is in its memory."""

    def begun() -> bool:
        said = one.source.virsh("qemu-monitor-command", one.guest.name, '{"execute": "query-migrate"}', check=False)
        return '"status":"active"' in said.replace(" ", "")

    wait_until(begun, "the memory to go", timeout=LIMIT_S, step=0.1, report=one.story)


@pytest.mark.parametrize("cut", ["kvm2", "far"])
@pytest.mark.usefixtures("whole")
def test_the_link_is_cut_while_memory_goes(crossing: Make, old_san: Datastore, kvm2: Host, far: Host, cut: str) -> None:
    """The guest runs on; also while libvirt's keepalive ends its own connection; and when the link is back."""
    one = writing(crossing, Disk("vda", old_san, size="48MiB"))
    one.plan(bandwidth=4 << 20)
    process = one.start("run", one.move)
    memory_goes(one)
    time.sleep(1)
    (kvm2 if cut == "kvm2" else far).cut_network()
    since = one.guest.judge.now()
    began = time.monotonic()
    while time.monotonic() - began < 45:  # keepalive takes up to 30 s
        one.guest.judge.wait_writes(5)
    one.source.mend_network()
    one.dest.mend_network()
    said = one.end(process)
    assert said["state"] == "failed", one.story()
    one.assert_back()
    assert_well(one)
    assert one.guest.judge.longest_gap(since) < 10, one.story()


@pytest.mark.usefixtures("whole")
def test_a_link_that_loses_much_and_is_slow_is_not_taken_for_cut(
    crossing: Make, ssd: Datastore, kvm2: Host, far: Host
) -> None:
    one = writing(crossing, Disk("vda", ssd, size="48MiB"))
    one.plan(to="kvm2-disks", bandwidth=8 << 20)
    queue = "tc qdisc add dev eth0 root tbf rate 64mbit burst 32k latency 100ms"
    loss = "iptables -A INPUT -m statistic --mode random --probability 0.03 -j DROP"
    for host in (far, kvm2):
        host.run(queue.split())
        host.run(loss.split())
    try:
        one.assert_moved(one.run())
    finally:
        for host in (far, kvm2):
            host.run(["tc", "qdisc", "del", "dev", "eth0", "root"], check=False)
    assert "nothing arrived" not in one.story()
    assert_well(one)
