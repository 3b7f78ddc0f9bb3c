"""Slowing the guest's writes so that a copy gets in step, and putting its limits back as they were.

Its limits before are in the record before they are touched, and the guard knows them. They are put back by `decide` on
every way out; by `free` while the journal is away; by the guard, when this process dies; and the next process, which
finds the note, slows the guest again and goes on. Only the running QEMU is changed, so at the worst they are right
again from the VM's next start. Limits that somebody else has set meanwhile are left alone (pace/throttle_rules.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from blockferry.base.errors import LibvirtFailed
from blockferry.base.units import format_rate
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.overlays.passes import RATE_WINDOW_S
from blockferry.storage_move.pace import throttle_rules
from blockferry.storage_move.pace.latency import between
from blockferry.storage_move.pace.record import Throttle
from blockferry.storage_move.pace.throttle_rules import LEAST, LimitOwner
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import IfNotConverging

LOOK_AGAIN_S = 2.0
COUNT_S = 0.5

KNOWN_S = 2.0
"""What the guest has written in less than this says nothing about its rate: many flush every few seconds only."""


def throttle(context: Context, action: actions.ThrottleGuest, seen: Observation) -> None:
    """Slow the guest's writes to one disk to a share of what they have been of late."""
    control, target, record = context.control, action.target, seen.record
    now = control.limits(target)
    together = throttle_rules.together(record.throttled, target, seen.incarnation, now)
    noted = throttle_rules.shared(record.throttled, together[0]) if together else None
    if noted is None or throttle_rules.standing(noted, now) is LimitOwner.FOREIGN:
        written = _written(context, target)
        if written is not None:
            first = Throttle(max(action.least, int(written * action.share)), seen.incarnation, now)
            _slow(context, action, _with(record, together, target, first), first, written)
    elif target not in together:
        context.save(_with(record, together, target, noted))
        words = f"{target} shares the limit of {together[0]} already: {format_rate(noted.bytes_per_s)} for both"
        context.log_event("warning", f"{action.why}; {words}")
    elif not _enforce(context, target, noted, now):  # otherwise it ran free since another process has died: look again
        limit = max(LEAST, int(noted.bytes_per_s * action.share))
        if limit < noted.bytes_per_s:
            less = replace(noted, bytes_per_s=limit, earlier=(noted.bytes_per_s, *noted.earlier))
            _slow(context, action, _with(record, together, target, less), less, noted.bytes_per_s)
    _forget(context, {*together, target})


def _with(record: Record, together: tuple[str, ...], target: str, noted: Throttle) -> Record:
    """The record with this noted for all disks that share the limit."""
    return record.with_throttles({**record.throttled, **dict.fromkeys((*together, target), noted)})


def _slow(context: Context, action: actions.ThrottleGuest, record: Record, noted: Throttle, present: float) -> None:
    """The guard first, then the note, then the limit: whoever is left knows what to put back."""
    target = action.target
    if not context.guard.restore_limits(target, noted):
        _tell_unguarded(context, f"{action.why}; the guest is not slowed (further)")
        return
    context.save(record)
    point("throttling")
    context.control.set_limits(target, throttle_rules.limited(noted.before, noted.bytes_per_s))
    context.log_event(
        "warning",
        f"{action.why}; the guest's writes to {target} are limited to {format_rate(noted.bytes_per_s)} until the "
        f"switch (they were {format_rate(present)})",
    )
    point("throttled")


def count(context: Context) -> None:
    """Remember what the guest has written of late, where it may be slowed: as long as the copy's own rates reach."""
    if context.plan.pace.if_not_converging is not IfNotConverging.THROTTLE:
        return
    now, written = time.monotonic(), context.memory.written
    if now - max((looks[-1].at_s for looks in written.values()), default=0.0) < COUNT_S:
        return
    try:
        looked = context.control.counters(disk.target for disk in context.plan.disks)
    except LibvirtFailed:
        return  # no reason to give up a copy: it is looked again
    for target, found in looked.items():
        kept = [counters for counters in written.get(target, ()) if found.at_s - counters.at_s <= RATE_WINDOW_S]
        written[target] = (*kept, found)


