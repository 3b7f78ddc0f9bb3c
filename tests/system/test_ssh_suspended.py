"""A move by qemu+ssh through a real sshd: the link is cut while blockferry has the VM suspended."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host, Lab
from lab.namespaces import HostProcess
from lab.process import kill_and_wait, wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import FarLine, Voyage

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def desk(lab_session: Lab) -> Host:
    """Where blockferry runs."""
    return lab_session.host("desk", network=True)


@pytest.fixture(scope="module")
def far(lab_session: Lab, desk: Host, old_san: Datastore, ssd: Datastore) -> Host:
    """The host whose VMs move."""
    host = lab_session.host("far", network=True)
    for store in (old_san, ssd):
        host.attach(store)
    return host


@pytest.fixture
def far_line(desk: Host, far: Host, tmp_path: Path, stores: tuple[Datastore, ...]) -> Iterator[FarLine]:
    yield FarLine(desk, far, tmp_path, stores)
    far.mend_network()


@pytest.fixture
def voyage(
    make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...], old_san: Datastore
) -> Voyage:
    guest = make_guest([Disk("vda", old_san, size="96MiB", fill="64MiB")], host=far, start=True)
    one = Voyage(guest, far_line, stores)
    one.write(rate=20, most_kib=4, span_blocks=1024)
    return one


def state_and_reason(one: Voyage, far: Host) -> str:
    return far.run(["virsh", "-q", "domstate", one.name, "--reason"], env={**os.environ, "LC_ALL": "C"}).stdout.strip()


def suspended_and_cut(one: Voyage, far: Host, far_line: FarLine, point: str) -> HostProcess:
    """A move that stands still with the VM suspended; nobody but the host itself reaches the VM."""
    process = far_line.start("move", one.name, "--to", "ssd", point=point, suspended_start="start" in point)
    far_line.wait_stopped(process)
    far.cut_network()
    assert state_and_reason(one, far) == "paused (user)", "too slow: it was resumed before the link was cut"
    return process


def go_on(process: HostProcess, far: Host) -> None:
    far.mend_network()
    process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("point", ["suspended-to-switch:stop", "suspended-to-start:stop"])
def test_cut_while_the_vm_is_suspended(
    point: str, far: Host, far_line: FarLine, voyage: Voyage, ssd: Datastore
) -> None:
    """It is resumed while the link is cut; afterwards the move ends well."""
    process = suspended_and_cut(voyage, far, far_line, point)
    voyage.wait_running()
    go_on(process, far)
    said = far_line.end(process)
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()


def test_an_owners_pause_after_that_stays(far: Host, far_line: FarLine, voyage: Voyage, ssd: Datastore) -> None:
    """The guard on this side cannot know what happened beyond the link: it asks before it resumes the VM."""
    process = suspended_and_cut(voyage, far, far_line, "suspended-to-switch:stop")
    voyage.wait_running()
    voyage.guest.suspend()
    go_on(process, far)
    said = far_line.end(process)
    assert state_and_reason(voyage, far) == "paused (user)", f"{said}\n{far_line.stories()}"
    voyage.guest.resume()
    if said.status != 0:
        far_line.must("resume", str(far_line.move_of(voyage.name)))
    voyage.moved_all(ssd)
    voyage.assert_well()


def kill_the_helper(far: Host) -> None:
    """With SIGKILL, on the host; its process and what it has forked."""

    def is_helper(argv: list[str]) -> bool:
        return any("blockferry-helper" in word for word in argv) and not any("guard_calls" in word for word in argv)

    found = far.find_process(is_helper)
    assert found is not None, "no helper on the host"
    while found is not None:
        kill_and_wait(found)
        found = far.find_process(is_helper)


def kill_the_sessions(far: Host) -> None:
    """Every ssh session on the host; sshd itself stays."""

    def is_session(argv: list[str]) -> bool:
        return argv[0].startswith("sshd: ") and "[listener]" not in " ".join(argv)

    found = far.find_process(is_session)
    assert found is not None, "no ssh session on the host"
    while found is not None:
        kill_and_wait(found)
        found = far.find_process(is_session)


@pytest.mark.parametrize("kill", [kill_the_helper, kill_the_sessions], ids=lambda one: one.__name__)
@pytest.mark.sampled(0.5)
def test_what_runs_on_the_host_is_killed_while_the_vm_is_suspended(
    kill: Callable[[Host], None], far: Host, far_line: FarLine, voyage: Voyage, ssd: Datastore
) -> None:
    process = far_line.start("move", voyage.name, "--to", "ssd", point="suspended-to-switch:stop")
    far_line.wait_stopped(process)
    kill(far)
    voyage.wait_running()
    process.send_signal(signal.SIGCONT)
    said = far_line.end(process)
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
    wait_until(
        lambda: far.find_process(lambda argv: any("guard_calls" in word for word in argv)) is None,
        "the end of the guard on the host", timeout=60,
    )  # fmt: skip
