"""Who owns what a move makes: with libvirt's default settings, and with dynamic_ownership = 0."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab import Datastore, Host, Lab
from tests.system.voyage import Line

pytestmark = pytest.mark.lab

USER, GROUP = 1000, 100
ACL = "system.posix_acl_access"
LIVE = ("mirror", "changed-blocks", "snapshot")
_numbers = itertools.count(1)


def _acl(user: int) -> bytes:
    """u::rw- u:USER:rw- g::r-- m::rw- o::---, as the kernel has it (include/uapi/linux/posix_acl_xattr.h)."""
    nobody = 0xFFFFFFFF
    entries = [(0x01, 6, nobody), (0x02, 6, user), (0x04, 4, nobody), (0x10, 6, nobody), (0x20, 0, nobody)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def owner(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode & 0o7777


@dataclass
class Bare:
    """A VM without a guest system: QEMU runs, and has its disk open."""

    host: Host
    name: str
    image: Path

    def define(self, more: str = "", label: str = "") -> None:
        self.host.virsh(
            "define", "/dev/stdin",
            stdin=f"""\
<domain type='qemu'>
  <name>{self.name}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>{more}
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{self.image}'>{label}</source>
      <target dev='vda' bus='virtio'/>
    </disk>
    <controller type='usb' model='none'/><memballoon model='none'/>
  </devices>
