"""What is really there, as `decide` sees it: the host's facts in the words of the plan, plus the record."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from blockferry.hosts.fencing import ANSWERING, DestinationHealth
from blockferry.hosts.inventory import JobInfo, PowerState
from blockferry.storage_move.overlays.convergence import Divergence
from blockferry.storage_move.record import Record
from blockferry.storage_move.switch.graph_proof import GraphView


class DiskSide(enum.Enum):
    """Where a disk's XML points, seen from the plan."""

    SOURCE = "source"
    DESTINATION = "destination"
    ELSEWHERE = "elsewhere"  # neither: somebody else has changed the VM


class DiskJob(enum.Enum):
    """The block job on a disk, seen from the plan."""

    NONE = "none"
    OURS = "ours"  # copies from the source to our destination (or back, when that is what we do)
    COMMIT = "commit"  # ours, commits the overlay in use into its base
    FOREIGN = "foreign"  # somebody else's: never adopted, never aborted


@dataclass(frozen=True, slots=True)
class DiskView:
    """One disk of the plan as it is now."""

    target: str
    live: DiskSide | None  # None: the VM is not active
    config: DiskSide | None  # None: the VM is not persistent
    job: DiskJob = DiskJob.NONE
    foreign: str = ""  # for people: what the foreign job is
    ready: bool = False
    ending: bool = False  # its pivot or abort is under way
    encrypted: bool = False  # the job's QEMU encrypts what it copies
    info: JobInfo | None = None
    fingerprint: str = ""  # of the source file: changes whenever somebody writes to it; only looked at when off
    live_overlay: bool = False  # the VM runs on our overlay of that side
    foreign_base: str = ""  # that overlay at the source stands on this, which somebody has put below it
    config_overlay: bool = False  # the next start would use our overlay of that side
    template_changed: str = ""  # a file that was written to, or is gone, since it was compared to be reused
    copy_on_read: bool = False  # the running VM has a copy-on-read filter above it
    config_path: str = ""  # the image or address that the configuration names
    # Of the overlay that is the truth, and of its base; when active, only of one that was committed before:
    overlay_fingerprint: str = ""

    @property
    def side(self) -> DiskSide:
        """Where the truth of this disk is: live when there is a QEMU, else what the next start would use."""
        return self.live or self.config or DiskSide.ELSEWHERE

    @property
    def overlay(self) -> bool:
        """Whether the truth of this disk is in an overlay of ours."""
        return self.config_overlay if self.live is None else self.live_overlay

    @property
    def initialised(self) -> bool:
        """Whether the job has finished looking at what is allocated, so that it now tracks every write.

        libvirt shows `end` = 1 while QEMU has not said anything yet (and for an empty disk, which is ready at once).
        """
        return self.job in (DiskJob.OURS, DiskJob.COMMIT) and (
            self.ready or (self.info is not None and self.info.end > 1)
        )

    @property
    def remaining(self) -> int | None:
        """Bytes that are still different, None when unknown."""
        return None if self.info is None else max(0, self.info.end - self.info.cur)


UNKNOWABLE = "unknowable"
"""The fingerprint of an export: nothing tells whether somebody has written to it."""

MISSING = "missing"
"""The fingerprint of a file that is not there."""


@dataclass(frozen=True, slots=True)
class NvramView:
    """The UEFI variables of the plan as they are now."""

    live: DiskSide | None  # None: the VM is not active
    config: DiskSide | None  # None: the VM is not persistent
    saved: DiskSide | None = None  # off, with a saved state (`virsh managedsave`) that names this file
    fingerprint: str = ""  # of the old file; only looked at when the VM is off
    made: str = ""  # the same of the new one
    # Only looked at while the VM is, or is to be, held for them:
    busy: str = ""  # what libvirt or QEMU is doing with the running VM: "save", "backup", "a block job on vda"
    image: bool = False  # the VM runs, and a saved state of it is there all the same
    image_fingerprint: str = ""  # which file the saved state is in


@dataclass(frozen=True, slots=True)
class LostView:
    """A VM whose QEMU runs and that libvirt has lost, as its own monitor tells of it."""

    pid: int
    run: str
    status: str = ""  # of QEMU's RunState; "": its monitor could not be asked
    problem: str = ""  # and why not, a clause
    gone: bool = False  # nor can it be later: its socket was removed
    current: Mapping[str, str] = field(default_factory=dict)  # target -> the image that takes the guest's writes
    jobs: tuple[str, ...] = ()  # block jobs of QEMU's that are not over
    since_s: float = 0.0  # for so long this process has seen it lost
    autostart: bool = False  # libvirt would start it at the host's next boot


@dataclass(frozen=True, slots=True)
class Observation:
    """The host as it is now, and what we remember."""

    state: PowerState
    persistent: bool
    disks: tuple[DiskView, ...]
    record: Record
    incarnation: int = -1  # libvirt's domain id: another one means that the VM was off in between
    mark: str | None = None
    media: tuple[str, ...] = ()  # CD drives of the running VM whose ISO has moved but that still hold the old one
    config_agrees: bool = True  # persistent XML says for the whole plan what the live XML says
    suspended_s: float = 0.0  # how long our suspension has lasted, as far as this process knows
    expected_drain_s: float = 0.0  # time to copy what is outstanding, at the present rate
    passes: int = 0  # passes over changed blocks that were completed
    pivot_failures: int = 0  # refused pivots since the VM was suspended
    retry_s: float = 0.0  # until a switch that could not be made is tried again: the guest has to get its work done
    view_tried: bool = False  # in this suspension it was tried to freeze a view of the new disks
    view_trouble: str = ""  # why that view cannot be held on to
    diverging: tuple[Divergence, ...] = ()  # copies in the background that the guest outruns
    outrun: tuple[Divergence, ...] = ()  # overlays that grow faster than they are committed
    nvram: NvramView | None = None  # None: the plan moves none
    saved: bool = False  # off, with a saved state: its next start uses the disks that the state names
    flushed: bool = False  # the destination was flushed to stable storage just before
    pause_reason: str | None = None  # "user", "ioerror" ... while it is paused
    graph: GraphView | None = None  # QEMU's block graph; only looked at after a switch, None: not looked at
    unflushed: float = 0.0  # the largest share of a disk that was copied since QEMU last flushed the destination
    unflushed_s: float = 0.0  # and for how long
    health: DestinationHealth = ANSWERING  # of the destination, as the watch beside the copies has it
    lost: LostView | None = None  # only in the state LOST
    off_doubt: str = ""  # libvirt says that it is off or gone; why that cannot be believed, a clause
    off_doubt_s: float = 0.0  # for so long this process has not been able to look
    same_run: bool = False  # its QEMU is the one that libvirt had lost (only looked at when that is noted)

    def disk(self, target: str) -> DiskView:
        return next(disk for disk in self.disks if disk.target == target)
