"""The watch beside the copies of a move: when it stands, what it may do, what is told of it.

It stands from before the first copy starts until the switch is over (hosts/helper/program/watchdog/). It cuts the
destination off, after the hang limit, only while something of the guest waits for it: while a copy writes to both sides
at once, around a suspension, and while a job is being ended. Before the first disk is switched it is told to keep its
hands off, and has to say that it heard: from then on the destination may be the truth.
"""

from __future__ import annotations

import posixpath
import time
from dataclasses import replace

from blockferry.base.errors import BlockferryError, DestinationFenced
from blockferry.base.units import format_duration
from blockferry.hosts.exports import is_export
from blockferry.hosts.fencing import ANSWERING, DestinationHealth, Guarded
from blockferry.hosts.helper import files, watchdog
from blockferry.hosts.helper.watchdog import DestinationWatch
from blockferry.jobs.outcome import Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.observation import DiskJob, DiskSide, Observation
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record

LOOK, FENCE = "look", "fence"
AGAIN_S = 5.0
ANSWER_S = 5.0


def health(context: Context) -> DestinationHealth:
    """What the watch says now; nothing when there is none."""
    watch = context.watch
    return watch.health if watch is not None and watch.alive else ANSWERING


def begin(context: Context, record: Record) -> Record:
    """Have a watch that may fence, before a copy starts. Where none can be had that is said, and the copy goes on."""
    if context.plan.outage.hang is None or all(is_export(disk.dest.path) for disk in context.plan.disks):
        return record
    if context.watch is None or not context.watch.alive:
        try:
            guarded = _guarded(context, record)
        except BlockferryError as error:
            _say_unwatched(context, error)
            return record
        before = record
        record = replace(record, fencing=replace(record.fencing, guarded=guarded))
        context.save(record)
        point("watching")
        _start(context, guarded, FENCE)
        if context.watch is None and before.fencing.guarded is None:
            record = before  # none ever stood, so none has to be told anything
            context.save(record)
    _order(context, FENCE)
    return record


def take_up(context: Context, record: Record) -> None:
    """A process that takes a move up has a watch of its own at once; the one that was there goes.

    What it may do is decided before the first look at the VM: that may have to wait for the storage itself. With a
    switch under way it only looks, because the destination may be the truth already.
    """
    copies = [disk.copy for disk in record.disks.values() if disk.copy.stage not in (Stage.NONE, Stage.IMAGE)]
    if (
        record.fencing.guarded is None
        or not copies
        or record.switch.done
        or record.fencing.fenced
        or record.outcome is not None
    ):
        return
    at_once = any(copy.synchronous and not copy.reverse for copy in copies) and not record.switch.begun
    _start(context, record.fencing.guarded, FENCE if at_once else LOOK)


def keep_up(context: Context, seen: Observation) -> None:
    """Have the watch do what the state of the move asks for. While the VM is suspended by us it is left as it is."""
    record = seen.record
    if record.fencing.guarded is None or context.memory.suspended_at is not None:
        return
    ours = [view for view in seen.disks if view.job is DiskJob.OURS]
    if not ours or record.switch.done or any(view.side is DiskSide.DESTINATION for view in seen.disks):
        if context.watch is not None:
            _order(context, LOOK)
        return
    if context.watch is None or not context.watch.alive:
        if record.fencing.fenced or time.monotonic() - context.watch_tried < AGAIN_S:
            return
        context.log_event("warning", "the watch beside the copy is gone; another one is started")
        _start(context, record.fencing.guarded, LOOK)
    back = record.failure is not None or record.wanted is Wanted.CANCEL
    at_once = any(record.copy(view.target).synchronous for view in ours)
    _order(context, FENCE if at_once or back else LOOK)


def arm(context: Context) -> None:
    """Something is about to be asked of QEMU that waits for the destination."""
    _order(context, FENCE)


def disarm(context: Context, record: Record) -> bool:
    """From now on the destination may be the truth. False: it hangs, was fenced, or it is not certain that nobody will
    cut it off."""
    if record.fencing.guarded is None or context.plan.outage.hang is None:
        return True
    if not _order(context, LOOK):
        # It does not answer, or the way to it is lost: another one takes its place, and it may do nothing any more.
        _start(context, record.fencing.guarded, LOOK)
        if context.watch is None or not context.watch.alive:
            return False
    now = health(context)  # it tells what it has done before it answers
    return now.fenced is None and not now.hanging


def end(context: Context) -> None:
    """No copy is under way any more."""
    watch, context.watch, context.watch_mode = context.watch, None, ""
    if watch is not None:
        watch.end()


def abandon(context: Context) -> None:
    """This process leaves; the watch goes on if there is something to guard."""
    if context.watch is not None:
        context.watch.abandon()


def save_fenced(context: Context, action: actions.SaveFenced, seen: Observation) -> None:
    """The destination is gone for this move, by us: from here on the way is back."""
    why = DestinationFenced(context.plan.vm, action.directory, format_duration(action.after_s)).sentence
    context.log_event("error", why)
    context.save(replace(seen.record, failure=why, fencing=replace(seen.record.fencing, fenced=action.directory)))
    point("cut-off-noted")


