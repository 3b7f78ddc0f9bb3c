"""A move by qemu+ssh through a real sshd: the link is cut while blockferry has the VM suspended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from lab import Datastore, Host
from lab.namespaces import HostProcess
from lab.process import wait_until
from tests.system.far_host import kill_the_helper, kill_the_sessions
from tests.system.voyage import FarLine, Voyage

pytestmark = pytest.mark.lab


def state_and_reason(voyage: Voyage, far: Host) -> str:
    return far.run(
        ["virsh", "-q", "domstate", voyage.name, "--reason"], env={**os.environ, "LC_ALL": "C"}
    ).stdout.strip()


def suspended_and_cut(voyage: Voyage, far: Host, far_line: FarLine, point: str) -> HostProcess:
    """A move that stands still with the VM suspended; nobody but the host itself reaches the VM."""
    process = far_line.start("move", voyage.name, "--to", "ssd", point=point, suspended_start="start" in point)
    far_line.wait_stopped(process)
    far.cut_network()
    assert state_and_reason(voyage, far) == "paused (user)", "too slow: it was resumed before the link was cut"
    return process


def go_on(process: HostProcess, far: Host) -> None:
    far.mend_network()
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("point", ["suspended-to-switch:stop", "suspended-to-start:stop"])
def test_cut_while_the_vm_is_suspended(
    point: str, far: Host, far_line: FarLine, far_voyage: Voyage, ssd: Datastore
) -> None:
    """It is resumed while the link is cut; afterwards the move ends well."""
    process = suspended_and_cut(far_voyage, far, far_line, point)
    far_voyage.wait_running()
    go_on(process, far)
    said = far_line.end(process)
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    far_voyage.moved_all(ssd)
    far_voyage.assert_well()


@pytest.mark.always
def test_an_owners_pause_after_that_stays(far: Host, far_line: FarLine, far_voyage: Voyage, ssd: Datastore) -> None:
    """The guard on this side cannot know what happened beyond the link: it asks before it resumes the VM."""
    process = suspended_and_cut(far_voyage, far, far_line, "suspended-to-switch:stop")
    far_voyage.wait_running()
    far_voyage.guest.suspend()
    go_on(process, far)
    said = far_line.end(process)
    assert state_and_reason(far_voyage, far) == "paused (user)", f"{said}\n{far_line.stories()}"
    far_voyage.guest.resume()
    if said.status != 0:
        far_line.must("resume", str(far_line.move_of(far_voyage.name)))
    far_voyage.moved_all(ssd)
    far_voyage.assert_well()


@pytest.mark.always
def test_an_owners_pause_stays_also_for_who_takes_over(
    far: Host, far_line: FarLine, far_voyage: Voyage, ssd: Datastore
) -> None:
    """blockferry is killed in the suspension; the guard on the host resumes the VM, its owner pauses it."""
    said = far_line.do("move", far_voyage.name, "--to", "ssd", point="suspended-to-switch:kill")
    assert said.killed, str(said)
    far_voyage.wait_running()
    far_voyage.guest.suspend()
    said = far_line.do("resume", far_line.wait_unfinished())
    assert state_and_reason(far_voyage, far) == "paused (user)", f"{said}\n{far_line.stories()}"
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    far_voyage.moved_all(ssd)
    far_voyage.guest.resume()
    far_voyage.assert_well()


@pytest.mark.parametrize("kill", [kill_the_helper, kill_the_sessions], ids=lambda one: one.__name__)
@pytest.mark.sampled(0.5)
def test_what_runs_on_the_host_is_killed_while_the_vm_is_suspended(
    kill: Callable[[Host], None], far: Host, far_line: FarLine, far_voyage: Voyage, ssd: Datastore
) -> None:
    process = far_line.start("move", far_voyage.name, "--to", "ssd", point="suspended-to-switch:stop")
    far_line.wait_stopped(process)
    kill(far)
    far_voyage.wait_running()
    process.send_signal(signal.SIGCONT)
    said = far_line.end(process)
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    far_voyage.moved_all(ssd)
    far_voyage.assert_well()
    wait_until(
        lambda: far.find_process(lambda argv: any("guard_calls" in word for word in argv)) is None,
        "the end of the guard on the host", timeout=60,
    )  # fmt: skip
