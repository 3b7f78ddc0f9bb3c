"""The ways to move a disk that `bench methods` compares, each as its own tool goes, step by step.

oVirt's order (vdsm: VmReplicateDiskStart, sdm.copy_data, live merge): a snapshot whose overlay takes the writes; a
shallow mirror of the overlay to the destination, and the base by `qemu-img convert` meanwhile; pivot; the source goes;
the overlay is merged. Proxmox's order (`qm disk move`): the destination is made first, a full mirror goes into it and
is completed when it is ready; the source goes. Both are made with virsh here: their order of steps is compared.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.movers import GivenUp, Moved, run_blockferry
from bench.place import Place
from lab import Datastore, Guest, LabError
from lab.process import run

_LOOK_S = 0.1

SNAPSHOT, CLONE = "blockferry snapshot", "blockferry clone"
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
    load: float = 0.0  # of the guest's writers; 0: there are none
    begin_ns: int = field(default_factory=time.monotonic_ns)
    end_ns: int = 0  # when it was given up, 0: it was not

    @property
    def left_s(self) -> float:
        left = self.limit_s - (time.monotonic_ns() - self.begin_ns) / 1e9
        if left <= 0:
            raise NotInStep(f"not in step after {self.limit_s:.0f} s")
        return left

    def give_up(self) -> None:
        """What comes now, a way's own cleaning up, is not measured any more: the guest is left in peace for it.

        Against a guest that goes on writing it can take minutes: what is in an overlay goes back into its base.
        """
        self.end_ns = time.monotonic_ns()
        if self.load:
            self.guest.judge.stop()

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

    def run(self, *argv: str) -> None:
        """A command that is given up when the time is over. Raises NotInStep then, and LabError when it fails."""
        try:
            run(argv, timeout=self.left_s)
        except LabError as error:
            if isinstance(error.__cause__, subprocess.TimeoutExpired):
                raise NotInStep(f"{argv[0]}: no end after {self.limit_s:.0f} s") from error
            raise

    def copy(self, dest: Path, image_format: str, *words: str) -> None:
        """Start libvirt's copy job."""
        limit = ["--bandwidth", str(self.bandwidth), "--bytes"] if self.bandwidth else []
        options = ["--dest", str(dest), "--format", image_format, "--transient-job", *limit, *words]
        self.virsh("blockcopy", self.guest.name, "vda", *options)

    def pivot(self) -> None:
        """To the other side as soon as the job, a copy or an active commit, is in step."""
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
    errand.run("qemu-img", "convert", *options, str(errand.source), str(errand.dest))
    errand.pivot()
    errand.source.unlink()
    overlay.unlink()
    errand.virsh("blockcommit", name, "vda", "--active", "--base", str(errand.dest), "--top", str(overlay_there))
    errand.pivot()
    overlay_there.unlink()
    return errand.done()


def _blockferry(*words: str) -> Callable[[Errand], Moved]:
    def move(errand: Errand) -> Moved:
        limit = ["--bandwidth", str(errand.bandwidth)] if errand.bandwidth else []
        argv = ["--to", errand.to.name, *words, *limit, "--delete-source"]
        try:
            moved = run_blockferry(
                errand.place, errand.guest, argv, limit_s=errand.limit_s, before_cancel=errand.give_up
            )
        except GivenUp as reason:
            raise NotInStep(str(reason)) from reason
        except RuntimeError as error:
            if "does not get in step" in str(error):
                raise NotInStep(str(error)) from error
            raise
        if errand.end_ns:
            raise NotInStep(f"no end after {errand.limit_s:.0f} s, and then only with the guest silent")
        return moved

    return move


WAYS: dict[str, Callable[[Errand], Moved]] = {
    MIRROR: _blockferry("--method", "mirror"),
    CHANGED: _blockferry("--method", "changed-blocks", "--if-not-converging", "stop"),
    SNAPSHOT: _blockferry("--method", "snapshot"),
    CLONE: _blockferry("--method", "clone"),
    VIRSH: _virsh,
    OVIRT: _ovirt,
    PROXMOX: _proxmox,
    GOING_OVER: _blockferry("--method", "changed-blocks", "--if-not-converging", "mirror"),
}

COMPARED = (MIRROR, CHANGED, SNAPSHOT, CLONE, VIRSH, OVIRT, PROXMOX)
"""Unless others are asked for: the last one of all is two of these one after the other."""
