"""Records as older versions wrote them: one flat form, with a dictionary by target for everything that is of a disk.

Read, and never written. Their fingerprints of files are brought to the form of today (hosts/fingerprint.py).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass, field, replace

import msgspec

from blockferry.hosts import fingerprint
from blockferry.hosts.fencing import Guarded
from blockferry.jobs.record import JobRecord
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.firmware.record import ManagedSave, ManagedSaveRecord, NvramRecord
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.overlays.record import CommitsRecord, ComparedBase, OverlayState
from blockferry.storage_move.pace.latency import GuestLatency
from blockferry.storage_move.pace.record import MeasuredRecord, Throttle
from blockferry.storage_move.record import RECORD_FORM, FencingRecord, MirrorRecord, Record
from blockferry.storage_move.switch.record import ConfigurationRecord, GraphRecord, SwitchRecord
from blockferry.storage_move.trim.record import TrimRecord
from blockferry.storage_move.verify.record import BackupExport, ExportRecord

_OLD_IMAGE = re.compile(r"\d+:(\d+:\d+)")


class OldOverlay(enum.Enum):
    """OverlayState, when a block commit was called a fold."""

    NAMED = "named"
    USED = "used"
    PIVOTING = "pivoting"
    FOLDED = "folded"

    @property
    def today(self) -> OverlayState:
        return OverlayState.COMMITTED if self is OldOverlay.FOLDED else OverlayState(self.value)


@dataclass(frozen=True, slots=True)
class _Form:
    form: int = 1


@dataclass(frozen=True, slots=True)
class FlatRecord(JobRecord):
    """The memory of one move, as it was written up to version 7 of the plans. Only read."""

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
    source_layers: dict[str, OldOverlay] = field(default_factory=dict)  # target -> the overlay above the source
    dest_layers: dict[str, OldOverlay] = field(default_factory=dict)
    folded_as: dict[str, str] = field(default_factory=dict)  # overlay -> fingerprint when its content was in the base
    synced: dict[str, ComparedBase] = field(default_factory=dict)  # target -> the base is across
    fold_attempts: int = 0
    folds: dict[str, Stage] = field(default_factory=dict)  # target -> how the commit of its overlay began (start race)
    lost: LostVm | None = None  # libvirt has lost it, and that is not over yet
    kept: tuple[str, ...] = ()  # broken copies that stay at the destination, to be gone on with by another move
    disks_before: dict[str, str] = field(default_factory=dict)  # target -> its <disk> in the persistent XML at first


def read(text: str) -> Record:
    """A record of any version, from its JSON. Raises msgspec.DecodeError, also for a form that is newer."""
    form = msgspec.json.decode(text, type=_Form).form
    if form > RECORD_FORM:
        raise msgspec.ValidationError(f"a record of form {form}, this one knows {RECORD_FORM}")
    if form == RECORD_FORM:
        return msgspec.json.decode(text, type=Record)
    return today(msgspec.json.decode(text, type=FlatRecord))


def today(old: FlatRecord) -> Record:
    """The same memory in the form of today."""
    return Record(
        wanted=old.wanted,
        bandwidth=old.bandwidth,
        unexpected=old.unexpected,
        failure=old.failure,
        outcome=old.outcome,
        mounts=old.mounts,
        created=old.created,
        released=old.released,
        kept=old.kept,
        disks={target: _disk(old, target) for target in _targets(old)},
        home=HomeRecord(old.home_copied, old.home_prints, old.home_made, old.home_left, old.home_kept),
        configuration=ConfigurationRecord(
            old.marked, old.bare, old.config_written, old.snapshots_written, old.media_tried
        ),
        mirror=MirrorRecord(wanted=old.synchronous, forbidden=old.background),
        fencing=FencingRecord(old.guarded, old.cut_off),
        measured=MeasuredRecord(old.measured, old.guest_before),
        trim=TrimRecord(old.trimmed is not None, old.trimmed_again is not None),
        commits=CommitsRecord(
            old.fold_attempts, {path: fingerprint.current(one) for path, one in old.folded_as.items()}
        ),
        switch=SwitchRecord(old.suspended, old.switching, old.switch_attempts, old.switched, old.let_run),
        graph=GraphRecord(old.graph_proven, old.graph_folded, old.graph_doubt),
        export=ExportRecord(old.view, old.view_of, old.view_socket),
        nvram=NvramRecord(old.following, fingerprint.current(old.nvram_copied), fingerprint.current(old.nvram_made)),
        managed_save=_managed_save(old),
        lost=old.lost,
    )


def _managed_save(old: FlatRecord) -> ManagedSaveRecord:
    image = _OLD_IMAGE.fullmatch(old.held_print)
    return ManagedSaveRecord(
        state=old.held,
        incarnation=old.held_of,
        since=old.held_at,
        running=old.held_running,
        fingerprint=old.held_print if image is None else image[1],
        attempts=old.hold_attempts,
        failed=old.hold_failed,
        stood_still_s=old.hold_s,
    )


def _targets(old: FlatRecord) -> list[str]:
    """Every disk of which the record says anything.

    Those that are slowed come first, in the order in which they were: of disks that share a group, what the first of
    them found is what its owner had (pace/throttle_rules.py, `shared`).
    """
    named = (
        old.throttled,
        old.layers_copied,
        old.copies,
        old.cold_copied,
        old.settled,
        old.verified,
        old.differences,
        old.unverified,
        old.trimmed or (),
        old.trimmed_again or (),
        old.partial,
        old.source_layers,
        old.dest_layers,
        old.synced,
        old.folds,
        old.disks_before,
    )
    return list(dict.fromkeys(target for targets in named for target in targets))


def _disk(old: FlatRecord, target: str) -> DiskRecord:
    cold, synced = old.cold_copied.get(target), old.synced.get(target)
    above, below = old.source_layers.get(target), old.dest_layers.get(target)
    return DiskRecord(
        copy=old.copies.get(target, Copy()),
        layers_copied=target in old.layers_copied,
        cold_copied=None if cold is None else fingerprint.current(cold),
        partial=target in old.partial,
        synced=None if synced is None else replace(synced, fingerprint=fingerprint.current(synced.fingerprint)),
        source_overlay=None if above is None else above.today,
        dest_overlay=None if below is None else below.today,
        commit=old.folds.get(target),
        settled=target in old.settled,
        verified=target in old.verified,
        differences=old.differences.get(target),
        unverified=old.unverified.get(target),
        throttle=old.throttled.get(target),
        trimmed=None if old.trimmed is None else old.trimmed.get(target),
        trimmed_again=None if old.trimmed_again is None else old.trimmed_again.get(target),
        xml_before=old.disks_before.get(target),
    )
