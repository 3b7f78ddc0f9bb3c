"""Whom QEMU runs as, and what that user cannot reach. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class QemuUser:
    """The user that opens a VM's images."""

    uid: int
    gid: int
    groups: tuple[int, ...] | None = None  # None: those that the host's own tables give that user, as libvirt does it

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


def remedy(user: QemuUser, directory: str) -> str:
    """The command that lets this user pass a directory."""
    return f"`setfacl -m u:{user.uid}:x {directory}`, or `chmod o+x {directory}`."
