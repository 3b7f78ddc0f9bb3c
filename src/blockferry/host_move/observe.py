"""Looking at both hosts. The destination is looked at first: what is true of the source is true after that."""

from __future__ import annotations

from blockferry.host_move import overlay_looks, state_files
from blockferry.host_move.effects import source_fingerprint
from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_observation import HostObservation
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt import migration


def observe(context: HostMoveContext, record: HostMoveRecord) -> HostObservation:
    """What is there now. Raises HostUnreachable for either host, LibvirtFailed, HostCommandFailed."""
    plan, call = context.plan, context.migration
    calling = call is not None and not call.over.is_set()
    dest = migration.look(context.dest.connection, plan.uuid, plan.vm)
    unnamed: tuple[str, ...] = ()
    if plan.cold:
        barred = {disk.target: plan.made_path(disk) for disk in plan.disks}
        unnamed = tuple(one for one, path in barred.items() if files.is_there(context.dest.runner, path))
    source = migration.look(context.source.connection, plan.uuid, plan.vm)
    handed_over = False
    if record.begun and not calling and not source.job and source.state is PowerState.PAUSED:
        handed_over = migration.has_handed_over(context.source.connection, plan.uuid, plan.vm)
    stats = None
    if source.migrating and not plan.cold:
        stats = migration.statistics(context.source.connection, plan.uuid, plan.vm)
    problem = None
    if call is not None and not calling and call.problem is not None:
        problem = call.problem.sentence
    ours = plan.disks if plan.cold else plan.first
    prints = {} if record.handed else {disk.target: source_fingerprint(context, disk) for disk in ours}
    state_prints = state_files.fingerprints(context) if plan.cold and not record.handed else {}
    unplanned = state_files.unplanned(context, source, dest) if plan.cold and not record.handed else ()
    missing = _missing(context) if record.handed and not record.settled else ()
    overlays = overlay_looks.look(context, record, source, dest)
    return HostObservation(
        record, source, dest, calling, problem, handed_over, prints, unnamed, stats, missing, state_prints, overlays,
        unplanned,
    )  # fmt: skip


def _missing(context: HostMoveContext) -> tuple[str, ...]:
    """New images and state files that are under none of their names: a file system is not mounted, or lost."""
    plan, runner = context.plan, context.dest.runner
    names: dict[str, tuple[str, ...]] = {disk.dest: (disk.dest, plan.made_path(disk)) for disk in plan.disks}
    names |= {file.dest: (file.dest,) for file in plan.copied_files}
    return tuple(dest for dest, paths in names.items() if not any(files.is_there(runner, path) for path in paths))
