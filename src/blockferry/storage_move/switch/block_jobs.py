"""Effects on the block jobs that copy a running VM's disks: started, paced, ended; and what made one fail."""

from __future__ import annotations

import posixpath
import time
from dataclasses import replace

from blockferry.base.errors import BlockferryError, FileExists
from blockferry.base.units import MiB, format_duration, format_rate, format_size
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import files
from blockferry.hosts.images import network_exports
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt.domain import CopyOrder
from blockferry.storage_move import actions, destination_watchdog
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.disk_record import Copy, Stage
from blockferry.storage_move.observation import DiskJob, Observation
from blockferry.storage_move.observe import layer_fingerprint
from blockferry.storage_move.overlays import effects as overlays_effects
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.pace import rules as pace_rules
from blockferry.storage_move.pace import throttle
from blockferry.storage_move.pace.effects import Pacer
from blockferry.storage_move.points import point

GOING_OFF_S = 1.5

SHUTTING_DOWN_S = 60.0
"""For how long a VM is given to go off, once a copy has ended: when nothing shows it yet, when libvirt says so."""

MEASURE_S = 3.0


def measure_guest(context: Context, seen: Observation) -> None:
    """The guest's writes before there is a copy: what a slowdown is held against, and what the report compares."""
    contract, pacer = context.plan.pace.contract, context.pacer
    before = None
    untouched = all(view.job is DiskJob.NONE for view in seen.disks) and seen.state is PowerState.RUNNING
    if contract is not None and pacer is not None and untouched:
        before = pacer.measure(MEASURE_S, context.should_stop)
        limit = pace_rules.limit_s(contract, before)
        found = f"{before.writes_per_s:.0f} writes/s, p50 {format_duration(before.p50_s)}"
        found += f", p99 {format_duration(before.p99_s)}"
        context.log_event("action", f"before the copy: {found}; the contract is a p99 of {format_duration(limit)}")
        if pace_rules.hopeless(limit, before):
            context.log_event(
                "warning",
                f"the guest's writes are slower than the contract already (p99 {format_duration(before.p99_s)}, "
                f"contract {format_duration(limit)}); the copy will go at its least, {format_rate(pace_rules.FLOOR)}",
            )
        elif contract.latency_s is None and before.writes < pace_rules.BASELINE_WRITES:
            context.log_event("warning", f"the guest writes too little to compare with; {format_duration(limit)} hold")
    context.save(replace(seen.record, measured=replace(seen.record.measured, before=before, done=True)))
    point("measured")


def go_synchronous(context: Context, action: actions.GoSynchronous, seen: Observation) -> None:
    context.log_event("warning", f"{action.why}; the copy is made anew as a mirror, which gets in step by construction")
    context.save(replace(seen.record, mirror=replace(seen.record.mirror, wanted=True)))
    point("going-synchronous")


