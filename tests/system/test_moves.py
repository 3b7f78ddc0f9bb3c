"""Moves that go well: every kind of image, layout and domain, judged in the guest and after a power cycle."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import Datastore, Disk
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, allocated, image_info, small_disks

pytestmark = pytest.mark.lab


@pytest.mark.parametrize(
    ("method", "kind", "layout"),
    [
        ("mirror", "qcow2", "home"),
        ("mirror", "raw", "flat"),
        ("changed-blocks", "raw", "home"),
        ("changed-blocks", "qcow2", "flat"),
    ],
)
def test_two_disks_move_live(
    method: str, kind: str, layout: str,
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    guest = make_guest(small_disks(old_san, 2, kind, layout=layout), start=True)
    voyage = Voyage(guest, line, stores, database=True)
    voyage.write()
    done = line.must("move", guest.name, "--to", "ssd", "--method", method).move
    assert done["state"] == "moved"
    assert done["plan"]["method"] == method
    assert done["report"]["bulk_bytes"] >= 32 << 20
    assert done["report"]["switch_stall_s"] is not None
    assert all("removed" in sentence for sentence in done["report"]["sources"])
    voyage.moved_all(ssd)
    voyage.assert_well()
    assert voyage.files(old_san) == set()
    assert (ssd.home(guest.name) / f"{guest.name}.xml").exists()
    guest.host.restart_libvirtd()
    voyage.assert_well()
    voyage.power_cycle()


@pytest.mark.parametrize(
    ("kind", "new", "options"),
    [
        ("qcow2", "raw", {}),
        ("raw", "qcow2", {"layout": "flat"}),
        ("qcow2", "vmdk", {}),
    ],
)
def test_the_format_changes_on_the_way(
    kind: str, new: str, options: dict[str, str],
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    guest = make_guest(small_disks(old_san, 1, kind, **options), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    line.must("move", guest.name, "--to", "ssd", "--format", new)
    path = voyage.moved("vda", ssd, new)
    voyage.assert_well()
    assert image_info(path)["format"] == new
    assert image_info(path)["virtual-size"] == guest.disk("vda").size_bytes
    voyage.power_cycle()


def test_a_transient_vm_moves(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2), persistent=False, start=True)
    voyage = Voyage(guest, line, stores, persistent=False)
    voyage.write()
    line.must("move", guest.name, "--to", "ssd")
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()
    assert guest.state() == "absent"


def test_a_paused_vm_moves_and_stays_paused(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    guest.suspend()
    for method, store in (("mirror", ssd), ("changed-blocks", old_san)):
        line.must("move", guest.name, "--to", store.name, "--method", method)
        voyage.moved_all(store)
        voyage.assert_configured("paused")
        voyage.assert_nothing_left()
    guest.resume()
    voyage.assert_well()
    voyage.power_off()


@pytest.mark.parametrize(("kind", "new"), [("qcow2", None), ("raw", None), ("raw", "qcow2")])
def test_a_vm_that_is_off_moves_cold(
    kind: str, new: str | None,
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    guest = make_guest(small_disks(old_san, 2, kind))
    voyage = Voyage(guest, line, stores)
    before = sum(map(allocated, voyage.where.values()))
    done = line.must("move", guest.name, "--to", "ssd", *(["--format", new] if new else [])).move
    assert done["plan"]["method"] == "cold"
    voyage.moved_all(ssd, new)
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    assert sum(map(allocated, voyage.where.values())) <= 1.05 * before + (2 << 20 if new else 0)
    voyage.assert_images()
    guest.start()
    voyage.write()
    voyage.assert_content()
    guest.poweroff()
    line.must("move", guest.name, "--to", "old-san")
    voyage.moved_all(old_san)
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    voyage.assert_images()


def test_one_disk_only_and_the_home_stays(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    line.must("move", guest.name, "--disk", "vdb=ssd")
    voyage.moved("vdb", ssd)
    voyage.assert_well()
    assert not (ssd.home(guest.name) / f"{guest.name}.xml").exists()
    # The other way round: all to ssd, but vdb to where vda was.
    line.must("move", guest.name, "--to", "ssd", "--disk", "vdb=old-san")
    voyage.moved("vda", ssd)
    voyage.moved("vdb", old_san)
    voyage.assert_well()
    voyage.power_cycle()


def test_the_source_is_kept_when_asked_and_can_be_removed_later(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    source = voyage.where["vda"]
    done = line.must("move", guest.name, "--to", "ssd", "--keep-source", "7d").move
    assert any(str(source) in text and "kept" in text for text in done["report"]["sources"])
    voyage.moved_all(ssd)
    voyage.assert_well(source)
    assert source.exists()
    [orphan] = [item for item in line.must("orphans").document["orphans"] if item["path"] == str(source)]
    assert orphan["kind"] == "source"
    assert orphan["vm"] == guest.name
    assert orphan["removable"]
    line.must("orphans", "--remove-all", "--yes")
    assert source.exists(), "kept on purpose"
    assert line.do("orphans", "--remove", source, "--yes").status == 2, "only `quarantine purge` lets it go"
    line.must("quarantine", "purge", "--now", source, "--yes")
    assert not source.exists()
    assert not line.must("orphans").document["orphans"]
    voyage.assert_content()


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_thin_stays_thin(
    kind: str, method: str,
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    """Scattered small writes: what is allocated at the destination is at most 1.05 x what was at the source."""
    guest = make_guest([Disk("vda", old_san, kind, size="256MiB", fill="32MiB")], start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write(rate=400, most_kib=4, random_percent=100)
    guest.judge.wait_writes(600)
    guest.judge.stop()
    guest.sh("sync")
    source = voyage.where["vda"]
    subprocess.run(["sync", "-f", source], check=True)
    before = allocated(source)
    line.must("move", guest.name, "--to", "ssd", "--method", method)
    path = voyage.moved("vda", ssd)
    after = allocated(path)
    assert before < (200 << 20)
    assert after <= 1.05 * before, f"{after} bytes at the destination, {before} at the source ({after / before:.3f} x)"
    voyage.write()
    voyage.assert_well()
    voyage.power_off()


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_thick_is_allocated_in_full(
    kind: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1, kind), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    line.must("move", guest.name, "--to", "ssd", "--provision", "thick")
    path = voyage.moved("vda", ssd)
    assert allocated(path) >= guest.disk("vda").size_bytes
    voyage.assert_well()
    # "same", the default: a raw file that is allocated in full stays so; a qcow2 file is not told from one that
    # has merely grown, and only takes what it holds.
    line.must("move", guest.name, "--to", "old-san")
    path = voyage.moved("vda", old_san)
    assert (allocated(path) >= guest.disk("vda").size_bytes) == (kind == "raw")
    voyage.assert_well()
    voyage.power_off()


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize(
    ("kind", "new", "size"),
    [
        ("qcow2", "raw", (32 << 20) + 512),
        ("raw", "qcow2", (32 << 20) + 512),
        ("raw", "raw", (32 << 20) + 4096 + 512),
        ("raw", "raw", (32 << 20) + 100),
        ("qcow2", "qcow2", (32 << 20) + 1024),
    ],
)
@pytest.mark.parametrize("method", ["mirror", "changed-blocks", "cold"])
def test_the_size_is_kept_to_the_byte(
    kind: str, new: str, size: int, method: str,
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    """Sizes that are no multiple of 64 KiB, of 4096, of 512; the last bytes of the disk come along."""
    if method == "changed-blocks" and kind == new == "qcow2":
        pytest.skip("covered by the other four")
    live = method != "cold"
    guest = make_guest([Disk("vda", old_san, kind, size=size)], start=live)
    voyage = Voyage(guest, line, stores)
    visible = -(-size // 512) * 512
    if live:
        assert int(guest.sh("blockdev --getsize64 /dev/vda 2>/dev/null || cat /sys/block/vda/size")) in (
            visible, visible // 512,
        )  # fmt: skip
        tail = f"dd if=/dev/vda bs=512 skip={visible // 512 - 1} 2>/dev/null"
        guest.sh(f"printf 'the last bytes' | dd of=/dev/vda bs=512 seek={visible // 512 - 1} conv=notrunc,sync; sync")
        voyage.write()
    line.must("move", guest.name, "--to", "ssd", "--format", new, "--method", method)
    path = voyage.moved("vda", ssd, new)
    assert image_info(path)["virtual-size"] == visible
    if live:
        assert guest.sh(f"{tail} | head -c 14") == "the last bytes"
        voyage.assert_well()
    else:
        voyage.assert_configured("shut off")
        voyage.assert_nothing_left()
        voyage.assert_images()


def test_a_chain_is_flattened(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 2, overlays=2), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    line.must("move", guest.name, "--to", "ssd")
    voyage.moved_all(ssd)
    voyage.assert_well()
    assert "backing-filename" not in image_info(voyage.where["vda"])
    assert voyage.files(old_san) == set()
    voyage.power_cycle()


def test_a_chain_is_kept(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore
) -> None:
    guest = make_guest(small_disks(old_san, 1, overlays=1), start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    base = old_san.home(guest.name) / "vda-base.qcow2"
    assert base.exists()
    done = line.must("move", guest.name, "--to", "ssd", "--chain", "keep").move
    assert done["plan"]["method"] == "changed-blocks"
    path = voyage.moved("vda", ssd)
    new_base = Path(image_info(path)["full-backing-filename"])
    assert new_base.is_relative_to(ssd.path)
    voyage.assert_well(new_base)
    assert voyage.files(old_san) == set()
    voyage.power_cycle()


@pytest.mark.parametrize("chain", ["flatten", "keep"])
def test_a_template_that_others_use_stays(
    chain: str, make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
    vm_name: Callable[[], str],
) -> None:  # fmt: skip
    template = old_san.path / f"template-{chain}.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", template, "32M"], check=True)
    try:
        disks = [Disk("vda", old_san, size="32MiB", backing=(template, "qcow2"))]
        other = make_guest(disks)
        guest = make_guest(disks, start=True)
        voyage = Voyage(guest, line, stores)
        voyage.write()
        line.must("move", guest.name, "--to", "ssd", "--chain", chain)
        path = voyage.moved("vda", ssd)
        voyage.assert_well()
        assert template.exists()
        assert image_info(path).get("full-backing-filename") == (str(template) if chain == "keep" else None)
        voyage.power_cycle()
        other.start()
        other.destroy()
    finally:
        template.unlink(missing_ok=True)


def test_an_iso_in_the_home_comes_along(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
    vm_name: Callable[[], str],
) -> None:  # fmt: skip
    name = vm_name()
    iso = old_san.home(name) / "seed.iso"
    iso.parent.mkdir()
    iso.write_bytes(b"a medium".ljust(64 * 2048, b"\0"))
    cdrom = (
        f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='{iso}'/>"
        "<target dev='sda' bus='scsi'/><readonly/></disk><controller type='scsi' model='virtio-scsi'/>"
    )
    guest = make_guest(small_disks(old_san, 1), name=name, extra_devices=cdrom, start=True)
    voyage = Voyage(guest, line, stores)
    voyage.write()
    read = "dd if=/dev/sr0 bs=2048 count=1 2>/dev/null | head -c 8"
    assert guest.sh(read) == "a medium"
    line.must("move", name, "--to", "ssd")
    voyage.moved("vda", ssd)
    new = ssd.home(name) / "seed.iso"
    voyage.assert_well(new)
    assert new.read_bytes() == b"a medium".ljust(64 * 2048, b"\0")
    assert guest.sources(inactive=True)["sda"] == guest.sources()["sda"] == str(new)
    assert voyage.files(old_san) == set()
    assert guest.sh(read) == "a medium"
    voyage.power_cycle()
    assert guest.sh(read) == "a medium"
