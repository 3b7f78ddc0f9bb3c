"""What QEMU really has open behind a disk, and what is done when that is not what libvirt says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from lab import Datastore, Host
from lab.process import wait_until
from tests.system.bare import BareVm, MiB, disk_xml, holds, make_image
from tests.system.voyage import Line, listing

pytestmark = pytest.mark.lab


class MakeVm(Protocol):
    """Makes a running VM with empty disks vda, vdb ... on old-san. `driver`: more attributes of every disk's driver."""

    def __call__(self, disks: int = 1, *, driver: str = "", size: str = "32M", start: bool = True) -> BareVm: ...


@pytest.fixture
def make_vm(lab_host: Host, old_san: Datastore, ssd: Datastore, vm_name: Callable[[], str]) -> Iterator[MakeVm]:
    made: list[BareVm] = []

    def make(disks: int = 1, *, driver: str = "", size: str = "32M", start: bool = True) -> BareVm:
        name = vm_name()
        targets = ["vda", "vdb", "vdc"][:disks]
        paths = [make_image(old_san.home(name) / f"{target}.qcow2", size) for target in targets]
        vm = BareVm(lab_host, name, [disk_xml(*one, driver=driver) for one in zip(targets, paths, strict=True)])
        made.append(vm.define())
        return vm.start() if start else vm

    yield make
    for vm in made:
        vm.remove()
        for store in (old_san, ssd):
            store.clear_vm(vm.name)


def test_an_owners_pause_while_a_checkpoint_is_flushed_stays(make_vm: MakeVm, line: Line) -> None:
    """The checkpoint's own suspension was ended whosever it was."""
    vm = make_vm(size="64M")
    for at in range(24):
        vm.write("vda", 1 + at, at)
    words = [
        "move",
        vm.name,
        "--to",
        "ssd",
        "--method",
        "changed-blocks",
        "--bandwidth",
        "4MiB/s",
        "--on-break",
        "keep",
    ]
    process = line.start(*words, point="checkpoint-suspending:stop")
    line.wait_stopped(process)
    assert vm.state() == "running"
    vm.host.virsh("suspend", vm.name)
    os.kill(process.pid, signal.SIGCONT)
    line.must("speed", line.wait_unfinished(), "0")
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    assert vm.state() == "paused", line.stories()
    vm.host.virsh("resume", vm.name)


COR = "copy_on_read='on'"


def by_hand(vm: BareVm, store: Datastore, name: str) -> str:
    """A live copy without blockferry. virsh may lose its patience after the pivot: what counts is where libvirt is."""
    path = str(store.path / f"{vm.name}-{name}.qcow2")
    vm.host.virsh("blockcopy", vm.name, "vda", path, "--transient-job", "--wait", "--pivot", "--format", "qcow2")
    assert vm.sources()["vda"] == path
    return path


def test_copy_on_read_is_refused_live_and_moved_off(
    make_vm: MakeVm, line: Line, old_san: Datastore, ssd: Datastore, stores: tuple[Datastore, ...]
) -> None:
    """Two `virsh blockcopy --pivot`, or two moves, in one run: the configuration named a stale image."""
    vm = make_vm(driver=COR)
    vm.write("vda", 1, 0)
    before = vm.xml(), vm.xml(inactive=True), set(listing(stores))
    for words in ([], ["--method", "mirror"], ["--method", "snapshot"]):
        said = line.do("move", vm.name, "--to", "ssd", *words)
        assert said.status == 4, str(said)
        assert "KNOWN_DEFECT" in said.codes, str(said)
        assert "LIBVIRT_COPY_ON_READ" in said.out
    assert (vm.xml(), vm.xml(inactive=True), set(listing(stores))) == before
    first = by_hand(vm, ssd, "first")
    vm.write("vda", 2, 1)
    second = by_hand(vm, old_san, "second")
    vm.write("vda", 3, 2)
    said = line.do("move", vm.name, "--to", "ssd")
    assert "BLOCK_GRAPH" in said.codes, str(said)
    assert first in said.out
    vm.destroy()
    assert not holds(Path(second), 3, 2 * MiB, MiB), (
        "libvirt and QEMU do it right by now: the defect has a fixed version"
    )
    assert vm.lost("vda", Path(first)) == []
    for path in (first, second):
        Path(path).unlink()
    vm.remove()
    vm.disks = [disk_xml("vda", make_image(old_san.home(vm.name) / "new.qcow2"), driver=COR)]
    vm.define()
    line.must("move", vm.name, "--to", "ssd")
    assert vm.sources(inactive=True)["vda"] == str(ssd.home(vm.name) / "new.qcow2")
    assert "copy_on_read='on'" in vm.xml(inactive=True)


