"""The second opinion: an image against what the guest reported, on the host, after the fact.

Written from the description of a block in native/block.h and sharing no code with the judge in the guest.
For every block of the judge's area there is a floor, the last write that must be there. Right is

- a whole block of this disk and place whose number is the floor's or above it: above it, because writes may have been
  under way whose acknowledgement never came out;
- zeros, if zeros were written at the floor or above it;
- without a floor, the initial content.

Everything else is `lost` (a floor is not met: lost, stale or torn) or `unexpected` (no write ever went there).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lab.errors import LabError
from lab.guestspec import BLOCK, DiskSpec
from lab.ledger import DiskHistory
from lab.process import run

_HEAD = struct.Struct("<IIQQQ")
_MAGIC = 0x4B4C4246
_ZEROS = bytes(BLOCK)
_STEP = 256
_ZERO_STEP = bytes(BLOCK * _STEP)

IN_FLIGHT = 100_000
"""A number may be this far above the last one reported: unsent reports (some hundred at most), with room."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One wrong block."""

    target: str
    block: int
    offset: int
    """In the virtual disk, in bytes."""
    what: str

    def __str__(self) -> str:
        return f"{self.target} block {self.block} (offset {self.offset}): {self.what}"


@dataclass(slots=True)
class Verdict:
    """The result of one image. The lists hold the first findings, the counts all."""

    image: str
    checked_blocks: int = 0
    must_be_there: int = 0
    """Blocks with a floor."""
    ahead: int = 0
    """Blocks that carry a write whose acknowledgement did not come out."""
    lost_count: int = 0
    unexpected_count: int = 0
    lost: list[Finding] = field(default_factory=list)
    unexpected: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.lost_count and not self.unexpected_count

    def __str__(self) -> str:
        head = (
            f"{self.image}: {'right' if self.ok else 'WRONG'}, {self.checked_blocks} blocks, "
            f"{self.must_be_there} written, "
            f"{self.lost_count} lost, {self.unexpected_count} unexpected, {self.ahead} ahead of their acknowledgement"
        )
        return "\n".join([head, *(f"  lost: {f}" for f in self.lost), *(f"  unexpected: {f}" for f in self.unexpected)])


def check_image(
    path: Path, image_format: str, disk: DiskSpec, seed: int, history: DiskHistory, *, scratch: Path, flushed_only: bool
) -> Verdict:
    """Check an image of any format that qemu-img reads, with its backing chain.

    flushed_only: after a power loss or the death of QEMU; then only what an fdatasync covered must be there, since
    QEMU may have held metadata of the image in its memory.
    """
    floors = history.durable if flushed_only else history.acknowledged
    if image_format == "raw":
        return _check_raw(path, str(path), disk, seed, history, floors)
    raw = scratch / f"check-{disk.serial:x}-{path.name}.raw"
    raw.parent.mkdir(exist_ok=True)
    try:
        # -U: the image may be open elsewhere (a frozen copy); the caller knows that nobody writes.
        run(["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw], timeout=900)
        return _check_raw(raw, str(path), disk, seed, history, floors)
    finally:
        raw.unlink(missing_ok=True)


def _check_raw(
    raw: Path, name: str, disk: DiskSpec, seed: int, history: DiskHistory, floors: Mapping[int, int]
) -> Verdict:
    verdict = Verdict(name, must_be_there=len(floors))
    for block, content in _blocks(raw, disk):
        verdict.checked_blocks += 1
        if content is _ZEROS and block not in floors and block >= disk.fill_blocks:
            continue
        floor = floors.get(block)
        wrong = _judge_block(block, content, disk, seed, history, floor, verdict)
        if wrong is None:
            continue
        finding = Finding(disk.target, block, disk.area_offset + block * BLOCK, wrong)
        if floor is None:
            verdict.unexpected_count += 1
            if len(verdict.unexpected) < 20:
                verdict.unexpected.append(finding)
        else:
            verdict.lost_count += 1
            if len(verdict.lost) < 20:
                verdict.lost.append(finding)
    return verdict


def _blocks(raw: Path, disk: DiskSpec) -> Iterator[tuple[int, bytes]]:
    with raw.open("rb") as file:
        file.seek(disk.area_offset)
        for begin in range(0, disk.area_blocks, _STEP):
            count = min(_STEP, disk.area_blocks - begin)
            part = file.read(count * BLOCK)
            if len(part) != count * BLOCK:
                raise LabError(f"{raw} ends before the judge's area of {disk.target} does")
            empty = part == _ZERO_STEP
            for index in range(count):
                content = _ZEROS if empty else part[index * BLOCK : (index + 1) * BLOCK]
                yield begin + index, content if content != _ZEROS else _ZEROS


def _judge_block(
    block: int, content: bytes, disk: DiskSpec, seed: int, history: DiskHistory, floor: int | None, verdict: Verdict
) -> str | None:
    """None when right, else what is wrong."""
    zeroed = history.zeroed.get(block, -1)
    expected = f"write {floor}" if floor is not None else "the initial content"
    if content is _ZEROS:
        if zeroed >= (floor if floor is not None else 0):
            return None
        if floor is None and block >= disk.fill_blocks:
            return None
        return f"zeros instead of {expected}"
    magic, serial, block_seed, number_of_block, number = _HEAD.unpack_from(content)
    if magic != _MAGIC:
        return f"bytes that nobody wrote instead of {expected}"
    if zlib.crc32(content[:-4]) != int.from_bytes(content[-4:], "little"):
        return f"a torn block (its head says write {number}) instead of {expected}"
    if (serial, block_seed, number_of_block) != (disk.serial, seed, block):
        place = f"disk {serial:x}, block {number_of_block}, write {number}"
        return f"a block of another place ({place}) instead of {expected}"
    if number > history.last_number + IN_FLIGHT:
        return f"write {number}, which is beyond all that can have been under way, instead of {expected}"
    if floor is None:
        if number == 0:
            return None if block < disk.fill_blocks else "an initial block where none was laid"
        verdict.ahead += 1
        return None
    if number < floor:
        return f"stale: write {number} instead of {expected}"
    if number > floor:
        verdict.ahead += 1
    return None
