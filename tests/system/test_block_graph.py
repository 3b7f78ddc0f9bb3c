"""What QEMU really has open behind a disk, and what is done when that is not what libvirt says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Protocol

import pytest

from lab import Datastore, Host
from tests.system.qemuio import BareVm, disk_xml, make_image
from tests.system.voyage import Line

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
    words = ["move", vm.name, "--to", "ssd", "--method", "changed-blocks", "--bandwidth", "4MiB/s", "--on-break", "keep"]
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
