"""Effects on a VM that libvirt has lost. Why and in which order: lost_vm/rules.py and docs/design/lost-vm.md."""

from __future__ import annotations

import time
from dataclasses import replace

from blockferry.base.errors import LostVmUnreachable
from blockferry.hosts.helper import qemu_monitor
from blockferry.storage_move import actions
from blockferry.storage_move.context import Context
from blockferry.storage_move.lost_vm import rules as lost_vm_rules
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.observation import LostView, Observation
from blockferry.storage_move.points import point

ENDING_S = 10.0
AGAIN_S = 1.0
"""Seconds until a QEMU that did not answer is asked again."""


def _of(seen: Observation) -> LostView:
    assert seen.lost is not None, "the VM is not lost"
    return seen.lost


def let_run(context: Context, seen: Observation) -> None:
    """End a suspension of ours by QEMU's own monitor. First of all: every moment before is guest downtime."""
    lost = _of(seen)
    answer = qemu_monitor.ask(context.runner, lost.pid, context.plan.uuid, "cont")
    if answer.problem and lost.since_s < lost_vm_rules.PATIENCE_S:
        context.stop.wait(AGAIN_S)
        return
    if answer.problem:
        raise LostVmUnreachable(context.plan.vm, lost.pid, answer.problem)
    context.memory.resumed = context.memory.resumed or answer.did
    point("lost-running")
    context.guard.disarm()
    context.save(replace(seen.record, switch=replace(seen.record.switch, suspended=False)))
    context.log_event(
        "warning", f"libvirt has lost {context.plan.vm}, whose guest stood still; its QEMU lets it run again"
    )


def note_lost(context: Context, seen: Observation) -> None:
    """The proof of what is current, before anything is done about it."""
    plan, record, lost = context.plan, seen.record, _of(seen)
    current = lost_vm_rules.known(record, lost)
    before = record.lost or LostVm()
    stands = lost.status in ("", lost_vm_rules.PAUSED)  # else the guard has let it run
    noted = lost_vm_rules.settle(
        plan, replace(record, switch=replace(record.switch, suspended=record.switch.suspended and stands)), current
    )
    context.save(replace(noted, lost=replace(before, run=lost.run, current=current)))
    point("lost-noted")
    images = ", ".join(f"{target} on {path}" for target, path in current.items()) or "none of its disks is known"
    what = f"its QEMU (process {lost.pid}) says: {lost.status}, {images}" if lost.status else lost.problem
    context.log_event("warning", f"libvirt has lost {plan.vm}, which runs; {what}")


def point_to_current(context: Context, seen: Observation) -> None:
    """The next start must use what QEMU writes to now."""
    current = lost_vm_rules.known(seen.record, _of(seen))
    wanted = {one: (current[one], lost_vm_rules.format_of(context.plan.disk(one), current[one])) for one in current}
    context.control.write_config(wanted, {})
    point("lost-pointed")
    names = ", ".join(f"{target}: {path}" for target, (path, _) in wanted.items())
    context.log_event("action", f"the configuration of {context.plan.vm} names what its QEMU writes to ({names})")


def bar_start(context: Context, action: actions.BarStart, seen: Observation) -> None:
    """Noted before, so that whoever ends this can put the autostart back."""
    plan, before = context.plan, seen.record.lost or LostVm()
    paths = {target: lost_vm_rules.stand_in(plan, target) for target in action.targets}
    switched_off = before.autostart or _of(seen).autostart
    context.save(replace(seen.record, lost=replace(before, unclear=paths, autostart=switched_off)))
    context.control.set_autostart(wanted=False)
    context.control.write_config({one: (path, plan.disk(one).source.format) for one, path in paths.items()}, {})
    point("lost-barred")
    context.log_event(
        "warning", f"{plan.vm} is kept from starting: it cannot be told which images hold its newest data"
    )


def end(context: Context, seen: Observation) -> None:
    """What libvirt does when a guest has powered off: QEMU waits for it (-no-shutdown) with all images flushed."""
    lost = _of(seen)
    answer = qemu_monitor.ask(context.runner, lost.pid, context.plan.uuid, "quit")
    if answer.problem:
        raise LostVmUnreachable(context.plan.vm, lost.pid, answer.problem)
    point("lost-ended")
    context.log_event("action", f"the guest of {context.plan.vm} has powered off; its QEMU was ended")
    until = time.monotonic() + ENDING_S
    while time.monotonic() < until and qemu_monitor.alive(context.runner, lost.pid, context.plan.uuid):
        time.sleep(0.1)


def note_found(context: Context, seen: Observation) -> None:
    """Its autostart as it was; what somebody has put in the place of an unclear image is what counts."""
    plan, before = context.plan, seen.record.lost or LostVm()
    if before.autostart and seen.persistent:
        context.control.set_autostart(wanted=True)
    current = {**before.current}
    for target in before.unclear:
        if seen.disk(target).config_path in lost_vm_rules.images(plan.disk(target)):
            current[target] = seen.disk(target).config_path
    record = replace(
        seen.record, switch=replace(seen.record.switch, suspended=seen.record.switch.suspended and seen.same_run)
    )
    record = replace(lost_vm_rules.settle(plan, record, current), lost=None)
    if not seen.state.active and lost_vm_rules.all_across(plan, before.current):  # QEMU's own word, and it has ended
        record = replace(record, graph=replace(record.graph, proven=True))
    context.save(record)
    point("found-noted")
    what = "libvirt knows it again" if seen.state.active else "its QEMU has ended"
    context.log_event("action", f"{plan.vm} is not lost any more: {what}")
