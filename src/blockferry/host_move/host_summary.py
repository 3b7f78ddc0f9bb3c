"""What is shown of a move to another host: progress, report, its line in a list, and what `check` says of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from blockferry.host_move.host_plan import HostMovePlan
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.migrating import MigrationStats
from blockferry.jobs.job_summary import JobProgress, JobReport, JobSummary
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.precheck.finding import Finding
from blockferry.storage_move.summary import DiskEstimate, SpaceEstimate


@dataclass(frozen=True, slots=True)
class HostMoveProgress(JobProgress):
    """`stats`: of the migration that runs. `cold`: target -> fraction of the copy of a VM that is off.

    `sizes`: target -> bytes of the disks that `cold` tells of.
    """

    stats: MigrationStats | None = None
    cold: dict[str, float] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Bytes that have to go, as known now: disks, and memory with what the guest has changed meanwhile."""
        if self.stats is not None:
            return self.stats.disk_total + self.stats.memory_done + self.stats.memory_left
        return sum(self.sizes.values())

    @property
    def done(self) -> int:
        if self.stats is not None:
            return self.stats.disk_done + self.stats.memory_done
        return sum(int(self.sizes.get(target, 0) * fraction) for target, fraction in self.cold.items())

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return 0.0 if self.stats is None else float(self.stats.rate)

    @property
    def seconds_left(self) -> float | None:
        """Seconds that the rest takes at the present rate; None: not known, or the guest outruns its migration."""
        stats = self.stats
        if stats is None or not stats.rate or stats.outrun:
            return None
        return (self.total - self.done) / stats.rate


@dataclass(frozen=True, slots=True)
class HostMoveReport(JobReport):
    """What a finished move to another host did. Seconds and bytes; None where it was not measured.

    `switch_stall_s`: from the stop at the source until the guest ran at the destination; None: it was not seen,
    because another process ended the move. `qemu_downtime_ms`: by QEMU's own count.
    """

    bulk_bytes: int = 0  # of the disks
    memory_bytes: int = 0  # with what was sent again because the guest changed it
    passes: int = 0  # over the memory
    switch_stall_s: float | None = None
    qemu_downtime_ms: int | None = None
    sources: tuple[str, ...] = ()  # a sentence for each old image
    notes: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()  # a sentence for each proof
    networks: dict[str, str] = field(default_factory=dict)  # those that have another name at the destination


@dataclass(frozen=True, slots=True)
class HostMoveSummary(JobSummary[HostMovePlan, HostMoveRecord, HostMoveProgress, HostMoveReport]):
    """One move to another host, as the journal knows it."""

    kind: ClassVar[str] = "host-move"

    @property
    def holds(self) -> str:
        """What is true after a move that did not succeed, in a sentence."""
        plan = self.plan
        return f"{plan.vm} is at {plan.host_name} as before; what was made at {plan.dest_host_name} is removed."

    @property
    def too_late_to_cancel(self) -> bool:
        """Whether the guest was handed over: from then on there is only the way forward."""
        if self.record.outcome is not None:
            return self.record.outcome is Outcome.MOVED
        return self.record.handed


@dataclass(frozen=True, slots=True)
class HostCheckResult:
    """All reasons for and against a move to another host, and the plan if there can be one. Nothing was touched."""

    kind: ClassVar[str] = "host-move"

    vm: str
    findings: tuple[Finding, ...]
    plan: HostMovePlan | None
    estimates: tuple[DiskEstimate, ...] = ()
    space: tuple[SpaceEstimate, ...] = ()
    seconds: float | None = None
    memory: int = 0  # bytes of the destination's ordinary memory that the guest takes
    memory_free: int = 0  # of the destination

    @property
    def refused(self) -> bool:
        return self.plan is None or any(finding.is_error for finding in self.findings)

    @property
    def nothing_to_do(self) -> bool:
        """Always False: a VM that is on that host already is refused, for a URI may lead to the wrong host."""
        return False
