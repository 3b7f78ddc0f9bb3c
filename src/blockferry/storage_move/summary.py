"""What we show people of hosts and moves: listings, progress, the report. JSON output is made of these."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from blockferry.base import lazy
from blockferry.hosts.inventory import Datastore, Vm
from blockferry.jobs.job_summary import JobProgress, JobReport, JobSummary
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.pace.latency import GuestLatency
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.finding import Finding
from blockferry.storage_move.record import Record
from blockferry.storage_move.verify.record import BackupExport

if TYPE_CHECKING:
    from blockferry.storage_move.firmware import rules as firmware_rules
    from blockferry.storage_move.verify import rules as verify_rules
else:  # with all actions and observations: a listing does without
    verify_rules = lazy.module("blockferry.storage_move.verify.rules")
    firmware_rules = lazy.module("blockferry.storage_move.firmware.rules")


@dataclass(frozen=True, slots=True)
class DiskListing:
    """One disk in `blockferry vms`. Sizes are bytes, None where they cannot be known."""

    target: str
    device: str
    path: str | None
    format: str
    datastore: str | None
    virtual_size: int | None
    allocation: int | None
    problem: str | None = None  # why the sizes are not known
    layers: int = 1  # length of the backing chain


@dataclass(frozen=True, slots=True)
class VmListing:
    vm: Vm
    disks: tuple[DiskListing, ...]
    move: str | None = None  # the move that is under way
    host: str = ""  # its name in the configuration; "": no hosts are configured, or one was named


@dataclass(frozen=True, slots=True)
class DatastoreListing:
    """`committed`: bytes that the images would take if all thin ones grew to their full size."""

    datastore: Datastore
    committed: int | None
    vms: tuple[str, ...]
    problem: str | None = None
    host: str = ""  # the name of its host, where several were asked


@dataclass(frozen=True, slots=True)
class DiskEstimate:
    """What `check` says of one disk. Bytes and seconds."""

    target: str
    copy_bytes: int  # read and written
    seconds: float | None
    allocated_bytes: int | None = None  # what the new image takes at the destination, at most


@dataclass(frozen=True, slots=True)
class SpaceEstimate:
    """A destination datastore before and after. Bytes."""

    datastore: str
    available_before: int
    available_after: int
    committed_after: int
    capacity: int


@dataclass(frozen=True, slots=True)
class CheckResult:
    """All reasons for and against, and the plan if there can be one. Nothing was touched."""

    kind: ClassVar[str] = "storage-move"

    vm: str
    findings: tuple[Finding, ...]
    plan: Plan | None
    estimates: tuple[DiskEstimate, ...] = ()
    space: tuple[SpaceEstimate, ...] = ()
    seconds: float | None = None  # expected time of the whole move

    @property
    def refused(self) -> bool:
        return not self.nothing_to_do and (self.plan is None or any(finding.is_error for finding in self.findings))

    @property
    def nothing_to_do(self) -> bool:
        """Whether all that was asked for is at the destination already, and nothing else speaks against the move."""
        return [finding.code for finding in self.findings if finding.is_error] == ["NOTHING_TO_MOVE"]


@dataclass(frozen=True, slots=True)
class DiskProgress:
    """One disk of a running move. Bytes; rate in bytes/s."""

    target: str
    phase: str  # waiting, copying, in step, switched, cold copy, ...
    total: int = 0  # bytes to copy as known now: bulk and changed
    done: int = 0
    bulk: int = 0
    changed: int = 0  # bytes copied again (or to be) because the guest changed them
    passes: int = 0  # passes over changed blocks that were completed
    pass_sizes: tuple[int, ...] = ()
    rate: float = 0.0
    seconds_left: float | None = None


@dataclass(frozen=True, slots=True)
class Progress(JobProgress):
    """A running move as last seen."""

    disks: tuple[DiskProgress, ...] = ()
    pace: str = ""  # why the copy goes at the speed it goes, where it follows the guest

    @property
    def total(self) -> int:
        return sum(disk.total for disk in self.disks)

    @property
    def done(self) -> int:
        return sum(disk.done for disk in self.disks)

    @property
    def rate(self) -> float:
        return sum(disk.rate for disk in self.disks)

    @property
    def seconds_left(self) -> float | None:
        left = [disk.seconds_left for disk in self.disks if disk.seconds_left is not None]
        return max(left) if left else None


@dataclass(frozen=True, slots=True)
class GuestReport:
    """How the guest's writes fared under a latency contract; as QEMU counts them, estimated (docs/pace.md)."""

    limit_s: float
    before: GuestLatency | None
    during: GuestLatency | None
    within: float  # the share of the writes during the copy that kept the limit


