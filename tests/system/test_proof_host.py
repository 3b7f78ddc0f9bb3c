"""What other VMs name, and what cannot be looked at, on a real host: no old file goes that anybody may need.

VMs without a system and with small disks. Each case moves one and looks at what became of its old files.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from lab import Datastore, Host, Lab
from tests.system.voyage import Line, Said

pytestmark = [pytest.mark.lab, pytest.mark.always]

DOMAIN = """\
<domain type='qemu'><name>{name}</name><memory unit='MiB'>32</memory><os><type machine='pc'>hvm</type>{os}</os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>{disk}{devices}<controller type='usb' model='none'/>
<memballoon model='none'/></devices></domain>"""
FILE = (
    "<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{path}'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)
VOLUME = (
    "<disk type='volume' device='disk'><driver name='qemu' type='{format}'/><source pool='{pool}' volume='{name}'/>"
    "<target dev='vda' bus='virtio'/></disk>"
)


def image(path: Path, base: Path | None = None, format: str = "qcow2") -> Path:
    path.parent.mkdir(exist_ok=True)
    words = ["qemu-img", "create", "-q", "-f", format]
    words += ["-b", str(base), "-F", "qcow2", str(path)] if base else [str(path), "4M"]
    subprocess.run(words, check=True)
    return path


@dataclass
class Field:
    """VMs and files of one test, which are gone when it ends."""

    host: Host
    line: Line
    old: Datastore
    vm_name: Callable[[], str]
    vms: list[str] = field(default_factory=list)
    made: list[Path] = field(default_factory=list)

    def vm(self, disk: str, *, devices: str = "", os: str = "", start: bool = False) -> str:
        name = self.vm_name()
        self.vms.append(name)
        self.host.virsh("define", "/dev/stdin", stdin=DOMAIN.format(name=name, disk=disk, devices=devices, os=os))
        if start:
            self.host.virsh("start", name)
        return name

    def image(self, path: Path, base: Path | None = None, format: str = "qcow2") -> Path:
        self.made.append(image(path, base, format))
        return path

    def of_file(self, path: Path, base: Path | None = None, format: str = "qcow2", **options: bool) -> str:
        """A VM with one disk, which is made."""
        return self.vm(FILE.format(path=self.image(path, base, format), format=format), **options)  # type: ignore[arg-type]

    def move(self, name: str, *words: str) -> str:
        """Move it; what is said of its old files."""
        said = self.line.must("move", name, "--to", "ssd", *words)
        return "\n".join(said.move["report"]["sources"])

    def purge(self, path: Path) -> Said:
        return self.line.do("quarantine", "purge", str(path), "--now", "--yes")

    def undefine(self, name: str) -> None:
        self.host.virsh("destroy", name, check=False)
        self.host.virsh("undefine", name, check=False)


@pytest.fixture
def case(lab_host: Host, line: Line, old_san: Datastore, ssd: Datastore, vm_name: Callable[[], str]) -> Iterator[Field]:
    found, before = Field(lab_host, line, old_san, vm_name), set(ssd.path.iterdir())
    yield found
    for name in found.vms:
        found.undefine(name)
        ssd.clear_vm(name)
    for path in set(ssd.path.iterdir()) - before:
        path.unlink()
    for path in found.made:
        path.unlink(missing_ok=True)
        if path.parent != old_san.path and path.parent.exists() and not any(path.parent.iterdir()):
            path.parent.rmdir()


def test_a_template_that_another_vm_names_as_a_volume(case: Field, old_san: Datastore) -> None:
    template = case.image(old_san.path / "tmpl.qcow2")
    case.host.virsh("pool-refresh", "old-san")
    owner = case.vm(VOLUME.format(pool="old-san", name="tmpl.qcow2", format="qcow2"))
    for chain, start in (("flatten", True), ("copy", False)):
        clone = case.of_file(old_san.path / f"clone-{chain}" / f"{chain}.qcow2", template, start=start)
        said = case.move(clone, "--chain", chain)
        assert template.exists(), said
    # A VM's own image, which another one names as a volume, too.
    shared = old_san.path / "shared.qcow2"
    other = case.vm(VOLUME.format(pool="old-san", name="shared.qcow2", format="qcow2"))
    mover = case.of_file(shared)
    refused = case.line.do("move", mover, "--to", "ssd")
    assert (refused.status, refused.codes) == (4, ["IMAGE_USED_ELSEWHERE"]), str(refused)
    assert f"{shared} is also used by {other}" in str(refused)
    assert shared.exists()
    # The pool's own words do not count: it is off, and the directory is read all the same.
    case.undefine(other)
    case.host.virsh("pool-destroy", "old-san")
    try:
        last = case.of_file(old_san.path / "last" / "last.qcow2", template, start=True)
        said = case.move(last, "--chain", "flatten")
        assert template.exists(), said
        assert not (old_san.path / "last" / "last.qcow2").exists(), said
    finally:
        case.host.virsh("pool-start", "old-san")
    assert case.host.vm_state(owner) == "shut off"


def test_a_clone_on_a_datastore_that_is_not_mounted(
    case: Field, lab_session: Lab, old_san: Datastore, vm_name: Callable[[], str]
) -> None:
    away = lab_session.datastore("away", fs="ext4", size="64MiB")
    case.host.attach(away)
    template = old_san.path / "template" / "golden.qcow2"
    owner = case.of_file(template)
    clone = image(away.path / "clone.qcow2", template)
    user = case.vm(FILE.format(path=clone, format="qcow2"))
    case.host.virsh("pool-destroy", "away")
    away.umount()
    try:
        said = case.move(owner)
        assert template.exists(), said
        assert f"vda of VM {user} ({clone}) cannot be looked at" in said
        assert f"undefine VM {user}" in said
        purged = case.purge(template)
        assert template.exists(), str(purged)
        # Its XML without the clone: what nobody mounts and no VM names matters to what can be a base only.
        case.undefine(user)
        running = case.of_file(old_san.path / "running" / "running.qcow2", start=True)
        assert "removed" in case.move(running)
        purged = case.purge(template)
        assert template.exists(), str(purged)
        assert "virsh pool-start away" in purged.out or "virsh pool-undefine away" in purged.out, str(purged)
    finally:
        away.mount()
        case.host.virsh("pool-start", "away")
    purged = case.purge(template)
    assert template.exists(), str(purged)
    assert f"the volume {clone} stands on it" in purged.out, str(purged)
    clone.unlink()
    assert case.purge(template).status == 0
    assert not template.exists()
    case.host.detach(away)


def test_what_cannot_be_looked_at_is_a_doubt_and_no_error(case: Field, old_san: Datastore, ssd: Datastore) -> None:
    loop = old_san.path / "loop.qcow2"
    loop.symlink_to(loop)
    case.made.append(loop)
    blind = case.vm(FILE.format(path=loop, format="qcow2"))
    old = old_san.path / "seen" / "seen.qcow2"
    said = case.move(case.of_file(old, start=True))
    assert old.exists()
    assert f"vda of VM {blind} ({loop}) cannot be looked at" in said
    case.undefine(blind)
    # A pool that nobody can start, and a broken image in one that is there: neither has to do with this one.
    dead = f"<pool type='dir'><name>dead</name><target><path>{old_san.path}/no/such</path></target></pool>"
    case.host.virsh("pool-define", "/dev/stdin", stdin=dead)
    broken = old_san.path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb")
    case.made.append(broken)
    try:
        assert case.purge(old).status != 0, "it may be a base: what became of it since is not known"
        old = old_san.path / "second" / "second.qcow2"
        assert "removed" in case.move(case.of_file(old, start=True))
        assert not old.exists()
    finally:
        case.host.virsh("pool-undefine", "dead")


def test_what_vms_name_elsewhere_than_in_disks(case: Field, old_san: Datastore) -> None:
    home = old_san.path / "shared-home"
    old, kernel = home / "named.qcow2", home / "vmlinuz"
    mover = case.of_file(old)
    kernel.write_bytes(b"kernel")
    case.made.append(kernel)
    share = f"<filesystem type='mount'><source dir='{home}'/><target dir='share'/></filesystem>"
    neighbour = case.vm("", devices=share, os=f"<kernel>{kernel}</kernel>")
    said = case.move(mover)
    assert f"VM {neighbour} uses the directory {home}, which holds it" in said
    assert old.exists()
    assert kernel.exists()
    case.undefine(neighbour)
    assert case.purge(old).status == 0
    assert not old.exists()


def test_old_files_that_other_hosts_may_use_are_kept(case: Field, old_san: Datastore) -> None:
    """bindfs stands for NFS: what counts is the type of the mount, not that of the pool."""
    below, mount = old_san.path / "below", old_san.path / "net"
    for directory in (below, mount):
        directory.mkdir()
    case.host.run(["bindfs", str(below), str(mount)])  # in the host's own namespace only
    try:
        name = "net.qcow2"
        old, seen = mount / name, below / name
        image(seen)
        first = case.vm(FILE.format(path=old, format="qcow2"), start=True)
        checked = case.line.must("check", first, "--to", "ssd").document["check"]
        [said] = [one["text"] for one in checked["findings"] if one["code"] == "SOURCE_SHARED"]
        assert f"{old} lies on fuse, which other hosts may use, too" in said
        assert checked["plan"]["source"]["delete"] is False
        assert "kept, because" in case.move(first)
        assert seen.exists()
        # On the user's explicit word it goes, out of quarantine and at once.
        assert case.purge(old).status == 0
        assert not seen.exists()
        case.undefine(first)
        image(seen)
        second = case.vm(FILE.format(path=old, format="qcow2"))
        assert "removed" in case.move(second, "--delete-source")
        assert not seen.exists()
    finally:
        for vm in case.vms:
            case.undefine(vm)
        case.host.run(["umount", "-l", str(mount)], check=False)
        seen.unlink(missing_ok=True)
        for directory in (mount, below):
            directory.rmdir()
