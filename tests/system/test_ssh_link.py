"""A move of a VM on another host, by qemu+ssh through a real sshd: the link is cut, what runs on the host is killed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lab import Datastore, Host
from lab.process import wait_until
from tests.system.far_host import kill_the_helper, kill_the_sessions
from tests.system.voyage import FarLine, Voyage

pytestmark = pytest.mark.lab

CUT_S = 40.0
"""Longer than libvirt's keepalive (30 s), so that the connections are given up."""


def cut_for_a_while(far: Host) -> None:
    far.cut_network()
    try:
        time.sleep(CUT_S)
    finally:
        far.mend_network()


@pytest.mark.parametrize(
    "happening", [cut_for_a_while, kill_the_helper, kill_the_sessions], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("method", ["changed-blocks", "mirror"])
@pytest.mark.sampled(0.5)
def test_while_the_disk_is_copied(
    method: str, happening: Callable[[Host], None], far: Host, far_line: FarLine, far_voyage: Voyage, ssd: Datastore
) -> None:
    """The copy is QEMU's and goes on; the move is managed again when the host can be reached, and ends well."""
    process = far_line.start("move", far_voyage.name, "--to", "ssd", "--method", method, "--bandwidth", "4MiB/s")
    wait_until(lambda: "<mirror" in far_voyage.guest.xml(), "the copy", timeout=240, step=0.1, report=far_line.stories)
    happening(far)
    said = far_line.end(process)
    assert said.status == 0, f"{said}\n{far_line.stories()}"
    far_voyage.moved_all(ssd)
    far_voyage.assert_well()
