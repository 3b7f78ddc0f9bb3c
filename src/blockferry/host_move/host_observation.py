"""What one look at both hosts shows, beside the record that it was made with: data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.migrating import Instance, MigrationStats
from blockferry.storage_move.observation import DiskView


@dataclass(frozen=True, slots=True)
class OverlayLook:
    """The disks that go before their VM, on the host that has the truth. `disks`: by target. `saved`: off, with its
    state. What it says of the VM is of one moment with what it says of the disks."""

    state: PowerState
    persistent: bool
    saved: bool = False
    disks: Mapping[str, DiskView] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HostObservation:
    """`source`, `dest`: the VM as either host has it; the source was looked at last.

    `calling`: a migration call of this process is under way; `problem`: the last one ended with this. `handed_over`:
    the source's QEMU says that it has handed its guest over. `prints`: target -> fingerprint of the source image,
    of one that we copy. `unnamed`: targets whose image has the name yet under which the VM cannot start. `missing`: new
    images and state files that are not there, once the VM was handed over. `state_prints`: old path of a state file ->
    its fingerprint, of a VM that is off. `overlays`: looked at while they may be in use. `unplanned`:
    what the source has of the state of a VM that is off, and the plan does not name.
    """

    record: HostMoveRecord
    source: Instance
    dest: Instance
    calling: bool = False
    problem: str | None = None
    handed_over: bool = False
    prints: Mapping[str, str] = field(default_factory=dict)
    unnamed: tuple[str, ...] = ()
    stats: MigrationStats | None = None
    missing: tuple[str, ...] = ()
    state_prints: Mapping[str, str] = field(default_factory=dict)
    overlays: OverlayLook | None = None
    unplanned: tuple[str, ...] = ()
