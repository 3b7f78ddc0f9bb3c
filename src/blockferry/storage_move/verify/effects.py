"""Verification: the new disks compared with the old ones as both were at the switch. See docs/design/verify.md.

While the VM runs, the new disks are read through a frozen view: a pull-mode backup that was begun in the suspension of
the switch (https://libvirt.org/kbase/live_full_disk_backup.html). QEMU keeps the old content of what the guest
overwrites in scratch files beside the images. The old disks need none of that: nobody writes to them any more.
"""

from __future__ import annotations

import posixpath
from dataclasses import replace

from blockferry.base.errors import BlockferryError, HostCommandFailed
from blockferry.base.units import format_rate, format_size
from blockferry.hosts.helper import comparison, files
from blockferry.hosts.images.conversion import ConversionStopped
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.runner import Runner
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import effects as destination_effects
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.pace import comparison_speed
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record
from blockferry.storage_move.verify.record import BackupExport
from blockferry.storage_move.verify.scratch import ScratchSpace, let_run

PRIVATE_DIRECTORIES = "/var/lib/libvirt/qemu"
"""Where libvirt keeps a directory for each running VM of the system's, which its QEMU may write to."""

SHORT_NAME = 20
"""So many characters of a VM's name are in the name of that directory."""


def prepare_view(context: Context, seen: Observation) -> None:
    """Empty scratch files, made while the guest runs: libvirt would make them in the suspension."""
    plan = context.plan
    socket = _socket(context, seen.incarnation)
    record = destination_effects.name_paths(
        context, replace(seen.record, export=replace(seen.record.export, socket=socket)), socket
    )
    for disk in plan.disks:
        scratch = plan.scratch(disk.target)
        record = destination_effects.name_paths(context, record, scratch)
        destination_effects.mark_file(context, scratch)
        destination_effects.new_image(context, scratch, disk, "qcow2", disk.sizes.virtual)
        destination_effects.mark_file(context, scratch, made=True)
    point("view-prepared")
    # What was found out about an earlier copy, of a VM that was off then, is not about the one of this switch.
    record = record.without_verdicts()
    context.save(
        replace(record, export=replace(record.export, state=BackupExport.PREPARED, incarnation=seen.incarnation))
    )


def take_view(context: Context, seen: Observation) -> None:
    """Freeze. A failure is no reason to keep the guest waiting: it runs on, and nothing is verified.

    The proof is in this process's memory until the guest runs; one that dies before it is noted has proven nothing.
    """
    plan = context.plan
    memory = context.memory
    memory.view_tried = True
    point("taking-view")
    try:
        context.control.begin_view(
            seen.record.export.socket, {disk.target: plan.scratch(disk.target) for disk in plan.disks}
        )
        # Whoever else could have let the guest run would have had to do it while libvirt was busy with ours.
        memory.view_taken = context.control.look((), context.last_view()).state is PowerState.PAUSED
    except BlockferryError as error:
        context.log_event("warning", f"no view of the new disks could be frozen: {error.sentence}")
    point("view-taken")
    if memory.suspended_at is None and memory.view_taken:  # the owner's pause: there is no resuming to note it at
        context.save(replace(seen.record, export=replace(seen.record.export, state=BackupExport.READY)))


def verify(context: Context, target: str, seen: Observation) -> None:
    """Compare one disk to its end. What is found is noted, whatever it is."""
    plan = context.plan
    disk = plan.disk(target)
    live = seen.record.export.state is BackupExport.READY and seen.state.active
    room = ScratchSpace(context)
    point("verifying")
    context.verifying[target] = comparison.ComparisonProgress(size=disk.sizes.virtual)
    began = context.verify_began = context.now_s()

    def show(state: comparison.ComparisonProgress) -> None:
        context.verifying[target] = state
        context.show()

    try:
        dest: str | comparison.ServedImage = disk.dest.path
        if live:
            socket = context.control.view_socket()
            if socket is None or socket != seen.record.export.socket:
                raise HostCommandFailed("comparing", 1, "the frozen view is gone")
            dest = comparison.ServedImage(socket, target)
        result = comparison.compare(
            context.runner,
            *_old_side(disk, seen.record),
            dest,
            disk.dest.format,
            speed=comparison_speed.speed(context, seen.record),
            progress=show,
            should_stop=lambda: context.should_stop() or (live and room.lacks()),
        )
    except ConversionStopped:
        if not room.trouble:
            raise
        context.memory.view_trouble = room.trouble
        return
    except HostCommandFailed as error:
        why = error.stderr.strip() or error.sentence
        context.log_event("warning", f"{target} could not be compared: {why}")
        context.save(seen.record.with_unverified((target,), why))
        return
    seconds = max(context.now_s() - began, 0.001)
    context.save(_judge(context, seen.record, target, result, seconds))
    point("verified")


