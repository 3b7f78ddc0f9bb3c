"""On what file system an SQLite journal lies: not every one does what SQLite needs. Loads no SQLAlchemy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

NETWORK_FILESYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "gpfs", "lustre", "vboxsf")
)
_USER_SPACE = frozenset(("sshfs", "glusterfs", "ceph", "ceph-fuse", "rclone", "s3fs", "davfs"))  # after "fuse."
"""Types, as in /proc/mounts, on which locks or shared memory do not do what SQLite's WAL needs."""


def is_remote(kind: str) -> bool:
    """Whether a type of file system is known to be one over the network."""
    return kind in NETWORK_FILESYSTEMS or (kind.startswith("fuse.") and kind[5:] in _USER_SPACE)


def filesystem_of(directory: Path) -> str:
    """The type of the file system that holds a directory; empty when it cannot be told."""
    try:
        return filesystem_in(Path("/proc/self/mounts").read_text(errors="surrogateescape"), directory.resolve())
    except OSError:
        return ""


def filesystem_in(mounts: str, directory: Path) -> str:
    """The same, from the text of /proc/mounts (fstab(5)): the longest mount point wins, of equal ones the last."""
    best, kind = -1, ""
    for where, what in _mounts(mounts):
        point = Path(where)
        if (directory == point or point in directory.parents) and len(point.parts) >= best:
            best, kind = len(point.parts), what
    return kind


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) >= 3:
            yield re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[1]), words[2]
