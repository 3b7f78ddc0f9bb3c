"""What the pre-check of a move to another host knows: of the VM, of both hosts, and of what is between them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from blockferry.hosts.defects import Version
from blockferry.hosts.host_traits import CpuVerdict, HostTraits, Hypervisor
from blockferry.hosts.images.qemu_img import ChainImage
from blockferry.hosts.inventory import Datastore, Vm
from blockferry.hosts.neighbour_facts import Certificate, ClockSeen, NamesSeen, PortTrial
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.vm_needs import Listen, VmNeeds


@dataclass(frozen=True, slots=True)
class Asked:
    """What a move to another host is asked to do, as far as it matters here.

    `disks`: target -> datastore of the destination that the disk goes to; disks that are not named stay where they are.
    `takes`: datastore of the destination -> bytes that the move writes there. `networks`: network, bridge or device
    of the source -> what it is called at the destination. `address`: by which the source's QEMU reaches the
    destination; "": by the destination's own name. `peer_uri`: by which the source's libvirt reaches the destination's;
    "": it does not (the manager speaks to both).
    """

    disks: Mapping[str, str] = field(default_factory=dict)
    takes: Mapping[str, int] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)
    any_network: bool = False  # `networks` may name some that the VM is not on
    address: str = ""
    peer_uri: str = ""
    tls: bool = False
    require_tls: bool = False
    tls_off: bool = False  # plain is meant
    compression: str = ""  # of the memory that is sent
    storage_first: bool = False  # the disks of a running VM go before it


class Sharing(enum.Enum):
    """What the destination has at the path of a disk that stays."""

    SAME = "same"  # proven to be the same file
    OTHER = "other"  # another file, or of a file system that only one host has
    ABSENT = "absent"
    UNKNOWN = "unknown"  # it could not be looked at
    MEDIUM_DIFFERS = "medium-differs"  # of a CD or floppy: a file of another content


@dataclass(frozen=True, slots=True)
class PeerTrial:
    """What came of the source's libvirt calling the destination's. `problem`: "" when it answered."""

    uri: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class TlsSeen:
    """The certificate files of QEMU on both hosts. `at`: the time by each host's clock, seconds since the epoch."""

    source: tuple[Certificate, ...] = ()
    destination: tuple[Certificate, ...] = ()
    source_at: float = 0.0
    destination_at: float = 0.0


@dataclass(frozen=True, slots=True)
class VariablesSeen:
    """The file of a VM's UEFI variables. `size`: bytes, None when the source does not have it. `sharing`: of the path
    itself. `dest`: where it goes, "" when there is no place; `tried`: the first name that was tried. `loaders`: path of
    a firmware -> its bytes on either host, None where it is not there."""

    path: str
    size: int | None = None
    sharing: Sharing | None = None
    dest: str = ""
    tried: str = ""
    loaders: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)

    @property
    def travels(self) -> bool:
        """Whether the file has to go along."""
        return self.size is not None and self.sharing is not Sharing.SAME


@dataclass(frozen=True, slots=True)
class TpmSeen:
    """The state of a VM's emulated TPM. `files`: path at the source -> bytes; `there`: what the destination has in that
    directory."""

    directory: str
    files: Mapping[str, int] = field(default_factory=dict)
    there: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Sizes are bytes. What was not looked at because it does not matter is empty or None."""

    vm: Vm
    needs: VmNeeds
    source: HostTraits
    destination: HostTraits
    hypervisor: Hypervisor  # the destination's, for this VM
    cpu: CpuVerdict  # the destination's, on the VM's CPU
    running_qemu: Version | None = None  # of the VM's own process; None: it is off, or that is not known
    stores: tuple[Datastore, ...] = ()  # the destination's
    under_way: str = ""  # the move of this VM that is not over
    images: Mapping[str, tuple[ChainImage, ...]] = field(default_factory=dict)  # target -> its image, and what is below
    reserved: Mapping[str, int] = field(default_factory=dict)  # the destination's datastore -> what other moves write
    sharing: Mapping[str, Sharing] = field(default_factory=dict)  # target of a disk that stays -> what is there
    links: Mapping[str, str] = field(default_factory=dict)  # the destination's network devices -> kind
    paths: Mapping[str, PathFacts] = field(default_factory=dict)  # at the destination
    binds: Mapping[Listen, int] = field(default_factory=dict)  # at the destination: errno of binding
    clock: ClockSeen | None = None  # the destination's against the source's
    names: NamesSeen | None = None  # the destination's
    ports: PortTrial | None = None
    port_span: tuple[int, int] = (49152, 49215)
    source_free: Mapping[str, int] = field(default_factory=dict)  # target that goes along -> bytes beside its old image
    copy_ports: PortTrial | None = None  # where disks go before their running VM, to ports of `copy_span`
    copy_span: tuple[int, int] = (49216, 49343)
    peer: PeerTrial | None = None
    no_calls: Mapping[str, str] = field(default_factory=dict)  # host -> why it cannot carry out our calls, a clause
    tls: TlsSeen | None = None
    variables: VariablesSeen | None = None  # None: it has none
    tpm: TpmSeen | None = None  # None: it has no emulated one

    @property
    def address(self) -> str:
        """By which the source's QEMU reaches the destination."""
        return self.ports.host if self.ports is not None else self.destination.hostname
