"""The plan of a move: everything that was decided before anything was touched. Written to the journal as JSON.

The JSON form is a promise (docs/journal.md): fields are only ever added, with defaults.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blockferry.base.units import format_duration
from blockferry.hosts import exports
from blockferry.hosts.datastore_id import Directory, FileId, SpaceId, file_of, host_place
from blockferry.hosts.fencing import Fencing
from blockferry.hosts.inventory import PowerState, Secret
from blockferry.storage_move.request import (
    COPY_BUFFER,
    ChainPolicy,
    IfNotConverging,
    LatencyContract,
    Method,
    OnBreak,
    SourcePolicy,
)

PLAN_VERSION = 8
"""2: UEFI variables apart from the home's files, files copied as they are; an older blockferry would lose them.

3: a VM may be held in a saved state for its UEFI variables; an older blockferry would leave it there.

4: layers may be reused; an older blockferry would not see that such an image was written to before the switch.

5: a move belongs to the host of its UUID; an older blockferry would take it up on any host with the same URI.

6: files of the home that the XML names elsewhere than in disks; an older blockferry would not rewrite those names, and
would remove the files.

7: commits of overlays may begin in a suspension, and an overlay may come first; an older blockferry would commit while
the guest runs, on a QEMU that loses writes then.

8: the move's record is of another form (record.py), which an older blockferry cannot read.
"""


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """A lower, immutable layer of a backing chain that is copied as a layer (`--chain keep`)."""

    source: str
    source_format: str
    dest: str
    dest_format: str
    virtual_size: int
    allocation: int
    data: int = -1  # bytes that are read and written; -1: not measured
    required: int = -1  # bytes that the new image takes

    @property
    def copy_bytes(self) -> int:
        return self.allocation if self.data < 0 else self.data


@dataclass(frozen=True, slots=True)
class ReusedLayer:
    """An image at the destination that takes the place of a lower layer, and of all below that. Never ours to remove.

    It was compared with the layer while both had these fingerprints (path -> fingerprint, all files that they consist
    of). Bytes, seconds.
    """

    source: str
    path: str
    format: str
    virtual_size: int
    saved: int  # what would have been copied
    prints: dict[str, str]
    source_prints: dict[str, str]
    seconds: float = 0.0  # what comparing took
    known: bool = False  # they were compared by an earlier move, and have not changed since

    @property
    def evidence(self) -> str:
        """How it is known that both read the same, a clause."""
        if self.known:
            return "same content, known: neither has changed since an earlier move compared them"
        return f"same content, compared in {format_duration(self.seconds)}"


@dataclass(frozen=True, slots=True)
class LuksPlan:
    """How a running QEMU opens both sides of an encrypted disk: one header, one secret, which libvirt holds."""

    header: int  # bytes before the guest's content, copied as they are
    secret: Secret


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk: from where to where. Sizes are bytes.

    `old_files` are the files that nothing should need once the disk is across: the old top layer and those
    lower layers that are not left where they are, top first.
    """

    target: str
    source: str
    source_format: str
    source_kind: str  # "file" or "block"
    dest: str
    dest_format: str
    datastore: str
    source_datastore: str | None
    virtual_size: int
    allocation: int
    thick: bool = False
    layers: tuple[LayerPlan, ...] = ()
    backing: tuple[str, str] | None = None  # (path, format) that the new top layer stands on
    stays_below: tuple[str, str] | None = None  # (path, format) of the first layer that stays where it is, or is reused
    old_files: tuple[str, ...] = ()
    suspended_start: bool = True  # see docs/design/start-race.md
    cache: str | None = None
    cluster_size: int | None = None
    has_bitmaps: bool = False
    as_is: bool = False  # the file is copied byte for byte: it holds internal snapshots; only while the VM is off
    granularity: int = 0  # bytes per tracked region, 0: QEMU's default
    resumable: bool = False  # a broken copy can be brought in step by comparing (docs/design/resume.md)
    source_overlay: str = ""  # where the writes go while the base is immutable; "": that way is not open
    dest_overlay: str = ""
    overlay_suspended_start: bool = True
    start_pause_s: float = 10.0  # what the guest is expected to stand still for at a suspended start; 10: not known
    overlay_first: bool = False  # it goes by way of an overlay from the start, because that pause would be long
    partial_of: str | None = None  # the move whose broken copy lies at `dest`, to be gone on with
    partial_bytes: int = 0  # what it has allocated
    preallocation: str = "off"  # how the new image is made: off, metadata, falloc, full
    extended_l2: bool = False
    parts: tuple[str, ...] = ()  # files besides `source` that the top layer's content lies in: VMDK, data file
    old_parts: tuple[str, ...] = ()  # those of `old_files` that are parts; released after the images
    sealed: bool = False  # encrypted, and copied as it is without its secret; so never by a running QEMU, unless:
    luks: LuksPlan | None = None
    clone: bool = False  # the file system clones `source` as it is (docs/clone.md)
    source_volume: str = ""  # "POOL/VOLUME" by which the VM's XML names `source`; "": by its path
    data: int = -1  # bytes that do not read as zeros: what is read and written; -1: not measured
    required: int = -1  # bytes that the new image takes, tables included, without `layers`
    reused: ReusedLayer | None = None  # what `backing`, or the lowest of `layers`, stands on instead of a copy

    @property
    def shallow(self) -> bool:
        """Whether only the top layer is copied, onto a backing chain made before.

        Such a copy must not be synchronous: libvirt gives the destination its backing file only at the pivot, and
        QEMU writes a guest's write that is smaller than a cluster there as it is, so that the rest of the cluster,
        which lies in a lower layer, reads as zeros. The background copy carries whole clusters. Found by the judge
        on QEMU 7.2.22 (docs/measured.md).
        """
        return self.backing is not None

    @property
    def copy_bytes(self) -> int:
        """Bytes that are read and written: what holds data, never more than the virtual size.

        QEMU counts more where its job goes over the whole disk (docs/measured.md): it skips what reads as zeros.
        """
        if self.clone:
            return 0
        return self.bulk_bytes + sum(layer.copy_bytes for layer in self.layers)

    @property
    def bulk_bytes(self) -> int:
        """The same without the lower layers: what the job that copies the disk carries."""
        return min(self.virtual_size, self.allocation if self.data < 0 else self.data)


