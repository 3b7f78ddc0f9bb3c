"""Names of files that are no longer than a file system takes."""

from __future__ import annotations


def cut(name: str, most: int) -> str:
    """A name of at most so many bytes: its beginning, no character in half."""
    data = name.encode("utf-8", "surrogateescape")
    if len(data) <= most:
        return name
    while most > 0 and data[most] & 0xC0 == 0x80:
        most -= 1
    return data[:most].decode("utf-8", "surrogateescape")
