"""Changed-block tracking: a change is never missed, and what cannot be vouched for is never answered.

The judge compares the disk as it was at the point with the disk as it was at the answer (lab/changes.py).
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Disk, Guest
from lab.changes import coverage, frozen_copy
from lab.hosts import SOCKETS
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Said, Voyage, image_info

pytestmark = pytest.mark.lab

LOST = 12


def tracked_guest(make_guest: MakeGuest, store: Datastore, *more: Disk) -> Guest:
    return make_guest([Disk("vda", store, size="64MiB", fs="16MiB", fill="16MiB"), *more], start=True)


def areas(said: Said, target: str = "vda") -> list[tuple[int, int]]:
    [disk] = [one for one in said.document["changes"]["disks"] if one["target"] == target]
    found = [(one["start"], one["length"]) for one in disk["areas"]]
    assert sum(length for _, length in found) == disk["changed"]
    return found


def point(line: Line, guest: Guest, *words: str) -> str:
    return str(line.must("cbt", "point", guest.name, *words).document["id"])


def assert_lost(said: Said, why: str) -> None:
    assert said.status == LOST, str(said)
    assert said.code == "TRACKING_LOST", str(said)
    assert why in said.document["message"], str(said)
    assert "areas" not in said.out


def states(line: Line, guest: Guest) -> dict[str, bool]:
    found: dict[str, Any] = line.must("cbt", "status", guest.name).document["tracking"]
    return {one["id"]: one["good"] for one in found["points"]}


def still(line: Line, guest: Guest, copy: Path, *words: str) -> tuple[Said, Path]:
    """A command, and the disk as it was while it ran: the guest stands still for both."""
    guest.suspend()
    try:
        said = line.must(*words)
        frozen_copy(guest, "vda", copy)
    finally:
        guest.resume()
    return said, copy


def test_no_change_is_missed(make_guest: MakeGuest, line: Line, old_san: Datastore, tmp_path: Path) -> None:
    """Over two points; and the judge fails as soon as an area is left out."""
    guest = tracked_guest(make_guest, old_san, Disk("vdb", old_san, "raw", size="32MiB"))
    name = guest.name
    refused = line.do("cbt", "enable", name)
    assert (refused.status, refused.code) == (4, "NOT_TRACKABLE")
    assert "vdb" in refused.document["message"]
    assert "--format qcow2" in refused.document["message"]

    guest.judge.start("vda", rate=200, most_kib=16, zero_every=5)
    guest.judge.wait_writes(40)
    said, before = still(line, guest, old_san.path / f"{name}-before.raw", "cbt", "enable", name, "--disk", "vda")
    first = said.document["id"]
    assert line.must("cbt", "enable", name, "--disk", "vda").document == {**said.document, "made": False}
    guest.judge.wait_writes(200)
    said, middle = still(
        line, guest, old_san.path / f"{name}-middle.raw", "changes", name, "--since", first, "--mark", "second"
    )
    told = areas(said)
    assert said.document["changes"]["until"] == "second"
    found = coverage(before, middle, told)
    assert found.ok, str(found)
    # The judge would have noticed an area that is missing, whichever holds a difference.
    for left_out in (told[0], told[len(told) // 2], told[-1]):
        fewer = coverage(before, middle, [one for one in told if one != left_out])
        inside = coverage(before, middle, [left_out])
        assert len(fewer.untold) == inside.differing - len(inside.untold)
    assert not coverage(before, middle, told[: len(told) // 2]).ok

    guest.judge.wait_writes(100)
    said, after = still(line, guest, old_san.path / f"{name}-after.raw", "changes", name, "--since", "second")
    assert coverage(middle, after, areas(said)).ok
    since_first = areas(line.must("changes", name, "--since", first))
    assert coverage(before, after, since_first).ok
    assert sum(length for _, length in areas(said)) < 64 * 1024**2
    assert guest.judge.verify_live().ok

    assert states(line, guest) == {first: True, "second": True}
    assert line.must("cbt", "point", name, "--disk", "vda", "--name", "third", "--keep", "2").document["made"]
    assert list(states(line, guest)) == ["second", "third"]
    gone = line.do("changes", name, "--since", first)
    assert (gone.status, gone.code) == (3, "POINT_NOT_FOUND")
    line.must("cbt", "disable", name)
    assert guest.host.virsh("checkpoint-list", name, "--name").split() == []
    assert not list(old_san.path.rglob("*.blockferry-changes"))


def test_what_comes_between_is_noticed(make_guest: MakeGuest, line: Line, old_san: Datastore) -> None:
    """A live resize (of which QEMU's bitmap says nothing), somebody's snapshot, somebody's backup and checkpoint."""
    guest = tracked_guest(make_guest, old_san)
    host, name = guest.host, guest.name
    first = point(line, guest)
    host.virsh("checkpoint-create-as", name, "theirs")
    assert_lost(line.do("changes", name, "--since", "theirs"), "somebody else made this checkpoint")
    server = f"<server transport='unix' socket='{SOCKETS}/theirs.sock'/>"
    host.virsh("backup-begin", name, "/dev/stdin", stdin=f"<domainbackup mode='pull'>{server}</domainbackup>")
    busy = line.do("changes", name, "--since", first)
    assert (busy.status, busy.code) == (9, "TRACKING_BUSY")
    host.virsh("domjobabort", name)
    line.must("changes", name, "--since", first)  # somebody's backup takes nothing away

    host.virsh("blockresize", name, "vda", "72M")
    assert_lost(line.do("changes", name, "--since", first), "resized")
    assert states(line, guest) == {first: False, "theirs": False}
    second = point(line, guest)
    line.must("changes", name, "--since", second)

    host.virsh("snapshot-create-as", name, "snap", "--disk-only", "--no-metadata")
    assert_lost(line.do("changes", name, "--since", second), "the disk is on ")
    third = point(line, guest)
    line.must("changes", name, "--since", third)
    assert set(line.must("cbt", "disable", name).document["dropped"]) == {first, second, third}
    assert states(line, guest) == {"theirs": False}


def write_in_image(path: Path, format: str, offset: int) -> None:
    """Change bytes of the guest's disk behind QEMU's back: in the file, where the qcow2 has this offset."""
    words = ["qemu-img", "map", "-f", format, "--output=json", str(path)]
    extents = json.loads(subprocess.run(words, check=True, capture_output=True).stdout)
    [one] = [
        extent
        for extent in extents
        if extent["data"] and extent["start"] <= offset < extent["start"] + extent["length"]
    ]
    with path.open("r+b") as file:
        file.seek(one["offset"] + offset - one["start"])
        file.write(b"\xa5" * 512)


def test_power_cycles_and_foreign_writes(make_guest: MakeGuest, line: Line, old_san: Datastore) -> None:
    """After these there is no list, unless the user vouches for the time off."""
    guest = tracked_guest(make_guest, old_san)
    name, image = guest.name, Path(guest.disk("vda").path)
    first = point(line, guest)
    before = frozen_copy(guest, "vda", old_san.path / f"{name}-before.raw")
    guest.poweroff()
    off = line.do("changes", name, "--since", first)
    assert (off.status, off.code) == (4, "NOT_TRACKABLE")
    assert states(line, guest) == {first: False}
    subprocess.run(["qemu-io", "-c", "write -P 7 40M 4k", str(image)], check=True, capture_output=True)
    guest.start()
    assert_lost(line.do("changes", name, "--since", first), "has been off since then")
    vouched = line.must("changes", name, "--since", first, "--accept-power-cycles")
    after = frozen_copy(guest, "vda", old_san.path / f"{name}-after.raw")
    told = areas(vouched)
    assert coverage(before, after, told).ok
    assert any(start <= 40 * 1024**2 < start + length for start, length in told), "qemu-io keeps bitmaps, too"

    guest.poweroff()
    write_in_image(image, "qcow2", guest.disk("vda").area_offset)
    guest.start()
    assert_lost(line.do("changes", name, "--since", first), "has been off since then")
    again = frozen_copy(guest, "vda", old_san.path / f"{name}-again.raw")
    # This is what the refusal is for: QEMU knows nothing of it.
    vouched = line.must("changes", name, "--since", first, "--accept-power-cycles")
    assert not coverage(before, again, areas(vouched)).ok

    # A VM that is off: the bitmaps are taken out of the image.
    guest.poweroff()
    assert first in bitmaps_in(image)
    assert line.must("cbt", "disable", name).document["dropped"] == [first]
    assert bitmaps_in(image) == []
    assert guest.host.virsh("checkpoint-list", name, "--name").split() == []


def bitmaps_in(image: Path) -> list[str]:
    return [one["name"] for one in image_info(image)["format-specific"]["data"].get("bitmaps", [])]


def test_bitmaps_that_are_gone_or_broken(make_guest: MakeGuest, line: Line, old_san: Datastore) -> None:
    """kill -9 of QEMU, a bitmap that somebody has removed: no list, whatever the user vouches for."""
    guest = tracked_guest(make_guest, old_san, Disk("vdb", old_san, size="32MiB"))
    host, name, image = guest.host, guest.name, Path(guest.disk("vda").path)
    first = point(line, guest)  # of both disks; it loses one of its bitmaps
    saved = point(line, guest, "--name", "saved")
    guest.poweroff()
    subprocess.run(["qemu-img", "bitmap", "--remove", str(image), first], check=True)
    guest.start()
    assert_lost(line.do("changes", name, "--since", first, "--accept-power-cycles"), "bitmap")

    fresh = point(line, guest, "--name", "fresh")
    host.kill_qemu(name)  # `saved` is in use in the image now, `fresh` was never in it
    guest.wait_state("shut off")
    assert states(line, guest) == dict.fromkeys((first, saved, fresh), False)
    guest.start()
    for one in (saved, fresh):
        assert_lost(line.do("changes", name, "--since", one), "has been off since then")
        assert_lost(line.do("changes", name, "--since", one, "--accept-power-cycles"), "bitmap")
    assert states(line, guest) == dict.fromkeys((first, saved, fresh), False)
    last = point(line, guest)
    line.must("changes", name, "--since", last)
    assert set(line.must("cbt", "disable", name).document["dropped"]) == {first, saved, fresh, last}
    assert host.virsh("checkpoint-list", name, "--name").split() == []
    guest.poweroff()
    assert bitmaps_in(image) == []
    assert bitmaps_in(Path(guest.disk("vdb").path)) == []


def test_killed_while_it_asks(make_guest: MakeGuest, line: Line, old_san: Datastore) -> None:
    """What a dead blockferry leaves (a backup job, a point) is found and put away by the next."""
    guest = tracked_guest(make_guest, old_san)
    name = guest.name
    first = point(line, guest)
    ask = ("changes", name, "--since", first, "--mark")
    for place, words in (("point-made", ("cbt", "point", name)), ("changes-begun", ask), ("changes-read", ask)):
        before = len(states(line, guest))
        assert line.do(*words, point=f"{place}:kill").status == -9
        assert len(states(line, guest)) == before + 1
        line.must("changes", name, "--since", first)
        assert "None" in guest.host.virsh("domjobinfo", name)
        assert not list(old_san.path.rglob("*.blockferry-changes"))
        assert all(states(line, guest).values())
    assert line.do(*ask, "unseen", point="changes-read:fail").status == 1
    assert "unseen" not in states(line, guest), "an answer that nobody got leaves no point"
    assert "None" in guest.host.virsh("domjobinfo", name)
    line.must("cbt", "disable", name)
    assert states(line, guest) == {}
    Voyage(guest, line, (old_san,)).assert_configured()


def their_changes(guest: Guest, scratch: Path) -> list[tuple[int, int]]:
    """What libvirt answers another program since the checkpoint `theirs`."""
    socket = SOCKETS / f"{guest.name}.sock"
    disk = "<disk name='vda' backup='yes' type='file' exportname='vda' exportbitmap='theirs'><driver type='qcow2'/>"
    xml = (
        f"<domainbackup mode='pull'><incremental>theirs</incremental><server transport='unix' socket='{socket}'/>"
        f"<disks>{disk}<scratch file='{scratch}'/></disk></disks></domainbackup>"
    )
    guest.host.virsh("backup-begin", guest.name, "/dev/stdin", stdin=xml)
    words = ["nbdinfo", "--json", "--map=qemu:dirty-bitmap:theirs", f"nbd+unix:///vda?socket={socket}"]
    extents = json.loads(guest.host.run(words).stdout)
    guest.host.virsh("domjobabort", guest.name)
    return [(extent["offset"], extent["length"]) for extent in extents if extent["type"] & 1]


def test_a_move_says_that_it_voids_the_points(
    make_guest: MakeGuest, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    """Ours are void; others' bitmaps come along with every change. What would lose one is refused."""
    guest = tracked_guest(make_guest, old_san)
    name = guest.name
    guest.judge.start("vda", rate=100, most_kib=16)
    guest.suspend()
    guest.host.virsh("checkpoint-create-as", name, "theirs")
    before = frozen_copy(guest, "vda", old_san.path / f"{name}-before.raw")
    guest.resume()
    refused = line.do("move", name, "--to", "ssd", "--method", "snapshot")
    assert refused.status == 4, str(refused)
    assert "METHOD_SNAPSHOT" in refused.codes
    raw = line.do("move", name, "--to", "ssd", "--format", "raw")
    assert "CHECKPOINTS_LOST" in raw.codes, str(raw)

    for method, store in (("mirror", ssd), ("changed-blocks", old_san)):
        ours = point(line, guest)
        line.must("changes", name, "--since", ours)
        guest.judge.wait_writes(60)
        said = line.must("move", name, "--to", store.name, "--method", method)
        assert any(ours in note and "void" in note for note in said.move["report"]["notes"]), str(said)
        assert any("CHECKPOINTS_VOID" in one for one in line.story(said.move["id"]))
        assert_lost(line.do("changes", name, "--since", ours), f"the disk is on {store.path}")
        guest.suspend()
        told = their_changes(guest, old_san.path / f"{name}-scratch")
        after = frozen_copy(guest, "vda", old_san.path / f"{name}-after.raw")
        guest.resume()
        assert coverage(before, after, told).ok
        after.unlink()
    line.must("cbt", "disable", name)
    assert set(states(line, guest)) == {"theirs"}
