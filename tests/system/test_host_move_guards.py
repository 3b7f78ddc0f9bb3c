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
from lab.certificates import Authority
from lab.process import wait_until
from tests.system.test_host_move import LIMIT_S, Crossing, crossing, line

__all__ = ["crossing", "line"]

pytestmark = pytest.mark.lab

Make = Callable[..., Crossing]
GUARDS = ("blockferry:host_move_calls", "blockferry:arrival_calls")
TO = ("--to", "kvm2-disks")


@pytest.fixture
def whole(kvm2: Host, far: Host) -> Iterator[None]:
    """Whatever a test cuts is whole again afterwards."""
    yield
    for host in (kvm2, far):
        host.mend_network()
        host.run(["iptables", "-F"], check=False)
        host.run(["tc", "qdisc", "del", "dev", "eth0", "root"], check=False)


def writing(make: Make, *disks: Disk) -> Crossing:
    trip = make(*disks)
    trip.write()
    trip.dest.virsh("domcapabilities")  # a libvirtd that has just been started looks at its QEMU first, for long
    return trip


def wait_running_there(trip: Crossing) -> None:
    def there() -> bool:
        states = trip.states()
        assert states.count("running") <= 1, states
        return states == ("absent", "running")

    what = "the guest to run at the destination"
    wait_until(there, what, timeout=LIMIT_S, step=0.1, report=trip.line.stories)
    trip.guest.host = trip.dest
    trip.guest.judge.wait_writes(20)


def no_guard_is_left(trip: Crossing) -> None:
    def without(host: Host) -> bool:
        return host.find_process(lambda argv: any(word in GUARDS for word in argv)) is None

    for host in (trip.source, trip.dest):
        wait_until(partial(without, host), "the guards' end", timeout=90)


@pytest.mark.parametrize("point", ["handed-noted", "alone-noted", "destination-armed", "resumed"])
def test_killed_and_nobody_resumes_the_move(crossing: Make, ssd: Datastore, point: str) -> None:
    """The guest runs at the destination all the same; whoever resumes the move later ends it."""
    trip = writing(crossing, Disk("vda", ssd, size="48MiB"))
    assert trip.move(*TO, point=f"{point}:kill").killed
    wait_running_there(trip)
    no_guard_is_left(trip)
    trip.assert_moved(trip.line.do("resume", trip.name))
    trip.assert_alive()


def test_killed_after_the_resume_and_before_the_note(crossing: Make, ssd: Datastore) -> None:
    """Its owner pauses it, and whoever takes the move up leaves that."""
    trip = writing(crossing, Disk("vda", ssd, size="48MiB"))
    assert trip.move(*TO, point="destination-resumed:kill").killed
    wait_running_there(trip)
    no_guard_is_left(trip)
    trip.guest.judge.stop()
    trip.guest.suspend()
    trip.line.do("resume", trip.name)
    assert not trip.line.unfinished(), trip.line.stories()
    assert trip.states() == ("absent", "paused"), trip.line.stories()
    trip.guest.resume()
    assert trip.guest.judge.verify_live().ok


def test_killed_while_the_migration_goes_on(crossing: Make, ssd: Datastore) -> None:
    """libvirt brings it to its end, and nobody but the guard at the source sees that."""
    trip = writing(crossing, Disk("vda", ssd, size="256MiB", fill="128MiB"))
    process = trip.line.start("move", trip.name, "--to-host", "kvm2", *TO, "--bandwidth", "32MiB/s")
    wait_until(lambda: trip.states()[1] == "paused", "the beginning", timeout=LIMIT_S, step=0.1)
    process.send_signal(signal.SIGKILL)
    assert trip.line.end(process).killed
    wait_running_there(trip)
    no_guard_is_left(trip)
    trip.assert_moved(trip.line.do("resume", trip.name))
    trip.assert_alive()


@pytest.mark.parametrize("point", ["handed-noted", "destination-armed"])
def test_frozen_at_the_switch_and_woken_late(crossing: Make, ssd: Datastore, point: str) -> None:
    """Its owner pauses the guest meanwhile: neither whoever takes the move up, nor who wakes late, ends that."""
    trip = writing(crossing, Disk("vda", ssd, size="48MiB"))
    frozen = trip.line.start("move", trip.name, "--to-host", "kvm2", *TO, point=f"{point}:stop")
    trip.line.wait_stopped(frozen)
    wait_running_there(trip)
    trip.guest.judge.stop()
    trip.guest.suspend()

    def taken_up() -> bool:
        trip.line.do("resume", trip.name)  # not before the lease of the frozen process is over
        return not trip.line.unfinished()

    what = "the other process to end the move"
    wait_until(taken_up, what, timeout=LIMIT_S, step=2, report=trip.line.stories)
    assert trip.states() == ("absent", "paused")
    frozen.send_signal(signal.SIGCONT)
    trip.line.end(frozen)
    assert trip.states() == ("absent", "paused"), trip.line.stories()
    trip.guest.resume()
    assert trip.guest.judge.verify_live().ok


