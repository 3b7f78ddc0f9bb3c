"""Linked clones: what stands on one template moves from one datastore to the other, the template only once.

vda, which the judge writes to, stands on an empty template; vdb and vdc on one with content, which is read inside the
guest.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import Datastore, Disk, Guest
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, image_info, listing

pytestmark = pytest.mark.lab

SIZE = 16 << 20
CLONE = (
    "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{path}'/>"
    "<target dev='{target}' bus='virtio'/></disk>"
)


@dataclass
class Golden:
    """Two templates on the old datastore, and linked clones of both."""

    old: Datastore
    new: Datastore
    make_guest: MakeGuest
    vm_name: Callable[[], str]
    line: Line
    names: tuple[str, str]
    guests: list[Guest] = field(default_factory=list)

    def templates(self, store: Datastore) -> list[Path]:
        return [store.path / name for name in self.names]

    def clone(self, *, start: bool = True) -> Voyage:
        empty, golden = self.templates(self.old)
        name = self.vm_name()
        self.old.home(name).mkdir()
        overlays = {target: self.old.home(name) / f"{target}.qcow2" for target in ("vdb", "vdc")}
        for overlay in overlays.values():
            words = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(golden), "-F", "qcow2", str(overlay)]
            subprocess.run(words, check=True)
        disk = Disk("vda", self.old, size="32MiB", backing=(empty, "qcow2"))
        devices = "".join(CLONE.format(path=path, target=target) for target, path in overlays.items())
        guest = self.make_guest([disk], name=name, extra_devices=devices, start=start)
        voyage = Voyage(guest, self.line, (self.old, self.new))
        voyage.where.update(overlays)
        voyage.formats.update(dict.fromkeys(overlays, "qcow2"))
        if start:
            voyage.write()
        self.guests.append(guest)
        return voyage

    def stands_on(self, voyage: Voyage, store: Datastore) -> bool:
        empty, golden = map(str, self.templates(store))
        found = {target: image_info(path)["full-backing-filename"] for target, path in voyage.where.items()}
        return found == {"vda": empty, "vdb": golden, "vdc": golden}


def content(guest: Guest) -> str:
    """Of both disks that hold the template's content."""
    return guest.sh("echo 3 >/proc/sys/vm/drop_caches; cat /dev/vdb /dev/vdc | md5sum").split()[0]


@pytest.fixture
def golden(
    make_guest: MakeGuest, line: Line, ssd: Datastore, old_san: Datastore, vm_name: Callable[[], str]
) -> Iterator[Golden]:
    name = vm_name()
    found = Golden(old_san, ssd, make_guest, vm_name, line, (f"{name}-empty.qcow2", f"{name}-golden.qcow2"))
    raw = line.directory / "golden.raw"
    raw.write_bytes(os.urandom(SIZE))
    empty, full = found.templates(old_san)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", empty, "32M"], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, full], check=True)
    yield found
    for guest in found.guests:
        if guest.state() != "shut off":
            guest.destroy()
    for path in (*found.templates(old_san), *found.templates(ssd)):
        path.unlink(missing_ok=True)


def codes(said: object) -> dict[str, str]:
    return {one["code"]: one["text"] for one in said.document["check"]["findings"]}  # type: ignore[attr-defined]


