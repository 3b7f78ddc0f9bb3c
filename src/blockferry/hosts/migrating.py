"""What two hosts show of one VM that goes from one to the other: data only."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.hosts.inventory import PowerState


@dataclass(frozen=True, slots=True)
class Instance:
    """A VM as one host has it. `paths`: (target, path) of its disks, of the running VM if it runs."""

    state: PowerState
    reason: str = ""  # why it is paused: "user", "migration", ...
    persistent: bool = False
    mark: str = ""  # id of the move whose mark it bears
    job: bool = False  # a migration, or another job of libvirt's, is under way
    migrated: bool = False  # off, and libvirt says that it was because the VM went to another host
    paths: tuple[tuple[str, str], ...] = ()
    barred: tuple[str, ...] = ()  # targets to which the definition gives names that no storage has: it cannot start
    nvram: str = ""  # the file of its UEFI variables
    tpm: bool = False  # it has an emulated TPM, whose state is on this host
    foreign: bool = False  # libvirt says that this job is no migration: a backup, a save, a dump

    @property
    def migrating(self) -> bool:
        """Whether a job is under way that is a migration, or may be one."""
        return self.job and not self.foreign

    @property
    def active(self) -> bool:
        """Whether there is a QEMU."""
        return self.state.active

    @property
    def absent(self) -> bool:
        """Whether libvirt has neither a QEMU nor a definition."""
        return self.state is PowerState.ABSENT

    @property
    def complete(self) -> bool:
        """Whether it stands still with all of the guest's memory: libvirt has finished an incoming migration.

        While one comes in, the reason is "migration" (libvirt 9.0: qemuMigrationDstFinish sets "user").
        """
        return self.state is PowerState.PAUSED and self.reason != "migration" and not self.job


ABSENT = Instance(PowerState.ABSENT)


@dataclass(frozen=True, slots=True)
class MigrationStats:
    """libvirt's statistics of a migration. Bytes, bytes/s, milliseconds."""

    disk_total: int = 0
    disk_done: int = 0
    memory_total: int = 0
    memory_done: int = 0
    memory_left: int = 0
    rate: int = 0  # of disks and memory together
    passes: int = 0  # over the memory
    downtime_ms: int = 0  # as QEMU counts it: until its own end, not until the guest runs again
    memory_rate: int = 0
    dirty_rate: int = 0  # bytes/s of its memory that the guest changes, by QEMU's latest count
    throttle: int = 0  # percent by which auto-converge slows the guest's CPUs

    @property
    def outrun(self) -> bool:
        """Whether the guest changes its memory faster than it is sent."""
        return self.passes > 1 and self.dirty_rate > self.memory_rate > 0
