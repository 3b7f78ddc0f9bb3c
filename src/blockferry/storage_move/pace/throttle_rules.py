"""The limits that slow a guest: what they are, whose those are that a disk has, what puts its own back. Pure.

Only the limits of bytes are touched: libvirt keeps every family of limits that is not sent (qemu_driver.c,
`qemuDomainSetBlockIoTuneDefaults`), so limits of operations and the group's name stay as they are, whoever sets them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import replace

from blockferry.base.units import KiB
from blockferry.storage_move.pace.record import Throttle

Limits = Mapping[str, int | str]
"""By libvirt's names (virDomainSetBlockIoTune); bytes/s and seconds."""

LEAST = 64 * KiB
"""Bytes/s that a guest may always write: one that cannot write at all looks broken to its users."""

AMPLIFICATION = 16
"""A write of 4 KiB changes a region of 64 KiB that is copied again: nothing usual changes more than so many times."""

_RATES = tuple(f"{kind}_bytes_sec{burst}" for kind in ("total", "read", "write") for burst in ("", "_max"))
_LENGTHS = tuple(f"{kind}_bytes_sec_max_length" for kind in ("total", "read", "write"))


class LimitOwner(enum.Enum):
    """Whose the limits are that a disk of ours has now."""

    OURS = enum.auto()
    BEFORE = enum.auto()  # as they were: not set yet, or put back
    FOREIGN = enum.auto()  # somebody has set others meanwhile


def limited(before: Limits, bytes_per_s: int) -> dict[str, int | str]:
    """The limits of bytes before, and this one for writes.

    libvirt takes a limit of all or limits of reads and writes, not both: one of all becomes one of reads. A burst goes
    with its length: libvirt would keep that, and QEMU refuses a length without a burst.
    """
    total, write = int(before.get("total_bytes_sec", 0)), int(before.get("write_bytes_sec", 0))
    own = [one for one in (total, write) if one]
    return {
        "total_bytes_sec": 0,
        "read_bytes_sec": total or before.get("read_bytes_sec", 0),
        "write_bytes_sec": min([bytes_per_s, *own]),
        **{name: 0 for name in before if name.endswith(("_bytes_sec_max", "_bytes_sec_max_length"))},
    }


def own(before: Limits) -> dict[str, int | str]:
    """What puts the limits back: no more than `limited` has changed."""
    return {name: value for name, value in before.items() if name in _RATES or name in _LENGTHS}


def has(now: Limits, noted: Throttle) -> bool:
    """Whether a disk with the limits `now` has the one that is noted."""
    return _rates(now) == _rates(limited(noted.before, noted.bytes_per_s))


def standing(noted: Throttle, now: Limits) -> LimitOwner:
    """Whose the limits `now` are. An earlier one of ours is ours: a process may have died before it set the next."""
    if any(has(now, replace(noted, bytes_per_s=one)) for one in (noted.bytes_per_s, *noted.earlier)):
        return LimitOwner.OURS
    return LimitOwner.BEFORE if _rates(now) == _rates(noted.before) else LimitOwner.FOREIGN


def shared(throttled: Mapping[str, Throttle], target: str) -> Throttle:
    """What holds for this disk. The disks of a group have one limit: the lowest, over what the first of them found."""
    noted = throttled[target]
    group = _group(noted.before)
    same = [
        throttle
        for throttle in throttled.values()
        if throttle is noted or _together(throttle, noted.incarnation, group)
    ]
    lowest, *earlier = sorted({limit for throttle in same for limit in (throttle.bytes_per_s, *throttle.earlier)})
    return replace(same[0], bytes_per_s=lowest, earlier=tuple(earlier))


def together(throttled: Mapping[str, Throttle], target: str, incarnation: int, now: Limits) -> tuple[str, ...]:
    """The disks noted as slowed in this run of the VM that share the limits of this one, `now`; itself among them."""
    return tuple(
        one
        for one, noted in throttled.items()
        if (one == target and noted.incarnation == incarnation) or _together(noted, incarnation, _group(now))
    )


def _together(throttle: Throttle, incarnation: int, group: str) -> bool:
    return bool(group) and throttle.incarnation == incarnation and _group(throttle.before) == group


def _group(limits: Limits) -> str:
    return str(limits.get("group_name", ""))


def _rates(limits: Limits) -> tuple[int, ...]:
    """What tells limits apart; QEMU tells the length of a burst only where there is one."""
    return tuple(int(limits.get(name, 0)) for name in _RATES)
