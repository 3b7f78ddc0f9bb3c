"""Quarantine and orphans on a lab host: going back, letting go, and whose a file is."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Disk, Guest, Host
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Said, Voyage, disk_formats, disk_sources, small_disks

pytestmark = pytest.mark.lab


def kept(line: Line) -> dict[str, dict[str, Any]]:
    found = line.must("quarantine", "list").document["kept"]
    return {one["kept"]["path"]: one for one in found}


def orphans(line: Line) -> dict[str, dict[str, Any]]:
    return {one["path"]: one for one in line.must("orphans").document["orphans"]}


def same(path: Path, other: Path, format: str) -> bool:
    """The second opinion: QEMU's own comparison."""
    words = ["qemu-img", "compare", "-f", format, "-F", format, str(path), str(other)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def overlay(base: Path, over: Path) -> None:
    over.parent.mkdir(exist_ok=True)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(over)]
    subprocess.run(words, check=True)


def edit(host: Host, guest: Guest, old: str, new: str) -> None:
    xml = guest.xml(inactive=True)
    assert old in xml, xml
    host.virsh("define", "/dev/stdin", stdin=xml.replace(old, new))


# -- going back ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_a_vm_goes_back_to_what_it_was_at_the_switch(
    kind: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore,
    tmp_path: Path,
) -> None:  # fmt: skip
    guest = make_guest(small_disks(old_san, 2, kind), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    old = dict(voyage.where)
    line.must("move", guest.name, "--to", "ssd", "--keep-source", "7d")
    voyage.moved_all(ssd)
    copies = {target: Path(shutil.copy(path, tmp_path / f"{target}.copy")) for target, path in old.items()}
    found = kept(line)
    for path in old.values():
        row = found[str(path)]
        assert row["found"]
        assert not row["altered"]
        assert not row["expired"]
        assert row["doubt"] is None, row
        assert row["kept"]["expires"] - row["kept"]["since"] == pytest.approx(7 * 86400)
    guest.judge.wait_writes(60)

    refused = line.do("quarantine", "restore", guest.name, "--yes")
    assert (refused.status, refused.code) == (4, "NOT_RESTORABLE"), str(refused)
    assert "running" in refused.document["message"]
    voyage.power_off()
    assert line.do("quarantine", "restore", guest.name).status == 2, "it asks, and there is nobody to answer"
    assert disk_sources(guest.xml(inactive=True)) == {target: str(path) for target, path in voyage.where.items()}

    said = line.must("quarantine", "restore", guest.name, "--yes")
    restored = said.document["restored"]
    assert [loss["identical"] for loss in restored["losses"]] == [False, False], "the guest has written since"
    assert restored["since"] <= min(row["kept"]["since"] for row in found.values())
    assert disk_sources(guest.xml(inactive=True)) == {target: str(path) for target, path in old.items()}
    assert disk_formats(guest.xml(inactive=True)) == voyage.formats
    for target, path in old.items():
        assert same(path, copies[target], kind), f"{path} is not what it was at the switch"
    newer = kept(line)
    assert set(newer) == {str(path) for path in voyage.where.values()}, "the newer files, and nothing else"
    assert all(row["kept"]["expires"] is None and row["doubt"] is None for row in newer.values())
    voyage.assert_images()  # the newer files hold every acknowledged write

    guest.start()  # boots from what it was
    voyage.where = dict(old)
    voyage.assert_configured()
    guest.poweroff()
    again = line.do("quarantine", "restore", guest.name, "--yes")
    assert again.status == 0, str(again)
    voyage.moved_all(ssd)
    assert disk_sources(guest.xml(inactive=True)) == {target: str(path) for target, path in voyage.where.items()}
    voyage.assert_images()
    guest.start()
    voyage.assert_configured()
    voyage.write()
    voyage.assert_content()
    voyage.power_off()


@pytest.mark.parametrize("where", ["purging", "restoring", "restored"])
def test_killed_in_the_middle_and_said_again(
    where: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2))
    voyage = Voyage(guest, line, stores)
    old = dict(voyage.where)
    line.must("move", guest.name, "--to", "ssd", "--keep-source", "7d")
    voyage.moved_all(ssd)
    if where == "purging":
        words = ["quarantine", "purge", "--now", *map(str, old.values()), "--yes"]
    else:
        words = ["quarantine", "restore", guest.name, "--yes"]
    assert line.do(*words, point=f"{where}:kill").status == -9
    used = disk_sources(guest.xml(inactive=True))
    assert set(used.values()) in ({str(path) for path in old.values()}, {str(path) for path in voyage.where.values()})
    for path in used.values():
        assert line.do("quarantine", "purge", "--now", path, "--yes").status != 0, "what the VM uses never goes"
        assert Path(path).exists()
    if where == "purging":
        line.must(*words)
        assert not any(path.exists() for path in old.values())
        assert kept(line) == {}
    else:
        line.must(*words)
        assert disk_sources(guest.xml(inactive=True)) == {target: str(path) for target, path in old.items()}
        assert set(kept(line)) == {str(path) for path in voyage.where.values()}
    for path in disk_sources(guest.xml(inactive=True)).values():
        subprocess.run(["qemu-img", "check", "-q", path], check=True)