</domain>""",
        )  # fmt: skip

    def xml(self, *words: str) -> str:
        return self.host.virsh("dumpxml", self.name, *words)


@pytest.fixture
def bare(lab_session: Lab) -> Iterator[list[Bare]]:
    """VMs to be taken away at the end."""
    made: list[Bare] = []
    yield made
    for vm in made:
        vm.host.run(["virsh", "-q", "destroy", vm.name], check=False)
        vm.host.run(["virsh", "-q", "undefine", vm.name, "--nvram", "--managed-save"], check=False)
        for store in lab_session.datastores.values():
            store.clear_vm(vm.name)


def make(bare: list[Bare], host: Host, store: Datastore, uid: int, gid: int, mode: int, home: int | None) -> Bare:
    """A VM's image with this owner and mode, in a home of that mode and owner, or flat."""
    name = f"own{next(_numbers):02}"
    directory = store.home(name) if home is not None else store.path
    if home is not None:
        directory.mkdir()
        os.chown(directory, uid, gid)
        directory.chmod(home)
    vm = Bare(host, name, directory / f"{name}-vda.qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(vm.image), "8M"], check=True)
    os.chown(vm.image, uid, gid)
    vm.image.chmod(mode)
    bare.append(vm)
    return vm


def move(line: Line, vm: Bare, store: Datastore, *words: str) -> Path:
    """Move it; where its image is then."""
    line.must("move", vm.name, "--to", store.name, *words)
    vm.image = store.path / vm.image.relative_to(vm.image.parent.parent if vm.image.parent.name == vm.name
                                                 else vm.image.parent)  # fmt: skip
    for inactive in ((), ("--inactive",)):
        assert f"'{vm.image}'" in vm.xml(*inactive), vm.xml(*inactive)
    return vm.image


@pytest.mark.parametrize("method", LIVE)
def test_a_running_vm_keeps_the_owners_of_its_files(
    bare: list[Bare], lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore, method: str
) -> None:
    """libvirt gives the image to QEMU's user while it runs and back to its owner afterwards, at the destination too."""
    vm = make(bare, lab_host, old_san, USER, GROUP, 0o660, home=0o2775)
    os.setxattr(vm.image, ACL, _acl(4242))
    os.setxattr(vm.image, "user.note", b"of the owner")
    mode = owner(vm.image)[2]
    vm.define()
    lab_host.virsh("start", vm.name)
    assert owner(vm.image)[:2] == (lab_host.qemu_owner.uid, lab_host.qemu_owner.gid)
    image = move(line, vm, ssd, "--method", method)
    assert owner(image)[:2] == (lab_host.qemu_owner.uid, lab_host.qemu_owner.gid)
    assert owner(image.parent) == (USER, GROUP, 0o2775)
    lab_host.virsh("destroy", vm.name)
    assert owner(image) == (USER, GROUP, mode)
    assert os.getxattr(image, ACL) == _acl(4242)
    assert os.getxattr(image, "user.note") == b"of the owner"
    lab_host.virsh("start", vm.name)


def test_a_vm_that_is_off_keeps_the_owners_of_its_files(
    bare: list[Bare], lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    """Its home is one that QEMU's group passes: from another the VM would not start, and its move is refused."""
    group = lab_host.qemu_owner.gid
    vm = make(bare, lab_host, old_san, USER, group, 0o640, home=0o2750)
    shutil.copy(vm.image, vm.image.parent / "notes.txt")
    os.chown(vm.image.parent / "notes.txt", USER, 0)
    vm.define()
    image = move(line, vm, ssd)
    assert owner(image) == (USER, group, 0o640)
    assert owner(image.parent) == (USER, group, 0o2750)


def test_a_new_home_is_as_the_pool_says(
    bare: list[Bare], lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    """A VM whose files lie flat in the pool has no old home to take the owner of."""
    vm = make(bare, lab_host, old_san, 0, 0, 0o600, home=None)
    vm.define()
    before = owner(ssd.path)
    os.chown(ssd.path, 0, lab_host.qemu_owner.gid)
    ssd.path.chmod(0o750)
    try:
        image = move(line, vm, ssd)
    finally:
        os.chown(ssd.path, *before[:2])
        ssd.path.chmod(before[2])
    assert owner(image) == (0, 0, 0o600)
    assert owner(ssd.home(vm.name)) == (0, lab_host.qemu_owner.gid, 0o750)


@pytest.mark.parametrize("method", LIVE)
def test_a_disk_that_libvirt_must_not_relabel(
    bare: list[Bare], lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore, method: str
) -> None:
    """QEMU's user opens the copy by what its owner and mode permit, and both configurations keep the label."""
    label = "<seclabel model='dac' relabel='no'/>"
    vm = make(bare, lab_host, old_san, USER, lab_host.qemu_owner.gid, 0o660, home=0o755)
    vm.define(label=label)
    lab_host.virsh("start", vm.name)
    image = move(line, vm, ssd, "--method", method)
    assert owner(image) == (USER, lab_host.qemu_owner.gid, 0o660)
    for words in ((), ("--inactive",)):
        assert "<seclabel model='dac' relabel='no'/>" in vm.xml(*words).split("<disk")[1].split("</disk>")[0]
    lab_host.virsh("destroy", vm.name)
    lab_host.virsh("start", vm.name)
    assert owner(image) == (USER, lab_host.qemu_owner.gid, 0o660)


def test_a_vm_whose_qemu_runs_as_somebody_else(
    bare: list[Bare], lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore
) -> None:
    vm = make(bare, lab_host, old_san, USER, GROUP, 0o600, home=0o700)
    vm.define(more=f"<seclabel type='static' model='dac' relabel='no'><label>+{USER}:+{GROUP}</label></seclabel>")
    lab_host.virsh("start", vm.name)
    image = move(line, vm, ssd)
    assert owner(image) == (USER, GROUP, 0o600)
    assert owner(image.parent) == (USER, GROUP, 0o700)
    lab_host.virsh("destroy", vm.name)
    lab_host.virsh("start", vm.name)


@pytest.fixture(scope="module")
def fixed(lab_session: Lab, old_san: Datastore, ssd: Datastore) -> Iterator[Host]:
    """A host on which libvirt changes no owner."""
    host = lab_session.host("kvm-own", profile="fixed")
    host.attach(old_san)
    host.attach(ssd)
    yield host
    host.power_loss()


@pytest.mark.parametrize("words", [*(("--method", method) for method in LIVE), ("--verify",)], ids=" ".join)
def test_without_dynamic_ownership(
    bare: list[Bare], fixed: Host, tmp_path: Path, old_san: Datastore, ssd: Datastore, words: tuple[str, ...]
) -> None:
    mine = fixed.qemu_owner
    vm = make(bare, fixed, old_san, mine.uid, mine.gid, 0o600, home=0o750)
    vm.define()
    fixed.virsh("start", vm.name)
    line = Line(fixed, tmp_path, (old_san, ssd))
    image = move(line, vm, ssd, *words)
    assert owner(image) == (mine.uid, mine.gid, 0o600)
    assert owner(image.parent) == (mine.uid, mine.gid, 0o750)
    fixed.virsh("destroy", vm.name)
    fixed.virsh("start", vm.name)
    fixed.virsh("destroy", vm.name)
    image = move(line, vm, old_san)
    assert owner(image) == (mine.uid, mine.gid, 0o600)
    fixed.virsh("start", vm.name)


def test_what_qemu_cannot_reach_is_refused(
    bare: list[Bare], lab_session: Lab, lab_host: Host, line: Line, old_san: Datastore
) -> None:
    """A pool below a directory that QEMU's user cannot pass; tried on the host as that user."""
    closed = lab_session.datastore("closed", fs="dir")
    inner = closed.path / "pool"
    inner.mkdir()
    closed.path.chmod(0o700)
    lab_host.virsh("pool-define-as", "inner", "dir", "--target", str(inner))
    lab_host.virsh("pool-start", "inner")
    vm = make(bare, lab_host, old_san, 0, 0, 0o644, home=0o755)
    vm.define()
    try:
        for start in (False, True):
            if start:
                lab_host.virsh("start", vm.name)
            said = line.do("check", vm.name, "--to", "inner")
            errors = [one for one in said.document["check"]["findings"] if one["severity"] == "error"]
            assert [error["code"] for error in errors] == ["QEMU_CANNOT_REACH"], str(said)
            assert f"cannot pass {closed.path}:" in errors[0]["text"], str(said)
            assert f"user {lab_host.qemu_owner.uid}" in errors[0]["text"], str(said)
        told = [one["text"] for one in line.do("doctor").document["checks"] if one["area"] == "datastores"]
        assert [one for one in told if str(closed.path) in one and "cannot pass" in one], told
        os.chown(closed.path, 0, lab_host.qemu_owner.gid)
        closed.path.chmod(0o710)
        assert line.do("check", vm.name, "--to", "inner").status == 0
    finally:
        lab_host.virsh("pool-destroy", "inner")
        lab_host.virsh("pool-undefine", "inner")
