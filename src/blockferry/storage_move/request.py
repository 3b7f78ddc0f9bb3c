"""What the user asks of a move, before anything is known about the host."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from blockferry.base.units import MiB
from blockferry.hosts.fencing import USUAL, Fencing


class Method(enum.Enum):
    """How the bulk gets across (DESIGN 3)."""

    AUTO = "auto"
    MIRROR = "mirror"  # synchronous writes: every write goes to both sides once its area is across
    CHANGED_BLOCKS = "changed-blocks"  # background copy, then passes over what changed
    SNAPSHOT = "snapshot"  # an overlay takes the writes, the immutable base goes across, the overlay follows
    CLONE = "clone"  # as snapshot, but the file system clones the base, so that no bytes are copied
    COLD = "cold"  # the VM is off


class IfNotConverging(enum.Enum):
    """What to do when the guest changes the disk as fast as it is copied (changed-blocks only)."""

    AUTO = "auto"  # mirror if the method was ours to choose, it can be, and there is no bandwidth limit; else wait
    MIRROR = "mirror"  # begin anew with synchronous writes, which get in step by construction
    THROTTLE = "throttle"  # slow the guest's writes by a stated amount until the switch
    WAIT = "wait"
    STOP = "stop"  # give up: the VM stays where it was


class Provision(enum.Enum):
    """What is allocated at the destination beyond what holds data."""

    SAME = "same"
    THIN = "thin"
    THICK = "thick"


class Firmware(enum.Enum):
    """What becomes of the UEFI variables (NVRAM). libvirt cannot point a running VM to another file."""

    NEXT_BOOT = "next-boot"  # they follow once the VM has been powered off; at once when it is off
    NOW = "now"  # a running VM is saved to a memory file and restored with them in their new place
    LEAVE = "leave"  # they stay where they are


class Preallocation(enum.Enum):
    """What of a new image is made before anything is copied into it."""

    OFF = "off"
    METADATA = "metadata"  # qcow2: all tables, no data
    FALLOC = "falloc"  # all space is reserved
    FULL = "full"  # all space is written


class Trim(enum.Enum):
    """Whether the guest is to give back what it does not use before it is copied."""

    NO = "no"
    IF_POSSIBLE = "if-possible"  # as configured: a guest that cannot is told of, and moves all the same
    YES = "yes"


class PausedPolicy(enum.Enum):
    """What becomes of a VM that QEMU has paused because a request to its storage failed (a full datastore)."""

    KEEP = "keep"  # it stays paused; its owner resumes it
    RESUME = "resume"  # it runs again once its disks are at the destination: QEMU repeats what had failed


class ChainPolicy(enum.Enum):
    """What becomes of a backing chain."""

    FLATTEN = "flatten"  # one image with all content
    KEEP = "keep"  # the VM's own layers at the destination; from the first on that others use too, they stay
    COPY = "copy"  # all layers at the destination, also those that others use: theirs stay as they are
    SHARE = "share"  # only the top layer goes, what it stands on stays where it is

    @property
    def keeps_layers(self) -> bool:
        return self is not ChainPolicy.FLATTEN

    @property
    def reuses(self) -> bool:
        """Whether a layer may be replaced by an image of the same content at the destination."""
        return self in (ChainPolicy.KEEP, ChainPolicy.COPY)


ANY_TEMPLATE, NO_TEMPLATE = "auto", "none"

FORMATS = ("qcow2", "raw", "vmdk")
"""Formats that a move can write."""


class OnBreak(enum.Enum):
    """What becomes of a copy that breaks."""

    AUTO = "auto"  # kept where comparing is much cheaper than copying anew, see storage_move/overlays/resume_rules.py
    KEEP = "keep"  # kept, also when the move is cancelled
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What happens to the old disks once it is proven that nothing needs them."""

    delete: bool = True
    keep_s: float | None = None  # seconds; None with delete=False: for ever
    explicit: bool = False  # the user has said --delete-source: also where other hosts may use the files
    shared: str = ""  # why they are kept although the user has not asked for it (hosts/filesystems.py)

    @property
    def why_kept(self) -> str:
        """The end of "kept, ..."."""
        return f"because {self.shared}" if self.shared else "as asked"


@dataclass(frozen=True, slots=True)
class LatencyContract:
    """What the guest's writes may suffer by the copy: one of the two."""

    latency_s: float | None = None  # p99 of the guest's writes, as QEMU reports them
    slowdown: float | None = None  # the same as a multiple of what it was before the copy


COPY_BUFFER = 1 * MiB
"""QEMU's copy buffer: what is copied in one go, however low the speed, and all that is under way at once.

QEMU's own 16 MiB copy 1.2-1.3 times as fast from raw to raw, no faster to qcow2, and starve a guest that writes: 5
writes/s are left of 300, with 1 MiB all of them (changed-blocks; docs/performance.md, E). And every
suspension (a checkpoint) lets one buffer more through: with 16 MiB and a checkpoint for each 5 % of 256 MiB, a limit
of 24 MiB/s became 110 (measured, QEMU 7.2.22). What it costs: no more than 1 MiB in each round trip to the storage.
"""


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """One wish: this VM, to that datastore."""

    vm: str  # name or UUID
    to: str | None  # datastore for every disk without one of its own
    disks: dict[str, str] = field(default_factory=dict)  # target -> datastore
    home: str | None = None  # datastore of the home; None: where `to` is
    format: str | None = None  # None: as it is
    provision: Provision = Provision.SAME
    method: Method = Method.AUTO
    chain: ChainPolicy = ChainPolicy.FLATTEN
    bandwidth: int = 0  # bytes/s over all disks, 0 unlimited
    source: SourcePolicy = SourcePolicy()
    verify: bool = False  # compare both sides as they were at the switch before the source is given up
    contract: LatencyContract | None = None
    if_not_converging: IfNotConverging = IfNotConverging.AUTO
    on_break: OnBreak = OnBreak.AUTO
    from_scratch: bool = False  # a kept partial copy is not gone on with but replaced
    use_kept: bool = (
        False  # an old disk in quarantine at the destination becomes the copy: only differences are written
    )
    firmware: Firmware = Firmware.NEXT_BOOT
    hang: Fencing = USUAL  # what is done when the destination does not answer
    preallocation: Preallocation | None = None  # None: what `provision` needs
    cluster_size: int | None = None  # bytes, of a qcow2; None: as it is
    trim: Trim = Trim.NO
    buffer: int = COPY_BUFFER  # bytes that QEMU copies in one go
    paused: PausedPolicy = PausedPolicy.KEEP
    template: str = ANY_TEMPLATE  # the image that layers may be replaced by: one of the same name, none, or this path