def altered(guest: Guest, old: Path, ssd: Datastore) -> None:
    with old.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(b"x")


def replaced(guest: Guest, old: Path, ssd: Datastore) -> None:
    other = old.with_suffix(".other")
    shutil.copy2(old, other)
    other.rename(old)


def gone(guest: Guest, old: Path, ssd: Datastore) -> None:
    old.unlink()


def other_disk(guest: Guest, old: Path, ssd: Datastore) -> None:
    third = ssd.home(guest.name) / "third.qcow2"
    shutil.copy(guest.sources(inactive=True)["vda"], third)
    edit(guest.host, guest, guest.sources(inactive=True)["vda"], str(third))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (altered, "has been changed"),
        (replaced, "has been changed"),
        (gone, "is gone"),
        (other_disk, "has changed since"),
    ],
)
def test_it_does_not_go_back_to_what_is_not_what_was_kept(
    spoil: Any, words: str, make_guest: MakeGuest, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1))
    old = Path(guest.disk("vda").path)
    line.must("move", guest.name, "--to", "ssd", "--keep-source", "7d")
    spoil(guest, old, ssd)
    before = guest.xml(inactive=True)
    said = line.do("quarantine", "restore", guest.name, "--yes")
    assert (said.status, said.code) == (4, "NOT_RESTORABLE"), str(said)
    assert words in said.document["message"], str(said)
    assert guest.xml(inactive=True) == before
    if spoil in (altered, replaced):
        assert line.do("quarantine", "purge", "--now", old, "--yes").status == 7
        assert old.exists(), "it is not what we kept, so it is not ours to remove"


# -- letting go ------------------------------------------------------------------------------------------------


def test_only_purge_removes_and_only_what_has_expired(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1))
    voyage = Voyage(guest, line, stores)
    old = voyage.where["vda"]
    line.must("move", guest.name, "--to", "ssd", "--keep-source", "1s")
    voyage.moved_all(ssd)
    second = make_guest(small_disks(old_san, 1))
    line.must("move", second.name, "--to", "ssd", "--keep-source", "forever")
    other = Path(second.disk("vda").path)
    time.sleep(1.1)
    for words in (["orphans", "--remove-all", "--yes"], ["moves"], ["doctor"], ["resume"]):
        assert line.do(*words).status in (0, 10), words
    assert line.do("orphans", "--remove", old, "--yes").status == 2
    assert old.exists()
    assert any("time is over" in one["text"] for one in line.do("doctor").document["checks"])
    said = line.must("quarantine", "purge", "--yes")
    assert [(item["path"], item["gone"]) for item in said.document["purged"]] == [(str(old), True)]
    assert not old.exists()
    assert not old.parent.exists(), "the old home is empty now"
    assert other.exists()
    assert line.do("quarantine", "purge", other, "--yes").status == 7, "its time is not over"
    assert other.exists()
    line.must("quarantine", "purge", "--now", other, "--yes")
    assert not other.exists()
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    voyage.assert_images()