def test_the_second_clone_reuses_what_the_first_has_brought(golden: Golden, line: Line) -> None:
    first, second, third = golden.clone(), golden.clone(), golden.clone(start=False)
    before = content(first.guest)

    # The first one brings the templates along; the old ones stay for the others.
    to = ("move", first.name, "--to", "ssd", "--chain", "copy")
    assert line.do(*to, point="layer-named:kill").killed
    move = line.wait_unfinished()
    assert line.do("resume", move, point="layer-copied@2:kill").killed
    line.do("resume", move)
    assert line.wait_finished_of(first.name)["record"]["outcome"] == "moved"
    first.moved_all(golden.new)
    assert golden.stands_on(first, golden.new)
    assert all(path.exists() for path in golden.templates(golden.old))
    first.assert_well()
    assert content(first.guest) == before
    files = {path: path.stat() for path in golden.templates(golden.new)}

    # The second one reuses them. Killed and cancelled, it takes back what it made: not what it stood on.
    said = line.must("check", second.name, "--to", "ssd", "--chain", "keep")
    assert "compared in" in codes(said)["TEMPLATE_REUSED"]
    to = ("move", second.name, "--to", "ssd", "--chain", "keep")
    killed = line.do(*to, point="copy-started:kill")
    assert killed.killed, str(killed)
    move = line.wait_unfinished()
    line.must("cancel", move)
    assert line.wait_finished_of(second.name)["record"]["outcome"] == "cancelled"
    assert golden.stands_on(second, golden.old)
    second.assert_well()

    # Once more, now without reading them again; killed at the switch.
    said = line.must("check", second.name, "--to", "ssd", "--chain", "keep")
    assert "known" in codes(said)["TEMPLATE_REUSED"]
    killed = line.do(*to, point="pivoted-one:kill")
    assert killed.killed, str(killed)
    second.wait_running()
    line.do("resume", line.wait_unfinished())
    assert line.wait_finished_of(second.name)["record"]["outcome"] == "moved"
    second.moved_all(golden.new)
    assert golden.stands_on(second, golden.new)
    second.assert_well()
    assert content(second.guest) == before
    assert all(path.exists() for path in golden.templates(golden.old)), "the third one stands on them"

    # The last one is off. Nothing stands on the old templates any more.
    done = line.must("move", third.name, "--to", "ssd", "--chain", "keep").move
    assert done["plan"]["method"] == "cold"
    third.moved_all(golden.new)
    assert golden.stands_on(third, golden.new)
    assert not any(path.exists() for path in golden.templates(golden.old))
    third.guest.start()
    assert content(third.guest) == before

    now = {path: path.stat() for path in golden.templates(golden.new)}
    assert {path: (one.st_ino, one.st_mtime_ns, one.st_size) for path, one in now.items()} == {
        path: (one.st_ino, one.st_mtime_ns, one.st_size) for path, one in files.items()
    }
    assert line.must("orphans").document["orphans"] == []


@pytest.mark.parametrize("point", ["image-made", "suspended-to-switch"])
def test_a_template_that_changes_before_the_switch_is_not_gone_onto(golden: Golden, line: Line, point: str) -> None:
    voyage = golden.clone()
    before = content(voyage.guest)
    for path, there in zip(golden.templates(golden.old), golden.templates(golden.new), strict=True):
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", path, there], check=True)
    old = listing([golden.old])
    process = line.start(
        "move",
        voyage.name,
        "--to",
        "ssd",
        "--chain",
        "keep",
        point=f"{point}:sleep={2.5 if point == 'image-made' else 1}",
    )
    image = golden.new.home(voyage.name) / "vda.qcow2"
    if point == "image-made":
        wait_until(image.exists, "the new image", timeout=60, step=0.02)
    else:
        wait_until(lambda: voyage.guest.state() == "paused", "the switch", timeout=60, step=0.02)
    changed = golden.templates(golden.new)[1]
    with changed.open("r+b") as file:
        file.seek(SIZE // 2)
        file.write(b"somebody else's")
    said = line.end(process)
    assert said.status != 0, str(said)
    assert str(changed) in said.out
    assert line.wait_finished_of(voyage.name)["record"]["outcome"] == "failed"
    assert golden.stands_on(voyage, golden.old)
    voyage.assert_well()
    assert content(voyage.guest) == before
    assert set(listing([golden.old])) == set(old)
    assert all(path.exists() for path in golden.templates(golden.new)), "they are not ours to remove"
    again = line.do("check", voyage.name, "--to", "ssd", "--chain", "keep")
    assert "reads differently" in codes(again)["TEMPLATE_NOT_REUSED"]


def test_only_the_top_layer_moves_where_the_rest_is_shared(golden: Golden, line: Line) -> None:
    voyage = golden.clone()
    before = content(voyage.guest)
    line.must("move", voyage.name, "--to", "ssd", "--chain", "share")
    voyage.moved_all(golden.new)
    assert golden.stands_on(voyage, golden.old)
    voyage.assert_well()
    assert content(voyage.guest) == before
    assert not any(path.exists() for path in golden.templates(golden.new))
