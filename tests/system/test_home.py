"""The files beside a VM's disks: which of them go along, which stay, and that each VM starts afterwards.

The VMs have no system: QEMU and libvirt do not care, and a case takes seconds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import Datastore, Host, bootimage
from lab.namespaces import HostProcess
from lab.process import wait_until
from tests.system.voyage import Line, Said, disk_sources

pytestmark = pytest.mark.lab

Making = Callable[..., "Bare"]
CDROM = "<target dev='sda' bus='sata'/><readonly/>"
FLOPPY = "<target dev='fda' bus='fdc'/>"


class Bare:
    """A VM without a system, with one small disk; the rest as each test has it."""

    def __init__(self, host: Host, name: str, home: Path) -> None:
        self.host, self.name, self.home = host, name, home
        home.mkdir(mode=0o755, exist_ok=True)

    def image(self, path: Path, size: str = "8M") -> Path:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, size], check=True)
        return path

    def file(self, name: str, content: bytes = b"", size: int = 0) -> Path:
        path = self.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.ljust(size, b"\0"))
        path.chmod(0o644)
        return path

    def define(self, disk: Path, *, os_xml: str = "", more: str = "", outside: str = "", start: bool = False) -> Bare:
        xml = (
            f"<domain type='qemu'><name>{self.name}</name><memory unit='MiB'>64</memory>{outside}"
            f"<os><type arch='x86_64' machine='pc'>hvm</type>{os_xml}</os><devices>"
            + medium(disk, "disk", "<target dev='vda' bus='virtio'/>", "qcow2")
            + f"{more}</devices></domain>"
        )
        self.host.virsh("define", "/dev/stdin", stdin=xml)
        if start:
            self.host.virsh("start", "--paused", self.name)
        return self

    def xml(self, *flags: str) -> str:
        return self.host.virsh("dumpxml", self.name, *flags)

    def disk(self, *flags: str) -> Path:
        return Path(disk_sources(self.xml(*flags))["vda"])

    def starts(self) -> None:
        """It is off, or is made to be; then it starts from its persistent configuration."""
        if self.host.vm_state(self.name) != "shut off":
            self.host.virsh("destroy", self.name)
        self.host.virsh("start", "--paused", self.name)
        self.host.virsh("destroy", self.name)

    def remove(self) -> None:
        self.host.virsh("destroy", self.name, check=False)
        self.host.virsh("undefine", self.name, "--nvram", "--snapshots-metadata", check=False)


def medium(path: Path, device: str, target: str, kind: str = "raw") -> str:
    return (
        f"<disk type='file' device='{device}'><driver name='qemu' type='{kind}'/><source file='{path}'/>{target}</disk>"
    )


def iso(label: bytes) -> bytes:
    """As much of an ISO 9660 image as its volume name takes."""
    return bytes(16 * 2048) + b"\x01CD001\x01\0" + b" " * 32 + label.ljust(32) + bytes(2048)


@pytest.fixture
def bare(lab_host: Host, old_san: Datastore, ssd: Datastore, vm_name: Callable[[], str]) -> Iterator[Making]:
    made: list[Bare] = []

    def make(name: str = "", home: Path | None = None) -> Bare:
        name = name or vm_name()
        made.append(Bare(lab_host, name, home or old_san.home(name)))
        return made[-1]

    yield make
    for bare in made:
        bare.remove()
        for store in (old_san, ssd):
            home = store.home(bare.name)
            if home.is_symlink():
                home.unlink()
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def pool(lab_host: Host) -> Iterator[Callable[..., None]]:
    made: list[str] = []

    def make(name: str, path: Path, *, active: bool = True) -> None:
        xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        lab_host.virsh("pool-define", "/dev/stdin", stdin=xml)
        made.append(name)
        if active:
            lab_host.virsh("pool-start", name)

    yield make
    for name in made:
        lab_host.virsh("pool-destroy", name, check=False)
        lab_host.virsh("pool-undefine", name, check=False)


def strangers(directory: Path) -> dict[Path, bytes]:
    """Files that no VM names, as they may lie in the directory of a datastore."""
    found = {}
    for name in ("debian-12.iso", "detached.qcow2", "notes.txt", "other-host.raw"):
        (directory / name).write_bytes(name.encode() * 100)
        found[directory / name] = name.encode() * 100
    return found


def unchanged(files: dict[Path, bytes]) -> None:
    for path, content in files.items():
        assert path.read_bytes() == content, path


def stays(said: Said) -> dict[str, str]:
    """What the plan says that stays: name -> why."""
    return {Path(one["path"]).name: one["why"] for one in said.move["plan"]["home"]["stays"]}


def stop_at(line: Line, point: str, *words: str) -> HostProcess:
    process = line.start(*words, point=f"{point}:stop")
    line.wait_stopped(process)
    return process


def go_on(line: Line, process: HostProcess) -> Said:
    process.send_signal(signal.SIGCONT)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    return said


# -- what is a home, and what is a file of it ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["active", "inactive", "link"])
def test_the_directory_of_a_datastore_is_no_home(
    kind: str, bare: Making, pool: Callable[..., None], line: Line, old_san: Datastore, vm_name: Callable[[], str]
) -> None:
    name = vm_name()
    directory = old_san.path / f"store-of-{name}" if kind == "link" else old_san.path / name
    directory.mkdir()
    if kind == "link":
        (old_san.path / name).symlink_to(directory)
    vm = bare(name)
    pool(f"pool-{name}", directory, active=kind != "inactive")
    try:
        others = strangers(directory)
        others[directory / f"{name}.xml"] = b"<domain/> as an admin has saved it"
        (directory / f"{name}.xml").write_bytes(b"<domain/> as an admin has saved it")
        disk = vm.image(vm.home / "vda.qcow2")
        vm.define(disk, more=medium(vm.home / "debian-12.iso", "cdrom", CDROM))
        done = line.must("move", name, "--to", "ssd").move
        unchanged(others)
        assert done["plan"]["home"]["source"] != str(vm.home)
        assert done["plan"]["home"]["files"] == []
        assert not disk.exists()
        vm.starts()
    finally:
        shutil.rmtree(directory)


def test_only_files_that_are_known_to_be_the_vm_s_go_along(
    bare: Making, line: Line, ssd: Datastore, vm_name: Callable[[], str]
) -> None:
    vm, other = bare(), bare()
    disk = vm.image(vm.home / "vda.qcow2")
    others = strangers(vm.home)
    others[vm.file(f"{vm.name}.xml", b"<domain/> of an admin")] = b"<domain/> of an admin"
    others[vm.file("boot/old.iso", b"not named")] = b"not named"
    config = vm.file("nocloud.iso", iso(b"cidata"))
    variables = vm.file(f"{vm.name}_VARS.fd", b"variables")
    named = vm.file("boot/rescue.iso", b"rescue", 4096)
    target = vm.file("library.iso", b"library", 4096)
    link = vm.home / "link.iso"
    link.symlink_to(target)
    vm.define(disk, more=medium(named, "cdrom", CDROM) + medium(link, "cdrom", CDROM.replace("sda", "sdb")))
    done = line.must("move", vm.name, "--to", "ssd")
    new = ssd.home(vm.name)
    unchanged(others)
    assert link.is_symlink()
    assert set(stays(done)) == {
        "debian-12.iso", "detached.qcow2", "notes.txt", "other-host.raw", f"{vm.name}.xml", "old.iso", "library.iso",
        "link.iso",
    }  # fmt: skip
    assert "symbolic link" in stays(done)["link.iso"]
    for path, where in ((config, "nocloud.iso"), (variables, variables.name), (named, "boot/rescue.iso")):
        assert not path.exists()
        assert (new / where).exists()
    assert any("the old home" in note and "stays" in note for note in done.move["report"]["notes"])
    vm.starts()
    # A directory of the VM's name that holds another VM's disk: what is only recognised stays as well.
    disk = other.image(other.home / "vda.qcow2")
    config = other.file("nocloud.iso", iso(b"config-2"))
    foreign = other.image(other.home / "of-another.qcow2")
    third = bare(home=other.home)
    third.define(foreign)
    other.define(disk)
    done = line.must("move", other.name, "--to", "ssd")
    assert set(stays(done)) == {"nocloud.iso", "of-another.qcow2"}
    assert config.exists()
    assert foreign.exists()
    third.starts()


# -- what the XML names elsewhere than in disks ----------------------------------------------------------------------


@pytest.mark.parametrize("running", [False, True])
def test_every_file_that_the_xml_names(
    running: bool, bare: Making, pool: Callable[..., None], line: Line, lab_host: Host, ssd: Datastore
) -> None:
    vm = bare()
    kernel = vm.home / "vmlinuz"
    boot = bootimage.boot()
    shutil.copy(boot.kernel, kernel)
    shutil.copy("/usr/share/seabios/bios.bin", vm.home / "bios.bin")
    files = {
        "initrd": vm.file("initrd.img", b"initrd", 4096),
        "fw_cfg": vm.file("ignition.json", b"{}"),
        "log": vm.file("serial.log", b"earlier lines\n"),
        "nvdimm": vm.file("nvdimm.raw", b"memory", 2 << 20),
        "floppy": vm.file("floppy.img", b"floppy", 1440 * 1024),
        "iso": vm.file("seed.iso", b"medium", 4096),
        "kernel": kernel,
        "bios": vm.home / "bios.bin",
    }
    content = {name: path.read_bytes() for name, path in files.items()}
    volume = vm.file("isos/volume.iso", b"volume", 4096)
    share = vm.file("share/notes.txt", b"shared").parent
    pool(f"isos-{vm.name}", volume.parent)
    vm.define(
        vm.image(vm.home / "vda.qcow2"),
        os_xml=f"<loader type='rom'>{files['bios']}</loader><kernel>{kernel}</kernel>"
        f"<initrd>{files['initrd']}</initrd>",
        outside=(
            "<maxMemory slots='2' unit='MiB'>1024</maxMemory><features><acpi/></features>"
            f"<sysinfo type='fwcfg'><entry name='opt/ignition' file='{files['fw_cfg']}'/></sysinfo>"
            "<vcpu>1</vcpu><cpu><numa><cell id='0' cpus='0' memory='64' unit='MiB'/></numa></cpu>"
        ),
        more=(
            medium(files["floppy"], "floppy", FLOPPY)
            + medium(files["iso"], "cdrom", CDROM.replace("sata", "scsi"))
            + "<controller type='scsi' model='virtio-scsi'/>"
            + f"<disk type='volume' device='cdrom'><driver name='qemu' type='raw'/><source pool='isos-{vm.name}'"
            + " volume='volume.iso'/><target dev='sdb' bus='scsi'/><readonly/></disk>"
            + f"<serial type='file'><source path='{files['log']}' append='on'/></serial>"
            + f"<filesystem type='mount'><source dir='{share}'/><target dir='share'/></filesystem>"
            + f"<memory model='nvdimm'><source><path>{files['nvdimm']}</path></source><target>"
            + "<size unit='MiB'>2</size><node>0</node></target></memory>"
        ),
        start=running,
    )
    before = vm.xml("--inactive")
    done = line.must("move", vm.name, "--to", "ssd")
    new = ssd.home(vm.name)
    gone = {"iso"} if running else set(files)
    for name, path in files.items():
        assert path.exists() is (name not in gone), f"{name}\n{done}"
        now = new / path.name if name in gone else path
        assert now.read_bytes()[: len(content[name])] == content[name], name
        assert str(now) in vm.xml("--inactive"), name
    assert volume.exists()
    assert (share / "notes.txt").exists()
    told = stays(done)
    assert {"isos", "share"} <= set(told)
    assert {files[name].name for name in set(files) - gone} <= set(told)
    if running:
        assert str(files["kernel"]) in vm.xml()
    assert without_paths(vm.xml("--inactive"), vm) == without_paths(before, vm)
    vm.starts()
    vm.starts()
    # And back, with all of it off.
    line.must("move", vm.name, "--to", "old-san")
    vm.starts()


def without_paths(xml: str, vm: Bare) -> str:
    for parent in (vm.home, Path(str(vm.home).replace("old-san", "ssd"))):
        xml = xml.replace(str(parent), "HOME")
    return xml


# -- files that change during the move -------------------------------------------------------------------------------


def test_what_changes_during_the_move_arrives_or_stays(
    bare: Making, line: Line, ssd: Datastore, old_san: Datastore
) -> None:
    vm = bare()
    floppy = vm.file("floppy.img", b"first", 1440 * 1024)
    vm.define(vm.image(vm.home / "vda.qcow2"), more=medium(floppy, "floppy", FLOPPY))
    homes = {"ssd": ssd.home(vm.name), "old-san": vm.home}

    def move(to: str, point: str, change: Callable[[], Any]) -> Said:
        process = stop_at(line, point, "move", vm.name, "--to", to)
        change()
        return go_on(line, process)

    def write(path: Path, content: bytes) -> Callable[[], Any]:
        def now() -> None:
            with path.open("r+b") as file:
                file.write(content)

        return now

    # Before the configuration points there, and after; by content, for the times may be the same.
    move("ssd", "home-copied", write(floppy, b"second"))
    new = homes["ssd"] / "floppy.img"
    assert new.read_bytes()[:6] == b"second"
    assert not floppy.exists()
    move("old-san", "config-written", write(new, b"third!"))
    assert floppy.read_bytes()[:6] == b"third!"
    assert not new.exists()
    # Between the last look and the removal.
    said = move("ssd", "home-file-aside", lambda: write(next(vm.home.glob(".*.blockferry-old")), b"fourth")())
    assert floppy.read_bytes()[:6] == b"fourth"
    assert new.read_bytes()[:6] == b"third!"
    assert any(str(floppy) in note and "changed" in note for note in said.move["report"]["notes"])
    vm.starts()
    # Both have been written to.
    floppy.unlink()
    line.must("quarantine", "purge", "--now", floppy, "--yes")
    process = stop_at(line, "config-written", "move", vm.name, "--to", "old-san")
    write(new, b"old fifth")()
    write(floppy, b"new fifth")()
    said = go_on(line, process)
    assert new.read_bytes()[:9] == b"old fifth"
    assert floppy.read_bytes()[:9] == b"new fifth"
    assert any(str(new) in note and "both are kept" in note for note in said.move["report"]["notes"])
    assert disk_of(vm, "fda") == str(floppy)
    vm.starts()


@pytest.mark.parametrize("point", ["releasing-home-file", "home-file-aside"])
def test_killed_while_an_old_file_is_removed(bare: Making, line: Line, ssd: Datastore, point: str) -> None:
    vm = bare()
    seed = vm.file("seed.iso", b"medium", 4096)
    vm.define(vm.image(vm.home / "vda.qcow2"), more=medium(seed, "cdrom", CDROM))
    killed = line.do("move", vm.name, "--to", "ssd", point=f"{point}:kill")
    assert killed.killed
    aside = point == "home-file-aside"
    assert len(list(vm.home.glob(".*.blockferry-old"))) == aside
    assert seed.exists() is not aside
    line.must("resume")
    assert not vm.home.exists(), list(vm.home.iterdir())
    assert (ssd.home(vm.name) / "seed.iso").read_bytes() == b"medium".ljust(4096, b"\0")
    vm.starts()


def test_what_somebody_writes_to_stays(bare: Making, line: Line, ssd: Datastore, lab_host: Host) -> None:
    """A program appends to a log; a floppy that the guest of a running VM may write to, or of one started meanwhile."""
    vm = bare()
    log = vm.file("serial.log", b"line\n")
    floppy = vm.file("floppy.img", b"floppy", 1440 * 1024)
    serial = f"<serial type='file'><source path='{log}' append='on'/></serial>"
    vm.define(vm.image(vm.home / "vda.qcow2"), more=medium(floppy, "floppy", FLOPPY) + serial)
    process = stop_at(line, "home-copied", "move", vm.name, "--to", "ssd")
    words = ["sh", "-c", 'exec >>"$1"; echo another line; read line; echo and one more', "sh", str(log)]
    program = lab_host.popen(words, stdin=subprocess.PIPE)
    wait_until(lambda: b"another" in log.read_bytes(), "the program to write")
    said = go_on(line, process)
    program.communicate("go on\n", timeout=60)
    assert log.read_bytes() == b"line\nanother line\nand one more\n"
    assert not (ssd.home(vm.name) / "serial.log").exists()
    assert any(str(log) in note and "open for writing" in note for note in said.move["report"]["notes"])
    assert str(log) in vm.xml("--inactive")
    vm.starts()
    # Started between the copy of its home and the configuration: the guest writes to the old floppy.
    floppy = ssd.home(vm.name) / "floppy.img"
    process = stop_at(line, "home-copied", "move", vm.name, "--to", "old-san")
    lab_host.virsh("start", "--paused", vm.name)
    said = go_on(line, process)
    assert disk_of(vm, "fda") == disk_of(vm, "fda", "--inactive") == str(floppy)
    assert floppy.exists()
    assert not (vm.home / "floppy.img").exists()
    vm.starts()
    # Running from the beginning.
    lab_host.virsh("start", "--paused", vm.name)
    said = line.must("move", vm.name, "--to", "ssd")
    assert disk_of(vm, "fda") == disk_of(vm, "fda", "--inactive") == str(floppy)
    vm.starts()


def disk_of(vm: Bare, target: str, *flags: str) -> str:
    for disk in ElementTree.fromstring(vm.xml(*flags)).iterfind("devices/disk"):
        found, source = disk.find("target"), disk.find("source")
        if found is not None and found.get("dev") == target and source is not None:
            return source.attrib["file"]
    raise AssertionError(f"{vm.name} has no {target}")


# -- links, directories that cannot go, metadata ---------------------------------------------------------------------


def test_an_image_and_a_home_behind_symbolic_links(
    bare: Making, line: Line, old_san: Datastore, ssd: Datastore, vm_name: Callable[[], str]
) -> None:
    name = vm_name()
    real = old_san.path / f"{name}-real"
    real.mkdir(mode=0o755)
    (old_san.path / name).symlink_to(real)
    far = old_san.path / f"far-{name}"
    far.mkdir(mode=0o755)
    try:
        vm = bare(name)
        behind = vm.image(far / "image.qcow2")
        link = vm.home / "vda.qcow2"
        link.symlink_to(behind)
        seed = vm.file("seed.iso", b"medium", 4096)
        vm.define(link, more=medium(seed, "cdrom", CDROM))
        done = line.must("move", name, "--to", "ssd").move
        assert not behind.exists(), "the space is given back"
        assert not link.is_symlink()
        assert any(str(behind) in sentence and "removed" in sentence for sentence in done["report"]["sources"])
        assert (old_san.path / name).is_symlink()
        assert real.is_dir()
        assert not seed.exists()
        assert any("symbolic link" in note for note in done["report"]["notes"])
        vm.starts()
        # Kept, it is purged with what it points to.
        back = ssd.home(name) / "vda.qcow2"
        behind = ssd.path / f"far-{name}.qcow2"
        shutil.move(back, behind)
        back.symlink_to(behind)
        line.must("move", name, "--to", "old-san", "--keep-source", "7d")
        assert back.is_symlink()
        line.must("quarantine", "purge", "--now", back, "--yes")
        assert not behind.exists()
        assert not back.is_symlink()
    finally:
        shutil.rmtree(far)
        shutil.rmtree(real)
        (ssd.path / f"far-{name}.qcow2").unlink(missing_ok=True)


def test_an_old_home_that_cannot_be_removed_is_a_note(bare: Making, line: Line, lab_host: Host) -> None:
    vm = bare()
    channel = "<channel type='unix'><source mode='bind' path='{}/agent'/><target type='virtio' name='a.b'/></channel>"
    third = bare()
    third.define(third.image(third.home / "vda.qcow2"), more=channel.format(third.home))
    done = line.must("move", third.name, "--to", "ssd").move
    assert third.home.is_dir(), "the VM makes a socket there at its start"
    assert any("agent" in note for note in done["report"]["notes"])
    third.starts()
    vm.define(vm.image(vm.home / "vda.qcow2"))
    lab_host.run(["mount", "--bind", str(vm.home), str(vm.home)])
    try:
        done = line.must("move", vm.name, "--to", "ssd").move
    finally:
        lab_host.run(["umount", str(vm.home)])
    assert vm.home.is_dir()
    assert list(vm.home.iterdir()) == []
    assert any(str(vm.home) in note for note in done["report"]["notes"])


@pytest.mark.parametrize("running", [False, True])
def test_no_trace_in_the_persistent_xml_and_none_in_the_home_s(
    running: bool, bare: Making, line: Line, lab_host: Host, ssd: Datastore
) -> None:
    vm = bare()
    vm.define(vm.image(vm.home / "vda.qcow2"), start=running)
    before = vm.xml("--inactive")
    done = line.must("move", vm.name, "--to", "ssd").move
    assert vm.xml("--inactive") == before.replace(str(vm.home), str(ssd.home(vm.name)))
    metadata = ssd.home(vm.name) / f"{vm.name}.xml"
    assert "urn:blockferry" not in metadata.read_text()
    assert "<metadata" not in metadata.read_text()
    vm.remove()
    lab_host.virsh("define", str(metadata))
    assert "urn:blockferry" not in vm.xml()
    assert line.must("orphans").document["orphans"] == []
    assert done["state"] == "moved"
    vm.starts()
    # A home's metadata that is not blockferry's stays as it is, also at the destination.
    saved = vm.file(f"{vm.name}.xml", b"<domain/> of an admin")
    done = line.must("move", vm.name, "--to", "old-san").move
    assert saved.read_bytes() == b"<domain/> of an admin"
    assert not metadata.exists()
    with contextlib.suppress(FileNotFoundError):
        os.remove(saved)
