"""A VM that is off may be started while its block device is copied: what it writes must show, whichever node it has.

Real: a loop device, the kernel's counters. libvirt gives each QEMU a node in a mount namespace of its own, so that
neither the times of /dev's node nor QEMU's lock on it tell of its writes.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from decide_support import make_plan

from blockferry.base.errors import HostCommandFailed
from blockferry.base.units import MiB
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move import actions
from blockferry.storage_move.decide import decide
from blockferry.storage_move.disk_plan import SourceImage
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.observation import UNKNOWABLE, DiskSide, DiskView, Observation
from blockferry.storage_move.observe import Observer
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.record import Record


@pytest.fixture
def runner() -> Iterator[LocalRunner]:
    local = LocalRunner()
    yield local
    local.helper.close()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[str]:
    image = tmp_path / "disk"
    image.write_bytes(bytes(MiB))
    argv = ["losetup", "--find", "--show", str(image)]
    found = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    yield found
    with contextlib.suppress(OSError):
        Path(f"/sys/block/{Path(found).name}/queue/iostats").write_text("1")
    subprocess.run(["losetup", "--detach", found], check=True)


def a_plan(path: str) -> Plan:
    plan = make_plan()
    disk = replace(plan.disks[0], source=SourceImage(path=path, format="raw", kind="block", datastore=None))
    return replace(plan, disks=(disk,), domain=DomainPlan(persistent=True, was=PowerState.OFF))


def fingerprint(runner: LocalRunner, device: str) -> str:
    plan = a_plan(device)
    return Observer(plan, runner).source_fingerprint(plan.disks[0])


@pytest.mark.parametrize("direct", [True, False])
def test_a_write_through_another_node_shows(runner: LocalRunner, device: str, tmp_path: Path, direct: bool) -> None:
    before = fingerprint(runner, device)
    assert before not in ("", UNKNOWABLE)
    copy = ["qemu-img", "convert", "-f", "raw", "-O", "raw", "-T", "none", device, str(tmp_path / "copy")]
    subprocess.run(copy, check=True)
    assert fingerprint(runner, device) == before, "reading, and our own looks, change nothing"
    own = f"/dev/blockferry-test-{os.getpid()}"
    os.mknod(own, stat.S_IFBLK | 0o600, os.stat(device).st_rdev)
    try:
        flags = ["oflag=direct"] if direct else []  # else it lies in the page cache
        with open(own, "rb"):  # somebody has it open on, so that nothing is written out at the end
            argv = ["dd", "if=/dev/urandom", f"of={own}", "bs=4096", "count=1", "conv=notrunc", *flags]
            subprocess.run(argv, check=True, capture_output=True)
            assert fingerprint(runner, device) != before
    finally:
        os.unlink(own)


def test_a_kernel_that_does_not_count_is_not_taken_for_nobody_writes(runner: LocalRunner, device: str) -> None:
    switch = Path(f"/sys/block/{Path(device).name}/queue/iostats")
    with contextlib.suppress(OSError):
        switch.write_text("0")
    if switch.read_text().strip() != "0":
        pytest.skip("this machine does not let us switch the counters off")
    found = fingerprint(runner, device)
    assert found == UNKNOWABLE
    plan = a_plan(device)
    record = Record(home=HomeRecord(copied=True))
    view = DiskView("vda", None, DiskSide.SOURCE, fingerprint=found)
    action = decide(plan, Observation(PowerState.OFF, persistent=True, disks=(view,), record=record, mark=plan.move))
    assert isinstance(action, actions.Fail)
    assert f"the kernel does not count what is written to {device}" in action.problem


def test_only_a_block_device_has_counters(runner: LocalRunner, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(HostCommandFailed):
        files.device_writes(runner, str(path))
