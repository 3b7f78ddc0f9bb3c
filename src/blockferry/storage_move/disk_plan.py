"""The plan of one disk, in parts. A facet's part is `plan.py` in its folder. Sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

from blockferry.hosts.inventory import Secret
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.overlays.plan import OverlaysPlan, PartialPlan
from blockferry.storage_move.templates.plan import ChainPlan


@dataclass(frozen=True, slots=True)
class SourceImage:
    """The image that the VM has before the move: the top layer of its backing chain."""

    path: str
    format: str
    kind: str  # "file" or "block"
    datastore: str | None
    volume: str = ""  # "POOL/VOLUME" by which the VM's XML names it; "": by its path
    parts: tuple[str, ...] = ()  # files besides `path` that the top layer's content lies in: VMDK, data file
    has_bitmaps: bool = False


@dataclass(frozen=True, slots=True)
class DiskSizes:
    """How much there is of a disk. `allocation`: of what is copied into the new image, without the layers below."""

    virtual: int
    allocation: int
    data: int = -1  # bytes that do not read as zeros: what is read and written; -1: not measured
    required: int = -1  # bytes that the new image takes, tables included, without the layers


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How the content gets across."""

    as_is: bool = False  # the file is copied byte for byte: it holds internal snapshots; only while the VM is off
    clone: bool = False  # the file system clones the source as it is (docs/clone.md)
    resumable: bool = False  # a broken copy can be brought in step by comparing (docs/design/resume.md)
    granularity: int = 0  # bytes per tracked region, 0: QEMU's default
    cache: str | None = None


@dataclass(frozen=True, slots=True)
class StartPlan:
    """How block jobs are begun on a QEMU that may lose writes then (docs/design/start-race.md)."""

    suspended: bool = True
    pause_s: float = 10.0  # what the guest is expected to stand still for at a suspended start; 10: not known
    overlay_suspended: bool = True  # the same for the commits of overlays


@dataclass(frozen=True, slots=True)
class LuksPlan:
    """How a running QEMU opens both sides of an encrypted disk: one header, one secret, which libvirt holds."""

    header: int  # bytes before the guest's content, copied as they are
    secret: Secret


@dataclass(frozen=True, slots=True)
class EncryptionPlan:
    """Whether the disk is encrypted."""

    sealed: bool = False  # encrypted, and copied as it is without its secret; so never by a running QEMU, unless:
    luks: LuksPlan | None = None


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """One disk: from where to where."""

    target: str
    source: SourceImage
    dest: DestinationImage
    sizes: DiskSizes
    chain: ChainPlan = field(default_factory=ChainPlan)
    release: ReleasePlan = field(default_factory=ReleasePlan)
    copy: CopyPlan = field(default_factory=CopyPlan)
    start: StartPlan = field(default_factory=StartPlan)
    overlays: OverlaysPlan = field(default_factory=OverlaysPlan)
    partial: PartialPlan = field(default_factory=PartialPlan)
    encryption: EncryptionPlan = field(default_factory=EncryptionPlan)

    @property
    def shallow(self) -> bool:
        """Whether only the top layer is copied, onto a backing chain made before.

        Such a copy must not be synchronous: libvirt gives the destination its backing file only at the pivot, and
        QEMU writes a guest's write that is smaller than a cluster there as it is, so that the rest of the cluster,
        which lies in a lower layer, reads as zeros. The background copy carries whole clusters. Found by the judge
        on QEMU 7.2.22 (docs/measured.md).
        """
        return self.chain.backing is not None

    @property
    def copy_bytes(self) -> int:
        """Bytes that are read and written: what holds data, never more than the virtual size.

        QEMU counts more where its job goes over the whole disk (docs/measured.md): it skips what reads as zeros.
        """
        if self.copy.clone:
            return 0
        return self.bulk_bytes + sum(layer.copy_bytes for layer in self.chain.layers)

    @property
    def bulk_bytes(self) -> int:
        """The same without the lower layers: what the job that copies the disk carries."""
        return min(self.sizes.virtual, self.sizes.allocation if self.sizes.data < 0 else self.sizes.data)
