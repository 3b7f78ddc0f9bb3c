"""All that a pre-check knows of the host, gathered before anything is decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from blockferry.hosts.datastore_id import SpaceId
from blockferry.hosts.defects import Version, Versions
from blockferry.hosts.fencing import Storage
from blockferry.hosts.inventory import Datastore, Image, Snapshot, Vm, datastore_of
from blockferry.hosts.kept import Kept
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.qemu_user import QemuUser
from blockferry.storage_move.firmware.plan import NvramPlan
from blockferry.storage_move.home.plan import StayingFile
from blockferry.storage_move.summary import MoveSummary


@dataclass(frozen=True, slots=True)
class SmallFile:
    """A file of the VM's home that is no disk. Bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What `qemu-img measure` says of an image. Bytes."""

    data: int  # in clusters that do not read as zeros: what a copy reads and writes
    required: int  # what a qcow2 as it would be made takes for it, tables included
    full: int  # what that qcow2 takes when all of it is allocated


@dataclass(frozen=True, slots=True)
class Partial:
    """What lies at the destination that a copy can go on from. Bytes.

    A broken copy of a disk of this VM that an earlier move has left, its marker still beside it; or an old disk of it.
    """

    move: str
    format: str
    virtual_size: int
    allocated: int
    target: str = ""  # the disk that it is a copy of; "": not known
    row: Kept | None = None  # of an old disk in quarantine that is to become the copy (--use-kept)

    @property
    def kept(self) -> bool:
        """Whether it is an old disk in quarantine, and no broken copy."""
        return self.row is not None


@dataclass(frozen=True, slots=True)
class KeptDisk:
    """An old disk of this VM that quarantine keeps on the destination. Bytes; `since` is wall time."""

    path: str
    target: str
    move: str
    since: float | None
    format: str | None
    allocated: int
    problem: str = ""  # why it cannot become a copy, a clause; only looked at with --use-kept


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """An image that might take the place of a lower layer. Bytes, seconds; `prints` as in plan.ReusedLayer."""

    path: str
    format: str
    virtual_size: int
    problem: str = ""  # why it cannot, a clause; "": it reads the same, and nobody writes to it
    prints: Mapping[str, str] = field(default_factory=dict)
    source_prints: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    known: bool = False


@dataclass(frozen=True, slots=True)
class ExportFact:
    """An export that a disk is asked to go to. Bytes."""

    size: int
    problem: str = ""  # why it cannot be written to, a sentence
    users: tuple[str, ...] = ()  # VMs of this host that have it as a disk


@dataclass(frozen=True, slots=True)
class SaveRoom:
    """Where libvirt saves the memory of this host's VMs. Bytes, bytes/s."""

    directory: str
    free: int
    rate: float  # measured just now: written and synced
    problem: str = ""  # why that could not be looked at


