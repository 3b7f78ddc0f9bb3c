"""Fingerprints of files that are written down: what tells that nobody wrote to a file since. Pure.

Inode, size and time of writing (nanoseconds), as "inode:size:mtime". The number of the device is not in it: btrfs, NFS
and loop devices get another one at each mount (and XFS's fsid is made of it), so a move that was resumed after a reboot
would take every file for changed. Journals of versions before 2026-11-29 have it as a first field.
"""

from __future__ import annotations

import re

_OLD = re.compile(r"(?<![\d:])\d+:(\d+:\d+:-?\d+)(?![\d:])")


def of(inode: int, size: int, mtime_ns: int) -> str:
    """The fingerprint of a file with these facts."""
    return f"{inode}:{size}:{mtime_ns}"


def current(text: str) -> str:
    """Fingerprints as they are written now, of one text that may hold several, of this or of an older version."""
    return _OLD.sub(r"\1", text)
