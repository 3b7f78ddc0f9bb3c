"""The guards on both hosts while a running VM goes from one to the other (docs/design/host-move.md).

That on the source proves that nothing of the VM is left there, and then lets it run at the destination when we do not;
it ends a migration whose link is cut. That on the destination is armed once we have that proof ourselves.
"""

from __future__ import annotations

from blockferry.host_move.host_context import HostMoveContext
from blockferry.host_move.host_observation import HostObservation
from blockferry.hosts.helper import migration_guards
from blockferry.hosts.helper.migration_guards import DestinationGuard, MigrationGuard, SourceGuard
from blockferry.hosts.libvirt import domain_xml

RESUME_WITHIN_S = 2.0


def start(context: HostMoveContext) -> None:
    """Have both guards. Where one cannot be had the move goes on, and says so."""
    plan, mark = context.plan, (domain_xml.MARK_URI, context.plan.move)
    if context.source_guard is None:
        context.source_guard = SourceGuard(
            context.source.runner, plan.uri, plan.uuid, mark,
            peer=plan.peer, address=plan.address, resume=plan.was_running, targets=list(plan.staying),
        )  # fmt: skip
    if context.dest_guard is None:
        context.dest_guard = DestinationGuard(context.dest.runner, plan.dest_uri, plan.uuid, mark, targets=plan.targets)
    guards: list[tuple[str, MigrationGuard]] = [(plan.host_name, context.source_guard)]
    guards += [(plan.dest_host_name, context.dest_guard)] if plan.was_running else []
    for host, guard in guards:
        was = guard.problem
        if not guard.start() and guard.problem != was:
            _warn(context, host, guard.problem)


def _warn(context: HostMoveContext, host: str, why: str) -> None:
    context.log_event(
        "warning",
        f"no guard stands at {host} ({why}): if blockferry ends or the link is cut at the switch, {context.plan.vm} "
        "stands still until the move is resumed",
    )


def stand_by(context: HostMoveContext, seen: HostObservation) -> None:
    """Before each act: the guards of a migration that was begun, by whichever process, are there; what they say."""
    record = seen.record
    if context.plan.cold or not record.begun or record.arrived or seen.source.absent:
        return
    if context.source_guard is None and not seen.source.migrating and not seen.handed_over:
        return  # nothing is under way
    start(context)
    guard = context.source_guard
    assert guard is not None
    guard.hear()
    while guard.cuts:
        text = f"nothing arrived at {context.plan.dest_host_name} for {guard.cuts.pop():.1f} s"
        context.log_event("warning", f"{text}: the migration was ended, {context.plan.vm} runs on")


def end_stalled(context: HostMoveContext) -> None:
    """Have the migration ended right on its connections, where an abort would wait for the link."""
    if context.source_guard is not None and context.source_guard.stop():
        context.log_event("warning", f"nothing arrives at {context.plan.dest_host_name}: the migration was ended")


def tell_handed(context: HostMoveContext) -> None:
    """From now on the guard may end what is left at the source."""
    if context.source_guard is not None:
        context.source_guard.handed()


def arm_destination(context: HostMoveContext) -> None:
    """The source was proven to be empty: the guest is let run even if we, and the way to the source, are gone.

    Not when it was let run before: that guard knows only the note of its own host. Raises as `has_acted`.
    """
    if context.dest_guard is not None and not has_acted(context):
        context.dest_guard.arm(RESUME_WITHIN_S)


def has_acted(context: HostMoveContext) -> bool:
    """Whether the guest was let run before, so that a pause is its owner's.

    A guard that hears us says so itself; without one its host is asked. Raises BlockferryError when it does not answer:
    then both hosts are looked at again.
    """
    for host, guard in ((context.source, context.source_guard), (context.dest, context.dest_guard)):
        if guard is not None and guard.alive:
            guard.hear()
            there = guard.resumed
        else:
            there = migration_guards.acted(host.runner, context.plan.move)
        if there:
            return True
    return False


def note_running(context: HostMoveContext) -> None:
    """The guest runs at the destination by our doing: from now on a pause is its owner's."""
    if context.source_guard is not None:
        context.source_guard.done()
    migration_guards.note_acted(context.dest.runner, context.plan.move)


def forget(context: HostMoveContext) -> None:
    """The record says that it runs; the notes are not needed any more."""
    for host in (context.source, context.dest):
        migration_guards.forget(host.runner, context.plan.move)


def end(context: HostMoveContext) -> None:
    """The guards are not needed any more."""
    if context.source_guard is not None:
        context.source_guard.done()
    if context.dest_guard is not None:
        context.dest_guard.done()
    leave(context)


def leave(context: HostMoveContext) -> None:
    """This process goes. What they guard, they guard from now on by themselves."""
    if context.source_guard is not None:
        context.source_guard.leave()
    if context.dest_guard is not None:
        context.dest_guard.leave()
    context.source_guard = context.dest_guard = None
