"""What a move remembers of its pace: limits that it has set, and what it has measured of the guest before."""

from __future__ import annotations

from dataclasses import dataclass, field

from blockferry.storage_move.pace.latency import GuestLatency


@dataclass(frozen=True, slots=True)
class Throttle:
    """The guest's writes to one disk are slowed by us. Noted before it is done; taken back on every way out.

    `before` is what libvirt said of the disk's limits then, to be put back as it was. Only the running QEMU is
    changed, so with another incarnation there is nothing to put back.
    """

    bytes_per_s: int
    incarnation: int
    before: dict[str, int | str] = field(default_factory=dict)
    earlier: tuple[int, ...] = ()  # limits of ours before this one: what is found on the disk may be one of them


@dataclass(frozen=True, slots=True)
class MeasuredRecord:
    """What was measured of the guest's writes before the copy, when there is a contract."""

    done: bool = False  # that was looked at, or cannot be any more
    before: GuestLatency | None = None