def test_what_something_needs_is_not_purged(
    make_guest: MakeGuest, line: Line, lab_host: Host, old_san: Datastore, ssd: Datastore, tmp_path: Path
) -> None:
    guest = make_guest([Disk("vda", old_san, size="32MiB", fill="4MiB")])
    old = Path(guest.disk("vda").path)
    line.must("move", guest.name, "--to", "ssd", "--keep-source", "1s")
    time.sleep(1.1)

    def refused(why: str) -> None:
        said = line.do("quarantine", "purge", old, "--yes")
        assert said.status == 7, str(said)
        assert why in said.document["purged"][0]["text"], str(said)
        assert old.exists()
        assert why in kept(line)[str(old)]["doubt"]

    # On the host: its processes are in a namespace of their own.
    words = ["sh", "-c", 'exec 3< "$1"; echo open; exec sleep 600', "sh", str(old)]
    with lab_host.popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().strip() == "open"
        refused("still has it open")
        holder.kill()
    other = make_guest([Disk("vda", old_san, size="32MiB")])
    mine = other.disk("vda").path
    edit(lab_host, other, mine, str(old))
    refused(f"VM {other.name} refers to it")
    alias = old_san.path / "alias"
    alias.symlink_to(old.parent)
    edit(lab_host, other, str(old), str(alias / old.name))
    refused(f"VM {other.name} refers to it (as {alias / old.name})")
    alias.unlink()
    edit(lab_host, other, str(alias / old.name), mine)
    over = Path(mine).with_name("over.qcow2")
    overlay(old, over)
    edit(lab_host, other, mine, str(over))
    refused(f"the backing chain of vda of VM {other.name} stands on it")
    edit(lab_host, other, str(over), mine)
    flat = old_san.path / f"{other.name}-template.qcow2"
    over.unlink()
    overlay(old, flat)
    refused(f"the volume {flat} stands on it")
    flat.unlink()
    line.must("quarantine", "purge", old, "--yes")
    assert not old.exists()


def test_two_disks_of_one_vm_on_one_base(make_guest: MakeGuest, line: Line, old_san: Datastore, ssd: Datastore) -> None:
    """Linked clones inside of one VM that is off: the base goes only when no disk stands on it."""
    base = old_san.path / "shared" / f"base-{time.monotonic_ns()}.qcow2"
    base.parent.mkdir(exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "32M"], check=True)
    disks = [Disk(target, old_san, size="32MiB", backing=(base, "qcow2")) for target in ("vda", "vdb")]
    guest = make_guest(disks)
    done = line.must("move", guest.name, "--disk", "vda=ssd").move
    assert base.exists(), f"vdb stands on it: {done['report']['sources']}"
    assert any("vdb" in sentence and str(base) in sentence for sentence in done["report"]["sources"])
    guest.start()
    guest.poweroff()
    line.must("move", guest.name, "--disk", "vdb=ssd")
    assert not base.exists(), "now nothing stands on it"
    base.parent.rmdir()


def test_a_kept_file_keeps_what_it_stands_on(
    make_guest: MakeGuest, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    base = old_san.path / "shared" / f"base-{time.monotonic_ns()}.qcow2"
    base.parent.mkdir(exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(base), "32M"], check=True)
    first, second = (make_guest([Disk("vda", old_san, size="32MiB", backing=(base, "qcow2"))]) for _ in range(2))
    line.must("move", first.name, "--to", "ssd", "--keep-source", "1s")
    line.must("move", second.name, "--to", "ssd")
    top = Path(first.disk("vda").path)
    assert base.exists(), f"{top}, which is in quarantine, stands on it"
    subprocess.run(["qemu-img", "check", "-q", top], check=True)
    time.sleep(1.1)
    said = line.must("quarantine", "purge", "--yes")
    assert not top.exists(), str(said)
    line.must("quarantine", "purge", "--now", base, "--yes")
    assert not base.exists()
    base.parent.rmdir()


# -- whose it is -----------------------------------------------------------------------------------------------


