"""Datastores that fail on purpose do fail, and stop failing when told to."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockferry.hosts.helper import files
from blockferry.hosts.runner import LocalRunner
from lab import Datastore, Lab
from lab.process import wait_until

pytestmark = pytest.mark.lab


@pytest.fixture(params=["ext4", "xfs"])
def flaky(request: pytest.FixtureRequest, lab_session: Lab) -> Iterator[Datastore]:
    kind = str(request.param)
    store = lab_session.datastores.get(f"flaky-{kind}") or lab_session.datastore(
        f"flaky-{kind}", fs=kind, size="512MiB", failing=True
    )
    yield store
    store.device.fence()
    store.power_on()


def write(path: Path, *words: str) -> subprocess.Popen[bytes]:
    """One write of 4 KiB around the page cache."""
    argv = ["dd", "if=/dev/zero", f"of={path}", "bs=4k", "count=1", "oflag=direct", "conv=notrunc", *words]
    return subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def flushed_file(store: Datastore) -> Path:
    path = store.path / "file"
    path.write_bytes(os.urandom(65536))
    subprocess.run(["sync", path], check=True)
    return path


def test_writes_fail_and_work_again(flaky: Datastore) -> None:
    path = flushed_file(flaky)
    flaky.device.fail_writes()
    assert write(path).wait(30) != 0
    flaky.device.fail_writes(fail=False)
    assert write(path).wait(30) == 0


def test_a_write_hangs_until_the_device_goes_on(flaky: Datastore) -> None:
    path = flushed_file(flaky)
    flaky.device.hang()
    process = write(path)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    flaky.device.go_on()
    assert process.wait(30) == 0


def test_a_fence_ends_what_hangs_and_cannot_be_killed(flaky: Datastore) -> None:
    path = flushed_file(flaky)
    content = path.read_bytes()
    flaky.device.hang()
    process = write(path)
    stat = Path(f"/proc/{process.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "D", "the write to hang")
    process.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    flaky.device.fence()
    process.wait(30)
    flaky.power_on()
    assert path.read_bytes() == content


def test_a_hang_that_nobody_ends_is_ended_by_the_watchdog(flaky: Datastore) -> None:
    path = flushed_file(flaky)
    flaky.device.hang(at_most_s=1)
    assert write(path).wait(60) != 0
    wait_until(lambda: not flaky.device.serves(), "the watchdog's fence")
    flaky.power_on()
    assert write(path).wait(30) == 0


def test_a_power_cut_loses_what_was_not_flushed_and_nothing_else(flaky: Datastore) -> None:
    path = flushed_file(flaky)
    content = path.read_bytes()
    (flaky.path / "unflushed").write_bytes(b"x" * 65536)
    flaky.lose_power()
    flaky.power_on()
    assert path.read_bytes() == content
    lost = flaky.path / "unflushed"
    assert not lost.exists() or lost.read_bytes() != b"x" * 65536


def test_what_blockferry_removed_does_not_come_back_with_a_power_cut(flaky: Datastore) -> None:
    runner, marker, home = LocalRunner(), flushed_file(flaky), flaky.path / "home"
    home.mkdir()
    subprocess.run(["sync", home, flaky.path], check=True)
    assert files.remove_file(runner, str(marker))
    assert files.remove_directory_if_empty(runner, str(home))
    flaky.lose_power()
    flaky.power_on()
    assert not marker.exists()
    assert not home.exists()
