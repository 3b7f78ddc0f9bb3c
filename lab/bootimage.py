"""The guest's kernel and initramfs, and the lab's helper programs: built once, kept in the cache.

The kernel is the distribution's cloud kernel, its package downloaded and unpacked but not installed. Everything in
the cache is keyed by what it was made of, so a changed source makes a new file and never a stale one.
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab import cpio
from lab.errors import LabError
from lab.process import run
from lab.state import CACHE

NATIVE = Path(__file__).parent / "native"

_MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
    "virtio_console",
    "button",
    "evdev",
)
_CDROM_MODULES = ("scsi_common", "scsi_mod", "virtio_scsi", "libata", "ata_piix", "cdrom", "sr_mod", "isofs")
_NETWORK_MODULES = ("failover", "net_failover", "virtio_net")

_AGENT_PACKAGE = "qemu-guest-agent"

# no_timer_check: as under KVM; on a busy machine the kernel finds no timer in its first milliseconds, and panics.
_CMDLINE = "console=ttyS0 quiet panic=1 mitigations=off random.trust_cpu=on rcupdate.rcu_expedited=1 no_timer_check"

_BUILDS = {
    "reaper": ["reaper.c"],
    "collector": ["collector.c"],
    "fill": ["fill.c", "block.c"],
    "labd": ["labd.c", "ledger.c", "judge.c", "db.c", "beacon.c", "block.c"],
}
_HEADERS = ("block.h", "record.h", "labd.h")


@dataclass(frozen=True, slots=True)
class Boot:
    """What a domain's <os> element names."""

    kernel: Path
    initrd: Path
    cmdline: str


def program(name: str) -> Path:
    """A helper program of native/, compiled now if its source is newer to the cache."""
    sources = [NATIVE / source for source in _BUILDS[name]]
    key = _digest(*sources, *(NATIVE / header for header in _HEADERS))
    built = CACHE / f"{name}-{key}" / name
    if not built.exists():
        with _cache_lock():
            if not built.exists():
                built.parent.mkdir(exist_ok=True)
                libraries = ["-lsqlite3", "-lm"] if name == "labd" else []
                fresh = built.with_suffix(".new")
                run(["gcc", "-O2", "-Wall", "-static", "-pthread", "-o", fresh, *sources, *libraries])
                fresh.replace(built)
    return built


def boot(*, agent: bool = False) -> Boot:
    """Kernel and initramfs for guests; the first call on a machine takes some seconds (download, unpack, build).

    agent: with the distribution's QEMU guest agent in it.
    """
    modules, kernel = _kernel()
    labd = program("labd")
    with_agent = [_agent()] if agent else []
    key = _digest(labd, *with_agent, NATIVE / "init.sh", Path(__file__), Path(cpio.__file__)) + "-" + kernel.parent.name
    initrd = CACHE / f"initramfs-{key}.cpio"
    if not initrd.exists():
        with _cache_lock():
            fresh = initrd.with_suffix(".new")
            with fresh.open("wb") as file:
                cpio.write(file, itertools.chain(_contents(modules, labd), *map(_dynamic, with_agent)))
            fresh.replace(initrd)
    return Boot(kernel, initrd, _CMDLINE)


def _agent() -> Path:
    """Debian's qemu-ga, its package unpacked but not installed: the machine itself gets no service of that name."""
    known = sorted(CACHE.glob(f"{_AGENT_PACKAGE}_*/qemu-ga"))
    if not known:
        with _cache_lock():
            known = sorted(CACHE.glob(f"{_AGENT_PACKAGE}_*/qemu-ga"))
            if not known:
                known = [_fetch_agent()]
    return known[-1]


def _fetch_agent() -> Path:
    with _unpacked(_AGENT_PACKAGE) as (name, tree):
        fresh = tree.parent / "agent"
        fresh.mkdir()
        shutil.copy(tree / "usr/sbin/qemu-ga", fresh / "qemu-ga")
        fresh.replace(CACHE / name)
        return CACHE / name / "qemu-ga"


