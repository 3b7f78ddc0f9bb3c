"""Sizes as people write them."""

from __future__ import annotations

import re

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_UNITS = {"": 1, "B": 1, "K": KIB, "KIB": KIB, "M": MIB, "MIB": MIB, "G": GIB, "GIB": GIB}


def to_bytes(size: int | str) -> int:
    """`"2GiB"`, `"512M"` or a number of bytes as bytes."""
    if isinstance(size, int):
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", size)
    if found is None or found[2].upper() not in _UNITS:
        raise ValueError(f"{size!r} is not a size; write for instance 512MiB")
    return int(float(found[1]) * _UNITS[found[2].upper()])