def test_the_guard_at_the_source_is_gone_too(crossing: Make, ssd: Datastore) -> None:
    """Then that at the destination acts, once it was armed."""
    trip = writing(crossing, Disk("vda", ssd, size="48MiB"))
    points = "migration-called:stop,destination-armed:sleep=1,resuming:stop"
    process = trip.line.start("move", trip.name, "--to-host", "kvm2", *TO, point=points)
    trip.line.wait_stopped(process)
    found = trip.source.find_process(lambda argv: GUARDS[0] in argv)
    assert found is not None
    os.kill(found.pid, signal.SIGKILL)
    process.send_signal(signal.SIGCONT)
    wait_running_there(trip)
    trip.line.wait_stopped(process)
    process.send_signal(signal.SIGCONT)
    trip.assert_moved(trip.line.end(process))
    trip.assert_alive()


# ------------------------------------------------------------ the link


def memory_goes(trip: Crossing) -> bool:
    """Whether the migration is in its memory."""
    ask = '{"execute": "query-migrate"}'
    said = trip.source.virsh("qemu-monitor-command", trip.name, ask, check=False)
    return '"status":"active"' in said.replace(" ", "")


@pytest.mark.parametrize("cut", ["kvm2", "far"])
@pytest.mark.usefixtures("whole")
def test_the_link_is_cut_while_memory_goes(crossing: Make, ssd: Datastore, kvm2: Host, far: Host, cut: str) -> None:
    """The guest runs on; also while libvirt's keepalive ends its own connection; and when the link is back."""
    trip = writing(crossing, Disk("vda", ssd, size="48MiB"))
    process = trip.line.start("move", trip.name, "--to-host", "kvm2", *TO, "--bandwidth", "4MiB/s")

    def goes() -> bool:
        assert process.poll() is None, trip.line.end(process)
        return memory_goes(trip)

    wait_until(goes, "the memory to go", timeout=LIMIT_S, step=0.1, report=trip.line.stories)
    time.sleep(1)
    since = trip.guest.judge.now()
    (kvm2 if cut == "kvm2" else far).cut_network()
    began = time.monotonic()
    yanked: list[float] = []
    while time.monotonic() - began < 45:  # keepalive takes up to 30 s
        trip.guest.judge.wait_writes(5)
        if not yanked and not memory_goes(trip):
            yanked.append(time.monotonic() - began)
    kvm2.mend_network()
    far.mend_network()
    said = trip.line.end(process)
    print(
        "the migration was ended",
        yanked,
        "longest gap",
        trip.guest.judge.longest_gap(since),
        said.status,
        said.err[-6000:],
    )
    assert yanked, trip.line.stories()
    assert yanked[0] < 15, "libvirt's keepalive was first"
    assert trip.guest.judge.longest_gap(since) < 10, trip.line.stories()
    if trip.line.unfinished():  # who has lost the source for so long leaves the move; the next one begins it anew
        trip.assert_moved(trip.line.do("resume", trip.name))
    else:
        trip.assert_back()
    trip.assert_alive()


@pytest.mark.usefixtures("whole")
def test_a_link_that_loses_much_and_is_slow_is_not_taken_for_cut(
    crossing: Make, ssd: Datastore, kvm2: Host, far: Host
) -> None:
    trip = writing(crossing, Disk("vda", ssd, size="48MiB"))
    queue = "tc qdisc add dev eth0 root tbf rate 64mbit burst 32k latency 100ms"
    loss = "iptables -A INPUT -m statistic --mode random --probability 0.03 -j DROP"
    for host in (far, kvm2):
        host.run(queue.split())
        host.run(loss.split())
    trip.assert_moved(trip.move(*TO, "--bandwidth", "8MiB/s"))
    assert "nothing arrived" not in trip.line.stories()
    trip.assert_alive()


# ------------------------------------------------------------ encrypted


def test_with_tls(crossing: Make, ssd: Datastore, kvm2: Host, far: Host, tmp_path: Path, kvm2_disks: Datastore) -> None:
    """Without certificates `require_tls` refuses; where both hosts have them used, also of a VM that is off."""
    running = writing(crossing, Disk("vda", ssd, size="48MiB"))
    off = crossing(Disk("vda", ssd, size="64MiB", fill="32MiB"))
    off.guest.poweroff()
    config = running.line.directory / "hosts.toml"
    config.write_text("require_tls = true\n" + config.read_text())
    refused = running.move(*TO)
    assert set(refused.codes) == {"TLS_MISSING"}, refused
    authority = Authority(tmp_path / "ca")
    authority.equip(far)
    authority.equip(kvm2)
    config.write_text(config.read_text().replace("require_tls", "tls = 'off'\nrequire_tls"))
    assert running.move(*TO).codes == ["TLS_NOT_ASKED"]
    config.write_text(config.read_text().replace("tls = 'off'\nrequire_tls = true\n", ""))
    said = running.move(*TO)
    assert said.move["plan"]["tls"], said
    running.assert_moved(said)
    running.assert_alive()
    said = off.move(*TO)
    assert said.move["plan"]["tls"], said
    off.assert_moved(said, "shut off")
    [path] = off.guest.sources(inactive=True).values()
    assert off.guest.judge.check_image("vda", Path(path), "qcow2").ok
