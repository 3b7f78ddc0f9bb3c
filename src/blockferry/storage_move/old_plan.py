"""The flat form of a plan: what versions up to 8 have in the journal, and what `--json` and the Python API show.

Every field was the plan's or the disk's own; today's plan is built of parts (plan.py, disk_plan.py). `today` and `flat`
go from one form to the other and back, without loss.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec

from blockferry.hosts import fingerprint
from blockferry.hosts.datastore_id import Directory
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import (
    CopyPlan,
    DiskPlan,
    DiskSizes,
    EncryptionPlan,
    LuksPlan,
    SourceImage,
    StartPlan,
)
from blockferry.storage_move.firmware.plan import FirmwarePlan, NvramPlan
from blockferry.storage_move.home.plan import HomePlan
from blockferry.storage_move.overlays.plan import OverlaysPlan, PartialPlan
from blockferry.storage_move.pace.plan import PacePlan
from blockferry.storage_move.plan import DomainPlan, HangPlan, OutagePlan, Plan
from blockferry.storage_move.request import (
    COPY_BUFFER,
    ChainPolicy,
    IfNotConverging,
    LatencyContract,
    Method,
    OnBreak,
    SourcePolicy,
)
from blockferry.storage_move.templates.plan import ChainPlan, LayerPlan, ReusedLayer

LAST_FLAT = 8
"""The last version of plans that was written in this form."""


@dataclass(frozen=True, slots=True)
class FlatDisk:
    """One disk of such a plan. Its fields are documented where they are today (disk_plan.py)."""

    target: str
    source: str
    source_format: str
    source_kind: str
    dest: str
    dest_format: str
    datastore: str
    source_datastore: str | None
    virtual_size: int
    allocation: int
    thick: bool = False
    layers: tuple[LayerPlan, ...] = ()
    backing: tuple[str, str] | None = None
    stays_below: tuple[str, str] | None = None
    old_files: tuple[str, ...] = ()
    suspended_start: bool = True
    cache: str | None = None
    cluster_size: int | None = None
    has_bitmaps: bool = False
    as_is: bool = False
    granularity: int = 0
    resumable: bool = False
    source_overlay: str = ""
    dest_overlay: str = ""
    overlay_suspended_start: bool = True
    start_pause_s: float = 10.0
    overlay_first: bool = False
    partial_of: str | None = None
    partial_bytes: int = 0
    partial_old: Kept | None = None
    preallocation: str = "off"
    extended_l2: bool = False
    parts: tuple[str, ...] = ()
    old_parts: tuple[str, ...] = ()
    sealed: bool = False
    luks: LuksPlan | None = None
    clone: bool = False
    source_volume: str = ""
    data: int = -1
    required: int = -1
    reused: ReusedLayer | None = None


@dataclass(frozen=True, slots=True)
class FlatPlan:
    """Such a plan. Its fields are documented where they are today (plan.py)."""

    move: str
    uri: str
    vm: str
    uuid: str
    method: Method
    method_reason: str
    disks: tuple[FlatDisk, ...]
    home: HomePlan | None
    persistent: bool
    was: PowerState
    source: SourcePolicy
    chain: ChainPolicy = ChainPolicy.FLATTEN
    bandwidth: int = 0
    verify: bool = False
    background_only: bool = False
    on_break: OnBreak = OnBreak.REMOVE
    version: int = LAST_FLAT
    contract: LatencyContract | None = None
    if_not_converging: IfNotConverging = IfNotConverging.WAIT
    snapshots: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    nvram: NvramPlan | None = None
    hang: HangPlan | None = None
    vtpm: str | None = None
    buffer: int = COPY_BUFFER
    resume_after: bool = False
    trim: bool = False
    host: str = ""
    host_name: str = ""
    directories: dict[str, Directory] = field(default_factory=dict)


def read(text: str) -> Plan:
    """Return a plan that was written in this form, with its fingerprints as they are written now.

    Raises msgspec.DecodeError.
    """
    old = msgspec.json.decode(text, type=FlatPlan)
    return today(replace(old, disks=tuple(_current(disk) for disk in old.disks)))


def today(old: FlatPlan) -> Plan:
    """Return the same plan in parts."""
    return Plan(
        move=old.move,
        uri=old.uri,
        vm=old.vm,
        uuid=old.uuid,
        method=old.method,
        method_reason=old.method_reason,
        disks=tuple(_disk_today(disk) for disk in old.disks),
        domain=DomainPlan(old.persistent, old.was, old.resume_after, old.snapshots, old.checkpoints),
        source=old.source,
        home=old.home,
        version=old.version,
        host=old.host,
        host_name=old.host_name,
        chain=old.chain,
        verify=old.verify,
        trim=old.trim,
        pace=PacePlan(old.bandwidth, old.buffer, old.contract, old.if_not_converging, old.background_only),
        firmware=FirmwarePlan(old.nvram, old.vtpm),
        outage=OutagePlan(old.on_break, old.hang),
        directories=old.directories,
    )


def flat(plan: Plan) -> FlatPlan:
    """Return the same plan in the flat form."""
    return FlatPlan(
        move=plan.move,
        uri=plan.uri,
        vm=plan.vm,
        uuid=plan.uuid,
        method=plan.method,
        method_reason=plan.method_reason,
        disks=tuple(_flat_disk(disk) for disk in plan.disks),
        home=plan.home,
        persistent=plan.domain.persistent,
        was=plan.domain.was,
        source=plan.source,
        chain=plan.chain,
        bandwidth=plan.pace.bandwidth,
        verify=plan.verify,
        background_only=plan.pace.background_only,
        on_break=plan.outage.on_break,
        version=plan.version,
        contract=plan.pace.contract,
        if_not_converging=plan.pace.if_not_converging,
        snapshots=plan.domain.snapshots,
        checkpoints=plan.domain.checkpoints,
        nvram=plan.firmware.nvram,
        hang=plan.outage.hang,
        vtpm=plan.firmware.vtpm,
        buffer=plan.pace.buffer,
        resume_after=plan.domain.resume_after,
        trim=plan.trim,
        host=plan.host,
        host_name=plan.host_name,
        directories=plan.directories,
    )


def _disk_today(old: FlatDisk) -> DiskPlan:
    return DiskPlan(
        target=old.target,
        source=SourceImage(
            old.source,
            old.source_format,
            old.source_kind,
            old.source_datastore,
            old.source_volume,
            old.parts,
            old.has_bitmaps,
        ),
        dest=DestinationImage(
            old.dest,
            old.dest_format,
            old.datastore,
            old.thick,
            old.preallocation,
            old.cluster_size,
            old.extended_l2,
        ),
        sizes=DiskSizes(old.virtual_size, old.allocation, old.data, old.required),
        chain=ChainPlan(old.layers, old.backing, old.stays_below, old.reused),
        release=ReleasePlan(old.old_files, old.old_parts),
        copy=CopyPlan(old.as_is, old.clone, old.resumable, old.granularity, old.cache),
        start=StartPlan(old.suspended_start, old.start_pause_s, old.overlay_suspended_start),
        overlays=OverlaysPlan(old.source_overlay, old.dest_overlay, old.overlay_first),
        partial=PartialPlan(old.partial_of, old.partial_bytes, old.partial_old),
        encryption=EncryptionPlan(old.sealed, old.luks),
    )


def _flat_disk(disk: DiskPlan) -> FlatDisk:
    source, dest, sizes, chain = disk.source, disk.dest, disk.sizes, disk.chain
    return FlatDisk(
        target=disk.target,
        source=source.path,
        source_format=source.format,
        source_kind=source.kind,
        dest=dest.path,
        dest_format=dest.format,
        datastore=dest.datastore,
        source_datastore=source.datastore,
        virtual_size=sizes.virtual,
        allocation=sizes.allocation,
        thick=dest.thick,
        layers=chain.layers,
        backing=chain.backing,
        stays_below=chain.stays_below,
        old_files=disk.release.files,
        suspended_start=disk.start.suspended,
        cache=disk.copy.cache,
        cluster_size=dest.cluster_size,
        has_bitmaps=source.has_bitmaps,
        as_is=disk.copy.as_is,
        granularity=disk.copy.granularity,
        resumable=disk.copy.resumable,
        source_overlay=disk.overlays.source,
        dest_overlay=disk.overlays.dest,
        overlay_suspended_start=disk.start.overlay_suspended,
        start_pause_s=disk.start.pause_s,
        overlay_first=disk.overlays.first,
        partial_of=disk.partial.move,
        partial_bytes=disk.partial.allocated,
        partial_old=disk.partial.old,
        preallocation=dest.preallocation,
        extended_l2=dest.extended_l2,
        parts=source.parts,
        old_parts=disk.release.parts,
        sealed=disk.encryption.sealed,
        luks=disk.encryption.luks,
        clone=disk.copy.clone,
        source_volume=source.volume,
        data=sizes.data,
        required=sizes.required,
        reused=chain.reused,
    )


def _current(disk: FlatDisk) -> FlatDisk:
    if disk.reused is None:
        return disk
    return replace(
        disk,
        reused=replace(disk.reused, prints=_each(disk.reused.prints), source_prints=_each(disk.reused.source_prints)),
    )


def _each(prints: dict[str, str]) -> dict[str, str]:
    return {name: fingerprint.current(one) for name, one in prints.items()}
