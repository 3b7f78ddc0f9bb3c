"""What QEMU counts of a disk's writes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counters:
    """One disk's counters since its QEMU started. `at_s` is any monotonic clock."""

    at_s: float
    writes: int
    write_ns: int  # all writes' times together
    bytes: int = 0
