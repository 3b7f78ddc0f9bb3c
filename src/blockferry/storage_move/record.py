"""What a move remembers of itself: the part of the truth that cannot be observed on the host.

The journal holds it; every change is written before the effect that it announces (intent) or after the effect
that it proves (proof). The JSON form is a promise (docs/journal.md).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace

from blockferry.hosts.fencing import Guarded
from blockferry.jobs.record import JobRecord
from blockferry.storage_move.pace.latency import GuestLatency


class ManagedSave(enum.Enum):
    """`--firmware now`: the VM is held in libvirt's managed save image while its UEFI variables change their place.

    Whoever starts it meanwhile, has it go on from its memory. So it may be let go at any time, by anybody.
    """

    NONE = "none"  # a saved state, if there is one, is its owner's
    SAVING = "saving"  # intent: the next thing is, or was, the call that saves it; a saved state is ours from now on
    SAVED = "saved"  # proof: its memory is whole in the image, on stable storage


class Stage(enum.Enum):
    """How far the copy of one disk is. The source is the truth in all of them."""

    NONE = "none"  # nothing at the destination that counts
    IMAGE = "image"  # an empty image of the right size is there
    STARTING = "starting"  # intent: the next thing is the call that starts the block job
    STARTED = "started"  # the job is there, but it may have missed writes of its first moments (start race)
    CLEAN = "clean"  # the job is there and has seen every write since it looked at the disk


@dataclass(frozen=True, slots=True)
class Copy:
    """The copy of one disk, and of which run of the VM it belongs to: a job dies with its QEMU process."""

    stage: Stage = Stage.NONE
    incarnation: int = -1  # libvirt's domain id at the start of the job
    attempts: int = 0
    reverse: bool = False  # back from the destination to the source, after a switch that broke in the middle
    synchronous: bool = False  # started so; of a copy of an older version's record: as the plan says


@dataclass(frozen=True, slots=True)
class Throttle:
    """The guest's writes to one disk are slowed by us. Noted before it is done; taken back on every way out.

    `before` is what libvirt said of the disk's limits then, to be put back as it was. Only the running QEMU is
    changed, so with another incarnation there is nothing to put back.
    """

    bytes_per_s: int
    incarnation: int
    before: dict[str, int | str] = field(default_factory=dict)
    earlier: tuple[int, ...] = ()  # limits of ours before this one: what is found on the disk may be one of them


COMPARISON_CANCELLED = "it was cancelled"
"""Why a disk was not compared, when its user did not want to wait for that."""


class BackupExport(enum.Enum):
    """The frozen view of the new disks as they were at the switch: a pull-mode backup that nobody pulls but we."""

    NONE = "none"
    PREPARED = "prepared"  # its scratch files are there; it is taken in the suspension, and counts when noted
    HELD = "held"  # proof: it was taken while the VM stood still after the switch
    ENDED = "ended"  # it is over, its files are gone


class OverlayState(enum.Enum):
    """An overlay of ours above a disk's base, at the source or at the destination.

    In use, the overlay holds what was written last and the base is immutable.
    """

    NAMED = "named"  # intent: it is made and put above the base; it may be in use already
    USED = "used"  # the VM was seen on it: it must never be lost from now on
    PIVOTING = "pivoting"  # intent: all is in the base, and the VM's next step is onto it
    FOLDED = "folded"  # proof: all is in the base, which is what VM and configuration name


@dataclass(frozen=True, slots=True)
class LostVm:
    """libvirt has lost the running VM (lost_vm/rules.py): what QEMU itself said of its disks, which is the truth."""

    run: str = ""  # boot id, process id and start time of its QEMU
    current: dict[str, str] = field(default_factory=dict)  # target -> the image that takes the guest's writes
    unclear: dict[str, str] = field(default_factory=dict)  # target -> a path of no file, to keep the VM from starting
    autostart: bool = False  # we have switched its autostart off


@dataclass(frozen=True, slots=True)
class ComparedBase:
    """A base at the destination that was brought in step, and what that took. Bytes, seconds."""

    fingerprint: str  # of the source's base
    compared: int = 0
    written: int = 0
    size: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Record(JobRecord):
    """The memory of one move."""

    marked: bool = False
    mounts: dict[str, str] = field(default_factory=dict)  # destination directory -> where it was mounted at first
    home_copied: bool = False
    home_prints: dict[str, str] = field(default_factory=dict)  # file of the old home -> its fingerprint when copied
    home_made: dict[str, str] = field(default_factory=dict)  # the same file -> fingerprint of its copy
    home_left: dict[str, str] = field(default_factory=dict)  # files that stay, against the plan: why, a clause
    home_kept: dict[str, str] = field(default_factory=dict)  # files that are kept beside a copy in use: why, a clause
    bare: bool = False  # the VM's persistent XML had no <metadata> before our mark
    created: tuple[str, ...] = ()  # paths of ours, named before they existed
    layers_copied: tuple[str, ...] = ()  # targets whose lower layers are across
    copies: dict[str, Copy] = field(default_factory=dict)
    cold_copied: dict[str, str] = field(default_factory=dict)  # target -> fingerprint of the source copied
    suspended: bool = False  # intent: a suspension that is ours begins (or may have begun)
    switching: bool = False  # that suspension is the switch
    switch_attempts: int = 0
    switched: bool = False  # proof: all disks were seen at the destination
    let_run: bool = False  # a VM that QEMU had paused because its storage failed was resumed, as the plan says
    graph_proven: bool = False  # proof: then QEMU itself named the new images, and had no old one open for writing
    graph_folded: bool = False  # proof: the same once the overlays at the destination were committed
    graph_doubt: str = ""  # why that cannot be proven, a clause: the old files are kept
    config_written: bool = False  # proof: what is written down for the next start was seen to agree
    snapshots_written: bool = False  # the snapshots' metadata names the new files
    settled: tuple[str, ...] = ()  # targets whose new image is complete on stable storage (and thick if asked)
    view: BackupExport = BackupExport.NONE
    view_of: int = -1  # libvirt's domain id when it was prepared: it dies with its QEMU
    view_socket: str = ""
    verified: tuple[str, ...] = ()  # targets whose copy was compared with the source and is the same
    differences: dict[str, tuple[int, ...]] = field(default_factory=dict)  # target -> the first offsets that differ
    unverified: dict[str, str] = field(default_factory=dict)  # target -> why it could not be compared
    media_tried: tuple[str, ...] = ()  # CD drives that were dealt with, one way or the other
    released: tuple[str, ...] = ()  # old paths dealt with: removed, or kept for a reason in the story
    guest_before: GuestLatency | None = None  # the guest's writes before the copy, when there is a contract
    measured: bool = False  # that was looked at, or cannot be any more
    trimmed: dict[str, int] | None = None  # target -> bytes given back before the copy; None: not asked yet
    trimmed_again: dict[str, int] | None = None  # the same at the destination, after the switch
    synchronous: bool = False  # the copies do not get in step in the background, and are made anew as a mirror
    background: bool = False  # the destination has hung: no copy writes to both sides at once any more
    guarded: Guarded | None = None  # what the watch beside the copies guards
    cut_off: str | None = None  # proof: the directory whose storage was cut off, because it hung
    following: bool = False  # all else is done: only the UEFI variables are to follow, once the VM is off
    nvram_copied: str = ""  # proof: fingerprint of the old NVRAM that was copied
    nvram_made: str = ""  # and of the copy: another one means that the VM has run on it
    held: ManagedSave = ManagedSave.NONE
    held_of: int = -1  # libvirt's domain id before it was saved: with the same one it has never been down
    held_at: float = 0.0  # wall time, seconds since the epoch
    held_running: bool = True  # whether the guest ran: so it is let go
    held_print: str = ""  # which file its memory is in: another one is somebody else's saved state
    hold_attempts: int = 0
    hold_failed: str = ""  # why the variables do not move now, a sentence; then at the next power-off
    hold_s: float = 0.0  # how long it stood still for them
    throttled: dict[str, Throttle] = field(default_factory=dict)
    partial: tuple[str, ...] = ()  # targets whose image at the destination holds a broken copy, to be gone on with
    source_layers: dict[str, OverlayState] = field(default_factory=dict)  # target -> the overlay above the source
    dest_layers: dict[str, OverlayState] = field(default_factory=dict)
    folded_as: dict[str, str] = field(default_factory=dict)  # overlay -> fingerprint when its content was in the base
    synced: dict[str, ComparedBase] = field(default_factory=dict)  # target -> the base is across
    fold_attempts: int = 0
    folds: dict[str, Stage] = field(default_factory=dict)  # target -> how the commit of its overlay began (start race)
    lost: LostVm | None = None  # libvirt has lost it, and that is not over yet
    kept: tuple[str, ...] = ()  # broken copies that stay at the destination, to be gone on with by another move
    disks_before: dict[str, str] = field(default_factory=dict)  # target -> its <disk> in the persistent XML at first

    def copy(self, target: str) -> Copy:
        return self.copies.get(target, Copy())

    def judged(self, target: str) -> bool:
        """Whether the verification of this disk is over, one way or the other."""
        return target in self.verified or target in self.differences or target in self.unverified

    def without_verdict(self, target: str) -> Record:
        """Its copy is made anew, or is about to be."""
        return replace(
            self,
            verified=tuple(one for one in self.verified if one != target),
            differences={name: of for name, of in self.differences.items() if name != target},
            unverified={name: of for name, of in self.unverified.items() if name != target},
        )

    def with_layer(self, target: str, *, at_source: bool, layer: OverlayState) -> Record:
        if at_source:
            return replace(self, source_layers={**self.source_layers, target: layer})
        return replace(self, dest_layers={**self.dest_layers, target: layer})

    def without_sync(self, target: str) -> Record:
        return replace(self, synced={name: of for name, of in self.synced.items() if name != target})

    def with_copy(self, target: str, copy: Copy) -> Record:
        return replace(self, copies={**self.copies, target: copy})