def start_copy(context: Context, action: actions.StartCopy, seen: Observation) -> None:
    disk = context.plan.disk(action.target)
    before = seen.record.copy(disk.target)
    if not action.reverse:
        seen = replace(seen, record=destination_watchdog.begin(context, seen.record))
    attempts = before.attempts + 1 if before.reverse == action.reverse else 1
    layered = overlays_rules.layered(context.plan, seen.record, disk.target)
    if action.reverse:
        synchronous = not context.plan.pace.background_only
    else:
        synchronous = overlays_rules.synchronous(context.plan, seen.record, disk.target)
    copy = Copy(Stage.STARTING, seen.incarnation, attempts, action.reverse, synchronous)
    record = seen.record.with_copy(disk.target, copy)
    if action.reverse:
        record = replace(record, switch=replace(record.switch, attempts=0))  # those were on the way across
    if action.reverse and layered:
        # The old base becomes the whole disk again; the overlay that stood on it is of no more use.
        state = layer_fingerprint(context.runner, disk, at_source=True)
        record = record.with_overlay(disk.target, OverlayState.COMMITTED, at_source=True)
        record = replace(
            record,
            commits=replace(record.commits, fingerprints={**record.commits.fingerprints, disk.overlays.source: state}),
        )
    dest = disk.overlays.dest if layered else disk.dest.path
    if not action.reverse and not is_export(dest) and destination_effects.why_not_ours(context, dest) is not None:
        raise FileExists(dest)  # QEMU would write over it
    context.save(record)
    point("starting-copy")
    context.memory.progress.pop(disk.target, None)
    context.memory.flushed_bytes.pop(disk.target, None)
    context.cold.pop(disk.target, None)
    together = speed(context, seen)
    share = max(1, together // len(context.plan.disks)) if together else 0
    context.control.start_copy(disk.target, _order(context, disk, copy, layered=layered, bandwidth=share))
    context.applied[disk.target] = share
    point("copy-called")
    context.save(record.with_copy(disk.target, replace(copy, stage=Stage.STARTED)))
    point("copy-started")
    way = (disk.dest.path, disk.source.path) if action.reverse else (disk.source.path, disk.dest.path)
    back = " back" if action.reverse else ""
    context.log_event("action", f"the copy{back} of {disk.target} began: {way[0]} -> {way[1]}")


def _order(context: Context, disk: DiskPlan, copy: Copy, *, layered: bool, bandwidth: int) -> CopyOrder:
    if copy.reverse:
        return CopyOrder(
            dest=disk.source.path,
            dest_format=disk.source.format,
            block=disk.source.kind == "block",
            backing=None,
            synchronous=copy.synchronous,
            bandwidth=bandwidth,
            buffer=context.plan.pace.buffer,
            secret=None if disk.encryption.luks is None else disk.encryption.luks.secret,
        )
    if layered:
        # Only in the background: a synchronous write to a shallow copy loses data (docs/measured.md, 10).
        return CopyOrder(
            dest=disk.overlays.dest,
            dest_format="qcow2",
            backing=(disk.dest.path, disk.dest.format),
            synchronous=False,
            bandwidth=bandwidth,
            buffer=context.plan.pace.buffer,
        )
    return CopyOrder(
        dest=disk.dest.path,
        dest_format=disk.dest.format,
        backing=disk.chain.backing,
        synchronous=copy.synchronous,
        bandwidth=bandwidth,
        granularity=disk.copy.granularity,
        buffer=context.plan.pace.buffer,
        secret=None if disk.encryption.luks is None else disk.encryption.luks.secret,
        # Each copy goes into an image that CreateImage has just made, never into one that a copy has written to.
        zeroed=disk.chain.backing is None and disk.encryption.luks is None and not is_export(disk.dest.path),
    )


def note_clean(context: Context, action: actions.SaveClean, seen: Observation) -> None:
    record = seen.record
    for target in action.targets:
        record = record.with_copy(target, replace(record.copy(target), stage=Stage.CLEAN))
    context.save(record.with_commits(action.commits, Stage.CLEAN))


def look_again(context: Context, action: actions.Await, seen: Observation) -> None:
    """Nothing but to look again; the loop waits. A changed bandwidth is applied here."""
    if action.why == "commit":
        overlays_effects.outrun(context, seen)
    if action.why in ("copy", "commit"):
        apply_bandwidth(context, seen)
    if action.why == "copy":
        throttle.count(context)
        throttle.see_to_it(context, seen)
        point("copying")


def apply_bandwidth(context: Context, seen: Observation) -> None:
    """Give each running job its share of the bandwidth that the user wants now, or that the guest can bear.

    Once a copy is in step QEMU applies no limit to it (docs/measured.md): the others have its share.
    """
    running = [view for view in seen.disks if view.info is not None]
    paced = context.pacer is not None and context.pacer.pace is not None
    limited = sum(not view.ready for view in running) or len(running) if paced else len(running)
    together = speed(context, seen) if running else 0
    usual = max(1, together // limited) if together else 0
    for view in running:
        outrun = view.target in context.memory.outrun
        share = overlays_rules.commit_speed(view, usual, outrun=outrun) if view.job is DiskJob.COMMIT else usual
        applied = context.applied.get(view.target, -1)
        if applied != share and not (paced and 0.97 * share < applied <= share):  # not worth a call
            context.control.set_speed(view.target, share)
            context.applied[view.target] = share


def speed(context: Context, seen: Observation) -> int:
    """Bytes/s for all copies and commits together, 0 for no limit."""
    contract, pacer, wanted = context.plan.pace.contract, context.pacer, seen.record.bandwidth
    if pacer is None or seen.record.failure is not None:
        return wanted
    if contract is None:
        return _synchronous_speed(context, seen, pacer)
    if pacer.pace is None:
        pacer.begin(pace_rules.limit_s(contract, seen.record.measured.before))
    return pacer.speed(time.monotonic(), context.memory.made, wanted)


def _synchronous_speed(context: Context, seen: Observation, pacer: Pacer) -> int:
    """Bytes/s without a contract: as the user wants, but no faster than a guest bears that waits for the copy."""
    wanted = seen.record.bandwidth
    copies = [seen.record.copy(view.target) for view in seen.disks if view.job is DiskJob.OURS and not view.ready]
    if not any(copy.synchronous and not copy.reverse for copy in copies):
        return wanted
    if pacer.pace is None:
        pacer.begin(pace_rules.SYNCHRONOUS_LIMIT_S, pace_rules.FASTEST)
    paced = pacer.speed(time.monotonic(), context.memory.made, wanted)
    # Before it was too fast once, it goes as the user wants, also where the writes cannot be watched: no contract.
    return paced if pacer.pace is not None and pacer.pace.has_slowed else wanted


def abort_copy(context: Context, action: actions.AbortCopy, seen: Observation) -> None:
    point("aborting")
    record = seen.record
    if not record.copy(action.target).reverse:
        destination_watchdog.arm(context)
    context.control.abort(action.target)
    point("abort-asked")
    copy = record.copy(action.target)
    record = record.with_commits((action.target,), None)
    context.save(record.with_copy(action.target, Copy(Stage.NONE, -1, copy.attempts, copy.reverse)))


def note_failure(context: Context, action: actions.Fail, seen: Observation) -> None:
    problem = action.problem
    if action.disk is not None and _went_off(context):
        context.log_event("action", f"{problem}: {context.plan.vm} went off; looking again")
        return
    if action.disk is not None and not seen.health.hanging and seen.record.fencing.fenced is None:
        problem += _cause(context, context.plan.disk(action.disk))
    context.log_event("error", problem)
    context.save(replace(seen.record, failure=seen.record.failure or problem))


def _went_off(context: Context) -> bool:
    """Whether a copy has ended because the VM goes off: then `decide` has a better answer than to fail.

    QEMU ends its block jobs before it ends itself, and libvirt shows the VM as running for a moment longer: seen for
    40 ms on a busy machine. While it is shown as shutting down it is waited for.
    """
    began = time.monotonic()
    limit = GOING_OFF_S if context.memory.suspended_at is None else 0.0
    while time.monotonic() - began < limit and not context.should_stop():
        off = context.control.goes_off()
        if off is None:
            return True
        limit = SHUTTING_DOWN_S if off else GOING_OFF_S
        time.sleep(0.05)
    return False


def _cause(context: Context, disk: DiskPlan) -> str:
    """What may have ended a copy: libvirt says that a job has failed, never why. Looked at now, in a sentence."""
    directory = posixpath.dirname(disk.dest.path)
    try:
        if is_export(disk.dest.path):
            network_exports.size(context.runner, disk.dest.path)
            return ": it failed, or somebody else ended it; QEMU's log of the VM, and the server's, may tell more"
        if files.stat_one(context.runner, disk.dest.path) is None:
            return f": the new image {disk.dest.path} is gone"
        free = files.free_bytes(context.runner, directory)
        if not files.writable_directory(context.runner, directory):
            return f": {directory} cannot be written any more"
    except BlockferryError as error:
        return f": the destination cannot be looked at ({error.sentence})"
    if free < 64 * MiB:
        return f": the destination {disk.dest.datastore} is full ({format_size(free)} free)"
    return ": it failed, or somebody else ended it; QEMU's log of the VM may tell more"
