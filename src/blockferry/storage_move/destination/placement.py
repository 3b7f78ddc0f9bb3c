"""Where things go: names and directories at the destination. Pure."""

from __future__ import annotations

import itertools
import posixpath
from collections.abc import Iterator

from blockferry.base.names import cut
from blockferry.hosts.exports import is_export
from blockferry.hosts.inventory import Datastore

SMALLEST_EXTENDED_CLUSTER = 16 * 1024
"""Bytes; below that QEMU makes no image with extended L2 entries."""

LONGEST_STEM = 160
"""Bytes of a VM's name in the names of files that we make: with all that is put behind it less than 255."""

FORMATS = ("raw", "qcow2", "vmdk")
_ENDINGS = {"raw": (".raw", ".img"), "qcow2": (".qcow2", ".qcow"), "vmdk": (".vmdk",)}
_QCOW2_LIMIT = 64 * 1024**5  # far beyond any file system; kept for the shape of the check
_QCOW2_L1_ENTRIES = 32 * 1024**2 // 8  # QCOW_MAX_L1_SIZE in QEMU's block/qcow2.h
_VMDK_LIMIT = 2 * 1024**4 - 64 * 1024**2  # monolithicSparse with QEMU's grain size


def directory_name(vm: str) -> str:
    """The name of a VM's home directory."""
    return vm.replace("/", "_")


def is_in_home(path: str, vm: str) -> bool:
    """Whether the file lies in a directory of the VM's name."""
    return posixpath.basename(posixpath.dirname(posixpath.normpath(path))) == directory_name(vm)


def home_directory(datastore: Datastore, vm: str) -> str:
    assert datastore.path is not None
    return posixpath.join(datastore.path, directory_name(vm))


def image_path(
    datastore: Datastore, vm: str, target: str, source: str, format: str, *, in_home: bool, taken: frozenset[str]
) -> str:
    """The file of a disk at the destination, never one of `taken`: those of the move's other images."""
    return next(
        path for path in image_paths(datastore, vm, target, source, format, in_home=in_home) if path not in taken
    )


def image_paths(
    datastore: Datastore, vm: str, target: str, source: str, format: str, *, in_home: bool
) -> Iterator[str]:
    """Its old name, with the ending of its new format; then `<vm>-<target>`, `<vm>-<target>-2` and so on, without end.

    `in_home`: in the VM's home there, else flat in the datastore. The name of a block device, or of an export, is not
    used. The VM's name is cut where the file's would be too long for any file system.
    """
    assert datastore.path is not None
    directory = home_directory(datastore, vm) if in_home else datastore.path
    ending = _ENDINGS[format][0]
    if not source.startswith("/dev/") and not is_export(source):
        stem, old_ending = posixpath.splitext(posixpath.basename(source))
        if old_ending in _ENDINGS[format]:
            ending = old_ending
        elif not any(old_ending in endings for endings in _ENDINGS.values()):
            stem += old_ending
        yield posixpath.join(directory, stem + ending)
    stem = f"{cut(vm, LONGEST_STEM)}-{target}".replace("/", "_")
    yield posixpath.join(directory, stem + ending)
    yield from (posixpath.join(directory, f"{stem}-{number}{ending}") for number in itertools.count(2))


def guest_size(image_size: int) -> int:
    """What the guest sees of an image: QEMU rounds a raw file that is no whole number of sectors up to one."""
    return -(-image_size // 512) * 512


def holds_size(format: str, size: int, cluster_size: int | None = None, *, extended_l2: bool = False) -> bool:
    """Whether an image of this format can have exactly this size (bytes) for the guest.

    What a qcow2 can hold depends on its clusters: with 512 bytes it is 128 GiB.
    """
    if format == "raw":
        return True
    if size % 512:
        return False
    if format == "qcow2" and cluster_size is not None:
        per_table = cluster_size // (16 if extended_l2 else 8)
        return size <= min(_QCOW2_LIMIT, _QCOW2_L1_ENTRIES * per_table * cluster_size)
    return size <= (_VMDK_LIMIT if format == "vmdk" else _QCOW2_LIMIT)
