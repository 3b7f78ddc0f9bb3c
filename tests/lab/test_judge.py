"""The judge must acquit the innocent and catch every kind of damage; only then is its word worth something."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import poking
import pytest

from lab import Datastore, Disk, Guest
from lab.pytest_plugin import MakeGuest

pytestmark = pytest.mark.lab

BLOCK = 4096


@dataclass
class Case:
    """A guest that wrote, and is off; with an older state of its image."""

    guest: Guest
    path: Path
    format: str
    older: Path

    def offset(self, block: int) -> int:
        return self.guest.disk("vda").area_offset + block * BLOCK

    def floors(self) -> dict[int, int]:
        return self.guest.judge.ledger().disks[self.guest.disk("vda").serial].acknowledged

    def check(self) -> tuple[list[int], list[int]]:
        verdict = self.guest.judge.check_image("vda", self.path, self.format)
        assert verdict.ok == (not verdict.lost and not verdict.unexpected)
        return [found.block for found in verdict.lost], [found.block for found in verdict.unexpected]

    def damaged(self, block: int, data: bytes) -> tuple[list[int], list[int]]:
        """What the check says with `data` at the block; the block is put right again."""
        right = poking.peek(self.path, self.format, self.offset(block))
        assert data != right
        poking.poke(self.path, self.format, self.offset(block), data)
        found = self.check()
        poking.poke(self.path, self.format, self.offset(block), right)
        return found


@pytest.fixture(params=["qcow2", "raw", "vmdk"])
def case(request: pytest.FixtureRequest, make_guest: MakeGuest, ssd: Datastore, tmp_path: Path) -> Case:
    disk = Disk("vda", ssd, format=request.param, size="64MiB", fs="16MiB", fill="8MiB")
    guest = make_guest([disk], start=True)
    guest.judge.start(rate=300, zero_every=9)
    guest.judge.wait_writes(300)
    guest.judge.stop()
    path = Path(guest.disk("vda").path)
    older = tmp_path / "older"
    guest.suspend()
    subprocess.run(["cp", "--sparse=always", path, older], check=True)
    guest.resume()
    guest.judge.start(rate=300, zero_every=9)
    guest.judge.wait_writes(300)
    guest.judge.stop()
    assert guest.judge.verify_live().ok
    guest.poweroff()
    return Case(guest, path, request.param, older)


def test_undamaged_image_passes_and_every_damage_is_seen(case: Case) -> None:
    assert case.check() == ([], [])

    floors = case.floors()
    zeroed = case.guest.judge.ledger().disks[case.guest.disk("vda").serial].zeroed
    written = [block for block, number in floors.items() if zeroed.get(block, 0) < number]
    never = [block for block in range(case.guest.disk("vda").area_blocks) if block not in floors]
    filled = [block for block in never if block < case.guest.disk("vda").fill_blocks]
    empty = [block for block in never if block >= case.guest.disk("vda").fill_blocks]
    victim = written[len(written) // 2]
    whole = poking.peek(case.path, case.format, case.offset(victim))

    # A lost write: zeros, or an older version of the same block.
    assert case.damaged(victim, bytes(BLOCK)) == ([victim], [])
    stale = next(
        block
        for block in written
        if poking.peek(case.older, case.format, case.offset(block))
        not in (bytes(BLOCK), poking.peek(case.path, case.format, case.offset(block)))
    )
    assert case.damaged(stale, poking.peek(case.older, case.format, case.offset(stale))) == ([stale], [])

    # A torn block: half of it from before.
    assert case.damaged(victim, whole[:512] + bytes(BLOCK - 512)) == ([victim], [])
    # A block in the wrong place.
    other = written[0] if written[0] != victim else written[1]
    assert case.damaged(victim, poking.peek(case.path, case.format, case.offset(other))) == ([victim], [])
    # Zeros that were written, and are not there.
    gone = next(block for block, number in floors.items() if zeroed.get(block) == number)
    assert case.damaged(gone, b"\xaa" * BLOCK) == ([gone], [])

    # One byte in a block that nobody ever wrote: in the initial content, and in emptiness.
    content = bytearray(poking.peek(case.path, case.format, case.offset(filled[0])))
    content[1000] ^= 1
    assert case.damaged(filled[0], bytes(content)) == ([], [filled[0]])
    assert case.damaged(filled[0], bytes(BLOCK)) == ([], [filled[0]])
    assert case.damaged(empty[-1], bytes(2000) + b"\1" + bytes(BLOCK - 2001)) == ([], [empty[-1]])
    # A judge's block where it never wrote, from another place.
    assert case.damaged(empty[-1], whole) == ([], [empty[-1]])

    assert case.check() == ([], [])


def test_the_older_image_as_a_whole_is_convicted(case: Case) -> None:
    verdict = case.guest.judge.check_image("vda", case.older, case.format)
    assert verdict.lost_count > 20
    assert len(verdict.lost) == 20
    assert "stale" in str(verdict)


def test_the_judge_in_the_guest_sees_damage_underneath_it(make_guest: MakeGuest, ssd: Datastore) -> None:
    guest = make_guest([Disk("vda", ssd, format="raw", size="32MiB", fill="16MiB")], start=True)
    guest.judge.start(rate=300, random_percent=100)
    guest.judge.wait_writes(200)
    guest.judge.stop()
    assert guest.judge.verify_live().ok
    floors = guest.judge.ledger().disks[guest.disk("vda").serial].acknowledged
    victim, never = max(floors), next(block for block in range(8192) if block not in floors)
    with Path(guest.disk("vda").path).open("r+b") as image:
        for block in (victim, never):
            image.seek(block * BLOCK)
            image.write(b"damage")
    verdict = guest.judge.verify_live()
    assert not verdict.ok
    assert f"vda block {victim}: expected write {floors[victim]}" in verdict.text
    assert f"vda block {never}: expected the initial filling" in verdict.text
    assert "2 wrong of 8192" in verdict.text


def test_stalls_are_seen_in_host_time(make_guest: MakeGuest, ssd: Datastore) -> None:
    guest = make_guest([Disk("vda", ssd, size="32MiB")], start=True)
    guest.judge.start(rate=500, most_kib=4)
    guest.judge.wait_writes(500)
    since = guest.judge.now()
    guest.suspend()
    middle = guest.judge.now()
    subprocess.run(["sleep", "1.5"], check=True)
    guest.resume()
    guest.judge.wait_writes(100)
    [gap] = guest.judge.gaps(since, count=1)
    assert 1.4 < gap.seconds < 4
    assert since <= gap.begin_ns <= middle + 100_000_000
    latencies = guest.judge.latencies(since)
    assert latencies.count >= 100
    assert 0 < latencies.p50_ms <= latencies.p99_ms <= latencies.max_ms
    assert sum(interval.writes_per_s for interval in guest.judge.throughput(since)) >= 100


@pytest.mark.parametrize("layout", ["home", "flat"])
def test_overlays_and_backing_files(
    layout: str, make_guest: MakeGuest, ssd: Datastore, vm_name: Callable[[], str]
) -> None:
    name = vm_name()
    template = ssd.path / f"{name}-template.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", template, "32M"], check=True)
    disks = [
        Disk("vda", ssd, size="48MiB", fs="16MiB", fill="8MiB", overlays=2, layout=layout),
        Disk("vdb", ssd, size="32MiB", backing=(template, "qcow2"), layout=layout),
    ]
    guest = make_guest(disks, name=name, start=True)
    guest.judge.start(rate=300)
    guest.database.start()
    guest.judge.wait_writes(300)
    guest.judge.stop()
    assert guest.judge.verify_live().ok
    guest.poweroff()
    for target in ("vda", "vdb"):
        verdict = guest.judge.check_image(target, guest.disk(target).path, "qcow2")
        assert verdict.ok, str(verdict)
