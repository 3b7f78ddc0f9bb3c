"""Whom QEMU runs as, and what that user cannot reach. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from blockferry.storage_move.precheck.finding import Finding, finding


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


def findings(
    store: str,
    vm: str,
    user: QemuUser | None,
    out_of_reach: Mapping[str, str],
    not_held: Mapping[str, str],
) -> list[Finding]:
    """What QEMU could not open on a datastore, and what its files cannot be given."""
    found = []
    if user is not None and store in out_of_reach:
        directory = out_of_reach[store]
        text = f"QEMU of {vm} runs as {user}, which cannot pass {directory}: it could not open a disk on {store}."
        found.append(finding("QEMU_CANNOT_REACH", text, remedy(user, directory)))
    if store in not_held:
        text = f"Files on {store} cannot have the owner, mode or ACL that they have now ({not_held[store]})."
        found.append(finding("OWNER_LOST", text))
    return found
