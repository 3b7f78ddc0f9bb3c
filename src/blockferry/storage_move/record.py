"""What a move remembers of itself: the part of the truth that cannot be observed on the host.

The journal holds it; every change is written before the effect that it announces (intent) or after the effect
that it proves (proof). The JSON form is a promise (docs/journal.md). A facet's part is `record.py` in its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from blockferry.hosts.fencing import Guarded
from blockferry.jobs.record import JobRecord
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.firmware.record import ManagedSaveRecord, NvramRecord
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.overlays.record import CommitsRecord, OverlayState
from blockferry.storage_move.pace.record import MeasuredRecord, Throttle
from blockferry.storage_move.switch.record import ConfigurationRecord, GraphRecord, SwitchRecord
from blockferry.storage_move.trim.record import TrimRecord
from blockferry.storage_move.verify.record import ExportRecord

RECORD_FORM = 2
"""1, where it is missing: one flat form (old_record.py)."""


@dataclass(frozen=True, slots=True)
class MirrorRecord:
    """What the move has learned of copies that write to both sides at once."""

    wanted: bool = False  # the copies do not get in step in the background, and are made anew as a mirror
    forbidden: bool = False  # the destination has hung: no copy writes to both sides at once any more


@dataclass(frozen=True, slots=True)
class FencingRecord:
    """The destination's watchdog (destination_watchdog.py)."""

    guarded: Guarded | None = None  # what the watch beside the copies guards
    fenced: str | None = None  # proof: the directory whose storage was fenced, because it hung


@dataclass(frozen=True, slots=True)
class Record(JobRecord):
    """The memory of one move.

    An older blockferry cannot read it, and must not: it would take every field that it does not find for "not yet".
    `measured` is always there, and was a boolean in the flat form.
    """

    form: int = RECORD_FORM
    mounts: dict[str, str] = field(default_factory=dict)  # destination directory -> where it was mounted at first
    created: tuple[str, ...] = ()  # paths of ours, named before they existed
    released: tuple[str, ...] = ()  # old paths dealt with: removed, or kept for a reason in the story
    kept: tuple[str, ...] = ()  # broken copies that stay at the destination, to be gone on with by another move
    disks: dict[str, DiskRecord] = field(default_factory=dict)  # by target; see `disk`
    home: HomeRecord = field(default_factory=HomeRecord)
    configuration: ConfigurationRecord = field(default_factory=ConfigurationRecord)
    mirror: MirrorRecord = field(default_factory=MirrorRecord)
    fencing: FencingRecord = field(default_factory=FencingRecord)
    measured: MeasuredRecord = field(default_factory=MeasuredRecord)
    trim: TrimRecord = field(default_factory=TrimRecord)
    commits: CommitsRecord = field(default_factory=CommitsRecord)
    switch: SwitchRecord = field(default_factory=SwitchRecord)
    graph: GraphRecord = field(default_factory=GraphRecord)
    export: ExportRecord = field(default_factory=ExportRecord)
    nvram: NvramRecord = field(default_factory=NvramRecord)
    managed_save: ManagedSaveRecord = field(default_factory=ManagedSaveRecord)
    lost: LostVm | None = None  # libvirt has lost it, and that is not over yet

    def disk(self, target: str) -> DiskRecord:
        return self.disks.get(target, DiskRecord())

    def copy(self, target: str) -> Copy:
        return self.disk(target).copy

    @property
    def differences(self) -> Mapping[str, tuple[int, ...]]:
        """The first offsets that differ, of the disks that were not copied rightly, by target."""
        return {target: disk.differences for target, disk in self.disks.items() if disk.differences is not None}

    @property
    def unverified(self) -> Mapping[str, str]:
        """Why a disk could not be compared, by target."""
        return {target: disk.unverified for target, disk in self.disks.items() if disk.unverified is not None}

    @property
    def any_cold_copied(self) -> bool:
        """Whether any disk was copied while the VM was off."""
        return any(disk.cold_copied is not None for disk in self.disks.values())

    @property
    def has_dest_overlay(self) -> bool:
        return any(disk.dest_overlay is not None for disk in self.disks.values())

    @property
    def throttled(self) -> Mapping[str, Throttle]:
        """The disks whose guest is slowed by us, by target."""
        return {target: disk.throttle for target, disk in self.disks.items() if disk.throttle is not None}

    def with_disk(self, target: str, disk: DiskRecord) -> Record:
        return replace(self, disks={**self.disks, target: disk})

    def with_copy(self, target: str, copy: Copy) -> Record:
        return self.with_disk(target, replace(self.disk(target), copy=copy))

    def with_throttles(self, throttles: Mapping[str, Throttle]) -> Record:
        """Exactly these disks are slowed."""
        record = self
        for target in dict.fromkeys((*self.disks, *throttles)):
            record = record.with_disk(target, replace(record.disk(target), throttle=throttles.get(target)))
        return record

    def without_verdict(self, target: str) -> Record:
        """Its copy is made anew, or is about to be."""
        return self.with_disk(target, replace(self.disk(target), verified=False, differences=None, unverified=None))

    def with_overlay(self, target: str, state: OverlayState, *, at_source: bool) -> Record:
        disk = self.disk(target)
        changed = replace(disk, source_overlay=state) if at_source else replace(disk, dest_overlay=state)
        return self.with_disk(target, changed)

    def without_cold_copy(self, target: str) -> Record:
        return self.with_disk(target, replace(self.disk(target), cold_copied=None))

    def without_sync(self, target: str) -> Record:
        return self.with_disk(target, replace(self.disk(target), synced=None))

    def with_commits(self, targets: Iterable[str], stage: Stage | None) -> Record:
        """The block commits of these disks' overlays have come so far. None: they have not begun."""
        record = self
        for target in targets:
            record = record.with_disk(target, replace(record.disk(target), commit=stage))
        return record

    def started_clean(self, copies: Iterable[str], commits: Iterable[str]) -> Record:
        """The guest runs after a suspension: these copies and commits that began in it have missed no write.

        All others that were begun, and are not known to be clean, may have: they are begun anew, also when the VM is
        paused by its owner before that can be seen.
        """
        clean = set(copies)

        def judged(target: str, disk: DiskRecord) -> DiskRecord:
            commit = disk.commit if disk.commit is Stage.CLEAN else None
            copy = disk.copy
            if target in clean and not copy.missed:
                copy = replace(copy, stage=Stage.CLEAN)
            elif copy.stage in (Stage.STARTING, Stage.STARTED):
                copy = replace(copy, missed=True)
            return replace(disk, copy=copy, commit=commit)

        disks = {target: judged(target, disk) for target, disk in self.disks.items()}
        return replace(self, disks=disks).with_commits(commits, Stage.CLEAN)

    def suspension_over(self) -> Record:
        """The same once a suspension of ours has ended otherwise than by our `Resume`: a later pause is the owner's."""
        record = self if self.switch.begun else self.started_clean((), ())
        return replace(record, switch=replace(record.switch, suspended=False))

    def with_unverified(self, targets: Iterable[str], why: str) -> Record:
        record = self
        for target in targets:
            record = record.with_disk(target, replace(record.disk(target), unverified=why))
        return record

    def changed(self, change: Callable[[DiskRecord], DiskRecord]) -> Record:
        """The record of every disk, changed."""
        return replace(self, disks={target: change(disk) for target, disk in self.disks.items()})

    def without_verdicts(self) -> Record:
        return self.changed(lambda disk: replace(disk, verified=False, differences=None, unverified=None))
