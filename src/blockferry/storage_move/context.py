"""What the effects of one move share: plan, host, memory, and the journal behind `save`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from blockferry.hosts.helper import comparison
from blockferry.hosts.helper.watchdog import DestinationWatch
from blockferry.hosts.host import Host
from blockferry.hosts.kept import Kept
from blockferry.hosts.libvirt.domain import Control, DomainView
from blockferry.hosts.runner import Runner
from blockferry.hosts.waiting_runner import WaitingRunner
from blockferry.safety.guard import Guard
from blockferry.safety.proof import Claims, Proof
from blockferry.storage_move.observe import Memory
from blockferry.storage_move.overlays.record import ComparedBase
from blockferry.storage_move.pace.effects import Pacer
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record


@dataclass
class Context:
    """One move while it runs in this process.

    `save` makes a record durable before it returns (fenced by the lease); `log_event` adds a line to the story;
    `stop` is set when this process shall leave the move as it is; `wanted` reads what the user wants now.
    """

    plan: Plan
    site: Host
    guard: Guard
    save: Callable[[Record], None]
    log_event: Callable[[str, str], None]  # (kind, text)
    quarantine: Callable[..., None]  # into quarantine: the words of quarantine.row from `path` on
    keep_again: Callable[[Kept], None]  # a row back into quarantine, as it was
    should_stop: Callable[[], bool]
    bandwidth: Callable[[], int] = lambda: 0  # bytes/s that the user wants now, 0 for no limit
    claims: Callable[[], Claims] = Claims  # what the journal knows of the host's files
    journal: str = ""  # the identity of the journal, for what we mark
    last_view: Callable[[], DomainView | None] = lambda: None  # the newest look at the VM
    check: Callable[[], None] = lambda: None  # raises LeaseLost when somebody else runs the move by now: we were frozen
    show: Callable[[], None] = lambda: None  # publish the progress, in the middle of a long effect
    memory: Memory = field(default_factory=Memory)
    stop: threading.Event = field(default_factory=threading.Event)
    stalls: dict[str, float] = field(default_factory=dict)  # "start" | "switch" -> longest suspension, seconds
    sources: list[str] = field(default_factory=list)  # a sentence for each old file
    notes: list[str] = field(default_factory=list)
    cold: dict[str, float] = field(default_factory=dict)  # target -> fraction of the cold copy
    verifying: dict[str, comparison.ComparisonProgress] = field(
        default_factory=dict
    )  # target -> how far its comparison is
    verify_began: float = 0.0  # monotonic seconds, of the disk that is being compared
    verdicts: list[str] = field(default_factory=list)  # a sentence for each disk that was verified
    resynced: dict[str, ComparedBase] = field(default_factory=dict)  # target -> what going on from a broken copy took
    applied: dict[str, int] = field(default_factory=dict)  # target -> bandwidth set on its job

    pacer: Pacer | None = None  # only where the guest's writes have a contract
    proof: Proof | None = None  # of the old files: one inventory for all that are released one after the other
    noted: Record | None = None  # the record as this process has written it last
    watch: DestinationWatch | None = None  # beside the copies
    watch_mode: str = ""  # what it was told last, and obeyed
    watch_tried: float = 0.0  # monotonic seconds
    throttle_seen_at: float = 0.0  # monotonic seconds: when the guest's limits were last looked at
    owned: set[str] = field(default_factory=set)  # directories that were given their owner by this process
    unguarded: bool = False  # it was told that no guard knows of the guest's limits

    @property
    def control(self) -> Control:
        return self.site.control(self.plan.uuid, self.plan.vm)

    @property
    def runner(self) -> Runner:
        """Waits for storage that does not answer without being held up by it."""
        return WaitingRunner(self.site.runner, lambda text: self.log_event("warning", text), self.stop.is_set)

    def blocker(self, path: str, *, patience_s: float, is_base: bool) -> str | None:
        """Why an old file of this move must stay; None when it is proven that nothing needs it (`Proof.blocker`).

        The old files go together. One that is kept for a doubt goes no more: what it stands on stays with it.
        """
        home = [file.source for file in self.plan.small_files]
        old = [one for disk in self.plan.disks for one in (*disk.release.files, disk.overlays.source) if one]
        if self.proof is None:
            self.proof = Proof(self.site, [*old, *home])
        said = self.claims()
        stay = {row.path for row in said.kept if row.move == self.plan.move and self.plan.source.delete}
        overlays = [disk.overlays.dest for disk in self.plan.disks if disk.overlays.dest]
        going = [one for one in (*old, *overlays) if one not in stay]
        return self.proof.blocker(path, said, going=going, patience_s=patience_s, is_base=is_base)

    @staticmethod
    def now_s() -> float:
        return time.monotonic()