@dataclass(frozen=True, slots=True)
class Report(JobReport):
    """What a finished move did. Seconds and bytes; None where it was not measured."""

    bulk_bytes: int = 0
    changed_bytes: int = 0
    passes: int = 0
    switch_stall_s: float | None = None  # the VM was suspended for so long, seen from the host
    start_stall_s: float | None = None  # the same at the clean start of the copies
    switch_attempts: int = 0
    sources: tuple[str, ...] = ()  # one sentence for each old file: removed, or kept and why
    notes: tuple[str, ...] = ()
    verified: tuple[str, ...] = ()  # one sentence for each disk whose copy was found the same
    guest: GuestReport | None = None  # only with a latency contract
    compared_bytes: int = 0  # read on both sides to bring a base, or a broken copy, in step
    rewritten_bytes: int = 0  # and written for it
    saved_bytes: int = 0  # that copying anew would have carried besides
    trimmed_bytes: int | None = None  # given back on the old disks before the copy; None: not asked for
    trimmed_again_bytes: int | None = None  # and on the new ones at the end; None: not asked then
    checkpoint_stall_s: float | None = None  # the longest suspension for a flush in the middle of the copy
    firmware_stall_s: float | None = (
        None  # the VM was saved and restored for its UEFI variables, and stood still so long
    )


@dataclass(frozen=True, slots=True)
class MoveSummary(JobSummary[Plan, Record, Progress, Report]):
    """One move as the journal knows it."""

    kind: ClassVar[str] = "storage-move"

    @property
    def holds(self) -> str:
        """What is true after a move that did not succeed, in a sentence."""
        if self.record.kept:
            return (
                f"{self.plan.vm} is on its old disks; what was copied is kept ({', '.join(self.record.kept)}): the "
                "next move to the same place goes on from it."
            )
        return f"{self.plan.vm} is on its old disks, untouched; what was made at the destination is removed."

    def see_verified(self) -> None:
        """Raise NotVerified or CopyDiffers where the new disks were to be compared with the old ones."""
        verify_rules.see_verified(self)

    @property
    def over(self) -> bool:
        """Whether it has ended, or only UEFI variables have yet to follow at a power-off of the VM."""
        return self.finished is not None or self.state == "waiting"

    @property
    def too_late_to_cancel(self) -> bool:
        """Whether the VM uses its new disks and nothing is left that a cancellation could end.

        UEFI variables that have yet to follow can still be left behind, and a comparison (`--verify`) can be ended:
        the move then ends as not verified, with its old disks kept.
        """
        if self.record.outcome is not None:
            return self.record.outcome is Outcome.MOVED
        return self.record.switch.done and not self.record.nvram.pending and not self._comparing

    @property
    def _comparing(self) -> bool:
        """Whether the new disks are being compared with the old ones (`--verify`, after the switch)."""
        return self.plan.verify and self.record.export.state is BackupExport.READY

    @property
    def waits(self) -> bool:
        """Whether only the UEFI variables are left, which follow once the VM has been powered off."""
        return self.record.nvram.pending and not firmware_rules.still_now(self.plan, self.record)


@dataclass(frozen=True, slots=True)
class Orphan:
    """Something that an earlier move left (or keeps on purpose) on a datastore or VM."""

    path: str
    kind: (
        str  # "copy" (half-made destination), "partial" (broken copy to be gone on with), "marker" (its file is gone),
    )
    # "source" (old disk), "mark" (metadata on a VM)
    move: str | None
    vm: str | None
    datastore: str | None
    size: int
    why: str  # a sentence: whose it is and why it is still here
    removable: bool  # nothing uses it, as far as can be proven
    expires: float | None = None
    foreign: bool = False  # nothing speaks against its removal but that it is another journal's
    host: str = ""  # the name of the host on which it was found, where several were asked

    @property
    def on_purpose(self) -> bool:
        """It was left because somebody wanted it: only its own name has it removed, or `quarantine purge`."""
        return self.kind in ("source", "partial")


@dataclass(frozen=True, slots=True)
class Orphans:
    """What was found on a host, or on all, and where could not be looked."""

    left: tuple[Orphan, ...]
    unsearched: tuple[str, ...] = ()  # a sentence for each datastore, and for each host that did not answer
