"""Datastores: file systems on sparse loop files, mounted at one path that every host of the lab sees.

The mount point lies below a directory with shared propagation, and each host's mount namespace is a slave of it:
so a datastore that is mounted, unmounted or remounted later changes on running hosts as well.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from lab.devices import Device
from lab.errors import LabError
from lab.process import run, wait_until
from lab.sizes import MIB, to_bytes

FILE_SYSTEMS = ("ext4", "xfs", "btrfs", "dir")

# mkfs.btrfs looks at every mount of the machine, and fails at one whose FUSE program has ended: another lab's fault on
# purpose. In a mount namespace of its own it does not see them.
_WITHOUT_FUSE = (
    *("unshare", "--mount", "--propagation", "private"),
    *("sh", "-c", 'umount -a -l -t fuse,fuse.nbdfuse,fuseblk 2>/dev/null; exec "$@"', "sh"),
)

_MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
    "btrfs": [*_WITHOUT_FUSE, "mkfs.btrfs", "-q", "-f"],
}

_GOING_DOWN = 0x8004587D
"""XFS_IOC_GOINGDOWN, which is EXT4_IOC_SHUTDOWN too."""
_NO_LOG_FLUSH = struct.pack("I", 2)


BUSY_S = 10.0
"""For how long whoever has files open on a datastore that is to be mounted anew is waited for."""


@dataclass(frozen=True, slots=True)
class DatastoreSpec:
    """What the state file remembers of a datastore."""

    name: str
    fs: str
    size_bytes: int
    failing: bool = False
    """It stands on a device that can be made to fail (lab/devices.py)."""
    beside: str = ""
    """The datastore whose file system it is a directory of, mounted a second time; "" for one of its own."""


@dataclass(frozen=True, slots=True)
class Datastore:
    """A place for VM files. `path` is the same inside every host and outside."""

    spec: DatastoreSpec
    path: Path
    image: Path | None

    @property
    def name(self) -> str:
        return self.spec.name

    @classmethod
    def create(cls, spec: DatastoreSpec, lab: Path) -> Datastore:
        if spec.fs not in FILE_SYSTEMS:
            raise LabError(f"datastore {spec.name}: file system {spec.fs!r} is not one of {', '.join(FILE_SYSTEMS)}")
        store = cls.existing(spec, lab)
        store.path.mkdir(parents=True)
        if spec.beside:
            store.mount()
        elif store.image is not None:
            store.image.parent.mkdir(exist_ok=True)
            with store.image.open("xb") as file:
                file.truncate(spec.size_bytes)
            run([*_MAKE[spec.fs], store.image])
            store.mount()
        elif spec.failing:
            raise LabError(f"datastore {spec.name}: a plain directory has no device that could fail")
        return store

    @classmethod
    def existing(cls, spec: DatastoreSpec, lab: Path) -> Datastore:
        image = None if spec.fs == "dir" or spec.beside else lab / "images" / f"{spec.name}.img"
        return cls(spec, lab / "ds" / spec.name, image)

    @property
    def device(self) -> Device:
        """What can be made to fail below a datastore that was made `failing`."""
        if self.image is None or not self.spec.failing:
            raise LabError(f"datastore {self.name} was not made to fail")
        lab = self.image.parent.parent
        return Device(self.image, lab / "devices" / self.name, lab)

    def mount(self, *options: str) -> None:
        if self.spec.beside:
            inner = self.path.parent / self.spec.beside / f".{self.name}"
            inner.mkdir(exist_ok=True)
            run(["mount", "--bind", inner, self.path])
            return
        if self.image is None:
            raise LabError(f"datastore {self.name} is a plain directory: nothing to mount")
        if not self.spec.failing:
            run(["mount", "-o", "loop", self.image, self.path])
            return
        self.device.start()
        loop = run(["losetup", "--find", "--show", "--direct-io=on", self.device.file]).stdout.strip()
        try:
            run(["mount", *options, loop, self.path])
        finally:
            run(["losetup", "--detach", loop])  # takes effect when the mount goes

    def lose_power(self) -> None:
        """What was not yet on the device is lost, as in a power cut; the file system is unusable until `power_on`.

        The kernel's own way to test recovery from crashes: no log is flushed, dirty pages are thrown away.
        """
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, _GOING_DOWN, _NO_LOG_FLUSH)
        finally:
            os.close(descriptor)

    def power_on(self) -> None:
        """After `lose_power`, or when the device has failed: unmounted and mounted again, with the log's recovery."""

        def away() -> bool:
            return not self.mounted() or run(["umount", self.path], check=False).returncode == 0

        options = []
        try:
            wait_until(away, f"{self.path} to be let go of", timeout=BUSY_S, step=0.1)
        except LabError:
            # Somebody keeps a file open. What lies behind it is dead from here on, so it cannot be written to twice.
            with contextlib.suppress(OSError):  # it has shut itself down already
                self.lose_power()
            self.umount()
            options = ["-o", "nouuid"] if self.spec.fs == "xfs" else []
        self.mount(*options)

    def umount(self) -> None:
        """Take the file system away everywhere, lazily: what has files open keeps them, as with a lost mount."""
        run(["umount", "-l", self.path])

    def remount(self, *, read_only: bool) -> None:
        run(["mount", "-o", f"remount,{'ro' if read_only else 'rw'}", self.path])

    def mounted(self) -> bool:
        """By the kernel's own table: what has lost its power cannot even be looked at."""
        return any(line.split()[1] == str(self.path) for line in Path("/proc/self/mounts").read_text().splitlines())

    def free_bytes(self) -> int:
        status = os.statvfs(self.path)
        return status.f_bavail * status.f_frsize

    def fill(self, leave_bytes: int | str) -> None:
        """Use up the free space until about `leave_bytes` are left (file systems round to their own units).

        With 0 really all of it: the next block that somebody wants is ENOSPC.
        """
        if self.image is None:
            raise LabError(f"datastore {self.name} is a directory of the machine's own disk, which is not to be filled")
        ballast = self.path / ".lab-ballast"
        wanted = self.free_bytes() - to_bytes(leave_bytes)
        while wanted > 0:
            size = ballast.stat().st_size if ballast.exists() else 0
            done = run(["fallocate", "-o", str(size), "-l", str(wanted), ballast], check=False)
            if done.returncode != 0:  # metadata takes its part: come nearer in smaller steps
                if wanted < MIB:
                    break
                wanted //= 2
                continue
            wanted = self.free_bytes() - to_bytes(leave_bytes)
            if wanted < MIB:
                break
        if to_bytes(leave_bytes) == 0:
            run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k", "oflag=append", "conv=notrunc,fsync"], check=False)

    def unfill(self) -> None:
        (self.path / ".lab-ballast").unlink(missing_ok=True)
        run(["sync", "-f", self.path])  # btrfs gives the space back with its next commit only

    def home(self, vm: str) -> Path:
        """The directory of a VM on this datastore, by the convention of layout "home"."""
        return self.path / vm

    def clear_vm(self, vm: str) -> None:
        """Remove a VM's home and its flat files; for tests that share a datastore."""
        for entry in [*self.path.glob(f"{vm}-*"), *self.path.glob(f"{vm}.*"), self.home(vm)]:
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
