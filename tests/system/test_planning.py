"""What is decided before anything is touched, on real files: names, directories, pools in pools. Bare VMs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from blockferry.base.units import format_size
from lab import Datastore, Host, Lab
from lab.sizes import MIB
from tests.system.voyage import Line, disk_sources

pytestmark = pytest.mark.lab

NAMES = 255
"""Bytes of the longest name that ext4 and XFS take."""


@dataclass
class Bare:
    """VMs without a system on the lab host; all that they leave is removed at the end of the test."""

    host: Host
    after: ExitStack
    number: int = 0

    def image(self, path: Path, size: str = "16M", format: str = "qcow2", fill: str = "1M") -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["qemu-img", "create", "-q", "-f", format, path, size], check=True)
        if fill:
            words = ["qemu-io", "-f", format, "-c", f"write -q -P 0x5a 0 {fill}", str(path)]
            subprocess.run(words, check=True, capture_output=True)
        return path

    def vm(
        self, disks: dict[str, Path], name: str = "", *, format: str = "qcow2", start: bool = False, driver: str = "",
        devices: str = "",
    ) -> str:  # fmt: skip
        """Define a VM with these images, of a name that no other has; `driver`: attributes of each disk's driver."""
        self.number += 1
        name = name or f"bare{os.getpid()}-{self.number}"
        words = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='{format}' {driver}/><source file='{path}'/>"
            f"<target dev='{target}' bus='virtio'/></disk>"
            for target, path in disks.items()
        )
        self.host.virsh("define", "/dev/stdin", stdin=f"""\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{words}<controller type='usb' model='none'/>
<memballoon model='none'/>{devices}</devices></domain>
""")  # fmt: skip
        self.after.callback(self.host.virsh, "undefine", name, "--checkpoints-metadata", check=False)
        self.after.callback(self.host.virsh, "destroy", name, check=False)
        if start:
            self.host.virsh("start", name, "--paused")
            self.host.virsh("resume", name)
        return name

    def sources(self, vm: str) -> dict[str, str]:
        return dict(disk_sources(self.host.virsh("dumpxml", "--inactive", vm)))


@pytest.fixture
def bare(lab_host: Host, stores: tuple[Datastore, ...]) -> Iterator[Bare]:
    with ExitStack() as after:
        before = {store: set(store.path.iterdir()) for store in stores}
        yield Bare(lab_host, after)
    for store, names in before.items():
        for path in set(store.path.iterdir()) - names:
            subprocess.run(["chattr", "-R", "-i", path], check=False, capture_output=True)
            subprocess.run(["rm", "-rf", path], check=True)


@pytest.fixture
def pool(lab_host: Host, bare: Bare) -> Callable[[str, Path], None]:
    """Defines and starts a directory pool; it is gone at the end."""

    def make(name: str, path: Path) -> None:
        xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        lab_host.virsh("pool-define", "/dev/stdin", stdin=xml)
        bare.after.callback(lab_host.virsh, "pool-undefine", name)
        bare.after.callback(lab_host.virsh, "pool-destroy", name, check=False)
        lab_host.virsh("pool-start", name)

    return make


def codes(line: Line, *words: str) -> list[str]:
    """The codes of what `check` finds."""
    return [one["code"] for one in line.do("check", *words).document["check"]["findings"]]


