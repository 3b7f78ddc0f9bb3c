"""What is on a host: VMs, their disks, datastores. Frozen facts, as last looked at; no decisions here."""

from __future__ import annotations

import enum
import posixpath
from dataclasses import dataclass

from blockferry.hosts.datastore_id import DatastoreId
from blockferry.hosts.qemu_user import Permissions


class PowerState(enum.Enum):
    """What the VM's process is doing, in libvirt's words made few."""

    RUNNING = "running"
    PAUSED = "paused"  # suspended: QEMU lives, the guest's clock stands still
    OFF = "off"  # no QEMU; only a persistent VM can be off
    CRASHED = "crashed"  # QEMU lives but the guest is gone (on_crash=preserve)
    ABSENT = "absent"  # libvirt knows no such VM (a transient VM that went off, or undefined)
    LOST = (
        "lost"  # libvirt says OFF or ABSENT, but its QEMU lives and has the disks open (storage_move/lost_vm/rules.py)
    )

    @property
    def active(self) -> bool:
        """Whether there is a QEMU process that libvirt knows, so that its calls reach it."""
        return self in (PowerState.RUNNING, PowerState.PAUSED, PowerState.CRASHED)


@dataclass(frozen=True, slots=True)
class JobInfo:
    """A block job as `virDomainGetBlockJobInfo` reports it.

    `cur` and `end` are bytes; in background mode `end` grows by what the guest writes. `cur == end` is not
    readiness (libvirt 5.1.0 release notes): only `Mirror.ready` is. `bandwidth` is bytes/s, 0 unlimited.
    """

    cur: int
    end: int
    bandwidth: int


@dataclass(frozen=True, slots=True)
class Mirror:
    """A `<mirror>` element in the live XML: a block job that copies the disk to `dest`."""

    job: str  # "copy" or "active-commit"
    dest: str
    dest_format: str
    ready: bool  # both sides in step: from now on a pivot is possible
    ending: bool = False  # a pivot or an abort was asked for and is not over yet
    encrypted: bool = False  # QEMU encrypts what it writes there


@dataclass(frozen=True, slots=True)
class DiskSource:
    """Where a disk's content is according to one XML (live or persistent)."""

    kind: str  # libvirt's disk type: file, block, network, volume, dir, nvme, vhostuser
    path: str | None  # None for an empty CD drive and for network disks without a local path
    format: str
    backing: tuple[str, ...] = ()  # paths of the backing chain as far as this XML tells it
    description: str = ""  # for people, where there is no path: "nbd://host/export", "volume p/v"
    export: str = ""  # of an NBD, iSCSI or RBD server: hosts.exports.Export.uri; it has no path
    storages: tuple[str, ...] = ()  # of any network disk: hosts.exports.storage, to tell whether one is used
    volume: str = ""  # "POOL/VOLUME" of a source that is named so
    closed: bool = False  # the XML says where the backing chain ends: QEMU opens nothing that it does not name

    @property
    def place(self) -> str | None:
        """What tells it from others: a path on the host, or the address of an export; None for all else."""
        return self.path or self.export or None


@dataclass(frozen=True, slots=True)
class Secret:
    """By what libvirt finds a passphrase that it holds ("uuid", "usage" and its value); never the passphrase."""

    by: str
    value: str


@dataclass(frozen=True, slots=True)
class Disk:
    """One block device of a VM, both as it is now (`live`) and as it will be at the next start (`config`)."""

    target: str  # vda, sdb
    device: str  # disk, cdrom, floppy, lun
    bus: str
    live: DiskSource | None
    config: DiskSource | None
    read_only: bool = False
    shareable: bool = False
    transient: bool = False
    cache: str | None = None
    io: str | None = None
    discard: str | None = None
    mirror: Mirror | None = None
    other_job: str | None = None  # kind of a running block job that is no copy: commit, pull, backup
    serial: str | None = None
    iothread: bool = False  # a thread of its own serves it, by itself or by its controller
    encrypted: bool = False  # QEMU is given a secret for it or for what it stands on
    secret: Secret | None = None  # the one secret with which QEMU itself opens the image as LUKS, now and next time
    sliced: bool = False  # its content is a part of its file (<slices>)
    copy_on_read: bool = False  # what is read from a backing file is written into the image; a filter node of QEMU's
    alias: str = ""  # libvirt's name of the device, by which QEMU's block graph is read; only while the VM runs

    @property
    def source(self) -> DiskSource | None:
        """The truth for now: live when the VM is active, else the persistent configuration."""
        return self.live or self.config


@dataclass(frozen=True, slots=True)
class NamedPath:
    """A file, directory or device that an XML of a VM names, wherever it stands. `tree`: with all that lies in it."""

    path: str
    what: str  # what for: "disk", "kernel", "log file" (hypervisor.xmlpaths.Role)
    tree: bool = False
    storage: bool = True  # False: a socket, program or device, which no datastore holds


@dataclass(frozen=True, slots=True)
class Volume:
    """A disk (or file system) that a VM names by pool and volume. libvirt makes a path of it at the VM's start.

    `path` of an inactive pool is where the volume would be; None when that cannot be told.
    """

    pool: str
    name: str
    target: str  # the disk's target, or the directory a file system has in the guest
    format: str
    path: str | None = None
    pool_state: str = ""  # why libvirt does not say: "is not active", "is not defined"; "" when it says the path
    may_be_file: bool = True  # False: a pool of block devices or of a server, whose volumes are no files of the host
    closed: bool = False  # as of DiskSource


