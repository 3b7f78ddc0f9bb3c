"""The disk of a VM that is off goes to the right server only, and a new image that is not sound is not taken.

Real: qemu-nbd, qemu-img, the helper. Both hosts are this machine.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from blockferry.base.errors import CopyIncomplete, HostCommandFailed
from blockferry.base.units import MiB
from blockferry.host_move import cold_copy
from blockferry.host_move.cold_copy import copy_image
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_plan import HostMovePlan, TravellingDisk
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.helper.holding import Holding
from blockferry.hosts.host import Host
from blockferry.hosts.images import part_copy
from blockferry.hosts.images.part_copy import PartCopy
from blockferry.hosts.runner import LocalRunner
from lab.process import wait_until

pytestmark = pytest.mark.slow

SIZE = 8 * MiB


@pytest.fixture
def runner() -> Iterator[LocalRunner]:
    local = LocalRunner()
    yield local
    local.helper.close()


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of every server: no random one."""
    number = cold_copy.FIRST_PORT + 117
    monkeypatch.setattr(cold_copy, "FIRST_PORT", number)
    monkeypatch.setattr(cold_copy, "PORTS", 1)
    return number


class Copying:
    """Two empty images at the destination, and what the record was said to be."""

    def __init__(self, runner: LocalRunner, folder: Path) -> None:
        disks = []
        for target in ("vda", "vdb"):
            source, dest = folder / f"{target}.source", folder / f"{target}.qcow2"
            source.write_bytes(target.encode() * (SIZE // 3) + bytes(SIZE - 3 * (SIZE // 3)))
            disks.append(TravellingDisk(target, str(source), str(dest), "qcow2", SIZE, "ssd"))
        self.plan = HostMovePlan(
            "m1", "web01", "u1", "qemu:///system", "h1", "kvm1", "qemu:///system", "h2", "kvm2",
            "qemu:///system", "127.0.0.1", tuple(disks), cold=True, was_running=False,
        )  # fmt: skip
        for disk in disks:
            argv = ["qemu-img", "create", "-q", "-f", "qcow2", self.made(disk.target), str(SIZE)]
            subprocess.run(argv, check=True)
        self.record = HostMoveRecord()
        host = cast(Host, SimpleNamespace(runner=runner))
        self.context = HostMoveContext(
            plan=self.plan,
            source=host,
            dest=host,
            save=self.save,
            log_event=lambda _kind, _text: None,
            check=lambda: None,
            should_stop=lambda: False,
            bandwidth=lambda: 0,
            claims=lambda: pytest.fail("no claims are asked for"),
            dest_claims=lambda: pytest.fail("no claims are asked for"),
            quarantine=lambda _: None,
            holding=Holding("m1", 1, lambda: None, lambda _: None),
        )

    def made(self, target: str) -> str:
        return self.plan.made_path(self.plan.disk(target))

    def save(self, record: HostMoveRecord) -> None:
        self.record = record

    def copy(self, target: str) -> None:
        disk = self.plan.disk(target)
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", "-f", "raw", disk.source, disk.source + ".2"], check=True)
        travelling = TravellingDisk(target, disk.source + ".2", disk.dest, "qcow2", SIZE, "ssd")
        copy_image(self.context, self.record, travelling, "print")

    def holds(self, target: str) -> bool:
        """Whether the new image has the source's bytes."""
        argv = ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", self.plan.disk(target).source, self.made(target)]
        return subprocess.run(argv, check=False, capture_output=True).returncode == 0


@pytest.fixture
def copying(runner: LocalRunner, tmp_path: Path) -> Copying:
    return Copying(runner, tmp_path)


def test_a_disk_is_copied(copying: Copying) -> None:
    copying.copy("vda")
    assert copying.holds("vda")
    assert copying.record.parts["vda"].size == SIZE


def test_another_server_of_this_move_has_the_port(copying: Copying, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was left behind, for the other disk: nothing is written to it."""
    monkeypatch.setattr(cold_copy, "TRIES", 0)
    before = Path(copying.made("vda")).read_bytes()
    argv = ["qemu-nbd", "--persistent", "--shared=4", "-b", "127.0.0.1", "-p", str(port), "-x", copying.plan.move]
    stale = subprocess.Popen([*argv, "-f", "qcow2", copying.made("vda")])
    try:
        uri = f"nbd://127.0.0.1:{port}/{copying.plan.move}"
        info = ["qemu-img", "info", "-f", "raw", uri]
        answers = lambda: subprocess.run(info, check=False, capture_output=True).returncode == 0  # noqa: E731
        wait_until(answers, "the stale server", timeout=30)
        with pytest.raises(HostCommandFailed, match="qemu-nbd"):
            copying.copy("vdb")
    finally:
        stale.terminate()
        stale.wait()
    assert Path(copying.made("vda")).read_bytes() == before
    assert "vdb" not in copying.record.parts


def test_a_new_image_that_is_not_sound(copying: Copying) -> None:
    """Its parts are forgotten: the next attempt copies all of it."""
    copying.copy("vda")
    assert copying.holds("vda")
    table = Path(copying.made("vda")).read_bytes()[:64]
    refcounts = int.from_bytes(table[48:56], "big")
    with Path(copying.made("vda")).open("r+b") as image:
        image.seek(refcounts)
        image.write(bytes(8))  # no cluster is counted as in use
    with pytest.raises(CopyIncomplete, match="corrupt"):
        copying.copy("vda")
    assert "vda" not in copying.record.parts


def test_another_bandwidth_while_it_is_copied(copying: Copying, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part under way begins anew with it, by the same server; what was copied before is not copied again."""
    orders: list[PartCopy] = []
    real = part_copy.copy

    def copy(runner: LocalRunner, order: PartCopy, **calls: Any) -> None:
        orders.append(order)
        real(runner, order, **calls)

    monkeypatch.setattr(part_copy, "copy", copy)
    copying.context.bandwidth = lambda: 4 * MiB if not copying.record.parts else 0
    copying.copy("vda")
    assert copying.holds("vda")
    limits = [(order.rate_limit, order.start) for order in orders]
    assert limits == [(4 * MiB, 0), (0, 4 * MiB)]
    assert len({order.uri for order in orders}) == 1
