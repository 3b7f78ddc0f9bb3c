"""Whom QEMU runs as, and what that user cannot reach. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QemuUser:
    """The user that opens a VM's images."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"user {self.uid}, group {self.gid}"


@dataclass(frozen=True, slots=True)
class Permissions:
    """`<permissions>` of a storage pool: what a directory that is made there gets."""

    uid: int
    gid: int
    mode: int


HOME_MODE = 0o711
"""Of a new home where neither an old one nor the pool says: QEMU's user gets through to files that it is told the names
of, and nobody lists them."""
