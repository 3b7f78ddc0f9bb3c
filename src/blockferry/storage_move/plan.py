"""The plan of a move: everything that was decided before anything was touched. Written to the journal as JSON.

It is built of parts: one for each disk (disk_plan.py), and one for each facet, which is `plan.py` in its folder. The
JSON form is a promise (docs/journal.md): fields are only ever added, with defaults. The flat form of versions up to 8
is read by old_plan.py, which also makes it: it is what `--json` shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from blockferry.hosts import exports
from blockferry.hosts.datastore_id import Directory, FileId, SpaceId, file_of, host_place
from blockferry.hosts.fencing import Fencing
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.firmware.plan import FirmwarePlan
from blockferry.storage_move.home.plan import HomeFile, HomePlan
from blockferry.storage_move.pace.plan import PacePlan
from blockferry.storage_move.request import ChainPolicy, Method, OnBreak, SourcePolicy

PLAN_VERSION = 9
"""2: UEFI variables apart from the home's files, files copied as they are; an older blockferry would lose them.

3: a VM may be held in a saved state for its UEFI variables; an older blockferry would leave it there.

4: layers may be reused; an older blockferry would not see that such an image was written to before the switch.

5: a move belongs to the host of its UUID; an older blockferry would take it up on any host with the same URI.

6: files of the home that the XML names elsewhere than in disks; an older blockferry would not rewrite those names, and
would remove the files.

7: commits of overlays may begin in a suspension, and an overlay may come first; an older blockferry would commit while
the guest runs, on a QEMU that loses writes then.

8: the move's record is of another form (record.py), which an older blockferry cannot read.

9: the plan is built of parts; before, every field was the plan's or the disk's own (old_plan.py).
"""


@dataclass(frozen=True, slots=True)
class HangPlan:
    """What is done when the destination hangs. `bound`: what it means for the guest, a sentence."""

    wanted: Fencing
    bound: str


@dataclass(frozen=True, slots=True)
class OutagePlan:
    """What is done when the destination fails."""

    on_break: OnBreak = OnBreak.REMOVE
    hang: HangPlan | None = None  # None: planned by an older version, or the VM is off


@dataclass(frozen=True, slots=True)
class DomainPlan:
    """The domain as it was when the move was planned, and what of libvirt's metadata goes along."""

    persistent: bool
    was: PowerState
    resume_after: bool = False  # QEMU has paused the VM because its storage failed; it runs again after the switch
    snapshots: tuple[str, ...] = ()  # whose metadata is to name the new files
    checkpoints: tuple[str, ...] = ()  # of libvirt's, whose bitmaps go along


@dataclass(frozen=True, slots=True)
class Plan:
    """One move, decided. `vm`, `uuid`: the VM; `uri`, `host`, `host_name`: where it is."""

    move: str
    uri: str
    vm: str
    uuid: str
    method: Method
    method_reason: str
    disks: tuple[DiskPlan, ...]
    domain: DomainPlan
    source: SourcePolicy
    home: HomePlan | None = None
    version: int = PLAN_VERSION
    host: str = ""  # libvirt's UUID of the host; "": planned by an older version
    host_name: str = ""  # its name then, for people
    chain: ChainPolicy = ChainPolicy.FLATTEN
    verify: bool = False
    trim: bool = False  # the guest gives back what it does not use before the first disk is copied, and once more after
    pace: PacePlan = field(default_factory=PacePlan)
    firmware: FirmwarePlan = field(default_factory=FirmwarePlan)
    outage: OutagePlan = field(default_factory=OutagePlan)
    directories: dict[str, Directory] = field(default_factory=dict)  # datastore, as the host calls it -> what it is

    def disk(self, target: str) -> DiskPlan:
        return next(disk for disk in self.disks if disk.target == target)

    @property
    def bandwidth(self) -> int:
        """Bytes/s that the user has asked for, 0 for no limit: a plan of whatever kind of move has it."""
        return self.pace.bandwidth

    @property
    def synchronous(self) -> bool:
        """Whether the guest's writes go to both sides at once. Never with a kept chain: see DiskPlan.shallow."""
        return self.method is Method.MIRROR and self.can_be_synchronous

    @property
    def stays_shut(self) -> bool:
        """Whether a running QEMU must not copy: it would decrypt."""
        return any(disk.encryption.sealed and disk.encryption.luks is None for disk in self.disks)

    @property
    def can_be_synchronous(self) -> bool:
        return not self.pace.background_only and not any(disk.shallow for disk in self.disks)

    @property
    def small_files(self) -> tuple[HomeFile, ...]:
        """All files that change their place and are no disks."""
        nvram = (
            ()
            if self.firmware.nvram is None
            else (HomeFile(self.firmware.nvram.source, self.firmware.nvram.dest, "nvram", self.firmware.nvram.size),)
        )
        return (*(self.home.files if self.home else ()), *nvram)

    @property
    def made(self) -> frozenset[str]:
        """Every path at which this move makes a file at the destination."""
        images = (path for disk in self.disks for path in (disk.dest.path, disk.overlays.dest) if path)
        layers = (layer.dest for disk in self.disks for layer in disk.chain.layers)
        return frozenset((*images, *layers, *(small_file.dest for small_file in self.small_files)))

    def file(self, path: str) -> FileId:
        """Which file a path of the host is. Of a host that is not known its place is "host ", which is no proof."""
        return file_of(path, self.directories.values()) or FileId(host_place(self.host), path)

    def space(self, datastore: str) -> SpaceId | None:
        """The file system that a datastore of this plan takes its bytes from; None: not known."""
        directory = self.directories.get(datastore)
        return None if directory is None else directory.id.space

    @property
    def made_files(self) -> frozenset[FileId]:
        """Those of `made` whose identity is known: the same for every host."""
        return frozenset(file_id for path in self.made if (file_id := self.known_file(path)) is not None)

    def known_file(self, path: str) -> FileId | None:
        """A file in a datastore whose identity is known, or an export by what its server stores; None: not known.

        An export on a local socket is its host's own.
        """
        if not exports.is_export(path):
            return file_of(path, self.directories.values())
        where = exports.parse(path)
        return None if where.socket else FileId("export", where.storage)

    @property
    def new_names(self) -> dict[str, str]:
        """Old path -> new path of every image, top layers and lower ones, and of the home's files; not of the NVRAM,
        which comes later."""
        found = {file.source: file.dest for file in self.home.files} if self.home else {}
        for disk in self.disks:
            found.update({layer.source: layer.dest for layer in disk.chain.layers})
            if disk.chain.reused is not None:
                found[disk.chain.reused.source] = disk.chain.reused.path
            found[disk.source.path] = disk.dest.path
        return found

    @property
    def destination(self) -> str:
        """The datastores that the disks go to, in the order of the disks, for people."""
        return ", ".join(dict.fromkeys(disk.dest.datastore for disk in self.disks)) or (
            self.home.datastore if self.home else ""
        )

    def scratch(self, target: str) -> str:
        """Where the old content of blocks goes that the guest overwrites while this disk is verified."""
        return f"{self.disk(target).dest.path}.{self.move}.view"

    @property
    def copy_bytes(self) -> int:
        return sum(disk.copy_bytes for disk in self.disks)
