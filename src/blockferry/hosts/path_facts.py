"""What a path on the host is, as looked at before a move. Facts only; what follows from them is decided elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.hosts.datastore_id import Mounted

NAME_MAX, PATH_MAX = 255, 4096
"""What Linux file systems have, where nothing else is known (limits.h). Bytes; PATH_MAX counts the final NUL."""


@dataclass(frozen=True, slots=True)
class PathFacts:
    """One path. Bytes.

    `kind`: absent, file, directory, block, other; dangling: a symbolic link that leads nowhere; unknown: it cannot be
    looked at (`errno`). `near` is the path, or the nearest directory above it that exists: what follows is said of it.
    """

    path: str
    resolved: str  # without symbolic links
    kind: str
    link: bool = False
    errno: int = 0
    identity: tuple[int, int] | None = None  # device and inode of what it leads to
    near: str = "/"
    writable: bool = True
    name_max: int = NAME_MAX
    path_max: int = PATH_MAX
    file_system: str = ""  # its device number
    free: int = 0  # for users without privileges: what QEMU's user gets
    size: int = 0
    mounted: Mounted | None = None  # of a directory, where that was asked for

    @property
    def taken(self) -> bool:
        """Whether nothing can be made under this name."""
        return self.kind != "absent"
