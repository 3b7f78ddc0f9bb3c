"""The ways to move a disk that `bench methods` compares, each as its own tool goes, step by step.

oVirt's order (vdsm: VmReplicateDiskStart, sdm.copy_data, live merge): a snapshot whose overlay takes the writes; a
shallow mirror of the overlay to the destination, and the base by `qemu-img convert` meanwhile; pivot; the source goes;
the overlay is merged. Proxmox's order (`qm disk move`): the destination is made first, a full mirror goes into it and
is completed when it is ready; the source goes. Both are made with virsh here: their order of steps is compared.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.movers import Moved, run_blockferry
from bench.place import Place
from lab import Datastore, Guest
from lab.process import run

_LOOK_S = 0.1

SNAPSHOT = "blockferry snapshot"
MIRROR, CHANGED, GOING_OVER = "blockferry mirror", "blockferry changed-blocks", "blockferry changed-blocks, else mirror"
VIRSH, OVIRT, PROXMOX = "virsh blockcopy", "oVirt's order", "Proxmox's order"


class NotInStep(RuntimeError):
    """The way did not come to its end in the time that it was given: it does not converge."""


@dataclass(slots=True)
class Errand:
    """One disk of one running VM, where it is to go, what it may use of the path, and when it is given up."""

    place: Place
    guest: Guest
    to: Datastore
    bandwidth: int  # bytes/s; 0: no limit
    limit_s: float
    begin_ns: int = field(default_factory=time.monotonic_ns)

    @property
    def left_s(self) -> float:
        left = self.limit_s - (time.monotonic_ns() - self.begin_ns) / 1e9
        if left <= 0:
            raise NotInStep(f"not in step after {self.limit_s:.0f} s")
        return left

    @property
    def source(self) -> Path:
        return Path(self.guest.disk("vda").path)

    @property
    def dest(self) -> Path:
        return self.place.image(self.to, self.guest, "vda")

    @property
    def format(self) -> str:
        return self.guest.disk("vda").format

    @property
    def size(self) -> str:
        return str(self.guest.disk("vda").size_bytes)

    def virsh(self, *words: str) -> str:
        return self.place.host.run(["virsh", "-q", *words], timeout=600).stdout

    def copy(self, dest: Path, image_format: str, *words: str) -> None:
        """Start libvirt's copy job."""
        limit = ["--bandwidth", str(self.bandwidth), "--bytes"] if self.bandwidth else []
        options = ["--dest", str(dest), "--format", image_format, "--transient-job", *limit, *words]
        self.virsh("blockcopy", self.guest.name, "vda", *options)

    def pivot(self) -> None:
        """To the new side as soon as the job is in step."""
        while "ready='yes'" not in self.virsh("dumpxml", self.guest.name):
            time.sleep(min(_LOOK_S, self.left_s))
        self.virsh("blockjob", self.guest.name, "vda", "--pivot")

    def done(self) -> Moved:
        end = time.monotonic_ns()
        return Moved(self.begin_ns, end, (self.begin_ns, end))


def _virsh(errand: Errand) -> Moved:
    errand.copy(errand.dest, errand.format)
    errand.pivot()
    errand.source.unlink()
    return errand.done()


def _proxmox(errand: Errand) -> Moved:
    metadata = ["-o", "preallocation=metadata"] if errand.format == "qcow2" else []  # its directory storage's default
    run(["qemu-img", "create", "-q", "-f", errand.format, *metadata, str(errand.dest), errand.size])
    errand.copy(errand.dest, errand.format, "--reuse-external")
    errand.pivot()
    errand.source.unlink()
    return errand.done()


def _ovirt(errand: Errand) -> Moved:
    name = errand.guest.name
    overlay, overlay_there = errand.source.with_suffix(".overlay"), errand.dest.with_suffix(".overlay")
    spec = f"vda,file={overlay},snapshot=external"
    errand.virsh("snapshot-create-as", name, "--disk-only", "--atomic", "--no-metadata", "--diskspec", spec)
    run(["qemu-img", "create", "-q", "-f", errand.format, str(errand.dest), errand.size])
    backing = ["-b", str(errand.dest), "-F", errand.format]
    run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(overlay_there), errand.size])
    errand.copy(overlay_there, "qcow2", "--shallow", "--reuse-external")
    limit = ["-r", str(errand.bandwidth)] if errand.bandwidth else []
    options = ["-t", "none", "-T", "none", "-n", "-f", errand.format, "-O", errand.format, *limit]
    run(["qemu-img", "convert", *options, str(errand.source), str(errand.dest)], timeout=errand.left_s)
    errand.pivot()
    errand.source.unlink()
    overlay.unlink()
    merge = ["--active", "--base", str(errand.dest), "--top", str(overlay_there), "--wait", "--pivot"]
    errand.virsh("blockcommit", name, "vda", *merge)
    overlay_there.unlink()
    return errand.done()


def _blockferry(*words: str) -> Callable[[Errand], Moved]:
    def move(errand: Errand) -> Moved:
        limit = ["--bandwidth", str(errand.bandwidth)] if errand.bandwidth else []
        argv = ["--to", errand.to.name, *words, *limit, "--delete-source"]
        try:
            return run_blockferry(errand.place, errand.guest, argv)
        except RuntimeError as error:
            if "does not get in step" in str(error):
                raise NotInStep(str(error)) from error
            raise

    return move


WAYS: dict[str, Callable[[Errand], Moved]] = {
    MIRROR: _blockferry("--method", "mirror"),
    CHANGED: _blockferry("--method", "changed-blocks", "--if-not-converging", "stop"),
    GOING_OVER: _blockferry("--method", "changed-blocks", "--if-not-converging", "mirror"),
    SNAPSHOT: _blockferry("--method", "snapshot"),
    VIRSH: _virsh,
    OVIRT: _ovirt,
    PROXMOX: _proxmox,
}
