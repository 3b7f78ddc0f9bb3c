"""What the effects of one move to another host share: plan, both hosts, and the journal behind `save`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from blockferry.host_move.host_plan import HostMovePlan
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.helper.holding import HeldRunner, HeldVm, Holding
from blockferry.hosts.helper.migration_guards import DestinationGuard, SourceGuard
from blockferry.hosts.host import Host
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt.migration import Migration
from blockferry.safety.proof import Claims


@dataclass(kw_only=True)
class HostMoveContext:
    """One move while it runs in this process.

    `save` makes a record durable before it returns; `check` raises LeaseLost when somebody else runs the move by now:
    it is called right before each act that cannot be taken back. `claims`: what the journal knows of files.

    What changes something on a host, and would do harm if it were done after another process has taken the move over,
    goes by `source_vm`, `dest_vm`, `source_files`, `dest_files`: the host refuses it then.
    """

    plan: HostMovePlan
    source: Host
    dest: Host
    save: Callable[[HostMoveRecord], None]
    log_event: Callable[[str, str], None]  # (kind, text)
    check: Callable[[], None]
    should_stop: Callable[[], bool]
    bandwidth: Callable[[], int]
    claims: Callable[[], Claims]
    dest_claims: Callable[[], Claims]
    quarantine: Callable[[Kept], None]
    holding: Holding
    journal: str = ""  # the identity of the journal, for what we mark
    show: Callable[[], None] = lambda: None
    migration: Migration | None = None  # the call of this process, also when it is over
    source_guard: SourceGuard | None = None  # of a running VM: see guarding.py
    dest_guard: DestinationGuard | None = None
    cold: dict[str, float] = field(default_factory=dict)  # target -> fraction of our copy
    bandwidth_set: int | None = None  # bytes/s, as the migration was told last
    disks_told: bool = False  # the copies of the disks have the shares of the bandwidth
    limit_set: bool = False  # the downtime limit was told
    told_at: float = float("-inf")  # when a migration that another process has begun was told all of these

    @property
    def source_vm(self) -> HeldVm:
        """The VM at the source."""
        return HeldVm(self.source.runner, self.holding, self.source.uri, self.plan.uuid, self.plan.vm)

    @property
    def dest_vm(self) -> HeldVm:
        """The VM at the destination."""
        return HeldVm(self.dest.runner, self.holding, self.dest.uri, self.plan.uuid, self.plan.vm)

    @property
    def source_files(self) -> HeldRunner:
        """The source's files and programs."""
        return HeldRunner(self.source.runner, self.holding)

    @property
    def dest_files(self) -> HeldRunner:
        """The destination's."""
        return HeldRunner(self.dest.runner, self.holding)
