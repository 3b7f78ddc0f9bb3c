"""Bytes, rates and durations: how people type them and how we print them.

Inside the program sizes are `int` bytes, rates `int` bytes per second, durations `float` seconds;
the unit is in the name wherever it is not bytes.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

KiB = 1024
MiB = 1024 * KiB
GiB = 1024 * MiB
TiB = 1024 * GiB

_SIZE_UNITS = {
    "": 1, "b": 1,
    "k": KiB, "kib": KiB, "kb": 1000,
    "m": MiB, "mib": MiB, "mb": 1000**2,
    "g": GiB, "gib": GiB, "gb": 1000**3,
    "t": TiB, "tib": TiB, "tb": 1000**4,
}  # fmt: skip
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 604800}
_BITS = re.compile(r"(?:(?<![iI])b|[bB]its?)(?:/s|/sec|ps)?\Z")
"""The ending of a rate in bits, by the usual way to write it (IEC 80000-13: `b` or `bit`; a byte is `B`)."""
_LONGEST_S = 100 * 365 * 86400
_NUMBER = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*\Z")


def parse_size(text: str) -> int:
    """Bytes for text such as `512MiB`, `4G`, `1.5TiB` or `1000`; K, M, G, T are powers of 1024 as in qemu-img.

    Raises ValueError with a sentence for people.
    """
    match = _NUMBER.match(text)
    if not match or match[2].lower() not in _SIZE_UNITS:
        raise ValueError(f"{text!r} is not a size; write it like 512MiB, 20G or 1.5TiB")
    size = float(match[1]) * _SIZE_UNITS[match[2].lower()]
    if size >= 2**63:
        raise ValueError(f"{text!r} is more than any disk holds")
    return int(size)


def parse_cluster_size(text: str) -> int:
    """Bytes of a qcow2's cluster, as QEMU takes them. Raises ValueError with a sentence for people."""
    size = parse_size(text)
    if not 512 <= size <= 2 * MiB or size & (size - 1):
        raise ValueError(f"{text} is no power of two from 512 bytes to 2 MiB")
    return size


def parse_rate(text: str) -> int:
    """Bytes per second for text such as `200MiB/s` (the `/s` may be left out); 0 means unlimited.

    A number without a unit is refused: `100` meant as MiB/s would all but stop a copy at 100 bytes per second.
    Raises ValueError with a sentence for people.
    """
    bare = text.strip()
    if _BITS.search(bare):
        raise ValueError(f"{text!r} reads like bits; rates are in bytes: write it like 12MB/s or 12MiB/s")
    for ending in ("/s", "/sec", "ps"):
        if bare.lower().endswith(ending):
            bare = bare[: -len(ending)]
            break
    if bare.lower() in ("unlimited", "none", "0"):
        return 0
    if (number := _NUMBER.match(bare)) and not number[2]:
        raise ValueError(f"{text!r} has no unit; did you mean {number[1]}MiB/s?")
    try:
        rate = parse_size(bare)
    except ValueError:
        raise ValueError(f"{text!r} is not a rate; write it like 200MiB/s, or 0 for unlimited") from None
    if rate < 1:
        raise ValueError(f"{text!r} is below one byte per second; write 0 for unlimited")
    return rate


def parse_duration_s(text: str) -> float:
    """Seconds, more than 0, for text such as `7d`, `12h`, `30min`, `90s`, `20ms`.

    A number without a unit is refused: `7` meant as days would be 7 seconds. Raises ValueError with a sentence for
    people.
    """
    match = _NUMBER.match(text)
    if match and not match[2]:
        raise ValueError(f"{text!r} has no unit; write it like {match[1]}d, {match[1]}h, {match[1]}min or {match[1]}s")
    if not match or match[2].lower() not in _DURATION_UNITS:
        raise ValueError(f"{text!r} is not a duration; write it like 7d, 12h, 30min or 90s")
    seconds = float(match[1]) * _DURATION_UNITS[match[2].lower()]
    if seconds <= 0:
        raise ValueError(f"{text!r} is no time at all; write it like 7d, 12h, 30min or 90s")
    if seconds > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than 100 years")
    return seconds


def parse_latency_s(text: str) -> float:
    """Seconds for text such as `20ms`; at least a millisecond. Raises ValueError with a sentence for people."""
    if not text.strip()[-1:].isalpha():
        raise ValueError(f"{text!r} has no unit; did you mean {text.strip()}ms?")
    seconds = parse_duration_s(text)
    if not 0.001 <= seconds <= 60:
        raise ValueError(f"{text!r} is no latency for a write; write it like 20ms, from 1ms to 60s")
    return seconds


def parse_downtime_s(text: str) -> float:
    """Seconds for text such as `300ms`: a guest may stand still so long. Raises ValueError with a sentence."""
    seconds = parse_duration_s(text)
    if not 0.001 <= seconds <= 2000:  # QEMU's own limit of downtime-limit
        raise ValueError(f"{text!r} is no time for a guest to stand still; write it like 300ms, from 1ms to 2000s")
    return seconds


def parse_limit_s(text: str) -> float:
    """Seconds for text such as `5s`; infinite for `never`. Raises ValueError with a sentence for people."""
    if text.strip().lower() == "never":
        return math.inf
    seconds = parse_duration_s(text)
    if not 1 <= seconds <= 3600:
        raise ValueError(f"{text!r} is no limit; write it like 5s, from 1s to 1h, or never")
    return seconds


def parse_factor(text: str) -> float:
    """A factor above 1 for text such as `1.5x` or `2`. Raises ValueError with a sentence for people."""
    try:
        factor = float(text.strip().removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 1 < factor <= 1000:
        raise ValueError(f"{text!r} is no slowdown; write it like 1.5x, above 1")
    return factor


def format_size(size: int | float) -> str:
    """`4.0 GiB`: three figures at most, binary units, the way `qemu-img info` prints them."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 999.5 or unit == "TiB":
            if unit == "B":
                return f"{int(value)} B"
            return f"{value:.1f} {unit}" if abs(value) < 99.95 else f"{value:.0f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def format_rate(bytes_per_s: int | float) -> str:
    """`212 MiB/s`."""
    return f"{format_size(bytes_per_s)}/s"


def format_duration(seconds: float) -> str:
    """`850 ms`, `12.3 s`, `4 min 10 s`, `2 h 05 min`, `3 d 4 h`."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_time(at: float) -> str:
    """`2026-11-29 13:05:10`: a wall time (seconds since the epoch) as local date and time."""
    try:
        return datetime.fromtimestamp(at, tz=UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # of a journal that an older version has written to
        return "after the year 9999"
