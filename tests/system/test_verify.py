"""`--verify`: a copy that is the same is proven to be, a flipped byte is found, doubt keeps the source."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from lab import Datastore, Disk, Guest
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.test_kills import VERIFY
from tests.system.voyage import Line, Voyage, small_disks, verified

pytestmark = pytest.mark.lab


def flip(path: Path, offset: int) -> None:
    """One bit of one byte of a raw image."""
    descriptor = os.open(path, os.O_RDWR | os.O_SYNC)
    try:
        [byte] = os.pread(descriptor, 1, offset)
        os.pwrite(descriptor, bytes([byte ^ 0x10]), offset)
    finally:
        os.close(descriptor)


def quiet_offset(guest: Guest) -> int:
    """A byte that was filled at the beginning and that nobody writes to."""
    disk = guest.disk("vda")
    return disk.area_offset + disk.fill_blocks * 4096 - 1234


def voyage(make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], disks: list[Disk], start: bool) -> Voyage:
    voyage = Voyage(make_guest(disks, start=start), line, stores)
    if start:
        voyage.write()
    return voyage


@pytest.mark.parametrize(("method", "kind"), [("mirror", "qcow2"), ("changed-blocks", "raw")])
def test_a_copy_that_is_the_same(
    method: str, kind: str, make_guest: MakeGuest, line: Line,
    stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    """The guest writes on while its disks as they were are compared; then the sources go and nothing is left."""
    one = voyage(make_guest, line, stores, small_disks(old_san, 2, kind), start=True)
    said = line.must("move", one.name, "--to", "ssd", "--method", method, "--verify")
    assert verified(said.move) == ["vda", "vdb"], str(said)
    assert len(said.move["report"]["verified"]) == 2
    one.moved_all(ssd)
    one.assert_well()
    one.power_cycle()


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
def test_one_flipped_byte_is_found(
    method: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """The old disk that is the same is kept with the one that is not, without an end: going back needs both."""
    disks = [Disk(target, old_san, "raw", size="32MiB", fill="16MiB") for target in ("vda", "vdb")]
    one = voyage(make_guest, line, stores, disks, start=True)
    one.guest.judge.stop()  # a write to the same place would heal it
    offset, old = quiet_offset(one.guest), dict(one.where)
    words = ("move", one.name, "--to", "ssd", "--method", method, "--verify", "--keep-source", "1d")
    process = line.start(*words, point="in-step:sleep=4")
    wait_until(lambda: one.guest.xml().count("ready='yes'") == 2, "the copy in step", timeout=120, report=line.stories)
    flip(one.moved("vda", ssd), offset)
    said = line.end(process)
    assert said.status == 11, str(said)
    assert said.code == "COPY_DIFFERS"
    assert f"vda first at byte {offset - offset % 512}" in said.document["message"], str(said)
    one.moved("vdb", ssd)
    one.assert_configured()
    one.assert_nothing_left(*old.values())
    kept = {Path(row["kept"]["path"]): row["kept"] for row in line.must("quarantine", "list").document["kept"]}
    assert [kept[path]["expires"] for path in old.values()] == [None, None]
    assert "belongs with the old disk of vda" in kept[old["vdb"]]["why"]
    one.guest.destroy()
    line.must("quarantine", "restore", one.name, "--yes")
    assert one.guest.sources(inactive=True) == {target: str(path) for target, path in old.items()}
    for target, path in old.items():
        verdict = one.guest.judge.check_image(target, path, "raw")
        assert verdict.ok, str(verdict)


def test_a_move_by_snapshot_that_was_not_verified_keeps_old_disks_that_are_whole(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """What was written during the copy is in overlays above the old disks; going back must not lose it."""
    one = voyage(make_guest, line, stores, small_disks(old_san, 2), start=True)
    old = dict(one.where)
    words = ("move", one.name, "--to", "ssd", "--method", "snapshot", "--verify")
    process = line.start(*words, point="in-step:stop,taking-view:kill")
    line.wait_stopped(process)
    one.guest.judge.wait_writes(40)
    one.guest.judge.stop()
    process.send_signal(signal.SIGCONT)
    assert line.end(process).status == -9
    one.wait_running()
    [move] = line.unfinished()
    assert line.do("resume", move).status == 11, line.stories()
    one.moved_all(ssd)
    one.assert_configured()
    one.assert_nothing_left(*old.values())
    one.guest.destroy()
    line.must("quarantine", "restore", one.name, "--yes")
    assert one.guest.sources(inactive=True) == {target: str(path) for target, path in old.items()}
    for target, path in old.items():
        verdict = one.guest.judge.check_image(target, path, "qcow2")
        assert verdict.ok, f"{verdict}\n{line.stories()}"
        assert verdict.must_be_there > 0


def test_a_cold_copy_with_a_flipped_byte_is_not_switched_to(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    one = voyage(make_guest, line, stores, [Disk("vda", old_san, "raw", size="32MiB", fill="16MiB")], start=False)
    image = ssd.home(one.name) / one.where["vda"].name
    process = line.start("move", one.name, "--to", "ssd", "--verify", point="cold-copied:sleep=3")
    wait_until(image.exists, "the copy", timeout=60, report=line.stories, step=0.02)
    move = line.wait_unfinished()
    wait_until(lambda: bool(line.progress(move)["disks"]), "progress", timeout=60, report=line.stories, step=0.05)
    wait_until(lambda: _is_whole(image, one.where["vda"]), "the whole copy", timeout=60, step=0.05)
    flip(image, quiet_offset(one.guest))
    said = line.end(process)
    assert said.status == 5, str(said)
    assert "differs" in said.document["message"]
    one.assert_configured("shut off")
    one.assert_nothing_left()
    one.assert_images()
    line.must("move", one.name, "--to", "ssd", "--verify")
    one.moved_all(ssd)
    one.assert_configured("shut off")
    one.assert_nothing_left()
    one.assert_images()


def _is_whole(image: Path, source: Path) -> bool:
    return image.stat().st_size == source.stat().st_size and image.read_bytes() == source.read_bytes()


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("point", VERIFY)
def test_killed_while_it_verifies(
    point: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """The next command goes on. A view that is not proven to be of the switch verifies nothing: both are kept."""
    one = voyage(make_guest, line, stores, small_disks(old_san, 2, "raw"), start=True)
    sources = list(one.where.values())
    assert line.do("move", one.name, "--to", "ssd", "--verify", point=f"{point}:kill").status == -9
    one.wait_running()
    [move] = line.unfinished()
    said = line.do("resume", move)
    one.moved_all(ssd)
    lost = point in ("taking-view", "view-taken")
    assert said.status == (11 if lost else 0), f"{said}\n{line.stories()}"
    assert [path.exists() for path in sources] == [lost, lost]
    one.assert_well(*(sources if lost else ()))
    one.power_off()


def test_the_vm_goes_off_while_it_is_verified(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    one = voyage(make_guest, line, stores, small_disks(old_san, 1, "raw"), start=True)
    [source] = one.where.values()
    process = line.start("move", one.name, "--to", "ssd", "--verify", point="verifying:sleep=4")
    move = line.wait_unfinished()
    wait_until(
        lambda: line.record(move)["export"]["state"] == "held", "the view", timeout=120, report=line.stories, step=0.05
    )
    one.guest.judge.stop()
    one.guest.destroy()  # libvirt 9.0 takes half a minute a channel to notice a power-off (docs/design/verify.md)
    said = line.end(process)
    assert said.status == 11, f"{said}\n{line.stories()}"
    assert said.code == "NOT_VERIFIED"
    one.moved_all(ssd)
    one.assert_configured("shut off")
    one.assert_nothing_left(source)
    assert source.exists()
    one.assert_images(flushed_only=True)


def test_its_speed_is_changed_while_it_verifies(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """At the first speed it would take an hour."""
    one = voyage(make_guest, line, stores, [Disk("vda", old_san, "raw", size="64MiB", fill="48MiB")], start=True)
    process = line.start("move", one.name, "--to", "ssd", "--verify", point="verifying:sleep=3")
    move = line.wait_unfinished()
    wait_until(
        lambda: line.record(move)["export"]["state"] == "held", "the view", timeout=120, report=line.stories, step=0.05
    )
    line.must("speed", move, "16KiB/s")

    def verifies() -> bool:
        disks = line.progress(move)["disks"]
        return bool(disks) and disks[0]["phase"] == "verifying" and 0 < disks[0]["done"] < disks[0]["total"]

    wait_until(verifies, "the comparison", timeout=120, report=line.stories)
    line.must("speed", move, "0")
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    one.moved_all(ssd)
    one.assert_well()
    one.power_off()


@pytest.mark.parametrize("left", ["nothing", "some", "nothing, and killed"])
def test_the_destination_fills_up_while_it_verifies(
    left: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """The guest's own disk is allocated in full and needs no room: for want of ours it must not stand still."""
    one = voyage(make_guest, line, stores, [Disk("vda", old_san, "raw", size="96MiB", fill="64MiB")], start=True)
    [source] = one.where.values()
    process = line.start("move", one.name, "--to", "ssd", "--verify", "--provision", "thick", point="verifying:sleep=3")
    move = line.wait_unfinished()
    wait_until(
        lambda: line.record(move)["export"]["state"] == "held", "the view", timeout=120, report=line.stories, step=0.05
    )
    line.must("speed", move, "16KiB/s")
    one.guest.judge.stop()
    one.write(rate=400, most_kib=16, random_percent=100)
    killed = left == "nothing, and killed"
    if killed:
        process.kill()
        line.end(process)
    try:
        ssd.fill(0 if left != "some" else 24 * 1024**2)
        if killed:
            wait_until(lambda: one.guest.state() == "paused", "the guest to run into it", timeout=120)
            said = line.do("resume", move)
        else:
            said = line.end(process)
        assert said.code == "NOT_VERIFIED", f"{said}\n{line.stories()}"
        assert any("room" in row for row in line.story(move)), line.stories()
        one.moved_all(ssd)
        wait_until(lambda: one.guest.state() == "running", "the guest to run", timeout=30)
        one.guest.judge.wait_writes(400)
    finally:
        ssd.unfill()
    one.assert_well(source)
    one.power_off()


def test_cancelled_while_it_verifies(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """After the switch there is no way back; the comparison ends, the sources stay."""
    one = voyage(make_guest, line, stores, small_disks(old_san, 1), start=True)
    [source] = one.where.values()
    process = line.start("move", one.name, "--to", "ssd", "--verify", point="verifying:stop")
    line.wait_stopped(process)
    [move] = line.unfinished()
    assert line.record(move)["export"]["state"] == "held"
    cancel = line.start("cancel", move)  # it follows the move to its end
    wait_until(
        lambda: line.rows("SELECT wanted FROM moves WHERE id = ?", move) == [("cancel",)],
        "the wish",
        timeout=120,
        report=line.stories,
    )
    os.kill(process.pid, signal.SIGCONT)
    cancelled = line.end(cancel)
    assert cancelled.code == "NOT_VERIFIED", f"{cancelled}\n{line.stories()}"
    said = line.end(process)
    assert said.code == "NOT_VERIFIED", f"{said}\n{line.stories()}"
    one.moved_all(ssd)
    one.assert_well(source)
    one.power_off()
