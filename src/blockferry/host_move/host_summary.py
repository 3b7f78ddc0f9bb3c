"""What is shown of a move to another host: progress, report, and its line in a list."""

from __future__ import annotations

from dataclasses import dataclass, field

from blockferry.host_move.host_plan import HostMovePlan
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.migrating import MigrationStats
from blockferry.jobs.summary import JobProgress, JobReport, JobSummary


@dataclass(frozen=True, slots=True)
class HostMoveProgress(JobProgress):
    """`stats`: of the migration that runs. `cold`: target -> fraction of the copy of a VM that is off."""

    stats: MigrationStats | None = None
    cold: dict[str, float] = field(default_factory=dict)

    @property
    def left_s(self) -> float | None:
        """Seconds that the rest takes at the present rate; None: not known."""
        if self.stats is None or not self.stats.rate:
            return None
        left = max(0, self.stats.disk_total - self.stats.disk_done) + self.stats.memory_left
        return left / self.stats.rate


@dataclass(frozen=True, slots=True)
class HostMoveReport(JobReport):
    """`downtime_ms`: from the stop at the source until the guest ran at the destination, as the manager saw it.

    None: it was not seen, because another process ended the move. `qemu_downtime_ms`: by QEMU's own count.
    """

    downtime_ms: int | None = None
    qemu_downtime_ms: int | None = None
    disk_bytes: int = 0
    memory_bytes: int = 0
    sources: tuple[str, ...] = ()  # a sentence for each old image
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class HostMoveSummary(JobSummary[HostMovePlan, HostMoveRecord, HostMoveProgress, HostMoveReport]):
    """One move to another host, as the journal knows it."""
