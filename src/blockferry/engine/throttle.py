"""Slowing the guest's writes so that a copy gets in step, and putting its limits back as they were.

Its limits before are in the record before they are touched. They are put back by `decide` on every way out; by the
guard, when this process dies; and the next process, which finds the note, slows the guest again and goes on. Only
the running QEMU is changed, so at the worst they are right again from the VM's next start.
"""

from __future__ import annotations

import time
from dataclasses import replace

from blockferry.engine.context import Context
from blockferry.engine.points import point
from blockferry.errors import LibvirtFailed
from blockferry.model import action as act
from blockferry.model.latency import between
from blockferry.model.observation import Observation
from blockferry.model.record import Throttle
from blockferry.units import KiB, format_rate

LEAST = 64 * KiB
"""Bytes/s that a guest may always write: one that cannot write at all looks broken to its users."""

LOOK_AGAIN_S = 2.0


def throttle(context: Context, action: act.ThrottleGuest, seen: Observation) -> None:
    """Slow the guest's writes to one disk to a share of what they are now."""
    control, target, record = context.control, action.target, seen.record
    noted = record.throttled.get(target)
    if noted is not None and noted.incarnation == seen.incarnation:
        if _enforce(context, target, noted):
            _forget_samples(context, target)  # the guest ran free since another process has died: look again
            return
        present, before = noted.bytes_per_s, noted.before
    else:
        first = control.counters((target,))
        time.sleep(1.0)
        second = control.counters((target,))
        if target not in first or target not in second:
            _forget_samples(context, target)
            return
        written = between(first[target], second[target])
        present = int(written.bytes / written.seconds) if written else 0
        before = control.limits(target)
    limit = max(LEAST, int(present * action.share))
    if noted is not None and limit >= noted.bytes_per_s:
        _forget_samples(context, target)
        return  # it is at its least already
    context.note(replace(record, throttled={**record.throttled, target: Throttle(limit, seen.incarnation, before)}))
    point("throttling")
    context.guard.restore_limits(target, before)
    control.set_limits(target, limited(before, limit))
    context.tell(
        "warning",
        f"{action.why}; the guest's writes to {target} are limited to {format_rate(limit)} until the switch (they were "
        f"{format_rate(present)})",
    )
    _forget_samples(context, target)
    point("throttled")


def _forget_samples(context: Context, target: str) -> None:
    """What was seen before says nothing about the time from now on."""
    if target in context.memory.progress:
        context.memory.progress[target] = replace(context.memory.progress[target], samples=())


def _enforce(context: Context, target: str, noted: Throttle) -> bool:
    """Have the limit that is noted; whether it was not there."""
    context.guard.restore_limits(target, noted.before)
    wanted = limited(noted.before, noted.bytes_per_s)
    if context.control.limits(target).get("write_bytes_sec") == wanted["write_bytes_sec"]:
        return False
    context.control.set_limits(target, wanted)
    return True


def limited(before: dict[str, int | str], bytes_per_s: int) -> dict[str, int | str]:
    """The limits before, and this one for writes.

    libvirt takes a limit of all or limits of reads and writes, not both: one of all becomes one of reads.
    """
    total, write = int(before.get("total_bytes_sec", 0)), int(before.get("write_bytes_sec", 0))
    own = [one for one in (total, write) if one]
    values = {name: value for name, value in before.items() if not name.endswith(("_max", "_max_length"))}
    return {
        **values,
        "total_bytes_sec": 0,
        "read_bytes_sec": total or before.get("read_bytes_sec", 0),
        "write_bytes_sec": min([bytes_per_s, *own]),
        **{name: 0 for name in before if name.endswith("_bytes_sec_max")},
    }


def see_to_it(context: Context, seen: Observation) -> None:
    """Have the limits that are noted: the guard of the process that set them may have put the old ones back."""
    now = time.monotonic()
    if not seen.record.throttled or now - context.throttle_seen_at < LOOK_AGAIN_S:
        return
    context.throttle_seen_at = now
    for target, noted in seen.record.throttled.items():
        if noted.incarnation == seen.incarnation:
            _enforce(context, target, noted)


def unthrottle(context: Context, seen: Observation) -> None:
    """Put the limits back. A disk or a QEMU that is gone has none to be put back."""
    put_back(context, seen)
    context.guard.limits_are_back()
    context.note(replace(seen.record, throttled={}))
    point("unthrottled")


def put_back(context: Context, seen: Observation) -> None:
    present = {view.target for view in seen.disks if view.live is not None}
    for target, noted in seen.record.throttled.items():
        if noted.incarnation != seen.incarnation or target not in present:
            continue
        try:
            context.control.set_limits(target, noted.before)
        except LibvirtFailed as error:
            if context.control.look(()).incarnation == noted.incarnation:
                raise
            context.tell("warning", f"{error.sentence}; the VM went off meanwhile, and its limits with it")
            continue
        context.tell("action", f"the guest's writes to {target} are as they were before")
