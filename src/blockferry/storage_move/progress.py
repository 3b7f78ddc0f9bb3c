"""What a running move shows: phase, bytes, rate, time left, passes; and the report at its end."""

from __future__ import annotations

import time

from blockferry.base.units import format_rate, format_size
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper.comparison import ComparisonProgress
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import checkpoint_notes
from blockferry.storage_move.context import Context
from blockferry.storage_move.observation import DiskJob, DiskSide, Observation
from blockferry.storage_move.observe import mirrored
from blockferry.storage_move.overlays.passes import CopyProgress
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import IfNotConverging
from blockferry.storage_move.summary import DiskProgress, GuestReport, Progress, Report

_POLICY = {
    IfNotConverging.AUTO: "it waits",
    IfNotConverging.MIRROR: "it goes over to a mirror",
    IfNotConverging.THROTTLE: "the guest's writes are slowed",
    IfNotConverging.WAIT: "it waits for the guest to write less",
    IfNotConverging.STOP: "the move is given up",
}


def progress(context: Context, seen: Observation, phase: str, note: str = "") -> Progress:
    """The move as it is now."""
    disks = tuple(_disk(context, seen, view.target) for view in seen.disks)
    pace = _pace(context) if phase in ("copy", "verify") else ""
    return Progress(phase, time.time(), note, disks, pace)


def _pace(context: Context) -> str:
    pace = context.pacer.pace if context.pacer is not None else None
    if pace is None or (context.plan.pace.contract is None and not pace.has_slowed):
        return ""
    return f"{format_rate(pace.speed)}, {pace.reason}"


def convergence(context: Context, seen: Observation) -> str:
    """A sentence when the copy does not get in step because the guest writes as fast as it copies."""
    limit = seen.record.bandwidth
    for divergence in seen.diverging:
        paced = " (its speed follows the guest's latency contract)" if context.plan.pace.contract is not None else ""
        if divergence.sure:
            waits = "it waits for the guest to write less"
            then = "raise the limit with `blockferry speed`, or wait" if limit else waits
        else:
            then = f"if that lasts: {_POLICY[context.plan.pace.if_not_converging]}"
        return f"{divergence.sentence}{paced}; {then}"
    for target, copied in context.memory.progress.items():
        if copied.stuck:
            what = f"the limit of {format_rate(limit)}" if limit else f"the copy's {format_rate(copied.rate)}"
            more = "raise it with `blockferry speed`, or wait" if limit else "it waits for the guest to write less"
            return (
                f"{target} does not get in step: each pass leaves {format_size(copied.passes[-1].size)} that the guest "
                f"has changed meanwhile, at {what}; {more}"
            )
    return ""


def _disk(context: Context, seen: Observation, target: str) -> DiskProgress:
    plan, view = context.plan.disk(target), seen.disk(target)
    if (verified := context.verifying.get(target)) is not None:
        return _verified(context, target, verified, judged=seen.record.disk(target).judged)
    copied = context.memory.progress.get(target, CopyProgress())
    if target in context.cold and view.side is DiskSide.SOURCE:
        phase = "copied" if context.cold[target] >= 1 else "copying"
    elif view.side is DiskSide.DESTINATION:
        phase = "switched"
    elif view.job is DiskJob.OURS:
        phase = "in step" if view.ready else "copying"
    else:
        phase = "waiting"
    if copied.bulk == 0:
        return DiskProgress(target, phase, plan.copy_bytes)
    shown = copied.planned_as(plan.bulk_bytes)
    rate = copied.rate * shown.share if copied.cur < copied.bulk else copied.rate
    synchronous = mirrored(context.plan, seen.record)
    return DiskProgress(
        target=target,
        phase=phase,
        total=shown.end,
        done=shown.end if phase == "switched" else shown.cur,
        bulk=shown.bulk,
        changed=copied.changed,
        passes=0 if synchronous else len(copied.passes),
        pass_sizes=() if synchronous else tuple(pass_.size for pass_ in copied.passes),
        rate=rate,
        seconds_left=(shown.end - shown.cur) / rate if rate > 0 and phase == "copying" else None,
    )


def _verified(context: Context, target: str, state: ComparisonProgress, *, judged: bool) -> DiskProgress:
    """Bytes are of the disk's length here: what is gone through, zeros included."""
    seconds = time.monotonic() - context.verify_began
    rate = state.at / seconds if seconds > 0 else 0.0
    done = state.size if judged else state.at
    left = None if judged or not rate else (state.size - state.at) / rate
    return DiskProgress(target, "verified" if judged else "verifying", state.size, done, rate=rate, seconds_left=left)


def _left(context: Context, outcome: Outcome) -> list[str]:
    """A sentence for each network block device that was left, or that a copy was begun to."""
    moved = outcome is Outcome.MOVED
    places = [disk.source.path if moved else disk.dest.path for disk in context.plan.disks]
    text = "left as it is" if moved else "left as the copy has made it, and not removed"
    return [f"{place}: {text}; only its owner can tell what else it is for" for place in places if is_export(place)]


def report(context: Context, outcome: Outcome, seconds: float, phases: dict[str, float], record: Record) -> Report:
    """What was done, as far as this process saw it."""
    copied = context.memory.progress.values()
    planned = {disk.target: disk.bulk_bytes for disk in context.plan.disks}
    bulk = [one.planned_as(planned.get(target, 0)) for target, one in context.memory.progress.items()]
    before = {target: disk.synced for target, disk in record.disks.items() if disk.synced is not None}
    resynced = {**before, **context.resynced}  # what a process before this one has compared counts as well
    return Report(
        outcome=outcome,
        seconds=seconds,
        phases={name: round(value, 4) for name, value in phases.items()},
        bulk_bytes=sum(min(shown.bulk, shown.cur) for shown in bulk),
        changed_bytes=sum(
            min(copy_progress.changed, max(0, copy_progress.cur - copy_progress.bulk)) for copy_progress in copied
        ),
        passes=0
        if mirrored(context.plan, record)
        else max((len(copy_progress.passes) for copy_progress in copied), default=0),
        compared_bytes=sum(compared_base.compared for compared_base in resynced.values()),
        rewritten_bytes=sum(compared_base.written for compared_base in resynced.values()),
        saved_bytes=sum(
            max(0, disk.bulk_bytes - resynced[disk.target].written)
            for disk in context.plan.disks
            if disk.target in resynced and disk.partial.allocated
        ),
        checkpoint_stall_s=context.stalls.get("checkpoint"),
        switch_stall_s=context.stalls.get("switch"),
        start_stall_s=context.stalls.get("start"),
        switch_attempts=record.switch.attempts + 1,
        sources=(*context.sources, *_left(context, outcome)),
        notes=(*context.notes, *checkpoint_notes.after_move(context.plan.domain.checkpoints, outcome)),
        firmware_stall_s=record.managed_save.stood_still_s or None,
        verified=tuple(context.verdicts),
        guest=_guest(context, record),
        trimmed_bytes=sum(disk.trimmed or 0 for disk in record.disks.values()) if record.trim.asked else None,
        trimmed_again_bytes=(
            sum(disk.trimmed_again or 0 for disk in record.disks.values()) if record.trim.asked_again else None
        ),
    )


def _guest(context: Context, record: Record) -> GuestReport | None:
    pacer = context.pacer
    if pacer is None or pacer.pace is None or context.plan.pace.contract is None:
        return None
    return GuestReport(pacer.pace.limit_s, record.measured.before, pacer.during(), pacer.pace.within)