def _written(context: Context, target: str) -> float | None:
    """Bytes/s that the guest has written of late; None when that is not known (yet)."""
    looks, now = context.memory.written.get(target, ()), context.control.counters((target,))
    interval = between(looks[0], now[target]) if looks and target in now else None
    return interval.bytes / interval.seconds if interval is not None and interval.seconds >= KNOWN_S else None


def _forget(context: Context, targets: set[str]) -> None:
    """What was seen before says nothing about the time from now on."""
    memory = context.memory
    for target in targets:
        memory.written.pop(target, None)
        if target in memory.progress:
            memory.progress[target] = replace(memory.progress[target], samples=())


def _enforce(context: Context, target: str, noted: Throttle, now: throttle_rules.Limits) -> bool:
    """Have the limit that is noted, unless somebody has set another; whether it was not there."""
    guarded = context.guard.restore_limits(target, noted)
    if not guarded:
        _tell_unguarded(context, "the guest is slowed only as far as it is")
    if not guarded or throttle_rules.has(now, noted) or throttle_rules.standing(noted, now) is LimitOwner.FOREIGN:
        return False
    context.control.set_limits(target, throttle_rules.limited(noted.before, noted.bytes_per_s))
    return True


def _tell_unguarded(context: Context, what: str) -> None:
    if not context.unguarded:
        context.log_event("warning", f"{what}: no guard could be started that would let it go if blockferry died")
    context.unguarded = True


def see_to_it(context: Context, seen: Observation) -> None:
    """Have the limits that are noted: the guard of the process that set them may have put the old ones back."""
    now = time.monotonic()
    if not seen.record.throttled or now - context.throttle_seen_at < LOOK_AGAIN_S:
        return
    context.throttle_seen_at = now
    for target, noted in seen.record.throttled.items():
        if noted.incarnation == seen.incarnation:
            wanted = throttle_rules.shared(seen.record.throttled, target)
            _enforce(context, target, wanted, context.control.limits(target))


def free(context: Context, throttled: Mapping[str, Throttle]) -> None:
    """Put the limits back for a time in which nothing can be noted. Raises LibvirtFailed, HostUnreachable.

    The note of them stays, and `see_to_it` slows the guest again by it.
    """
    freed, incarnation = [], context.control.look(()).incarnation
    for target, throttle in throttled.items():
        noted = throttle_rules.shared(throttled, target)
        if throttle.incarnation != incarnation:
            continue
        if throttle_rules.standing(noted, context.control.limits(target)) is LimitOwner.OURS:
            context.control.set_limits(target, throttle_rules.own(noted.before))
            freed.append(target)
    _forget(context, set(throttled))
    context.throttle_seen_at = 0.0
    if freed:
        context.log_event(
            "warning", f"the guest's writes to {', '.join(freed)} are not slowed while the journal is away"
        )


def unthrottle(context: Context, seen: Observation) -> None:
    """Put the limits back. A disk or a QEMU that is gone has none to be put back."""
    put_back(context, seen)
    context.guard.limits_are_back()
    context.save(seen.record.with_throttles({}))
    point("unthrottled")


def put_back(context: Context, seen: Observation) -> None:
    present = {view.target for view in seen.disks if view.live is not None}
    for target, throttle in seen.record.throttled.items():
        if throttle.incarnation != seen.incarnation or target not in present:
            continue
        noted = throttle_rules.shared(seen.record.throttled, target)
        try:
            limit_owner = throttle_rules.standing(noted, context.control.limits(target))
            if limit_owner is LimitOwner.OURS:
                context.control.set_limits(target, throttle_rules.own(noted.before))
        except LibvirtFailed as error:
            if context.control.look(()).incarnation == noted.incarnation:
                raise
            context.log_event("warning", f"{error.sentence}; the VM went off meanwhile, and its limits with it")
            continue
        if limit_owner is LimitOwner.FOREIGN:
            context.log_event("warning", f"the limits of {target} have been changed by somebody else, and stay so")
        else:
            context.log_event("action", f"the guest's writes to {target} are as they were before")
