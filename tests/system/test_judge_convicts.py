"""The judge must convict: a copy that is broken on purpose, in the middle of a move that blockferry holds for good."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab import Datastore, Disk
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage

pytestmark = pytest.mark.lab

BLOCK = 4096


def read(path: Path, offset: int) -> bytes:
    with path.open("rb") as image:
        return os.pread(image.fileno(), BLOCK, offset)


def write(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_SYNC)
    try:
        os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
@pytest.mark.parametrize("damage", ["garbage", "lost write", "none"])
def test_the_judge_convicts_a_broken_copy(
    damage: str, method: str,
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    guest = make_guest([Disk("vda", old_san, "raw", size="32MiB", fill="16MiB")], start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write(random_percent=100)
    guest.judge.stop()
    source, disk = voyage.where["vda"], guest.disk("vda")
    before = guest.judge.ledger().disks[disk.serial].acknowledged.copy()
    old = {block: read(source, disk.area_offset + block * BLOCK) for block in before}
    guest.judge.start(rate=400, most_kib=16, random_percent=100)
    guest.judge.wait_writes(600)
    guest.judge.stop()  # what is broken must not be healed by a later write
    after = guest.judge.ledger().disks[disk.serial].acknowledged
    victim = next(block for block, number in before.items() if after[block] > number)
    process = line.start("move", guest.name, "--to", "ssd", "--method", method, point="in-step:sleep=4")
    wait_until(lambda: "ready='yes'" in guest.xml(), "the copy in step", timeout=120, report=line.stories)
    copy = voyage.moved("vda", ssd)
    offset = disk.area_offset + victim * BLOCK
    if damage != "none":
        write(copy, offset, old[victim] if damage == "lost write" else b"\xa5" * BLOCK)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.assert_configured()

    live = guest.judge.verify_live()
    guest.poweroff()
    verdict = guest.judge.check_image("vda", copy, "raw")
    if damage == "none":
        assert live.ok, live.text
        assert verdict.ok, str(verdict)
        return
    assert not live.ok
    assert f"vda block {victim}" in live.text
    assert not verdict.ok
    assert [finding.block for finding in verdict.lost] == [victim]
    assert ("stale" if damage == "lost write" else "nobody wrote") in str(verdict)