@dataclass(frozen=True, slots=True)
class HomeFile:
    """One file that belongs to the VM and is no disk that is copied as a disk."""

    source: str
    dest: str
    role: str  # "iso", "file"; "nvram" in plans of older versions
    size: int
    target: str | None = None  # the CD drive that has an ISO inserted


@dataclass(frozen=True, slots=True)
class StayingFile:
    """A file, or directory, of the old home that stays where it is. `why`: a clause."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class HomePlan:
    """Where the VM's metadata goes: domain XML, snapshot and checkpoint metadata, ISO."""

    datastore: str
    dest: str
    source: str | None  # the old home directory, None when the VM's files lie flat in the pool
    files: tuple[HomeFile, ...] = ()
    stays: tuple[StayingFile, ...] = ()


@dataclass(frozen=True, slots=True)
class ManagedSavePlan:
    """A running VM saved to a memory file and restored, to change a path that QEMU has open. Bytes, bytes/s, seconds.

    `rate`: what the image's storage was measured to write just before.
    """

    image: str  # libvirt's managed save image of the VM
    memory: int
    rate: float
    expected_s: float


@dataclass(frozen=True, slots=True)
class NvramPlan:
    """The UEFI variables (NVRAM): from where to where, once the VM is off. `size` is bytes.

    Never part of the home's files: those are copied first, and the VM may run and write its variables after that.
    """

    source: str
    dest: str
    size: int
    now: ManagedSavePlan | None = None  # the VM runs, and is held for a moment to change their place


@dataclass(frozen=True, slots=True)
class HangPlan:
    """What is done when the destination hangs. `bound`: what it means for the guest, a sentence."""

    wanted: Fencing
    bound: str