def behind_libvirts_back(vm: BareVm, target: str, path: Path) -> None:
    """Have QEMU go on with another image, which gets all that this disk holds, without libvirt's knowledge."""
    [root] = [one for one in vm.qmp("query-block") if one["qdev"].split("/")[3] == vm.alias(target)]
    now = os.stat(root["inserted"]["file"])
    os.chown(path, now.st_uid, now.st_gid)  # libvirt has given it back to its owner
    below = {"driver": "file", "filename": str(path), "node-name": "stray-file"}
    vm.qmp("blockdev-add", **{"driver": "qcow2", "node-name": "stray", "file": below})
    vm.qmp("blockdev-mirror", **{
        "job-id": "stray", "device": root["inserted"]["node-name"], "target": "stray", "sync": "full",
    })  # fmt: skip
    wait_until(lambda: vm.qmp("query-jobs")[0]["status"] == "ready", "the stray job", timeout=30)
    vm.qmp("job-complete", id="stray")
    wait_until(lambda: not vm.qmp("query-jobs"), "the end of the stray job", timeout=30)


def test_a_switch_that_qemu_has_not_made_is_an_alarm(
    make_vm: MakeVm, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    """libvirt names the new images, and QEMU writes to an old one: nothing is lost, and `resume` puts it right."""
    vm = make_vm(2)
    for target in ("vda", "vdb"):
        vm.write(target, 1, 0)
    process = line.start("move", vm.name, "--to", "ssd", "--method", "mirror", point="resumed:stop,truth-named:kill")
    line.wait_stopped(process)
    old = {target: old_san.home(vm.name) / f"{target}.qcow2" for target in ("vda", "vdb")}
    new = {target: ssd.home(vm.name) / f"{target}.qcow2" for target in ("vda", "vdb")}
    behind_libvirts_back(vm, "vda", old["vda"])
    vm.write("vda", 2, 1)
    os.kill(process.pid, signal.SIGCONT)
    said = line.end(process)
    assert said.killed, f"{said}\n{line.stories()}"
    [move] = line.unfinished()
    said = line.do("resume", move)
    assert said.code == "MOVE_PARKED", f"{said}\n{line.stories()}"
    assert "ALARM" in said.out, str(said)
    assert str(old["vda"]) in said.document["message"], str(said)
    assert vm.sources() == {target: str(path) for target, path in new.items()}, "libvirt does not know"
    vm.write("vda", 3, 2)
    vm.write("vdb", 4, 2)
    assert line.do("resume", move).code == "MOVE_PARKED", "it still is so"
    assert all(path.exists() for path in (*old.values(), *new.values()))
    assert vm.sources(inactive=True) == {"vda": str(old["vda"]), "vdb": str(new["vdb"])}
    assert line.must("quarantine", "list").document["kept"] == []
    assert line.must("orphans").document["orphans"] == []
    vm.destroy()
    assert vm.lost("vda", old["vda"]) == []
    line.must("resume", move)
    assert vm.sources(inactive=True) == {target: str(path) for target, path in new.items()}
    assert [vm.lost(target, path) for target, path in new.items()] == [[], []]
    assert not old["vda"].exists(), "it was copied again while the VM was off"
    assert old["vdb"].exists(), "it switched live, and QEMU never said that it uses the new image only"


def test_a_qemu_that_does_not_answer_is_a_doubt_and_the_old_files_stay(
    make_vm: MakeVm, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    vm = make_vm()
    vm.write("vda", 1, 0)
    process = line.start("move", vm.name, "--to", "ssd", point="resumed:stop")
    line.wait_stopped(process)
    vm.host.kill_qemu(vm.name, signal.SIGSTOP)
    os.kill(process.pid, signal.SIGCONT)
    move = line.wait_unfinished()
    try:
        line.wait_story(move, "QEMU has not answered")
    finally:
        vm.host.kill_qemu(vm.name, signal.SIGCONT)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    old = old_san.home(vm.name) / "vda.qcow2"
    assert old.exists()
    [kept] = line.must("quarantine", "list").document["kept"]
    assert kept["kept"]["path"] == str(old)
    assert "has not answered" in kept["kept"]["why"]
    vm.write("vda", 2, 1)
    vm.destroy()
    assert vm.lost("vda", ssd.home(vm.name) / "vda.qcow2") == []
