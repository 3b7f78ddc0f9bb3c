"""What a VM needs of the host that it runs on, read from its XML. Frozen; bytes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class Presence(enum.Enum):
    """What has to be at a path before QEMU starts."""

    FILE = "file"  # the file, directory, device or socket itself
    PARENT = "parent"  # the directory in which QEMU makes it


@dataclass(frozen=True, slots=True)
class NeededPath:
    path: str
    what: str  # "kernel", "firmware", "log file" (hosts/libvirt/xml_paths.Role)
    presence: Presence = Presence.FILE


@dataclass(frozen=True, slots=True)
class Nic:
    """A network interface or a listening address of a network. `kind`: "network", "bridge", "ovs" or "device".

    `network`: the network that libvirt has resolved to this bridge or device, of a running VM.
    """

    kind: str
    source: str
    what: str  # "the interface 52:54:00:00:00:01", "VNC"
    network: str = ""

    def at(self, networks: Mapping[str, str]) -> tuple[str, str, str]:
        """Return its kind, its name and what the name replaces, at a host where networks have these other names."""
        if self.network in networks:
            return "network", networks[self.network], self.network
        return self.kind, networks.get(self.source, self.source), self.source


@dataclass(frozen=True, slots=True)
class Medium:
    """What lies in a CD-ROM or floppy drive. `optional`: libvirt starts the VM without it (startupPolicy)."""

    target: str
    path: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Listen:
    """An address of the host at which QEMU listens; port 0: any."""

    what: str
    address: str
    port: int = 0


@dataclass(frozen=True, slots=True)
class Unmovable:
    """A device that QEMU or libvirt does not migrate, and what to do about it."""

    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class VmNeeds:
    virt_type: str  # "kvm", "qemu"
    emulator: str
    arch: str
    machine: str
    cpu_mode: str = ""  # "custom", "host-model", "host-passthrough", "maximum"; "": libvirt's default
    cpu_xml: str = ""
    vcpus: int = 1
    memory: int = 0
    locked: bool = False  # <memoryBacking><locked/>: none of it may be swapped out
    hugepages: Mapping[int, int] = field(default_factory=dict)  # page size (0: the default one) -> bytes
    nodes: frozenset[int] = frozenset()  # NUMA nodes of the host that its memory must come from
    pinned: frozenset[int] = frozenset()  # CPUs of the host that it is pinned to
    nics: tuple[Nic, ...] = ()
    filters: frozenset[str] = frozenset()  # network filters that its interfaces name
    host_devices: tuple[str, ...] = ()  # as clauses: "the PCI device 0000:03:00.0"
    unmovable: tuple[Unmovable, ...] = ()
    paths: tuple[NeededPath, ...] = ()
    media: tuple[Medium, ...] = ()
    loader: str = ""  # file of its firmware, where the XML names it
    odd_variables: str = ""  # UEFI variables that are in no file of their own, a clause
    tpm: str = ""  # backend of its TPM: "emulator", "passthrough", "external"
    odd_tpm: str = ""  # what keeps the state of its TPM from going to another host, a clause
    listens: tuple[Listen, ...] = ()
    security: frozenset[str] = frozenset()  # models of labels that its XML demands
    arguments: bool = False  # <qemu:commandline>: what it names is not understood
