"""VMs without a guest system: enough wherever only libvirt, QEMU and files matter, and there within a second.

QEMU itself writes to their disks, by its monitor's `qemu-io`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab import Datastore, Host, LabError
from lab.process import wait_until

MiB = 1024 * 1024


def make_image(path: Path, size: int | str = 32 * MiB, form: str = "qcow2", *options: str) -> Path:
    """An empty image; its directory is made, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", form, *options, str(path), str(size)], check=True)
    return path


def write_image(path: Path, pattern: int, offset: int, length: int, form: str = "qcow2") -> None:
    """Write to an image that no QEMU has open."""
    command = f"write -P {pattern} {offset} {length}"
    subprocess.run(["qemu-io", "-f", form, "-c", command, str(path)], check=True, capture_output=True)


def holds(path: Path, pattern: int, offset: int, length: int, form: str = "qcow2") -> bool:
    """Whether an image that no QEMU has open holds this pattern there."""
    command = f"read -P {pattern} {offset} {length}"
    done = subprocess.run(["qemu-io", "-f", form, "-c", command, str(path)], capture_output=True, text=True)
    return done.returncode == 0 and "Pattern verification failed" not in done.stdout


def disk_xml(target: str, path: Path, form: str = "qcow2", driver: str = "", inside: str = "") -> str:
    """A `<disk>` of a file. `driver`: more attributes of its driver; `inside`: more elements."""
    return f"""\
    <disk type='file' device='disk'>
      <driver name='qemu' type='{form}' {driver}/>
      <source file='{path}'/>
      <target dev='{target}' bus='virtio'/>
      {inside}
    </disk>
"""


@dataclass
class BareVm:
    """A persistent VM without a guest system. `disks`: whole `<disk>` elements."""

    host: Host
    name: str
    disks: list[str]
    written: dict[tuple[str, int], int] = field(default_factory=dict)  # (target, offset in MiB) -> newest pattern
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def define(self) -> BareVm:
        xml = f"""\
<domain type='qemu'>
  <name>{self.name}</name>
  <uuid>{self.uuid}</uuid>
  <memory unit='MiB'>32</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <features><acpi/></features>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
{"".join(self.disks)}
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
</domain>
"""
        self.host.virsh("define", "/dev/stdin", stdin=xml)
        return self

    def start(self) -> BareVm:
        self.host.virsh("start", self.name)
        return self

    def destroy(self) -> None:
        self.host.virsh("destroy", self.name)
        wait_until(lambda: self.state() == "shut off", "the VM to be off", timeout=30)

    def remove(self) -> None:
        undefine = ["undefine", self.name, "--nvram", "--managed-save", "--checkpoints-metadata"]
        for words in (["destroy", self.name], undefine):
            with contextlib.suppress(LabError):
                self.host.virsh(*words, check=False)

    def state(self) -> str:
        return self.host.vm_state(self.name)

    def xml(self, *, inactive: bool = False) -> str:
        return self.host.virsh("dumpxml", self.name, "--security-info", *(["--inactive"] if inactive else []))

    def sources(self, *, inactive: bool = False) -> dict[str, str]:
        words = ["domblklist", self.name, *(["--inactive"] if inactive else [])]
        pairs = (line.split(None, 1) for line in self.host.virsh(*words).splitlines() if line.strip())
        return {target: path.strip() for target, path in pairs}

    def qmp(self, command: str, **arguments: Any) -> Any:
        words = json.dumps({"execute": command, "arguments": arguments})
        answer = json.loads(self.host.virsh("qemu-monitor-command", self.name, words))
        assert "error" not in answer, answer
        return answer["return"]

    def io(self, target: str, command: str) -> str:
        """QEMU's own qemu-io on a disk, as the guest's device would write: `write -P 1 0 1M`."""
        [qdev] = [
            one["qdev"] for one in self.qmp("query-block")
            if one.get("qdev", "").split("/")[3:4] == [self.alias(target)]
        ]  # fmt: skip
        return self.host.virsh("qemu-monitor-command", self.name, "--hmp", f'qemu-io -d {qdev} "{command}"')

    def alias(self, target: str) -> str:
        """libvirt's name of the device that has this target."""
        after = self.xml().split(f"<target dev='{target}'", 1)[1]
        return after.split("<alias name='", 1)[1].split("'", 1)[0]

    def write(self, target: str, pattern: int, at_mib: int, length: int = MiB) -> None:
        """A write that QEMU has acknowledged, remembered."""
        said = self.io(target, f"write -P {pattern} {at_mib * MiB} {length}")
        assert not said.strip(), said  # what qemu-io prints goes to QEMU's own log; only errors come here
        self.written[target, at_mib] = pattern

    def lost(self, target: str, path: Path, form: str = "qcow2") -> list[int]:
        """Of the writes to this disk, those (MiB) that an image does not hold; the VM is off."""
        return [
            at for (name, at), pattern in self.written.items()
            if name == target and not holds(path, pattern, at * MiB, MiB, form)
        ]  # fmt: skip


@dataclass
class Bare(BareVm):
    """A VM with one disk, filled with data from its beginning on."""

    path: Path = Path()

    def source(self) -> str:
        """What the persistent configuration names."""
        return self.sources(inactive=True)["vda"]


@contextlib.contextmanager
def bare(
    host: Host, store: Datastore, name: str, *, mib: int = 16, kind: str = "raw", start: bool = True
) -> Iterator[Bare]:
    """A VM on `store`, gone with its files at the end."""
    path = make_image(store.home(name) / f"vda.{kind}", f"{mib}M", kind)
    write_image(path, 7, 0, mib * MiB, kind)
    vm = Bare(host, name, [disk_xml("vda", path, kind)], path=path)
    try:
        vm.define()
        if start:
            vm.start()
        yield vm
    finally:
        vm.remove()
        store.clear_vm(name)
