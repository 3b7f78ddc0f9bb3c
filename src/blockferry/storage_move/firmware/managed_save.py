"""Effects of `--firmware now`: a running VM is saved and restored to change a path that its QEMU has open.

libvirt's managed save, not a file of ours: whoever starts the VM while it is down, be it `virsh start` or the host's
autostart, has it go on from its memory instead of booting it. What to do when: firmware/rules.py; docs/firmware.md.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
from collections.abc import Iterator
from dataclasses import replace

from blockferry.base.errors import (
    BlockferryError,
    CopyIncomplete,
    HostCommandFailed,
    HostUnreachable,
    JournalFailed,
    LeaseLost,
    LibvirtFailed,
    StillSaved,
)
from blockferry.base.units import format_duration, format_size
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import PowerState
from blockferry.safety import managed_save_recovery
from blockferry.safety.guard import LINGER_S
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.firmware.plan import ManagedSavePlan, NvramPlan
from blockferry.storage_move.firmware.record import ManagedSave
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.observe import fingerprint, image_fingerprint
from blockferry.storage_move.points import point
from blockferry.storage_move.precheck import space
from blockferry.storage_move.record import Record


def save_vm(context: Context, seen: Observation) -> None:
    """From here on the guard lets the VM go if we die. libvirt itself lets the guest run on if it cannot save it."""
    hold = _plan(context)[1]
    free, needed = files.free_bytes(context.runner, posixpath.dirname(hold.image)), space.for_memory(hold.memory)
    if free < needed:
        short = f"{format_size(needed)} are needed in {posixpath.dirname(hold.image)}, {format_size(free)} are free"
        not_now(context, f"there is no room for its memory: {short}", seen.record)
        return
    record = replace(
        seen.record,
        managed_save=replace(
            seen.record.managed_save,
            state=ManagedSave.SAVING,
            incarnation=seen.incarnation,
            since=time.time(),
            running=seen.state is PowerState.RUNNING,
            fingerprint="",
            attempts=seen.record.managed_save.attempts + 1,
        ),
    )
    if not _guarded(context, record):
        not_now(context, "no guard could be started, which would let it go if blockferry died", seen.record)
        return
    context.save(record)
    context.memory.holds_it = True
    text = f"{context.plan.vm} is saved to {hold.image}, for about {format_duration(hold.expected_s)}"
    context.log_event(
        "action", f"{text}; `virsh start {context.plan.vm}` lets it go on from there, whatever happens to us"
    )
    point("saving")
    try:
        context.control.save()
    except LibvirtFailed as error:
        view = context.control.look(())
        if view.state.active or not view.saved:
            context.log_event("warning", error.sentence)
            context.save(replace(record, managed_save=replace(record.managed_save, failed=error.sentence)))
        return
    point("vm-saved")


def note_saved(context: Context, seen: Observation) -> None:
    """The memory is on stable storage before anything is changed: a power loss from here on loses none of it."""
    nvram, hold = _plan(context)
    record = replace(seen.record, managed_save=replace(seen.record.managed_save, state=ManagedSave.SAVED))
    _guarded(context, record)
    try:
        files.flush(context.runner, hold.image)
        files.flush(context.runner, posixpath.dirname(hold.image))
        record = replace(
            record, managed_save=replace(record.managed_save, fingerprint=image_fingerprint(context.runner, nvram))
        )
    except HostCommandFailed as error:
        record = replace(record, managed_save=replace(record.managed_save, failed=error.sentence))
    context.save(record)
    point("saved-noted")


def restore_vm(context: Context, action: actions.RestoreVm, record: Record) -> None:
    """Into a QEMU, its processors stopped. `new`: the image goes on naming the old file, for whoever is faster.

    It never names a file that is not there: libvirt would make one from the template.
    """
    nvram, hold = _plan(context)
    file = nvram.dest if action.new else nvram.source
    if files.stat_one(context.runner, file) is None:
        raise CopyIncomplete("nvram", f"{file} is gone")
    point("restoring")
    view = context.control.look(())
    if view.state.active or not view.saved:
        return  # somebody was first; without its saved state it would boot
    before = record.managed_save.fingerprint, record.nvram.copied
    if action.new and (image_fingerprint(context.runner, nvram), fingerprint(context.runner, nvram.source)) != before:
        return  # somebody was first, and has saved it again
    context.control.restore(hold.image, {nvram.source: nvram.dest} if action.new else None)
    point("restored")


def let_go(context: Context, seen: Observation) -> None:
    """The guest runs, if it ran before, and nothing of the saved state stays."""
    nvram, hold = _plan(context)
    record = seen.record
    there = (
        seen.state.active
        and seen.incarnation == record.managed_save.incarnation
        and record.managed_save.state is ManagedSave.SAVING
    )
    if there and not context.memory.holds_it:
        # Another process was about to save it, and died. Its call may still be on its way, and its guard looks out for
        # that: let that be over first.
        context.stop.wait(LINGER_S + 1)
        context.memory.holds_it = True
    view = context.control.look((), closely=True)
    if view.busy or (view.saved and seen.state.active):
        return  # it has changed since: look again
    before = managed_save_recovery.SavedVm(
        record.managed_save.running, record.managed_save.incarnation, hold.image, (nvram.source, nvram.dest)
    )
    down = managed_save_recovery.restored(before, view, was_down=record.managed_save.state is ManagedSave.SAVED)
    if view.state.active:
        resumed = managed_save_recovery.finish(context.control, context.runner, before, view, was_down=down)
        if down and (
            resumed or not record.managed_save.running
        ):  # else somebody else was first, and it is not known when
            record = replace(
                record,
                managed_save=replace(
                    record.managed_save,
                    stood_still_s=round(
                        record.managed_save.stood_still_s + max(0.0, time.time() - record.managed_save.since), 3
                    ),
                ),
            )
            took = format_duration(record.managed_save.stood_still_s)
            context.log_event("action", f"{context.plan.vm} goes on from its memory after {took}, with {view.nvram}")
        elif down:
            context.log_event("warning", f"{context.plan.vm} was let go by others meanwhile, with {view.nvram}")
    context.memory.holds_it = False
    context.guard.disarm()
    point("let-go")
    if record.managed_save.failed:
        _tell_why(context, record.managed_save.failed)
    context.save(replace(record, managed_save=replace(record.managed_save, state=ManagedSave.NONE)))


def not_now(context: Context, why: str, record: Record) -> None:
    _tell_why(context, why)
    context.save(replace(record, managed_save=replace(record.managed_save, failed=why)))


def _tell_why(context: Context, why: str) -> None:
    text = f"the UEFI variables of {context.plan.vm} do not move now: {why.rstrip('.')}"
    context.log_event("warning", f"{text}. They follow once it has been powered off")


_NOT_OURS = (HostUnreachable, LeaseLost, JournalFailed)
"""What goes beyond this effect: the loop knows what to do, and the guard lets the VM go meanwhile."""


@contextlib.contextmanager
def or_back(context: Context, seen: Observation) -> Iterator[None]:
    """An effect on a VM that is down: if it fails, the way is back to the old file, at once.

    When the way back itself fails, StillSaved is raised, and it is tried again.
    """
    if seen.record.managed_save.state is ManagedSave.NONE or seen.state.active:
        yield
        return
    _guarded(context, seen.record)
    try:
        yield
    except _NOT_OURS:
        raise
    except BlockferryError as error:
        view = context.control.look(())
        if view.state.active or not view.saved:
            return  # somebody has let it go this moment: look again
        record = context.noted or seen.record
        if record.managed_save.failed:
            raise StillSaved(context.plan.vm, _plan(context)[1].image, error.sentence) from error
        context.log_event("warning", error.sentence)
        context.save(replace(record, managed_save=replace(record.managed_save, failed=error.sentence)))


def _guarded(context: Context, record: Record) -> bool:
    nvram, hold = _plan(context)
    return context.guard.hold(
        running=record.managed_save.running,
        incarnation=record.managed_save.incarnation,
        image=hold.image,
        files=(nvram.source, nvram.dest),
    )


def _plan(context: Context) -> tuple[NvramPlan, ManagedSavePlan]:
    nvram = context.plan.firmware.nvram
    assert nvram is not None
    assert nvram.now is not None
    return nvram, nvram.now
