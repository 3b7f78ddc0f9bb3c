"""Where everything is measured: a lab host of its own with two datastores, the same for every method.

Made fair here: the loop devices go round the machine's page cache (so an image is never in memory twice), every block
of both is written once before anything is measured (so nobody pays for a sparse file's first write), each trial of a
whole move gets a fresh source image, and caches are dropped before each, with the programs themselves warmed again.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab import Datastore, Disk, Guest, Host, Lab, LabError
from lab.process import run
from lab.sizes import GIB
from lab.state import ROOT

_QUIET_S = 0.5
_SECTOR = 512

TARGETS = ("vda", "vdb", "vdc")

BLOCKFERRY = str(Path(sys.executable).with_name("blockferry"))


@dataclass(slots=True)
class Place:
    lab: Lab
    host: Host
    source: Datastore
    dest: Datastore
    devices: tuple[Datastore, ...]  # each device once: two datastores can be on one
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @classmethod
    @contextmanager
    def open(
        cls, image_bytes: int, *, overlays: bool = True, scratch_bytes: int | None = None, shared: bool = False
    ) -> Iterator[Place]:
        """A lab with room for images of that size together in each datastore; gone at the end.

        overlays: the source has room for as much again. scratch_bytes: of the largest image, if there are several.
        shared: both are directories of one XFS, each with a mount of its own, so that a disk can be cloned.
        """
        # XFS wants as much free space again to fallocate a file that is allocated already; a thick disk is.
        size = image_bytes * 9 // 4 + GIB
        source_size = size if overlays else image_bytes * 5 // 4 + GIB
        free = shutil.disk_usage(ROOT.parent).free
        needed = size + source_size + (image_bytes if scratch_bytes is None else scratch_bytes)
        if free < needed:
            raise LabError(f"{ROOT.parent} has {free / GIB:.1f} GiB free; {needed / GIB:.1f} are needed")
        with Lab.create(f"bench-{os.getpid()}") as lab:
            if shared:
                source = lab.datastore("old-san", fs="xfs", size=size + source_size)
                dest = lab.datastore("ssd", beside=source)
            else:
                source = lab.datastore("old-san", fs="ext4", size=source_size)
                dest = lab.datastore("ssd", fs="xfs", size=size)
            devices = (source,) if shared else (source, dest)
            host = lab.host("kvm1")
            for store in devices:
                _make_like_a_device(store)
            for store in (source, dest):
                host.attach(store)
            yield cls(lab, host, source, dest, devices)

    @property
    def journal(self) -> dict[str, str]:
        """Environment of blockferry: a journal of this lab's own."""
        return {"BLOCKFERRY_JOURNAL": f"sqlite:///{self.journal_file}"}

    @property
    def journal_file(self) -> Path:
        return self.lab.directory / "tmp/journal.db"

    def failing(self, image_bytes: int) -> Datastore:
        """A third datastore, on a device that can be cut off; made when it is first asked for."""
        store = self.lab.datastores.get("flaky")
        if store is None:
            store = self.lab.datastore("flaky", fs="xfs", size=image_bytes * 9 // 4 + GIB, failing=True)
            self.host.attach(store)
        return store

    @contextmanager
    def guest(self, targets: Sequence[str], image_format: str, size: int, fill: int) -> Iterator[Guest]:
        """A fresh VM (off) with fresh images on `old-san`, filled with incompressible data; removed at the end."""
        name = f"vm{next(self._numbers):03}"
        disks = [Disk(target, self.source, format=image_format, size=size, fill=fill) for target in targets]
        guest = self.lab.guest(self.host, name, disks, cache="none")
        self.dest.home(name).mkdir()
        try:
            yield guest
        finally:
            self.lab.remove_guest(guest)
            for store in self.lab.datastores.values():
                store.clear_vm(name)

    def image(self, store: Datastore, guest: Guest, target: str) -> Path:
        """Where that disk is, or is to be, on a datastore: the same for every method."""
        return store.home(guest.name) / Path(guest.disk(target).path).name

    def cool(self) -> None:
        """No image data in memory, then a quiet moment.

        The programs are read again, so that nobody's start is measured from disk.
        """
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
        self.host.run([BLOCKFERRY, "vms"], env=self.journal)
        self.host.virsh("list", "--all")
        run(["qemu-img", "--version"])
        run(["dd", "--version"])
        time.sleep(_QUIET_S)


def traffic(*stores: Datastore) -> tuple[int, int]:
    """Bytes that the devices of these datastores have read and written since they were made.

    Documentation/block/stat.rst of Linux: fields 3 and 7, in sectors.
    """
    read = written = 0
    for store in stores:
        device = Path(run(["findmnt", "--noheadings", "--output", "SOURCE", store.path]).stdout.strip()).name
        found = Path(f"/sys/block/{device}/stat").read_text().split()
        read, written = read + int(found[2]) * _SECTOR, written + int(found[6]) * _SECTOR
    return read, written


def write_out(*stores: Datastore) -> None:
    """Have on these devices what is still in the page cache."""
    for store in stores:
        run(["sync", "-f", store.path])


def _make_like_a_device(store: Datastore) -> None:
    device = run(["findmnt", "--noheadings", "--output", "SOURCE", store.path]).stdout.strip()
    run(["losetup", "--direct-io=on", device])
    once = store.path / ".once"
    run(["dd", "if=/dev/zero", f"of={once}", "bs=4M", "oflag=direct"], check=False, timeout=1800)  # until it is full
    once.unlink()
    os.sync()