@dataclass(frozen=True, slots=True)
class Plan:
    """One move, decided."""

    move: str
    uri: str
    vm: str
    uuid: str
    method: Method
    method_reason: str
    disks: tuple[DiskPlan, ...]
    home: HomePlan | None
    persistent: bool
    was: PowerState
    source: SourcePolicy
    chain: ChainPolicy = ChainPolicy.FLATTEN
    bandwidth: int = 0  # bytes/s for all disks together, 0 unlimited
    verify: bool = False
    background_only: bool = False  # a defect of the host's QEMU forbids synchronous copies (hosts/defects.py)
    on_break: OnBreak = OnBreak.REMOVE
    version: int = PLAN_VERSION
    contract: LatencyContract | None = None
    if_not_converging: IfNotConverging = IfNotConverging.WAIT  # never AUTO: that is decided in the pre-check
    snapshots: tuple[str, ...] = ()  # whose metadata is to name the new files
    checkpoints: tuple[str, ...] = ()  # of libvirt's, whose bitmaps go along
    nvram: NvramPlan | None = None  # None: there is none, or it stays
    hang: HangPlan | None = None  # None: planned by an older version, or the VM is off
    vtpm: str | None = None  # where the host keeps the state of the VM's TPM; it stays there
    buffer: int = COPY_BUFFER  # bytes that QEMU copies in one go
    resume_after: bool = False  # QEMU has paused the VM because its storage failed; it runs again after the switch
    trim: bool = False  # the guest gives back what it does not use before the first disk is copied, and once more after
    host: str = ""  # libvirt's UUID of the host; "": planned by an older version
    host_name: str = ""  # its name then, for people
    directories: dict[str, Directory] = field(default_factory=dict)  # datastore, as the host calls it -> what it is

    def disk(self, target: str) -> DiskPlan:
        return next(disk for disk in self.disks if disk.target == target)

    @property
    def synchronous(self) -> bool:
        """Whether the guest's writes go to both sides at once. Never with a kept chain: see DiskPlan.shallow."""
        return self.method is Method.MIRROR and self.can_be_synchronous

    @property
    def stays_shut(self) -> bool:
        """Whether a running QEMU must not copy: it would decrypt."""
        return any(disk.sealed and disk.luks is None for disk in self.disks)

    @property
    def can_be_synchronous(self) -> bool:
        return not self.background_only and not any(disk.shallow for disk in self.disks)

    @property
    def small_files(self) -> tuple[HomeFile, ...]:
        """All files that change their place and are no disks."""
        nvram = () if self.nvram is None else (HomeFile(self.nvram.source, self.nvram.dest, "nvram", self.nvram.size),)
        return (*(self.home.files if self.home else ()), *nvram)

    @property
    def made(self) -> frozenset[str]:
        """Every path at which this move makes a file at the destination."""
        images = (path for disk in self.disks for path in (disk.dest, disk.dest_overlay) if path)
        layers = (layer.dest for disk in self.disks for layer in disk.layers)
        return frozenset((*images, *layers, *(small_file.dest for small_file in self.small_files)))

    def file(self, path: str) -> FileId:
        """Which file a path of the host is. Of a host that is not known its place is "host ", which is no proof."""
        return file_of(path, self.directories.values()) or FileId(host_place(self.host), path)

    def space(self, datastore: str) -> SpaceId | None:
        """The file system that a datastore of this plan takes its bytes from; None: not known."""
        directory = self.directories.get(datastore)
        return None if directory is None else directory.id.space

    @property
    def made_files(self) -> frozenset[FileId]:
        """Those of `made` whose identity is known: the same for every host."""
        return frozenset(file_id for path in self.made if (file_id := self.known_file(path)) is not None)

    def known_file(self, path: str) -> FileId | None:
        """A file in a datastore whose identity is known, or an export by what its server stores; None: not known.

        An export on a local socket is its host's own.
        """
        if not exports.is_export(path):
            return file_of(path, self.directories.values())
        where = exports.parse(path)
        return None if where.socket else FileId("export", where.storage)

    @property
    def new_names(self) -> dict[str, str]:
        """Old path -> new path of every image, top layers and lower ones, and of the home's files; not of the NVRAM,
        which comes later."""
        found = {file.source: file.dest for file in self.home.files} if self.home else {}
        for disk in self.disks:
            found.update({layer.source: layer.dest for layer in disk.layers})
            if disk.reused is not None:
                found[disk.reused.source] = disk.reused.path
            found[disk.source] = disk.dest
        return found

    @property
    def destination(self) -> str:
        """The datastores that the disks go to, in the order of the disks, for people."""
        return ", ".join(dict.fromkeys(disk.datastore for disk in self.disks)) or (
            self.home.datastore if self.home else ""
        )

    def scratch(self, target: str) -> str:
        """Where the old content of blocks goes that the guest overwrites while this disk is verified."""
        return f"{self.disk(target).dest}.{self.move}.view"

    @property
    def copy_bytes(self) -> int:
        return sum(disk.copy_bytes for disk in self.disks)
