"""A QEMU: the images that it has open, what its guest writes, and its block jobs.

It holds files, not names: one that is removed is written to all the same. Time passes by `moment`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulated_host.files import REGION, Files, Inode, Regions, read


@dataclass
class BlockJob:
    """A copy to `target`, or the commit of the top image into it, which it stands on then.

    Facts of QEMU that it has: until it has `looked` at the disk nothing is known of its length, and where the start
    race is, what the guest writes meanwhile is missed; `ready` stays while what the guest writes is outstanding.
    """

    kind: str  # "copy", "active-commit"
    target: list[Inode]  # the image and what it stands on, top first
    paths: list[tuple[str, str]]  # (path, format) by which they were opened
    synchronous: bool = False
    shallow: bool = False
    zeroed: bool = False  # the target is taken to read as zeros already
    dirty: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)
    looked: bool = False
    ready: bool = False
    ending: str = ""  # "pivot", "abort"
    cur: int = 0
    foreign: bool = False

    @property
    def path(self) -> str:
        return self.paths[0][0]

    @property
    def format(self) -> str:
        return self.paths[0][1]

    @property
    def end(self) -> int:
        return max(2, self.cur + REGION * len(self.dirty)) if self.looked else 1


@dataclass
class QemuDisk:
    """One disk: its open images, top first; the paths by which they were opened."""

    target: str
    chain: list[Inode]
    paths: list[tuple[str, str]]  # (path, format)
    job: BlockJob | None = None


@dataclass
class GuestDisk:
    """What the guest knows: what was acknowledged to it, and what it has flushed since."""

    regions: int
    writes: int = 0
    acknowledged: Regions = field(default_factory=dict)
    flushed: Regions = field(default_factory=dict)


class Qemu:
    """One process, from its start to its end."""

    def __init__(
        self,
        files: Files,
        guest: dict[str, GuestDisk],
        chance: random.Random,
        pivoted: Callable[[QemuDisk, BlockJob], None],
        *,
        start_race: bool,
    ) -> None:
        self.files = files
        self.guest = guest
        self.chance = chance
        self.pivoted = pivoted
        self.start_race = start_race
        self.disks: dict[str, QemuDisk] = {}
        self.paused = False
        self.guest_off = False  # the guest has powered off; QEMU waits to be ended by libvirt
        self.copies = chance.choice((0.1, 0.4, 0.9))  # how likely a job does something in a moment
        self.writes = chance.choice((0.05, 0.3))  # the same of the guest, a disk

    # ------------------------------------------------------------ the guest

    def moment(self) -> None:
        """The guest does something, jobs go on."""
        if not self.paused and not self.guest_off:
            for target in self.disks:
                if self.chance.random() < self.writes:
                    self.write(target, self.chance.randrange(self.guest[target].regions))
                if self.chance.random() < 0.1:
                    self.flush(target)
        for disk in self.disks.values():
            if disk.job is not None and self.chance.random() < self.copies:
                self._work(disk, disk.job)

    def write(self, target: str, region: int) -> None:
        guest, disk = self.guest[target], self.disks[target]
        guest.writes += 1
        self._put(disk.chain[0], region, guest.writes)
        guest.acknowledged[region] = guest.writes
        job = disk.job
        if job is None:
            return
        if not job.looked:
            (job.missed if self.start_race else job.dirty).add(region)
        elif job.synchronous:
            self._put(job.target[0], region, guest.writes)
            job.dirty.discard(region)
        else:
            job.dirty.add(region)

    def flush(self, target: str) -> None:
        """The guest's flush: of the image that it writes to, and not of a copy."""
        disk, guest = self.disks[target], self.guest[target]
        disk.chain[0].flush()
        guest.flushed = dict(guest.acknowledged)

    def _put(self, inode: Inode, region: int, number: int) -> None:
        assert inode.image is not None
        inode.image.regions[region] = number
        self.files.touch(inode)

    @staticmethod
    def _clear(inode: Inode) -> None:
        assert inode.image is not None
        inode.image.regions.clear()

    # ------------------------------------------------------------ block jobs

    def _work(self, disk: QemuDisk, job: BlockJob) -> None:
        if job.ending == "abort":
            disk.job = None
            return
        if not job.looked:
            top = disk.chain[0].image
            assert top is not None
            own = set(top.regions)
            # What was written since the call is known to be dirty, unless the start race has swallowed it.
            job.dirty |= own if job.shallow or job.kind == "active-commit" else set(read(disk.chain))
            job.dirty -= job.missed
            job.looked = True
            if job.kind == "copy" and not job.shallow and not job.zeroed:
                self._clear(job.target[0])
            return
        source = read(disk.chain[:1]) if job.shallow or job.kind == "active-commit" else read(disk.chain)
        for region in sorted(job.dirty)[: 3 if job.ending else self.chance.choice((1, 2))]:
            if region in source:
                self._put(job.target[0], region, source[region])
            job.dirty.discard(region)
            job.cur += REGION
        job.ready = job.ready or not job.dirty
        if job.ending == "pivot" and not job.dirty:
            self.conclude(disk, job)

    def conclude(self, disk: QemuDisk, job: BlockJob) -> None:
        """What is outstanding is copied; from now on the disk is the target."""
        source = read(disk.chain[:1]) if job.shallow or job.kind == "active-commit" else read(disk.chain)
        for region in job.dirty & set(source):
            self._put(job.target[0], region, source[region])
        job.target[0].flush()
        disk.job = None
        disk.chain = job.target
        self.pivoted(disk, job)


def block_graph(qemu: Qemu) -> dict[str, list[dict[str, Any]]]:
    """What QEMU answers to query-block and query-named-block-nodes, as far as hosts/block_graph.py reads it."""
    nodes: list[dict[str, Any]] = []
    devices = []
    for number, disk in enumerate(qemu.disks.values()):
        image: dict[str, Any] | None = None
        for at, (path, format) in reversed(list(enumerate(disk.paths))):
            below = {} if image is None else {"backing-image": image}
            image = {"filename": path, "format": format, **below}
            nodes.append({"node-name": f"libvirt-{number}-{at}-format", "drv": format, "ro": at > 0, "image": image})
        inserted = {"node-name": f"libvirt-{number}-0-format", "drv": disk.paths[0][1], "image": image}
        devices.append({"qdev": f"/machine/peripheral/virtio-disk{number}/virtio-backend", "inserted": inserted})
        if disk.job is not None and disk.job.kind == "copy":
            target = {"filename": disk.job.path, "format": disk.job.format}
            nodes.append(
                {"node-name": f"libvirt-{number}-mirror", "drv": disk.job.format, "ro": False, "image": target}
            )
    return {"query-block": devices, "query-named-block-nodes": nodes}