@dataclass(frozen=True, slots=True)
class Facts:
    """One VM and the places around it. Sizes are bytes."""

    uri: str
    vm: Vm
    datastores: tuple[Datastore, ...]
    libvirt: Version
    qemu: Version  # the installed one
    chains: Mapping[str, tuple[Image, ...]]  # target -> backing chain, top first
    problems: Mapping[str, str] = field(default_factory=dict)  # target -> why there is no chain
    measured: Mapping[str, Measured] = field(default_factory=dict)
    """Target of a disk, or path of a lower layer -> what its content takes at the destination."""
    no_holes: frozenset[str] = frozenset()  # destination datastores whose files cannot be given holes
    luks_headers: Mapping[str, int] = field(default_factory=dict)  # target of a raw LUKS image -> bytes of its header
    users: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # path -> other VMs that refer to it
    existing: frozenset[str] = frozenset()  # files found where we would write
    promised: frozenset[str] = frozenset()  # files that unfinished moves of other VMs make
    places: Mapping[str, PathFacts] = field(default_factory=dict)  # paths that were looked at, directories among them
    identities: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # path -> (device, inode)
    directories: Mapping[str, str] = field(default_factory=dict)  # datastore -> what is wrong with its directory
    exports: Mapping[str, ExportFact] = field(default_factory=dict)  # address -> what is known of it
    available: Mapping[str, int] = field(default_factory=dict)  # datastore -> free bytes, looked at now
    committed: Mapping[str, int] = field(default_factory=dict)  # datastore -> bytes if all thin images grew
    reserved: Mapping[str, int] = field(default_factory=dict)  # datastore -> what other moves have yet to write
    home_source: str | None = None
    home_files: tuple[SmallFile, ...] = ()
    home_stays: tuple[StayingFile, ...] = ()  # what is in the old home and does not go along
    other_move: str | None = None  # id of the move that has this VM: then nothing else was looked at
    under_way: MoveSummary | None = None  # and that move, where it is one of this journal
    other_to: str = ""  # where it goes, if it is a move of this journal of another kind
    snapshots: tuple[Snapshot, ...] = ()
    templates: Mapping[tuple[str, str], TemplateFacts] = field(default_factory=dict)
    """(lower layer, datastore that it would go to) -> what was found there to replace it."""
    following: NvramPlan | None = None  # UEFI variables that an earlier move has yet to bring along
    filesystems: Mapping[str, str] = field(default_factory=dict)  # old file -> type of its file system ("nfs4")
    save_room: SaveRoom | None = None  # only looked at when the VM is to be saved
    access_problem: str | None = None
    compare_problem: str | None = None  # why images cannot be compared on the host; only looked at when it matters
    host_guard_problem: str = ""  # why the guard on the VM's own host cannot be had, a clause; of other hosts only
    partials: Mapping[str, Partial] = field(default_factory=dict)  # path where we would write -> what lies there
    kept: Mapping[str, KeptDisk] = field(default_factory=dict)  # path -> old disk in quarantine
    clones: Mapping[str, str] = field(default_factory=dict)  # target -> why no clone; "": a trial clone went well
    source_free: Mapping[str, int] = field(default_factory=dict)  # target -> bytes free beside its source
    storage: Mapping[str, Storage] = field(default_factory=dict)  # destination datastore -> what it does when it hangs
    storage_problem: str | None = None  # why that could not be looked at
    graph_differs: Mapping[str, str] = field(default_factory=dict)
    """Disks that the running QEMU has on another image than libvirt says: target -> that image."""
    suspended_start: bool | None = None  # insist, for tests and for QEMU versions we know better about

    host: str = ""  # libvirt's UUID of the host
    host_name: str = ""
    qemu_user: QemuUser | None = None  # who opens the images; None: not known, or root
    out_of_reach: Mapping[str, str] = field(default_factory=dict)  # datastore -> directory that this user cannot pass
    not_held: Mapping[str, str] = field(
        default_factory=dict
    )  # datastore -> what a file there cannot be given, a clause

    lost_process: int = 0  # libvirt says that it is off, and this is its QEMU
    off_doubt: str = ""  # libvirt says that it is off; why that could not be checked, a clause
    running_qemu: Version | None = None  # of the VM's own process; None: it is off, or that is not known
    running_qemu_problem: str = ""  # why it is not known, a clause

    @property
    def versions(self) -> Versions:
        """What the VM meets. It has the QEMU that it was started with; where that is not known, the installed one."""
        return Versions(self.libvirt, self.running_qemu or self.qemu)

    @property
    def later_versions(self) -> Versions:
        """What the VM meets once it has been powered off and started again, as may happen in the middle of a move."""
        return Versions(self.libvirt, self.qemu)

    def resolve(self, path: str) -> str:
        """A path without symbolic links, as far as it was looked at."""
        look = self.places.get(path)
        return path if look is None else look.resolved

    def store_of(self, path: str, resolved: str = "") -> Datastore | None:
        """The innermost datastore that holds a file."""
        return datastore_of(path, self.datastores, resolved or self.resolve(path))

    def without_kept(self, unfit: Mapping[str, str]) -> Facts:
        """The same, without these old disks (path -> why) as beginnings of copies."""
        return replace(
            self,
            partials={path: one for path, one in self.partials.items() if path not in unfit},
            kept={path: replace(one, problem=unfit.get(path, one.problem)) for path, one in self.kept.items()},
        )

    @property
    def spaces(self) -> dict[str, SpaceId | None]:
        """Every datastore -> the file system that it is on; None: not known."""
        return {datastore.name: None if datastore.id is None else datastore.id.space for datastore in self.datastores}

    def sharing(self, name: str) -> tuple[str, ...]:
        """The datastores on the file system of this one, itself among them: what one takes, all have less."""
        store = self.datastore(name)
        if store is None:
            return (name,)
        return tuple(
            datastore.name for datastore in self.datastores if datastore.name == name or datastore.shares_space(store)
        )

    def datastore(self, name: str) -> Datastore | None:
        return next((store for store in self.datastores if store.name == name), None)