def _dynamic(program: Path) -> Iterator[cpio.Entry]:
    """A program with this machine's libraries for it, each where the program looks for it."""
    yield cpio.Entry(f"sbin/{program.name}", stat.S_IFREG | 0o755, program.read_bytes())
    words = run(["ldd", program]).stdout.split()
    libraries = sorted({word for word in words if word.startswith("/")})
    directories = {str(parent) for library in libraries for parent in Path(library.lstrip("/")).parents} - {"."}
    for directory in sorted(directories):
        yield cpio.Entry(directory, stat.S_IFDIR | 0o755)
    for library in libraries:
        yield cpio.Entry(library.lstrip("/"), stat.S_IFREG | 0o755, Path(library).read_bytes())


def _contents(modules: Path, labd: Path) -> Iterator[cpio.Entry]:
    for directory in ("bin", "sbin", "dev", "proc", "sys", "tmp", "db", "mnt", "etc", "modules"):
        yield cpio.Entry(directory, stat.S_IFDIR | 0o755)
    yield cpio.Entry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    busybox = shutil.which("busybox")
    if busybox is None:
        raise LabError("busybox is not installed: apt-get install busybox-static")
    yield cpio.Entry("bin/busybox", stat.S_IFREG | 0o755, Path(busybox).read_bytes())
    yield cpio.Entry("bin/sh", stat.S_IFLNK | 0o777, b"busybox")
    yield cpio.Entry("init", stat.S_IFREG | 0o755, (NATIVE / "init.sh").read_bytes())
    yield cpio.Entry("sbin/labd", stat.S_IFREG | 0o755, labd.read_bytes())
    found = {path.stem: path for path in modules.rglob("*.ko")}
    lists = (("base", _MODULES), ("cdrom", _CDROM_MODULES), ("network", _NETWORK_MODULES))
    for list_name, names in lists:
        present = [name for name in names if name in found]
        yield cpio.Entry(f"etc/modules.{list_name}", stat.S_IFREG | 0o644, "\n".join([*present, ""]).encode())
        for name in present:
            yield cpio.Entry(f"modules/{name}.ko", stat.S_IFREG | 0o644, found[name].read_bytes())


def _kernel() -> tuple[Path, Path]:
    """(module directory, kernel image), from the cache or from the distribution's package."""
    known = sorted(CACHE.glob("linux-*/vmlinuz"))
    if not known:
        with _cache_lock():
            known = sorted(CACHE.glob("linux-*/vmlinuz"))
            if not known:
                known = [_fetch_kernel()]
    kernel = known[-1]
    return kernel.parent / "modules", kernel


def _fetch_kernel() -> Path:
    depends = run(["apt-cache", "depends", "linux-image-cloud-amd64"]).stdout.split()
    packages = [word for word in depends if word.startswith("linux-image-") and word != "linux-image-cloud-amd64"]
    if not packages:
        raise LabError("no cloud kernel is known to apt: apt-get update")
    with _unpacked(packages[0]) as (name, tree):
        fresh = tree.parent / "kernel"
        fresh.mkdir()
        shutil.copy(next((tree / "boot").glob("vmlinuz-*")), fresh / "vmlinuz")
        shutil.copytree(next((tree / "lib/modules").iterdir()) / "kernel", fresh / "modules")
        target = CACHE / name.replace("linux-image-", "linux-")
        fresh.replace(target)
    return target / "vmlinuz"


@contextmanager
def _unpacked(package: str) -> Iterator[tuple[str, Path]]:
    """(the archive's name, its content) of a package of the distribution, until the end of the block."""
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        work = Path(name)
        run(["apt-get", "download", package], cwd=work, timeout=600)
        archive = next(work.glob("*.deb"))
        run(["dpkg-deb", "-x", archive, work / "x"])
        yield archive.stem, work / "x"


def _digest(*files: Path) -> str:
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()[:12]


@contextmanager
def _cache_lock() -> Iterator[None]:
    """One builder at a time, also across processes."""
    CACHE.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(CACHE / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