def _old_side(disk: DiskPlan, record: Record) -> tuple[str, str]:
    """The image that is the old disk, and its format: the overlay above it, if the move has put one there."""
    if overlays_rules.layer_of(record, disk.target, at_source=True) in (OverlayState.USED, OverlayState.PIVOTING):
        return disk.overlays.source, "qcow2"
    return disk.source.path, disk.source.format


def _judge(
    context: Context, record: Record, target: str, result: comparison.ComparisonProgress, seconds: float
) -> Record:
    disk = context.plan.disk(target)
    if result.first:
        offsets = ", ".join(str(one) for one in result.first)
        sentence = (
            f"{target}: {format_size(result.differing)} of {disk.dest.path} differ from {disk.source.path} "
            f"as it was at the switch, first at byte {offsets}"
        )
        context.log_event("error", sentence)
        context.notes.append(sentence)
        return record.with_disk(target, replace(record.disk(target), differences=result.first))
    read = max(result.source_read, result.dest_read)
    sentence = (
        f"{target}: {disk.dest.path} is the same as {disk.source.path}; {format_size(disk.sizes.virtual)} compared in "
        f"{seconds:.1f} s ({format_size(read)} read on a side, {format_rate(read / seconds)})"
    )
    context.log_event("action", sentence)
    context.verdicts.append(sentence)
    return record.with_disk(target, replace(record.disk(target), verified=True))


def end_view(context: Context, action: actions.EndExport, seen: Observation) -> None:
    """Let go: the backup job ends, its files go. What was not compared stays unverified, and says why."""
    plan, record = context.plan, seen.record
    waiting = [disk.target for disk in plan.disks if not record.disk(disk.target).judged]
    if waiting:
        context.log_event(
            "warning", f"{', '.join(waiting)} of {plan.vm} not verified: {action.why}; the old disks are kept"
        )
        record = record.with_unverified(waiting, action.why)
        context.save(record)
    point("ending-view")
    if seen.state.active:
        socket = context.control.view_socket()
        if socket is not None and socket == record.export.socket:
            context.control.end_view()
    for disk in plan.disks:
        scratch = plan.scratch(disk.target)
        if scratch in record.created:
            files.remove_file(context.runner, scratch)
            files.remove_file(context.runner, scratch + destination_effects.MARKER)
    if record.export.socket:
        files.remove_file(context.runner, record.export.socket)  # QEMU takes it away itself, unless it was killed
    if seen.state.active and seen.incarnation == record.export.incarnation and let_run(context.control):
        context.log_event("warning", f"QEMU had stopped {plan.vm} for want of room for the frozen view; it runs again")
    point("view-ended")
    context.save(replace(record, export=replace(record.export, state=BackupExport.ENDED)))


def unproven(plan: Plan, record: Record, target: str) -> str | None:
    """Why the old disk must be kept although a verification was asked for; None when all were proven the same.

    All of them or none: going back is for the whole VM, whose disks belong together.
    """
    if not plan.verify:
        return None
    reasons = {disk.target: _doubt(record, disk.target) for disk in plan.disks}
    if (own := reasons[target]) is not None:
        return own
    other = next(((name, reason) for name, reason in reasons.items() if reason is not None), None)
    return None if other is None else f"it belongs with the old disk of {other[0]}, of which {other[1]}"


def _doubt(record: Record, target: str) -> str | None:
    if record.disk(target).verified:
        return None
    if record.disk(target).differences is not None:
        return "the verification found differences"
    return f"the copy was not verified ({record.unverified.get(target, 'it did not come to that')})"


def _socket(context: Context, incarnation: int) -> str:
    place = listening_place(context.runner, incarnation, context.plan.vm, context.plan.disks[0].dest.path)
    return posixpath.join(place, destination_effects.backup_socket(context.plan.move))


def listening_place(runner: Runner, incarnation: int, vm: str, image: str) -> str:
    """Return a directory in which QEMU can listen: libvirt's own for this run of the VM, else the one of an image.

    libvirt names it by the number of the run and the first 20 characters of the VM's name (libvirt's source,
    virDomainDefGetShortName). The number alone does not tell: a libvirtd that has lost VMs leaves their directories,
    and begins again with 1.
    """
    directory = posixpath.join(PRIVATE_DIRECTORIES, f"domain-{incarnation}-{vm[:SHORT_NAME]}")
    file_stat = files.stat_one(runner, directory)
    return directory if file_stat is not None and file_stat.kind == "directory" else posixpath.dirname(image)