def test_images_named_alike_in_directories_of_their_own(
    bare: Bare, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    """OpenStack's layout: /pool/UUID/disk for every VM. The second VM is not refused, nothing lies flat as `disk`."""
    first = bare.vm({"vda": bare.image(old_san.path / "u1" / "disk"), "vdb": bare.image(old_san.path / "u2" / "disk")})
    second = bare.vm({"vda": bare.image(old_san.path / "u3" / "disk")})
    renamed = bare.vm({"vda": bare.image(old_san.path / f"{first}-former" / "disk.qcow2")})
    flat = [
        bare.vm({"vda": bare.image(old_san.path / "disk.qcow2")}),
        bare.vm({"vda": bare.image(ssd.path / "disk.qcow2")}),
    ]
    for name in (first, second, renamed, flat[0]):
        line.must("move", name, "--to", "ssd")
    assert bare.sources(first) == {
        "vda": str(ssd.home(first) / "disk.qcow2"), "vdb": str(ssd.home(first) / f"{first}-vdb.qcow2"),
    }  # fmt: skip
    assert bare.sources(second) == {"vda": str(ssd.home(second) / "disk.qcow2")}
    assert bare.sources(renamed) == {"vda": str(ssd.home(renamed) / "disk.qcow2")}
    assert bare.sources(flat[0]) == {"vda": str(ssd.path / f"{flat[0]}-vda.qcow2")}
    assert bare.sources(flat[1]) == {"vda": str(ssd.path / "disk.qcow2")}, "somebody else's file of that name"
    for name in (first, second, renamed, *flat):
        bare.host.virsh("start", name)


def test_a_pool_inside_of_another(
    bare: Bare, line: Line, old_san: Datastore, ssd: Datastore, pool: Callable[[str, Path], None]
) -> None:
    """A file belongs to the innermost pool that holds it, also through a symbolic link."""
    inner = old_san.path / "fast"
    inner.mkdir()
    link = ssd.path / "link"
    link.symlink_to(old_san.path)
    pool("fast", inner)
    pool("by-link", link)
    name = bare.vm({"vda": bare.image(inner / "vda.qcow2")})
    linked = bare.vm({"vda": bare.image(link / "fast" / "other.qcow2")})
    shown = {one["datastore"]["name"]: one for one in line.must("datastores").document["datastores"]}
    assert {name, linked} <= set(shown["fast"]["vms"])
    assert not {name, linked} & {*shown["old-san"]["vms"], *shown["by-link"]["vms"], *shown["ssd"]["vms"]}
    assert shown["fast"]["committed"] == 32 << 20
    where = {one["vm"]["name"]: one["disks"][0]["datastore"] for one in line.must("vms").document["vms"]}
    assert where[name] == where[linked] == "fast"
    for one in (name, linked):
        assert "NOTHING_TO_MOVE" in codes(line, one, "--to", "fast")
    line.must("move", linked, "--to", "old-san")
    assert bare.sources(linked) == {"vda": str(old_san.path / "other.qcow2")}
    assert "NOTHING_TO_MOVE" in codes(line, linked, "--to", "by-link")
    line.must("move", name, "--to", "by-link")
    assert bare.sources(name) == {"vda": str(link / "vda.qcow2")}
    assert list(inner.iterdir()) == []


def test_what_cannot_be_made_at_the_destination_is_found_before(
    bare: Bare, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    """Names that are too long, links that lead nowhere, a file in place of the home, a home that cannot be written."""
    long = "n" * (NAMES - 6) + ".qcow2"
    name = bare.vm({"vda": bare.image(old_san.path / long)})
    assert "NAME_SHORTENED" in codes(line, name, "--to", "ssd")
    line.must("move", name, "--to", "ssd")
    assert bare.sources(name) == {"vda": str(ssd.path / f"{name}-vda.qcow2")}

    dangling = bare.vm({"vda": bare.image(old_san.path / "dangling.qcow2")})
    (ssd.path / "dangling.qcow2").symlink_to("/nowhere/x")
    assert "NAME_TAKEN" in codes(line, dangling, "--to", "ssd")
    line.must("move", dangling, "--to", "ssd")
    assert bare.sources(dangling) == {"vda": str(ssd.path / f"{dangling}-vda.qcow2")}
    assert (ssd.path / "dangling.qcow2").is_symlink()
    assert not Path("/nowhere").exists()

    name = bare.vm({"vda": bare.image(old_san.path / "plain.qcow2")})
    home = ssd.home(name)

    def refused() -> None:
        before = sorted(map(str, ssd.path.rglob("*")))
        said = line.do("move", name, "--to", "ssd")
        assert (said.status, said.codes) == (4, ["HOME_UNUSABLE"]), str(said)
        assert sorted(map(str, ssd.path.rglob("*"))) == before

    home.write_text("somebody's")
    refused()
    home.unlink()
    home.symlink_to("/nowhere/home")
    refused()
    home.unlink()
    home.symlink_to(old_san.path)
    refused()
    home.unlink()
    home.mkdir()
    subprocess.run(["chattr", "+i", home], check=True)
    refused()
    subprocess.run(["chattr", "-i", home], check=True)
    line.must("move", name, "--to", "ssd")


# -- room ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(lab_session: Lab, lab_host: Host, bare: Bare) -> Iterator[Datastore]:
    """A datastore of its own, with an own free space."""
    store = lab_session.datastore(f"small-{time.monotonic_ns() % 10**6}", fs="ext4", size="512MiB")
    lab_host.attach(store)
    yield store
    bare.after.close()
    lab_host.detach(store)
    store.unfill()


def test_eight_moves_at_once_into_room_for_six(bare: Bare, line: Line, old_san: Datastore, small: Datastore) -> None:
    """Real processes, started together: exactly two are refused, before anything is made."""
    names = [
        bare.vm({"vda": bare.image(old_san.path / f"eight{number}" / "disk", "24M", "raw", "24M")}, format="raw")
        for number in range(8)
    ]
    wanted = line.must("check", names[0], "--to", small.name).document["check"]["space"][0]
    need = wanted["available_before"] - wanted["available_after"]
    assert 24 * MIB <= need < 27 * MIB
    small.fill(16 * MIB + 6 * need + need // 2)
    moves = [line.start("move", name, "--to", small.name, "--bandwidth", "8MiB/s") for name in names]
    said = [line.end(process) for process in moves]
    refused = [name for name, one in zip(names, said, strict=True) if one.status == 4]
    assert [one.status for one in said].count(0) == 6, "\n".join(map(str, said))
    assert all(one.codes == ["DESTINATION_FULL"] for one in said if one.status == 4)
    assert len(refused) == 2
    for name in names:
        assert bare.sources(name)["vda"].startswith(str((old_san if name in refused else small).path))
        assert small.home(name).exists() is (name not in refused)
    assert len(line.rows("SELECT id FROM moves")) == 6


def test_what_the_new_image_takes(bare: Bare, line: Line, old_san: Datastore, small: Datastore) -> None:
    """A compressed image, an ISO in the home, a thin disk of a running VM: what is promised is what happens."""
    plain = bare.image(old_san.path / "plain.raw", "256M", "raw", "120M")
    packed = old_san.path / "packed.qcow2"
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, packed], check=True)
    assert packed.stat().st_size < 8 * MIB
    name = bare.vm({"vda": packed})
    check = line.must("check", name, "--to", small.name).document["check"]
    [estimate] = check["estimates"]
    assert 120 * MIB <= estimate["copy_bytes"] <= 121 * MIB
    small.fill(100 * MIB)
    assert "DESTINATION_FULL" in codes(line, name, "--to", small.name)
    small.unfill()
    line.must("move", name, "--to", small.name)
    taken = Path(bare.sources(name)["vda"]).stat().st_blocks * 512
    assert estimate["allocated_bytes"] - 3 * MIB < taken <= estimate["allocated_bytes"]

    thin = bare.vm({"vda": plain}, format="raw", start=True)
    check = line.must("check", thin, "--to", small.name).document["check"]
    planned = check["estimates"][0]["copy_bytes"]
    assert 120 * MIB <= planned <= 121 * MIB
    process = line.start("move", thin, "--to", small.name, "--bandwidth", "60MiB/s")
    totals = set()
    while process.poll() is None:
        for move in line.unfinished():
            totals |= {disk["total"] for disk in line.progress(move).get("disks", []) if disk["total"]}
        time.sleep(0.1)
    done = line.end(process)
    assert done.status == 0, str(done)
    assert max(totals) <= planned, totals
    assert planned - MIB <= done.move["report"]["bulk_bytes"] <= planned
    taken = Path(bare.sources(thin)["vda"]).stat().st_blocks * 512
    assert taken <= check["estimates"][0]["allocated_bytes"]


def test_an_iso_in_the_home_takes_room(bare: Bare, line: Line, old_san: Datastore, small: Datastore) -> None:
    """It goes along with the image; 250 MiB of it were not counted."""
    home = old_san.path / f"iso{os.getpid()}"
    image = bare.image(home / "vda.qcow2")
    iso = home / "tools.iso"
    iso.write_bytes(os.urandom(MIB) * 40)
    cd = f"<disk type='file' device='cdrom'><source file='{iso}'/><target dev='sda' bus='sata'/><readonly/></disk>"
    name = bare.vm({"vda": image}, home.name, devices=cd)
    check = line.must("check", name, "--to", small.name).document["check"]
    [room] = check["space"]
    taken = room["available_before"] - room["available_after"]
    assert iso.stat().st_size <= taken <= iso.stat().st_size + check["estimates"][0]["allocated_bytes"] + MIB
    small.fill(20 * MIB)
    assert "DESTINATION_FULL" in codes(line, name, "--to", small.name)
    small.unfill()
    line.must("move", name, "--to", small.name)
    arrived = small.home(name) / iso.name
    assert f"<source file='{arrived}'" in bare.host.virsh("dumpxml", "--inactive", name)
    assert not iso.exists()
    assert arrived.stat().st_blocks * 512 >= 40 * MIB


def test_free_space_is_one_number(bare: Bare, line: Line, old_san: Datastore, small: Datastore) -> None:
    """What a user without privileges may write; libvirt counts what is reserved for root as free."""
    device = bare.host.run(["findmnt", "-no", "SOURCE", str(small.path)]).stdout.strip()
    subprocess.run(["tune2fs", "-m", "20", device], check=True, capture_output=True)
    space = os.statvfs(small.path)
    free = space.f_bavail * space.f_frsize
    assert space.f_bfree * space.f_frsize - free > 64 * MIB
    name = bare.vm({"vda": bare.image(old_san.path / "one.qcow2")})
    shown = {one["datastore"]["name"]: one["datastore"] for one in line.must("datastores").document["datastores"]}
    check = line.must("check", name, "--to", small.name).document["check"]["space"]
    assert shown[small.name]["available"] == check[0]["available_before"] == free
    told = [one["text"] for one in line.do("doctor").document["checks"] if one["area"] == "datastores"]
    assert any(f"{small.name} (" in text and f"{format_size(free)} of" in text for text in told), (told, free)
    small.fill(0)
    assert "DESTINATION_FULL" in codes(line, name, "--to", small.name)
    shown = {one["datastore"]["name"]: one["datastore"] for one in line.must("datastores").document["datastores"]}
    assert shown[small.name]["available"] < MIB
    told = [one["text"] for one in line.do("doctor").document["checks"] if one["area"] == "datastores"]
    assert any(f"{small.name} (dir) is full" in text for text in told), told


# -- jobs ------------------------------------------------------------------------------------------------------


def findings(line: Line, *words: str) -> list[tuple[str, str, str]]:
    """(code, text, remedy) of each error that `check` finds."""
    said = line.do("check", *words)
    assert "check" in said.document, str(said)
    found = said.document["check"]["findings"]
    return [(one["code"], one["text"], one["remedy"]) for one in found if one["severity"] == "error"]


def test_a_vm_that_is_being_moved_is_told_by_one_sentence(bare: Bare, line: Line, old_san: Datastore) -> None:
    """And none about our own job, mark and images."""
    path = bare.image(old_san.path / "moving" / "vda.raw", "64M", "raw", "48M")
    name = bare.vm({"vda": path}, format="raw", start=True)
    process = line.start("move", name, "--to", "ssd", "--bandwidth", "1MiB/s")
    move = line.wait_unfinished()
    line.wait_story(move, "copy")
    [(code, text, remedy)] = findings(line, name, "--to", "old-san")
    assert code == "MOVE_UNDER_WAY"
    assert text.startswith(f"{name} is already being moved to ssd ({move}"), text
    assert remedy == f"Follow: `blockferry watch {name}`. Stop: `blockferry cancel {name}`."
    said = line.do("move", name, "--to", "ssd")
    assert said.codes == ["MOVE_UNDER_WAY"], str(said)
    line.must("cancel", name)
    assert line.end(process).status != 0
    assert findings(line, name, "--to", "ssd") == []


def test_the_command_that_is_named_ends_the_job(bare: Bare, line: Line, old_san: Datastore) -> None:
    base = bare.image(old_san.path / "jobs" / "base.qcow2", "64M", fill="48M")
    top = old_san.path / "jobs" / "top.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    name = bare.vm({"vda": top}, start=True)
    host = bare.host
    begin = {
        "copy": ["blockcopy", name, "vda", str(old_san.path / "jobs" / "copy"), "--transient-job", "--bandwidth", "1"],
        "pull": ["blockpull", name, "vda", "--bandwidth", "1"],
    }
    for kind, words in begin.items():
        host.virsh(*words)
        found = findings(line, name, "--to", "ssd")
        remedies = [remedy for code, _, remedy in found if code in ("JOB_ON_DISK", "JOB_ON_VM")]
        assert remedies, (kind, found)
        [command] = {one.split("end it: `virsh ")[1].rstrip("`.") for one in remedies}
        host.virsh(*command.split())
        assert not any(code.startswith("JOB") for code, _, _ in findings(line, name, "--to", "ssd")), kind


# -- going back to where an old disk is kept -------------------------------------------------------------------


def kept(line: Line) -> set[str]:
    return {one["kept"]["path"] for one in line.must("quarantine", "list").document["kept"]}


def changed_copy(path: Path, copy: Path, format: str) -> Path:
    """Write a megabyte into an image, as the VM would, and keep a copy of it."""
    words = ["qemu-io", "-f", format, "-c", "write -q -P 0x77 5M 1M", str(path)]
    subprocess.run(words, check=True, capture_output=True)
    subprocess.run(["cp", "--sparse=always", path, copy], check=True)
    return copy


def same_content(path: Path, other: Path, format: str) -> bool:
    """The second opinion."""
    words = ["qemu-img", "compare", "-U", "-f", format, "-F", format, str(path), str(other)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


def test_an_old_disk_in_quarantine_is_named_as_what_it_is(bare: Bare, line: Line, old_san: Datastore) -> None:
    old = bare.image(old_san.path / "k1" / "vda.qcow2", "64M", fill="32M")
    name = bare.vm({"vda": old})
    line.must("move", name, "--to", "ssd", "--keep-source", "7d")
    back = old_san.home(name)
    check = line.must("check", name, "--to", "old-san").document["check"]
    [told] = [one for one in check["findings"] if one["code"] == "KEPT_HERE"]
    assert str(old) in told["text"]
    for command in (
        "--use-kept",
        f"`blockferry quarantine restore {old}`",
        f"`blockferry quarantine purge {old} --now`",
    ):
        assert command in told["remedy"]
    line.must("move", name, "--to", "old-san")
    assert bare.sources(name) == {"vda": str(back / "vda.qcow2")}
    assert kept(line) == {str(old)}, "it stays what it was"
    line.must("quarantine", "purge", str(old), "--now", "--yes")


@pytest.mark.parametrize(("format", "where"), [("qcow2", "syncing-base"), ("raw", "base-synced")])
def test_only_what_differs_is_written_into_an_old_disk(
    format: str, where: str, bare: Bare, line: Line, old_san: Datastore, tmp_path: Path
) -> None:
    """Killed in the middle: quarantine never calls the half-synced file an old disk; the next command ends the move."""
    runs = where == "base-synced"
    name = f"bare{os.getpid()}-k-{where}-{format}"
    old = bare.image(old_san.home(name) / f"vda.{format}", "96M", format, "80M")
    bare.vm({"vda": old}, name, format=format)
    line.must("move", name, "--to", "ssd", "--keep-source", "7d")
    assert kept(line) == {str(old)}
    inode = old.stat().st_ino
    new = Path(bare.sources(name)["vda"])
    copy = changed_copy(new, tmp_path / "copy", format)
    if runs:
        bare.host.virsh("start", name)
    codes_ = codes(line, name, "--to", "old-san", "--use-kept")
    assert "KEPT_USED" in codes_, codes_
    assert kept(line) == {str(old)}, "check takes nothing"
    said = line.do("move", name, "--to", "old-san", "--use-kept", point=f"{where}:kill")
    assert said.killed, str(said)
    assert str(old) not in {row[0] for row in line.rows("SELECT path FROM kept")}
    [move] = line.unfinished()
    assert line.do("quarantine", "purge", str(old), "--now", "--yes").status != 0
    line.do("resume", move)
    line.wait_finished()
    done = line.wait_finished_of(name)
    assert done["state"] == "moved", line.stories()
    assert bare.sources(name) == {"vda": str(old)}
    assert old.stat().st_ino == inode
    assert same_content(old, copy, format)
    assert not old.with_name(old.name + ".blockferry").exists()
    story = "\n".join(line.story(move))
    written = [text for text in line.story(move) if "written (" in text]
    assert written, story
    assert all(float(one.split(" on both sides, ")[1].split()[0]) <= 1.5 or "KiB" in one for one in written), story
    assert str(old) not in kept(line)


# -- what a format change loses --------------------------------------------------------------------------------


def test_bitmaps_of_a_backup_program_are_not_lost_without_a_word(bare: Bare, line: Line, old_san: Datastore) -> None:
    path = bare.image(old_san.path / "bitmaps" / "vda.qcow2")
    subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", path, "backup-0"], check=True)
    name = bare.vm({"vda": path})
    found = line.must("check", name, "--to", "ssd", "--format", "raw").document["check"]["findings"]
    [told] = [one for one in found if one["code"] == "BITMAPS_LOST"]
    assert told["severity"] == "warning"
    assert "backup-0" in told["text"]
    assert "BITMAPS_LOST" not in codes(line, name, "--to", "ssd")
    line.must("move", name, "--to", "ssd")
    told_by_qemu = subprocess.run(
        ["qemu-img", "info", "-U", bare.sources(name)["vda"]], capture_output=True, text=True, check=True
    )
    assert "backup-0" in told_by_qemu.stdout


@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_bitmaps_in_every_layer_go_along_with_their_layers(
    bare: Bare, line: Line, old_san: Datastore, running: bool
) -> None:
    """Found by the zoo: `--chain keep` and `copy` copied the layers without their bitmaps, and said nothing."""
    base = bare.image(old_san.path / "layers" / "base.qcow2")
    top = old_san.path / "layers" / "vda.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top], check=True)
    for path in (base, top):
        subprocess.run(["qemu-img", "bitmap", "--add", "-f", "qcow2", path, f"backup-of-{path.stem}"], check=True)
    name = bare.vm({"vda": top}, start=running)
    asked = (name, "--to", "ssd", "--chain", "keep")
    assert "BITMAPS_LOST" not in codes(line, *asked)
    line.must("move", *asked)
    new = bare.sources(name)["vda"]
    if running:  # QEMU writes them at its end
        bare.host.virsh("destroy", name)
    said = subprocess.run(["qemu-img", "info", "--backing-chain", new], capture_output=True, text=True, check=True)
    assert "backup-of-vda" in said.stdout
    assert "backup-of-base" in said.stdout


def test_a_libvirt_that_does_not_answer_is_named_before_the_plan_and_in_every_phase(
    bare: Bare, line: Line, old_san: Datastore
) -> None:
    """libvirtd is frozen: while `check` connects, while a move is prepared, and while it copies."""
    name = bare.vm({"vda": bare.image(old_san.path / "frozen.qcow2")}, start=True)
    with _frozen_libvirtd(bare.host):
        process = line.start("check", name, "--to", "ssd")
        _wait_line(process.stderr, "waiting for libvirt to accept the connection, ")
    assert line.end(process).status == 0
    process = line.start("move", name, "--to", "ssd", point="marked:stop,copy-started:stop")
    for phase in ("prepare", "copy"):
        line.wait_stopped(process)
        with _frozen_libvirtd(bare.host):
            os.kill(process.pid, signal.SIGCONT)
            said = json.loads(_wait_line(process.stdout, '"note":"waiting for libvirt to '))
            assert (said["kind"], said["progress"]["phase"]) == ("progress", phase)
    assert line.end(process).status == 0


@contextmanager
def _frozen_libvirtd(host: Host) -> Iterator[None]:
    host.kill_libvirtd(signal.SIGSTOP)
    try:
        yield
    finally:
        host.kill_libvirtd(signal.SIGCONT)


def _wait_line(stream: IO[str] | None, text: str) -> str:
    """The first line that holds the text; the test's own limit of time ends a wait in vain."""
    assert stream is not None
    seen = []
    for one in stream:
        seen.append(one)
        if text in one:
            return one
    raise AssertionError(f"no line with {text!r} in {seen}")