def leave_synchronous(context: Context, action: actions.LeaveSynchronous, seen: Observation) -> None:
    context.log_event(
        "warning", f"{action.why}; the copy is made anew in the background, where the guest does not wait for it"
    )
    context.save(replace(seen.record, mirror=replace(seen.record.mirror, forbidden=True, wanted=False)))
    point("leaving-synchronous")


def see_back(context: Context, record: Record) -> None:
    """Raise DestinationFenced unless storage that was fenced is back: what cannot be seen is not gone."""
    if record.fencing.fenced is None:
        return
    directories = [posixpath.dirname(disk.dest.path) for disk in context.plan.disks if not is_export(disk.dest.path)]
    if not watchdog.answers(context.site.runner, directories, ANSWER_S):
        raise DestinationFenced(context.plan.vm, record.fencing.fenced, "longer than the hang limit")


def sentence(context: Context, seen: Observation) -> str:
    """What a destination that does not answer means now, for the progress; "" when it answers."""
    now = seen.health
    if not now.hanging or context.plan.outage.hang is None:
        return ""
    waits = any(seen.record.copy(view.target).synchronous and view.job is DiskJob.OURS for view in seen.disks)
    guest = "the guest's writes wait" if waits else "the guest goes on"
    text = f"{now.directory} has not answered for {format_duration(now.seconds)}; {guest}"
    limit = context.plan.outage.hang.wanted.limit_s
    guarded = seen.record.fencing.guarded
    steps = [place for place in (guarded.places if guarded else ()) if place.steps]
    if now.fenced is not None:
        return f"{text}; it was fenced, and requests that wait there have not ended yet"
    if now.refused:
        return f"{text}; it is not fenced, because {now.refused}"
    if context.watch_mode != FENCE:
        return f"{text}; the copy waits"
    if limit is None or not steps:
        return f"{text}; it cannot be fenced, so nothing is done until it answers"
    return f"{text}; it is fenced after {format_duration(limit)}"


# ---------------------------------------------------------------- inside


def _guarded(context: Context, record: Record) -> Guarded:
    plan = context.plan
    assert plan.outage.hang is not None
    disks = [disk for disk in plan.disks if not is_export(disk.dest.path)]
    directories = tuple(dict.fromkeys(posixpath.dirname(disk.dest.path) for disk in disks))
    found = watchdog.storages(context.runner, directories, plan.outage.hang.wanted)

    def real(path: str) -> str:
        directory, name = posixpath.split(path.rstrip("/"))
        if path.rstrip("/") in found:
            return found[path.rstrip("/")].directory
        return posixpath.join(found[directory].directory, name) if directory in found else path

    pairs = tuple(
        (files.realpath(context.runner, disk.source.path), real(disk.dest.path))
        for disk in disks
        if not is_export(disk.source.path)
    )
    ours = [*record.created, *(one for disk in disks for one in (disk.dest.path, disk.overlays.dest) if one)]
    places = {storage.directory: storage for storage in found.values()}
    return Guarded(tuple(places.values()), pairs, tuple(dict.fromkeys([*places, *(real(path) for path in ours)])))


def _start(context: Context, guarded: Guarded, mode: str) -> None:
    assert context.plan.outage.hang is not None
    abandon(context)
    context.watch, context.watch_mode, context.watch_tried = None, mode, time.monotonic()
    known = ANSWERING

    def changed(now: DestinationHealth) -> None:
        nonlocal known
        before, known = known, now
        _tell(context, guarded, before, now)

    limit = context.plan.outage.hang.wanted.limit_s
    try:
        context.watch = DestinationWatch(context.site.runner, context.plan.move, guarded, limit, mode, changed)
    except BlockferryError as error:
        _say_unwatched(context, error)


def _say_unwatched(context: Context, error: BlockferryError) -> None:
    context.log_event("warning", f"the destination is not watched, so a hang of it is not noticed ({error.sentence})")


def _order(context: Context, mode: str) -> bool:
    """Whether the watch is known to be in this mode."""
    watch = context.watch
    if watch is None or not watch.alive:
        return False
    if context.watch_mode == mode:
        return True
    context.watch_mode = ""
    if watch.order(mode):
        context.watch_mode = mode
    return context.watch_mode == mode


def _tell(context: Context, guarded: Guarded, before: DestinationHealth, now: DestinationHealth) -> None:
    """Into the story, from the watch's own thread: the loop may be waiting for the storage itself."""
    try:
        if now.hanging and not before.hanging:
            context.log_event("warning", f"{now.directory} has not answered for {format_duration(now.seconds)}")
        if before.hanging and not now.hanging and now.fenced is None:
            text = f"{before.directory} answers again, after {format_duration(max(before.seconds, now.longest))}"
            context.log_event("action", text)
            context.notes.append(text)
        if now.refused and now.refused != before.refused:
            context.log_event("warning", f"{now.directory} is not fenced, because {now.refused}")
        if now.fenced is not None and before.fenced is None:
            place = next((storage for storage in guarded.places if storage.directory == now.fenced), None)
            how = place.how if place is not None else ""
            after = format_duration(now.fenced_after or 0.0)
            context.log_event("warning", f"{now.fenced} has not answered for {after} and is fenced: {how}")
    except BlockferryError:
        return  # the journal cannot be written; the loop will meet that, too
