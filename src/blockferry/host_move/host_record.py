"""What a move to another host remembers of itself: what cannot be seen on either host. Its JSON is a promise."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from blockferry.hosts.migrating import MigrationStats
from blockferry.jobs.record import JobRecord
from blockferry.storage_move.overlays.record import OverlayState


@dataclass(frozen=True, slots=True)
class PartCopied:
    """So much of a disk, from its beginning, is on the destination's storage. `fingerprint`: of the source image."""

    fingerprint: str
    size: int


@dataclass(frozen=True, slots=True)
class FirstRecord:
    """Of disks that go before their running VM: the overlays above the old images, and above the new ones."""

    files: tuple[str, ...] = ()  # intent: overlays at the source that may be ours
    source: dict[str, OverlayState] = field(default_factory=dict)  # target -> what is known of its overlay there
    made: tuple[str, ...] = ()  # proof: targets whose overlay is there at the destination
    new_files: tuple[str, ...] = ()  # their paths, also when they are gone
    dest: dict[str, OverlayState] = field(default_factory=dict)  # target -> what is known of its overlay there
    xml_before: dict[str, str] = field(default_factory=dict)  # target -> the disk in the configuration before it all
    committed: dict[str, str] = field(default_factory=dict)  # overlay -> base and overlay when the base had all
    attempts: int = 0  # commits that were begun, since somebody has looked
    merging: tuple[str, ...] = ()  # intent: old images that are kept get what the overlays above them hold

    def at(self, *, source: bool) -> dict[str, OverlayState]:
        """Return what is known of the overlays at one of the hosts."""
        return self.source if source else self.dest

    def with_state(self, target: str, state: OverlayState, *, source: bool) -> FirstRecord:
        """Return the same with another state of one overlay."""
        changed = {**self.at(source=source), target: state}
        return replace(self, source=changed) if source else replace(self, dest=changed)


@dataclass(frozen=True, slots=True)
class HostMoveRecord(JobRecord):
    """Each field is an intent (written before the act) or a proof (written after it was seen).

    State files are named by their old path.
    """

    marked: bool = False  # proof: the VM bears our mark at the source
    created: tuple[str, ...] = ()  # intent: paths at the destination that may be ours; directories end with a slash
    made: tuple[str, ...] = ()  # proof: targets whose image is there at its full size
    copied: dict[str, str] = field(default_factory=dict)  # target -> fingerprint of the source that was copied by us
    parts: dict[str, PartCopied] = field(default_factory=dict)  # proof: target -> what is there of its copy
    state_copied: dict[str, str] = field(default_factory=dict)  # proof: state file -> fingerprint
    first: FirstRecord = field(default_factory=FirstRecord)
    begun: bool = False  # intent: an instance, or a definition, of the VM at the destination that has our mark is ours
    defined: bool = False  # proof, cold: the destination has the definition, barred by the names of the images
    handed: bool = False  # proof: what the source has of the guest is old; it must never run there again
    alone: bool = False  # proof: the source has neither QEMU nor definition, so it cannot start there
    left: dict[str, str] = field(default_factory=dict)  # target -> fingerprint of the old image when it was alone
    unproven: str = ""  # why the new images are not known to be whole on the destination's disks, a clause
    arrived: bool = False  # proof: the VM is at the destination as it is to be, running or paused or off
    flushed: bool = False  # proof: since it arrived, the new images were flushed to the destination's disks
    doubted: dict[str, str] = field(default_factory=dict)  # state file -> why it is kept, a clause
    proven: tuple[str, ...] = ()  # state files whose new ones were proven to hold the same
    settled: bool = False  # proof: definition at the destination without our mark, autostart as it was
    released: tuple[str, ...] = ()  # old images that were removed or kept, as asked
    sources: tuple[str, ...] = ()  # what became of each of them, a sentence
    stats: MigrationStats | None = None
    downtime_ms: int | None = None  # from the stop at the source until the guest ran at the destination; None: not seen
    notes: tuple[str, ...] = ()
