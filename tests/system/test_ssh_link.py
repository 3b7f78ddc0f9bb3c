"""A move of a VM on another host, by qemu+ssh through a real sshd: the link is cut, what runs on the host is killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host, Lab
from lab.process import kill_and_wait, wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import FarLine, Voyage

pytestmark = pytest.mark.lab

CUT_S = 40.0
"""Longer than libvirt's keepalive (30 s), so that the connections are given up."""


@pytest.fixture(scope="module")
def desk(lab_session: Lab) -> Host:
    """Where blockferry runs."""
    return lab_session.host("desk", network=True)


@pytest.fixture(scope="module")
def far(lab_session: Lab, desk: Host, old_san: Datastore, ssd: Datastore) -> Host:
    """The host whose VMs move; the desk does not have its datastores."""
    host = lab_session.host("far", network=True)
    for store in (old_san, ssd):
        host.attach(store)
    return host


@pytest.fixture
def far_line(desk: Host, far: Host, tmp_path: Path, stores: tuple[Datastore, ...]) -> FarLine:
    return FarLine(desk, far, tmp_path, stores)


@pytest.fixture
def voyage(
    make_guest: MakeGuest, far: Host, far_line: FarLine, stores: tuple[Datastore, ...], old_san: Datastore
) -> Voyage:
    guest = make_guest([Disk("vda", old_san, size="96MiB", fill="64MiB")], host=far, start=True)
    one = Voyage(guest, far_line, stores)
    one.write(rate=20, most_kib=4, span_blocks=1024)
    return one


def cut_for_a_while(far: Host) -> None:
    far.cut_network()
    try:
        time.sleep(CUT_S)
    finally:
        far.mend_network()


def kill_the_helper(far: Host) -> None:
    """With SIGKILL, on the host; its process and what it has forked."""

    def ours(argv: list[str]) -> bool:
        return any("blockferry-helper" in word for word in argv)

    found = far.find_process(ours)
    assert found is not None, "no helper on the host"
    kill_and_wait(found)


def kill_the_sessions(far: Host) -> None:
    """Every ssh session on the host; sshd itself stays."""

    def is_session(argv: list[str]) -> bool:
        return argv[0].startswith("sshd: ") and "[listener]" not in " ".join(argv)

    found = far.find_process(is_session)
    assert found is not None, "no ssh session on the host"
    while found is not None:
        kill_and_wait(found)
        found = far.find_process(is_session)


@pytest.mark.parametrize(
    "happening", [cut_for_a_while, kill_the_helper, kill_the_sessions], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("method", ["changed-blocks", "mirror"])
@pytest.mark.sampled(0.5)
def test_while_the_disk_is_copied(
    method: str, happening: Callable[[Host], None], far: Host, far_line: FarLine, voyage: Voyage, ssd: Datastore
) -> None:
    """The copy is QEMU's and goes on; the move is managed again when the host can be reached, and ends well."""
    process = far_line.start("move", voyage.name, "--to", "ssd", "--method", method, "--bandwidth", "4MiB/s")
    wait_until(lambda: "<mirror" in voyage.guest.xml(), "the copy", timeout=240, step=0.1, report=far_line.stories)
    happening(far)
    said = far_line.end(process)
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
