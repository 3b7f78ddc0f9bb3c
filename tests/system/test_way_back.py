"""Moves into an old disk that quarantine keeps (`--use-kept`): what is copied, and when the file is given back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Disk, Host
from lab.pytest_plugin import MakeGuest
from lab.sizes import MIB
from tests.system.bare import Bare, bare
from tests.system.voyage import Line, Voyage

pytestmark = pytest.mark.lab

REGION = 64 * 1024
"""What is compared, and written where it differs, in one go."""


def kept(line: Line) -> dict[str, dict[str, Any]]:
    return {one["kept"]["path"]: one for one in line.must("quarantine", "list").document["kept"]}


def in_journal(line: Line) -> set[str]:
    """What is kept, without a command of blockferry, which would take up a move that was killed."""
    return {row[0] for row in line.rows("SELECT path FROM kept")}


def codes(line: Line, *words: str) -> list[str]:
    return [one["code"] for one in line.do("check", *words).document["check"]["findings"]]


def raw(path: Path, kind: str, copy: Path) -> bytes:
    """What a guest reads from an image, by another program. A QEMU that has it open stands still."""
    subprocess.run(["qemu-img", "convert", "-U", "-f", kind, "-O", "raw", path, copy], check=True)
    return copy.read_bytes()


def differing(one: bytes, other: bytes) -> int:
    """Bytes of the regions in which two disks differ."""
    return sum(REGION for at in range(0, len(one), REGION) if one[at : at + REGION] != other[at : at + REGION])


@pytest.mark.parametrize("runs", [True, False], ids=["running", "off"])
@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_only_what_the_guest_has_written_is_copied_back(
    kind: str, runs: bool, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore,
    ssd: Datastore, tmp_path: Path,
) -> None:  # fmt: skip
    """Away, the guest writes, and back; twice killed on the way. The judge, and the second opinion."""
    disk = Disk("vda", old_san, kind, size="96MiB", fill="80MiB")
    voyage = Voyage(make_guest([disk], start=True), line, stores)
    old = voyage.where["vda"]
    inode = old.stat().st_ino
    voyage.write(rate=20)
    voyage.guest.judge.stop()
    line.must("move", voyage.name, "--to", "ssd", "--keep-source", "7d")
    before = raw(old, kind, tmp_path / "old.raw")
    new = voyage.moved("vda", ssd)
    voyage.write(rate=20)
    voyage.guest.judge.stop()
    if not runs:
        voyage.power_off()
    else:  # QEMU writes out what it holds, so that another program reads what the guest reads
        voyage.guest.host.virsh("suspend", voyage.name)
    changed = differing(before, raw(new, kind, tmp_path / "new.raw"))
    if runs:
        voyage.guest.host.virsh("resume", voyage.name)
    assert 0 < changed < 40 * MIB
    assert "KEPT_USED" in codes(line, voyage.name, "--to", "old-san", "--use-kept")
    said = line.do("move", voyage.name, "--to", "old-san", "--use-kept", point="old-disk-taken:kill")
    assert said.killed, str(said)
    assert str(old) not in in_journal(line)
    line.do("resume", voyage.name)
    done = line.wait_finished_of(voyage.name)
    assert done["state"] == "moved", line.stories()
    report = done["report"]
    print(f"{kind}, {runs=}: {changed} differed, {report}")
    slack = 4 * MIB if runs else 0  # the guest's own system writes while it runs
    assert 0 < report["rewritten_bytes"] <= changed + slack, line.stories()
    assert report["saved_bytes"] >= 40 * MIB
    voyage.where["vda"] = old
    assert old.stat().st_ino == inode
    assert str(old) not in kept(line)
    if runs:
        voyage.write(rate=20)
        voyage.assert_configured()
        voyage.assert_content()
        voyage.power_off()
    else:
        voyage.assert_images()
    assert not old.with_name(old.name + ".blockferry").exists()


# -- a move that turns back, of a VM without a system --------------------------------------------------------------


@pytest.fixture
def away(lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore) -> Iterator[Bare]:
    """A VM that is off, on the ssd; its disk of before is kept on the old SAN."""
    with bare(lab_host, old_san, f"back{os.getpid()}", mib=96, kind="qcow2", start=False) as vm:
        line.must("move", vm.name, "--to", "ssd", "--keep-source", "7d")
        yield vm
        line.do("cancel", vm.name)
        for store in (old_san, ssd):
            subprocess.run(["rm", "-rf", store.home(vm.name)], check=True)


def begin(line: Line, vm: Bare, point: str) -> str:
    """A move back that is killed at this point; its id."""
    said = line.do("move", vm.name, "--to", "old-san", "--use-kept", point=f"{point}:kill")
    assert said.killed, str(said)
    [move] = line.unfinished()
    assert str(vm.path) not in in_journal(line)
    return move


@pytest.mark.parametrize("point", ["marked", "taking-old-disk"])
def test_cancelled_before_the_first_write_it_is_an_old_disk_again(
    point: str, away: Bare, line: Line, old_san: Datastore
) -> None:
    before, content = kept(line)[str(away.path)]["kept"], away.path.read_bytes()
    begin(line, away, point)
    line.do("cancel", away.name, point="old-disk-given-back:kill")  # the move goes on at the next command
    line.do("resume", away.name)
    assert line.wait_finished_of(away.name)["state"] == "cancelled", line.stories()
    now = kept(line)[str(away.path)]
    assert now["kept"] == before
    assert not now["altered"]
    assert away.path.read_bytes() == content
    line.must("quarantine", "restore", away.name, "--yes")
    assert away.source() == str(away.path)


def test_cancelled_after_that_it_is_removed_like_any_copy(away: Bare, line: Line) -> None:
    begin(line, away, "syncing-base")
    line.do("cancel", away.name)
    assert line.wait_finished_of(away.name)["state"] == "cancelled", line.stories()
    assert str(away.path) not in kept(line)
    assert not away.path.exists()


@pytest.mark.parametrize("how", ["written to", "replaced", "used by another VM"])
def test_an_old_disk_that_somebody_has_used_meanwhile_is_left_alone(
    how: str, away: Bare, line: Line, lab_host: Host, old_san: Datastore
) -> None:
    begin(line, away, "marked")
    if how == "replaced":
        other = away.path.with_name("other.qcow2")
        subprocess.run(["cp", away.path, other], check=True)
        other.replace(away.path)
    elif how == "written to":
        words = ["qemu-io", "-f", "qcow2", "-c", "write -q -P 0x77 5M 1M", str(away.path)]
        subprocess.run(words, check=True, capture_output=True)
    content = away.path.read_bytes()
    second = f"{away.name}-2"
    if how == "used by another VM":
        xml = away.xml(inactive=True).replace(f"<name>{away.name}<", f"<name>{second}<").replace(away.uuid, "")
        xml = xml.replace("<uuid></uuid>", "").replace(away.source(), str(away.path))
        lab_host.virsh("define", "/dev/stdin", stdin=xml)
    try:
        line.do("resume", away.name)
        done = line.wait_finished_of(away.name)
        assert done["state"] == "failed", line.stories()
        assert "nothing was written to it" in "\n".join(line.story(done["id"]))
        assert away.path.read_bytes() == content
        assert kept(line)[str(away.path)]["altered"] is (how != "used by another VM")
        assert "KEPT_UNUSED" in codes(line, away.name, "--to", "old-san", "--use-kept")
        line.must("move", away.name, "--to", "old-san", "--use-kept")
        assert away.source() != str(away.path)
        assert away.path.read_bytes() == content
    finally:
        lab_host.virsh("undefine", second, check=False)


def test_an_old_disk_with_a_second_name_is_not_written_to(away: Bare, line: Line) -> None:
    """A backup by hard links holds what the file holds."""
    os.link(away.path, away.path.with_name("backup.qcow2"))
    content = away.path.read_bytes()
    assert "KEPT_UNUSED" in codes(line, away.name, "--to", "old-san", "--use-kept")
    line.must("move", away.name, "--to", "old-san", "--use-kept")
    assert away.source() != str(away.path)
    assert away.path.read_bytes() == content