@dataclass(frozen=True, slots=True)
class Vm:
    """A libvirt domain."""

    name: str
    uuid: str
    state: PowerState
    persistent: bool
    disks: tuple[Disk, ...]
    autostart: bool = False
    has_managed_save: bool = False
    nvram: str | None = None  # the file of its UEFI variables, now
    config_nvram: str | None = None  # and at its next start
    tpm: bool = False
    agent: str | None = None  # its guest agent's channel: "connected", "disconnected"; None: it has none
    memory: int = 0  # bytes, as much as it can have
    unsavable: str = ""  # what keeps it from being saved to a memory file, as the end of "it has ..."
    snapshots: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    job: str | None = None  # a domain job in flight: migration, backup, save, dump
    mark: str | None = None  # id of the move that has marked this VM, if any
    mark_journal: str = ""  # the identity of the journal that the move is in
    pause_reason: str | None = None  # "user", "ioerror", "migration"... while PAUSED
    named: tuple[NamedPath, ...] = ()  # everything that its XMLs name, live and persistent
    volumes: tuple[Volume, ...] = ()  # what they name by pool and volume

    def disk(self, target: str) -> Disk | None:
        return next((disk for disk in self.disks if disk.target == target), None)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A snapshot of a VM, as libvirt's metadata has it.

    `files`: every file that it names: the disks as they were, and the overlays that were begun by it.
    """

    name: str
    internal: tuple[str, ...] = ()  # targets whose state is inside of their qcow2 file
    external: tuple[str, ...] = ()  # targets whose state is their former file, under an overlay
    files: tuple[str, ...] = ()
    memory: str | None = None  # the file that holds the guest's memory of that moment


@dataclass(frozen=True, slots=True)
class Image:
    """One file of a backing chain, as `qemu-img info` reports it. Sizes are bytes."""

    path: str
    format: str
    virtual_size: int
    allocation: int
    backing_path: str | None = None
    backing_format: str | None = None
    internal_snapshots: tuple[str, ...] = ()
    bitmaps: tuple[str, ...] = ()
    encrypted: bool = False
    compat: str | None = None  # qcow2: "0.10" (no persistent bitmaps) or "1.1"
    data_file: str | None = None
    cluster_size: int | None = None
    extended_l2: bool = False
    parts: tuple[str, ...] = ()  # the other files its content lies in: a qcow2's data file, extents of a VMDK


@dataclass(frozen=True, slots=True)
class ChainLayer:
    """One file of a backing chain, as far as it matters to whom files belong. Bytes.

    `parts`: the other files that its content lies in. Not an `Image`: of its snapshots and bitmaps nothing is known.
    """

    path: str
    format: str
    virtual_size: int
    allocation: int
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageChain:
    """An image and what it stands on, top first; or `problem`: why that cannot be told, a sentence."""

    layers: tuple[ChainLayer, ...] = ()
    problem: str = ""


DIRECTORY_POOLS = ("dir", "fs", "netfs", "gluster", "vstorage")
"""Types of libvirt's pools whose volumes are files below a directory."""


DEVICE_POOLS = ("logical", "disk", "iscsi", "scsi", "mpath", "zfs")
"""Types of libvirt's pools whose volumes are block devices of the host."""


@dataclass(frozen=True, slots=True)
class Datastore:
    """A libvirt storage pool. Sizes are bytes, as of the last refresh."""

    name: str
    uuid: str
    kind: str  # libvirt's pool type: dir, fs, netfs, logical, rbd, iscsi, ...
    active: bool
    path: str | None  # the directory (or device directory) on the host
    capacity: int = 0
    available: int = 0
    allocation: int = 0
    autostart: bool = False
    resolved: str = ""  # its directory without symbolic links; "": not looked at
    file_system: str = ""  # device number of the file system that it is on: pools with the same one share their space
    permissions: Permissions | None = None  # that the pool's XML says of its directory
    id: DatastoreId | None = None  # what it stands on; None: not looked at

    @property
    def is_directory(self) -> bool:
        """Whether images are files below `path`, so that a VM can have a home directory there."""
        return self.kind in DIRECTORY_POOLS and self.path is not None

    @property
    def root(self) -> str:
        """Its directory without symbolic links, as far as that is known; "" for a pool without a directory."""
        directory = self.resolved or self.path
        return posixpath.normpath(directory) if directory else ""

    def holds(self, path: str) -> bool:
        """Whether `path` lies below this datastore's directory. A nested datastore's files do, too: `datastore_of`."""
        if self.path is None:
            return False
        return is_below(path, self.path) or is_below(path, self.root)

    def shares_space(self, other: Datastore) -> bool:
        """Whether both are on one file system, also where that is mounted twice."""
        if self.id is not None and other.id is not None and self.id.space.shares_space(other.id.space):
            return True
        return self.file_system != "" and self.file_system == other.file_system

    def same_place(self, other: Datastore) -> bool:
        """Whether both are one directory of the host, whatever the names of the pools."""
        return self.name == other.name or (self.root != "" and self.root == other.root)


def is_below(path: str, directory: str) -> bool:
    """Whether a path lies in a directory or in one below it; by their names only."""
    return posixpath.normpath(path).startswith(posixpath.normpath(directory).rstrip("/") + "/")


def datastore_of(path: str, datastores: tuple[Datastore, ...], resolved: str = "") -> Datastore | None:
    """The innermost datastore that holds a file; None when none does.

    `resolved`: the file's path without symbolic links. It decides where it is known and any datastore holds it; a
    device below /dev is held by its name only. Of two pools on one directory: the one by whose path the file is named.
    """
    for where in (resolved, path):
        holders = [store for store in datastores if where and store.holds(where)]
        if holders:
            return max(holders, key=lambda store: (len(store.root), is_below(path, store.path or store.root)))
    return None
