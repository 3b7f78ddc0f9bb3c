"""Making the images of a guest, with their initial content."""

from __future__ import annotations

import itertools
from pathlib import Path

from lab import bootimage
from lab.guestspec import BLOCK, DiskSpec
from lab.process import run
from lab.sizes import MIB


def create(
    disk: DiskSpec, seed: int, *, scratch: Path, overlays: int, backing: tuple[Path, str] | None, options: str | None
) -> list[Path]:
    """Make the image of `disk` at its path, over `overlays` further layers or on a given backing file.

    Returns the files made, the bottom first.
    """
    path = Path(disk.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = [path.with_name(f"{path.stem}-{'base' if n == 0 else f'layer{n}'}{path.suffix}") for n in range(overlays)]
    bottom = layers[0] if layers else path
    if backing is not None:
        _overlay(bottom, backing[0], backing[1])
    elif disk.fill_blocks or disk.area_offset:
        raw = bottom if disk.format == "raw" else scratch / f"{path.stem}.{seed:x}.raw"
        try:
            _filled_raw(raw, disk, seed)
            if raw != bottom:
                _convert(raw, bottom, disk.format, options)
        finally:
            if raw != bottom:
                raw.unlink(missing_ok=True)
    else:
        extra = ["-o", options] if options else []
        run(["qemu-img", "create", "-q", "-f", disk.format, *extra, bottom, str(disk.size_bytes)])
    for below, above in itertools.pairwise([*layers, path]):
        _overlay(above, below, disk.format)
    return [*layers, path]


def _overlay(path: Path, below: Path, below_format: str) -> None:
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", below, "-F", below_format, path])


def _filled_raw(raw: Path, disk: DiskSpec, seed: int) -> None:
    with raw.open("wb") as file:
        file.truncate(disk.size_bytes)
    if disk.area_offset:
        quiet = ["mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1"]
        run([*quiet, raw, f"{disk.area_offset // 1024}k"])
    if disk.fill_blocks:
        fill = bootimage.program("fill")
        run([fill, raw, str(disk.area_offset), str(disk.fill_blocks), str(disk.serial), str(seed)], timeout=600)


def _convert(raw: Path, target: Path, target_format: str, options: str | None) -> None:
    extra = ["-o", options] if options else []
    run(["qemu-img", "convert", "-q", "-f", "raw", "-O", target_format, *extra, raw, target], timeout=600)


def area(size_bytes: int, fs_bytes: int, fill_bytes: int) -> tuple[int, int, int]:
    """(offset, blocks, filled blocks) of the judge's area on a disk, in whole chunks of 64 KiB."""
    offset = -(-fs_bytes // MIB) * MIB
    blocks = (size_bytes - offset) // BLOCK // 16 * 16
    return offset, blocks, min(fill_bytes // BLOCK, blocks)
