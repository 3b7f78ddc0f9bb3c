"""What is decided before anything is touched, on real files: names, directories, pools in pools. Bare VMs."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

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
    small.fill(0)
    assert "DESTINATION_FULL" in codes(line, name, "--to", small.name)
    shown = {one["datastore"]["name"]: one["datastore"] for one in line.must("datastores").document["datastores"]}
    assert shown[small.name]["available"] < MIB
    told = [one["text"] for one in line.do("doctor").document["checks"] if one["area"] == "datastores"]
    assert any(f"{small.name} is full" in text for text in told), told
