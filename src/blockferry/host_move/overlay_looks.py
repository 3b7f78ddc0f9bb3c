"""Looking at the overlays of disks that go before their running VM, on the host that has the truth."""

from __future__ import annotations

from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_observation import OverlayLook
from blockferry.host_move.host_plan import TravellingDisk
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts import fingerprint
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import Disk, DiskSource
from blockferry.hosts.libvirt.domain import DomainView
from blockferry.hosts.migrating import Instance
from blockferry.hosts.runner import Runner
from blockferry.storage_move.observation import DiskJob, DiskView
from blockferry.storage_move.observe import same_path
from blockferry.storage_move.overlays.record import OverlayState


def look(context: HostMoveContext, record: HostMoveRecord, source: Instance, dest: Instance) -> OverlayLook | None:
    """None where nothing depends on it: no disk goes before its VM, or the VM is on its way. Raises as `observe`."""
    plan = context.plan
    at_source = not record.handed
    if not plan.first or (source if at_source else dest).absent:
        return None
    if not at_source and not (record.arrived and record.first.made):
        return None
    host = context.source if at_source else context.dest
    view = host.control(plan.uuid, plan.vm).look(tuple(disk.target for disk in plan.first))
    disks = {disk.target: _disk(record, disk, view, host.runner, at_source=at_source) for disk in plan.first}
    return OverlayLook(view.state, view.persistent, view.saved, disks)


def layers_print(runner: Runner, base: str, overlay: str) -> str:
    """Fingerprints of a base and of the overlay above it: `base|overlay`; "" for one that is not there."""
    return f"{_print(runner, base)}|{_print(runner, overlay)}"


def _print(runner: Runner, path: str) -> str:
    found = files.fingerprint(runner, path)
    return "" if found is None else fingerprint.of(found.inode, found.size, found.mtime_ns)


def _disk(
    record: HostMoveRecord, disk: TravellingDisk, view: DomainView, runner: Runner, *, at_source: bool
) -> DiskView:
    overlay, base = (disk.overlay, disk.source) if at_source else (disk.new_overlay, disk.dest)
    found = next((one for one in view.disks if one.target == disk.target), None)
    live = None if found is None or not view.state.active else found.live
    config = None if found is None or not view.persistent else found.config
    committed = record.first.at(source=at_source).get(disk.target) is OverlayState.COMMITTED
    mirror = None if found is None else found.mirror
    return DiskView(
        target=disk.target,
        live=None,  # the paths tell, below
        config=None,
        job=_job(found, overlay, base),
        foreign="" if found is None else found.other_job or (f"block {mirror.job} to {mirror.dest}" if mirror else ""),
        ready=bool(mirror and mirror.ready and not mirror.ending),
        ending=bool(mirror and mirror.ending),
        info=view.jobs.get(disk.target),
        live_overlay=_is(live, overlay),
        foreign_base=_foreign_base(live, overlay, base),
        config_overlay=_is(config, overlay),
        overlay_fingerprint=layers_print(runner, base, overlay) if committed else "",
    )


def _is(source: DiskSource | None, path: str) -> bool:
    return source is not None and same_path(source.path, path)


def _foreign_base(live: DiskSource | None, overlay: str, base: str) -> str:
    """What our overlay stands on, if that is not the base that it was made for."""
    if live is None or not _is(live, overlay) or not live.backing or same_path(live.backing[0], base):
        return ""
    return live.backing[0]


def _job(found: Disk | None, overlay: str, base: str) -> DiskJob:
    if found is None:
        return DiskJob.NONE
    if found.other_job:
        return DiskJob.FOREIGN
    if found.mirror is None:
        return DiskJob.NONE
    ours = found.mirror.job == "active-commit" and _is(found.live, overlay) and same_path(found.mirror.dest, base)
    return DiskJob.COMMIT if ours else DiskJob.FOREIGN
