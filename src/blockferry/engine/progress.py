"""What a running move shows: phase, bytes, rate, time left, passes; and the report at its end."""

from __future__ import annotations

import time

from blockferry.engine.context import Context
from blockferry.model import action as act
from blockferry.model.observation import Job, Observation, Side
from blockferry.model.passes import CopyProgress
from blockferry.model.record import Outcome
from blockferry.model.summary import DiskProgress, Progress, Report
from blockferry.units import format_rate, format_size

_PHASES: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("prepare", (act.Mark, act.CopyHome, act.CopyLayers, act.CreateImage, act.TakeOverlays)),
    ("copy", (act.StartCopy, act.NoteClean, act.ForgetCopy, act.ColdCopy, act.SyncBase, act.Checkpoint)),
    ("switch", (act.FlushDestination, act.Pivot, act.NoteSwitched, act.WriteConfig)),
    ("clean up", (act.MoveMedium, act.Settle, act.ReleaseSource, act.ReleaseHome)),
    ("roll back", (act.Fail, act.AbortCopy, act.RevertConfig, act.RemoveDestination)),
)


def phase_of(action: act.Action, before: str) -> str:
    """The phase that an action belongs to; what belongs to several goes on with the one before."""
    if isinstance(action, act.Suspend):
        return "switch" if action.switch else "copy"
    if isinstance(action, act.Await):
        return "copy" if action.why in ("copy", "initialise", "retry") else before
    return next((name for name, kinds in _PHASES if isinstance(action, kinds)), before)


def progress(context: Context, seen: Observation, phase: str, note: str = "") -> Progress:
    """The move as it is now."""
    return Progress(phase, tuple(_disk(context, seen, view.target) for view in seen.disks), time.time(), note)


def convergence(context: Context, seen: Observation) -> str:
    """A sentence when the copy does not get in step because the guest writes as fast as it copies."""
    limit = seen.record.bandwidth
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
    copied = context.memory.progress.get(target, CopyProgress())
    if target in context.cold and view.side is Side.SOURCE:
        phase = "copied" if context.cold[target] >= 1 else "copying"
    elif view.side is Side.DESTINATION:
        phase = "switched"
    elif view.job is Job.OURS:
        phase = "in step" if view.ready else "copying"
    else:
        phase = "waiting"
    if copied.bulk == 0:
        return DiskProgress(target, phase, plan.copy_bytes)
    rate = copied.rate
    return DiskProgress(
        target=target,
        phase=phase,
        total=copied.end,
        done=copied.end if phase == "switched" else copied.cur,
        bulk=copied.bulk,
        changed=copied.changed,
        passes=0 if context.plan.synchronous else len(copied.passes),
        pass_sizes=() if context.plan.synchronous else tuple(one.size for one in copied.passes),
        rate=rate,
        seconds_left=copied.remaining / rate if rate > 0 and phase == "copying" else None,
    )


def report(context: Context, outcome: Outcome, seconds: float, phases: dict[str, float], attempts: int) -> Report:
    """What was done, as far as this process saw it."""
    copied = context.memory.progress.values()
    resynced = context.resynced
    return Report(
        outcome=outcome,
        seconds=seconds,
        phases={name: round(value, 4) for name, value in phases.items()},
        bulk_bytes=sum(min(one.bulk, one.cur) for one in copied),
        changed_bytes=sum(min(one.changed, max(0, one.cur - one.bulk)) for one in copied),
        passes=0 if context.plan.synchronous else max((len(one.passes) for one in copied), default=0),
        compared_bytes=sum(one.compared for one in resynced.values()),
        rewritten_bytes=sum(one.written for one in resynced.values()),
        checkpoint_stall_s=context.stalls.get("checkpoint"),
        switch_stall_s=context.stalls.get("switch"),
        start_stall_s=context.stalls.get("start"),
        switch_attempts=attempts,
        sources=tuple(context.sources),
        notes=tuple(context.notes),
    )
