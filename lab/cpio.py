"""Writes a cpio archive in "newc" form, as the kernel wants its initramfs. Uncompressed: under TCG unpacking costs more
than reading."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO


@dataclass(frozen=True, slots=True)
class Entry:
    """One member: `mode` with its file type bits; `data` is the content or a symbolic link's target."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def write(file: BinaryIO, entries: Iterable[Entry]) -> None:
    for number, entry in enumerate([*entries, Entry("TRAILER!!!", 0)], start=1):
        name = entry.name.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.data), 0, 0, *entry.device, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % field for field in fields) + name
        file.write(head + b"\0" * (-len(head) % 4))
        file.write(entry.data + b"\0" * (-len(entry.data) % 4))