def test_another_manager_s_half_made_file_is_no_orphan(
    make_guest: MakeGuest, line: Line, lab_host: Host, stores: tuple[Datastore, ...], old_san: Datastore,
    ssd: Datastore, tmp_path: Path,
) -> None:  # fmt: skip
    (tmp_path / "other").mkdir()
    other = Line(lab_host, tmp_path / "other", stores)
    guest = make_guest(small_disks(old_san, 1), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    assert other.do("move", guest.name, "--to", "ssd", point="image-made:kill").status not in (0, 4, 5)
    image = str(ssd.home(guest.name) / "vda.qcow2")

    found = orphans(line)
    for path in (image, f"vm:{guest.name}"):
        assert not found[path]["removable"]
        assert "another journal" in found[path]["why"]
        assert line.do("orphans", "--remove", path, "--yes").status == 2
    line.must("orphans", "--remove-all", "--yes")
    assert Path(image).exists()
    refused = line.do("move", guest.name, "--to", "ssd")
    assert "MOVE_UNDER_WAY" in refused.codes, str(refused)

    assert image not in orphans(other), "its own journal knows it: the command above has taken it up"
    other.wait_finished()
    voyage.moved_all(ssd)
    voyage.assert_well()
    assert orphans(line) == {}
    voyage.power_off()


def test_the_files_of_a_move_under_way_are_no_orphans(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    process = line.start("move", guest.name, "--to", "ssd", "--bandwidth", "2MiB/s")
    move = line.wait_unfinished()
    line.wait_story(move, "the copy of vda began")
    assert orphans(line) == {}
    assert line.must("orphans", "--remove-all", "--yes").document["removed"] == []
    line.must("speed", move, "0")
    assert line.end(process).status == 0
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()


def lost(line: Line) -> None:
    for path in line.directory.glob("journal.db*"):
        path.unlink()


def test_an_orphan_that_a_vm_that_is_off_stands_on(
    make_guest: MakeGuest, line: Line, lab_host: Host, old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1), start=True)
    assert line.do("move", guest.name, "--to", "ssd", point="image-made:kill").status not in (0, 4, 5)
    lost(line)
    image = ssd.home(guest.name) / "vda.qcow2"
    other = make_guest([Disk("vda", old_san, size="32MiB")])
    mine = other.disk("vda").path
    over = ssd.home(other.name) / "over.qcow2"
    overlay(image, over)
    edit(lab_host, other, mine, str(over))
    assert "stands on it" in orphans(line)[str(image)]["why"]
    line.must("orphans", "--remove-all", "--abandoned", "--yes")
    assert image.exists()
    assert line.do("orphans", "--remove", image, "--abandoned", "--yes").status == 2
    edit(lab_host, other, str(over), mine)
    flat = ssd.path / f"{other.name}-flat.qcow2"
    over.unlink()
    overlay(image, flat)
    assert f"the volume {flat} stands on it" in orphans(line)[str(image)]["why"]
    flat.unlink()
    line.must("orphans", "--remove-all", "--abandoned", "--yes")
    assert not image.exists()
    assert orphans(line) == {}
    guest.destroy()


def test_another_s_file_beside_an_old_marker_is_no_orphan(
    make_guest: MakeGuest, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1), start=True)
    assert line.do("move", guest.name, "--to", "ssd", point="image-made:kill").status not in (0, 4, 5)
    lost(line)
    image = ssd.home(guest.name) / "vda.qcow2"
    somebody = image.with_name("somebody")
    somebody.write_bytes(b"somebody's")
    somebody.rename(image)
    marker = image.with_name(f"{image.name}.blockferry")
    found = orphans(line)
    assert str(image) not in found, "never another's file"
    assert "is another file" in found[str(marker)]["why"]
    assert line.do("orphans", "--remove", marker, "--yes").status == 2, "another journal's"
    line.must("orphans", "--remove-all", "--abandoned", "--yes")
    assert image.read_bytes() == b"somebody's"
    assert not marker.exists()
    assert orphans(line) == {}
    image.unlink()
    guest.destroy()


def test_a_datastore_that_cannot_be_searched_is_told(line: Line, lab_host: Host, ssd: Datastore) -> None:
    lab_host.virsh("pool-destroy", ssd.name)
    try:
        [sentence] = line.must("orphans").document["unsearched"]
    finally:
        lab_host.virsh("pool-start", ssd.name)
    assert f"{ssd.name} is not active" in sentence
    assert line.must("orphans").document["unsearched"] == []


def test_what_another_host_keeps_is_not_shown(make_guest: MakeGuest, line: Line, old_san: Datastore) -> None:
    """One journal, two hosts with the same paths: a row of another host is none of ours."""
    guest = make_guest(small_disks(old_san, 1))
    old = Path(guest.disk("vda").path)
    line.must("move", guest.name, "--to", "ssd", "--keep-source", "1s")
    time.sleep(1.1)
    said: Said = line.must("quarantine", "list")
    [row] = said.document["kept"]
    with sqlite3.connect(line.journal) as raw:
        raw.execute("UPDATE kept SET host = 'another'")
    raw.close()
    assert kept(line) == {}
    assert line.must("quarantine", "purge", "--yes").document["purged"] == []
    assert line.do("quarantine", "purge", "--now", old, "--yes").code == "NOT_IN_QUARANTINE"
    assert old.exists()
    with sqlite3.connect(line.journal) as raw:
        raw.execute("UPDATE kept SET host = ?", (row["kept"]["host"],))
    raw.close()
    line.must("quarantine", "purge", "--yes")
    assert not old.exists()
