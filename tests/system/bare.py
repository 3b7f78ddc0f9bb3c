"""VMs without a guest system: enough wherever only libvirt, QEMU and files matter, and there within a second."""

from __future__ import annotations

import contextlib
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab import Datastore, Host

_XML = """\
<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{path}'/>
<target dev='vda' bus='virtio'/></disk></devices></domain>
"""


@dataclass(frozen=True)
class Bare:
    """One VM with one disk, filled with data from its beginning on."""

    host: Host
    name: str
    uuid: str
    path: Path

    def source(self) -> str:
        """What the persistent configuration names."""
        words = self.host.virsh("domblklist", self.name, "--inactive").split()
        return words[words.index("vda") + 1]


@contextlib.contextmanager
def bare(
    host: Host, store: Datastore, name: str, *, mib: int = 16, kind: str = "raw", start: bool = True
) -> Iterator[Bare]:
    """A VM on `store`, gone with its files at the end."""
    home = store.home(name)
    home.mkdir()
    path = home / f"vda.{kind}"
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, str(path), f"{mib}M"], check=True)
    write = ["qemu-io", "-f", kind, "-c", f"write -q -P 7 0 {mib}M", str(path)]
    subprocess.run(write, check=True, stdout=subprocess.DEVNULL)
    vm = Bare(host, name, str(uuid.uuid4()), path)
    try:
        host.virsh("define", "/dev/stdin", stdin=_XML.format(name=name, uuid=vm.uuid, kind=kind, path=path))
        if start:
            host.virsh("start", name)
        yield vm
    finally:
        host.virsh("destroy", name, check=False)
        host.virsh("undefine", name, "--checkpoints-metadata", check=False)
        store.clear_vm(name)
