"""Method snapshot, and copies that break at 95 % and are gone on with: judged, and the bytes written again counted."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import FLAT_OUT, Datastore, Disk, Guest, Host, Lab
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, allocated, assert_clean, assert_whole, other, side, small_disks, verified

pytestmark = pytest.mark.lab

SIZE, DATA = 256 * 1024**2, 224 * 1024**2
AGAIN = 0.06
"""The promise: at most so much of the disk is written again after a break."""


def big_disk(store: Datastore, kind: str) -> Disk:
    return Disk("vda", store, kind, size=SIZE, fill="224MiB")


def wait_copied(voyage: Voyage, share: float) -> tuple[int, int]:
    """Until the block copy is so far: (bytes copied, bytes of the whole copy)."""
    found = (0, 1)

    def far_enough() -> bool:
        nonlocal found
        words = voyage.guest.host.virsh("blockjob", voyage.name, "vda", "--info", "--raw", check=False).split()
        pairs = dict(word.split("=") for word in words if "=" in word)
        found = int(pairs.get("cur", 0)), max(1, int(pairs.get("end", 1)))
        return found[1] > 1 and found[0] >= share * found[1]

    wait_until(far_enough, f"{share:.0%} of the copy", timeout=120, step=0.02, report=voyage.line.stories)
    return found


def report_of(line: Line) -> dict[str, Any]:
    said = line.must("history")
    found = said.document["moves"][0]["report"]
    assert isinstance(found, dict)
    return found


def written_again(line: Line, voyage: Voyage, broke_at: tuple[int, int], guest_wrote: int) -> float:
    """The share of the disk that was written to the destination although it had been copied before.

    What was missing at the break had to be written anyhow, and so had what the guest changed meanwhile.
    """
    written = int(report_of(line)["rewritten_bytes"])
    again = written - (broke_at[1] - broke_at[0]) - guest_wrote
    print(f"{voyage.name}: broke at {broke_at[0]} of {broke_at[1]}, {written} written, {again} again")
    return again / SIZE


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
@pytest.mark.parametrize("disks", [1, 3])
def test_a_move_by_snapshot(
    disks: int, kind: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore,
    old_san: Datastore,
) -> None:  # fmt: skip
    voyage = Voyage(make_guest(small_disks(old_san, disks, kind), start=True), line, stores, database=True)
    voyage.write()
    verify = ("--verify",) if kind == "qcow2" else ()
    said = line.must("move", voyage.name, "--to", "ssd", "--method", "snapshot", *verify)
    assert len(verified(said.move)) == (disks if verify else 0)
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_cycle()


def test_a_guest_that_outruns_the_commit_of_its_overlay_lifts_the_limit(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore
) -> None:
    """Otherwise the overlay would grow for ever, and the move never end."""
    voyage = Voyage(make_guest([Disk("vda", old_san, size="64MiB", fill="8MiB")], start=True), line, stores)
    voyage.write(rate=20, most_kib=4)
    words = ("--method", "snapshot", "--bandwidth", "3MiB/s")
    process = line.start("move", voyage.name, "--to", "ssd", *words, point="commit-starting:stop")
    line.wait_stopped(process)
    voyage.guest.judge.stop()
    voyage.write(FLAT_OUT)
    process.send_signal(signal.SIGCONT)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    assert any("its limit is lifted" in text for text in line.story(said.move["id"])), line.stories()
    voyage.moved_all(ssd)
    voyage.assert_well()


@pytest.mark.parametrize("keep", [False, True])
def test_a_cancelled_move_by_snapshot_leaves_nothing_or_what_was_asked(
    keep: bool, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore
) -> None:
    """The limit is for the copy: the way back ends although the guest writes more than that."""
    voyage = Voyage(make_guest([Disk("vda", old_san, size="64MiB", fill="32MiB")], start=True), line, stores)
    voyage.write(FLAT_OUT)
    words = ("--on-break", "keep") if keep else ()
    process = line.start("move", voyage.name, "--to", "ssd", "--method", "snapshot", *words, "--bandwidth", "8MiB/s")
    move = line.wait_unfinished()
    copy = ssd.home(voyage.name) / "vda.qcow2"
    wait_until(lambda: copy.exists() and allocated(copy) > 12 * 1024**2, "some of the copy", report=line.stories)
    line.do("cancel", move)
    said = line.end(process)
    assert said.status != 0, str(said)
    assert voyage.guest.sources() == {"vda": str(voyage.where["vda"])}
    if not keep:
        voyage.assert_well()
        return
    assert copy.exists()
    voyage.assert_configured()
    voyage.assert_content()
    said = line.must("move", voyage.name, "--to", "ssd")
    assert any("goes on from" in text or "has left" in text for text in line.story(said.move["id"])), line.stories()
    voyage.moved_all(ssd)
    voyage.assert_well()


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_qemu_dies_at_95_percent_and_the_copy_is_gone_on_with(
    kind: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """The VM stays off: the same move goes on cold, from what its destination holds."""
    voyage = Voyage(make_guest([big_disk(old_san, kind)], start=True), line, stores)
    voyage.write(rate=20, most_kib=4, span_blocks=1024)
    process = line.start(
        "move", voyage.name, "--to", "ssd", "--method", "changed-blocks", "--on-break", "keep", "--bandwidth", "24MiB/s"
    )
    broke_at = wait_copied(voyage, 0.95)
    voyage.guest.host.kill_qemu(voyage.name)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    voyage.assert_images(flushed_only=True)
    assert written_again(line, voyage, broke_at, 4 * 1024**2) <= AGAIN, line.stories()
    voyage.guest.start()
    voyage.write()
    voyage.assert_content()


def test_qemu_dies_and_the_vm_is_started_again_before_the_copy_is_gone_on_with(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    """blockferry dies with QEMU; hours later somebody starts the VM, and then the move: live, by way of overlays."""
    voyage = Voyage(make_guest([big_disk(old_san, "qcow2")], start=True), line, stores)
    voyage.write(rate=20, most_kib=4, span_blocks=1024)
    process = line.start(
        "move", voyage.name, "--to", "ssd", "--method", "changed-blocks", "--on-break", "keep", "--bandwidth", "24MiB/s"
    )
    broke_at = wait_copied(voyage, 0.95)
    process.kill()
    line.end(process)
    voyage.guest.host.kill_qemu(voyage.name)
    wait_until(lambda: line.host.vm_state(voyage.name) == "shut off", "libvirt to notice", timeout=60)
    voyage.guest.start()
    voyage.write(rate=20, most_kib=4, span_blocks=1024)
    [move] = line.unfinished()
    line.must("resume", move)
    voyage.moved_all(ssd)
    voyage.assert_well()
    assert written_again(line, voyage, broke_at, 4 * 1024**2) <= AGAIN, line.stories()
    voyage.power_cycle()


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_a_full_destination_is_gone_on_with_by_the_next_move(
    kind: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    voyage = Voyage(make_guest([big_disk(old_san, kind)], start=True), line, stores)
    voyage.write(rate=20, most_kib=4, span_blocks=1024)
    process = line.start(
        "move",
        voyage.name,
        "--to",
        "ssd",
        "--method",
        "changed-blocks",
        "--on-break",
        "keep",
        "--bandwidth",
        "24MiB/s",
        "--provision",
        "thin",
    )
    wait_copied(voyage, 0.3)
    there = ssd.home(voyage.name) / f"vda.{kind}"
    try:
        ssd.fill(DATA - allocated(there) - DATA // 14)  # it breaks at about 93 %
        said = line.end(process)
    finally:
        ssd.unfill()
    assert said.status == 5, f"{said}\n{line.stories()}"
    assert "goes on from" in said.err + said.out
    voyage.assert_configured()
    copy = voyage.moved("vda", ssd)
    broke_at = allocated(copy), DATA
    check = line.must("check", voyage.name, "--to", "ssd")
    assert "RESUME_FROM" in check.out
    orphans = line.must("orphans")
    assert str(copy) in orphans.out
    said = line.must("move", voyage.name, "--to", "ssd")
    voyage.assert_well()
    assert written_again(line, voyage, broke_at, 8 * 1024**2) <= AGAIN, line.stories()
    voyage.power_cycle()


def test_from_scratch_replaces_what_was_left(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    voyage = Voyage(make_guest([Disk("vda", old_san, size="64MiB", fill="32MiB")], start=True), line, stores)
    voyage.write()
    process = line.start(
        "move", voyage.name, "--to", "ssd", "--method", "changed-blocks", "--on-break", "keep", "--bandwidth", "8MiB/s"
    )
    wait_copied(voyage, 0.6)
    line.do("cancel", line.wait_unfinished())
    line.end(process)
    assert (ssd.home(voyage.name) / "vda.qcow2").exists(), line.stories()
    check = line.must("check", voyage.name, "--to", "ssd", "--method", "mirror")
    assert "RESUME_REPLACED" in check.out
    line.must("move", voyage.name, "--to", "ssd", "--from-scratch")
    assert int(report_of(line)["rewritten_bytes"]) == 0
    voyage.moved_all(ssd)
    voyage.assert_well()


OVERLAY_POINTS = (
    "overlay-named",
    "overlay-made",
    "overlay-taken",
    "syncing-base",
    "base-synced",
    "image-made",
    "copy-called",
    "in-step",
    "suspended-to-switch",
    "pivoted",
    "switched-noted",
    "graph-noted",
    "commit-starting",
    "commit-started",
    "commit-pivoting",
    "commit-pivoted",
    "settled",
    "releasing-source",
    "source-released",
)


@pytest.fixture(scope="module")
def commuter(lab_session: Lab, lab_host: Host, old_san: Datastore) -> Iterator[Guest]:
    """One VM with a qcow2 and a raw disk that goes to and fro, so that a point costs seconds."""
    disks = [Disk("vda", old_san, size="64MiB", fill="16MiB"), Disk("vdb", old_san, "raw", size="48MiB", fill="16MiB")]
    guest = lab_session.guest(lab_host, "commuter", disks, start=True)
    yield guest
    lab_session.remove_guest(guest)
    for store in lab_session.datastores.values():
        store.clear_vm(guest.name)


@pytest.mark.sampled(0.2)
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("point", OVERLAY_POINTS)
def test_killed_at_a_point_of_a_move_by_snapshot(long_line: Line, commuter: Guest, point: str, cancel: bool) -> None:
    line = long_line
    commuter.judge.start(rate=100, most_kib=16)
    before = side(commuter, line.stores)
    said = line.do("move", commuter.name, "--to", other(before), "--method", "snapshot", point=f"{point}:kill")
    assert said.killed, str(said)
    move = line.move_of(commuter.name)
    assert move is not None
    line.do("cancel" if cancel else "resume", move)
    outcome = str(line.wait_finished_of(commuter.name)["record"]["outcome"])
    assert outcome in (("moved", "cancelled") if cancel else ("moved",))
    assert side(commuter, line.stores) == (other(before) if outcome == "moved" else before)
    assert_clean(line, commuter)
    assert_whole(commuter)


RACE_POINTS = (
    "overlay-taken",
    "suspended-to-start",
    "copy-called",
    "resuming-from-start",
    "syncing-base",
    "base-synced",
    "commit-starting",
    "commit-called",
    "commit-started",
    "commit-pivoting",
)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("point", RACE_POINTS)
def test_killed_at_a_point_of_a_move_by_snapshot_on_a_qemu_with_the_start_race(
    long_line: Line, commuter: Guest, point: str, cancel: bool
) -> None:
    """The copy of the overlay begins before the base is copied, and the commit begins in a suspension."""
    line = long_line
    commuter.judge.start(rate=100, most_kib=16)
    before = side(commuter, line.stores)
    words = ("move", commuter.name, "--to", other(before), "--method", "snapshot")
    said = line.do(*words, point=f"{point}:kill", suspended_start=True)
    assert said.killed, str(said)
    move = line.move_of(commuter.name)
    assert move is not None
    line.do("cancel" if cancel else "resume", move, suspended_start=True)
    outcome = str(line.wait_finished_of(commuter.name)["record"]["outcome"])
    assert outcome in (("moved", "cancelled") if cancel else ("moved",))
    assert side(commuter, line.stores) == (other(before) if outcome == "moved" else before)
    assert_clean(line, commuter)
    assert_whole(commuter)


@pytest.mark.parametrize("cancel", [False, True])
def test_killed_while_qemu_img_makes_an_overlay(long_line: Line, commuter: Guest, cancel: bool) -> None:
    """What is left is a file without a header, that says it was being made (found by the fault matrix)."""
    line = long_line
    commuter.judge.start(rate=100, most_kib=16)
    before = side(commuter, line.stores)
    said = line.do("move", commuter.name, "--to", other(before), "--method", "snapshot", point="overlay-made:kill")
    assert said.killed, str(said)
    move = line.move_of(commuter.name)
    assert move is not None
    (overlay,) = Path(commuter.sources()["vda"]).parent.glob(f"*vda.{move}.overlay.qcow2")
    marker = overlay.with_name(overlay.name + ".blockferry")
    words = json.loads(marker.read_text())
    assert words["inode"] == str(overlay.stat().st_ino)
    marker.write_text(json.dumps({**words, "inode": ""}))
    os.truncate(overlay, 0)
    line.do("cancel" if cancel else "resume", move)
    outcome = str(line.wait_finished_of(commuter.name)["record"]["outcome"])
    assert outcome == ("cancelled" if cancel else "moved")
    assert side(commuter, line.stores) == (before if cancel else other(before))
    assert_clean(line, commuter)
    assert_whole(commuter)


@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("point", ["committing-off", "committed-off"])
def test_killed_while_an_overlay_is_committed_with_the_vm_off(
    long_line: Line, commuter: Guest, point: str, cancel: bool
) -> None:
    """The VM goes off behind the switch (forward), or in front of it (back): its overlay is committed by qemu-img."""
    line = long_line
    commuter.judge.start(rate=100, most_kib=16)
    before = side(commuter, line.stores)
    where = "base-synced" if cancel else "commit-starting"
    said = line.do("move", commuter.name, "--to", other(before), "--method", "snapshot", point=f"{where}:kill")
    assert said.killed, str(said)
    commuter.judge.stop()
    commuter.poweroff()
    move = line.move_of(commuter.name)
    assert move is not None
    line.do("cancel" if cancel else "resume", move, point=f"{point}:kill")
    line.do("resume", move)
    outcome = str(line.wait_finished_of(commuter.name)["record"]["outcome"])
    assert outcome == ("cancelled" if cancel else "moved")
    assert side(commuter, line.stores) == (before if cancel else other(before))
    assert_clean(line, commuter)
    for target, path in commuter.sources().items():
        verdict = commuter.judge.check_image(target, path, commuter.formats()[target])
        assert verdict.ok, str(verdict)
    commuter.start()
    commuter.judge.start(rate=100)
    assert_whole(commuter)
