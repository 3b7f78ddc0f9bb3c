"""What libvirt says a host can run: machine types, CPU, memory, NUMA, security drivers, networks. Frozen; bytes."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from blockferry.hosts.defects import Version
from blockferry.hosts.identity import HostId


class CpuAnswer(enum.Enum):
    """What a host answers when it is asked whether it has a CPU (virConnectCompareHypervisorCPU)."""

    SAME = "same"
    MORE = "more"  # it has all of that, and more
    LESS = "less"  # something is missing
    UNKNOWN = "unknown"  # libvirt cannot compare on this kind of host
    NOT_ASKED = "not asked"  # the VM has no CPU of its own to be compared


@dataclass(frozen=True, slots=True)
class CpuVerdict:
    answer: CpuAnswer
    words: str = ""  # libvirt's own: which features are missing


@dataclass(frozen=True, slots=True)
class NumaNode:
    """A node of a host. `free_pages`: page size -> how many of such huge pages are free."""

    number: int
    cpus: frozenset[int]
    free_pages: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostTraits:
    """A host as libvirt describes it."""

    host: HostId
    hostname: str
    libvirt: Version
    qemu: Version
    memory: int  # in all
    memory_free: int  # what programs could have now: free, buffers and cache
    cpus: frozenset[int]  # numbers of those that are online
    nodes: tuple[NumaNode, ...]
    security: frozenset[str]  # models of the security drivers: "dac", "selinux", "apparmor"
    qemu_user: str = ""  # the DAC label of QEMU, "+0:+0"; "": not told
    networks: Mapping[str, bool] = field(default_factory=dict)  # name -> whether it is active
    filters: frozenset[str] = frozenset()  # names of network filters
    vms: Mapping[str, str] = field(default_factory=dict)  # UUID -> name


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """What the emulator of a host can do for a VM of this machine type and virtualization type.

    `problem`: libvirt's words when it has no answer for such a VM; then `machines` alone is known.
    """

    machines: frozenset[str]  # names and aliases for the VM's architecture, of the default emulator
    virt_types: frozenset[str]  # "kvm", "qemu"
    emulator: str = ""  # the default one of that architecture
    problem: str = ""
    most_cpus: int = 0
    tpm_backends: frozenset[str] = frozenset()  # "emulator" where swtpm is installed
    loaders: frozenset[str] = frozenset()  # firmware that libvirt knows
    host_cpu: str = ""  # <cpu> of the host as QEMU can give it to a guest; "": not told
