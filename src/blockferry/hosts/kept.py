"""A file of a host that is kept on purpose. The journal remembers it: a row of the table `kept`."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.hosts.datastore_id import FileId, on_host

NOTHING_USES_IT = "nothing here uses it"
"""The end of `Kept.why` of a file that is kept because its user asked for it, and not for a doubt about a newer one."""

INCOMPLETE = "it lacks the guest's last writes"
"""Stands in `why` of a kept base whose overlay is gone: no VM can go back to it."""


@dataclass(frozen=True, slots=True)
class KeptFingerprint:
    """A file as it was when it was kept. Another inode, size or time of writing: it is not what we kept.

    Not the device, whose number may change with a reboot, and not the change time, which a change of owner moves.
    """

    inode: int
    size: int
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that is kept on purpose. Bytes; times are wall time, `expires` None: for ever.

    `host` is libvirt's UUID of the host it lies on; it, `since`, `format` and `fingerprint` are empty in rows that
    the first version wrote.
    """

    path: str
    move: str
    vm: str
    datastore: str
    expires: float | None
    size: int
    why: str
    host: str = ""
    since: float | None = None
    format: str | None = None
    fingerprint: KeptFingerprint | None = None
    file: FileId | None = None  # which file it is, for every host; None: the one of its host, at its path

    @property
    def identity(self) -> FileId:
        """Which file it is; where that was not told, the file of its host at that path."""
        return self.file or on_host(self.host, self.path)

    @property
    def needless(self) -> bool:
        """Whether it was proven, when it was kept, that nothing needs it.

        False for one that is kept because of a doubt (it may hold newer data than the disk that took its place), and
        for one that was put aside when its VM went back to an older disk.
        """
        return self.why.endswith(NOTHING_USES_IT)

    def expired(self, now: float) -> bool:
        return self.expires is not None and self.expires <= now
