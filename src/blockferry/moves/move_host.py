"""Which host a move belongs to, and the way to that host: no move is run on the wrong one."""

from __future__ import annotations

import contextlib

from blockferry.base.errors import HostUnreachable, OtherHost, UsageError, VmNotFound
from blockferry.hosts import identity
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt import domain_list
from blockferry.hosts.libvirt.connection import Connection
from blockferry.moves.environment import Environment, acting_user
from blockferry.storage_move.summary import MoveSummary


def expect_host(env: Environment, move_summary: MoveSummary, connection: Connection, *, asked: bool = False) -> None:
    """Raise OtherHost unless the move belongs to the host behind this connection; HostUnreachable."""
    plan = move_summary.plan
    here = identity.HostId(connection.uri, connection.host_id(), connection.hostname())
    if identity.same_host(plan, here.uri, here.uuid):
        return
    trace = identity.VmTrace()
    with contextlib.suppress(VmNotFound):
        vm = domain_list.vm(connection, plan.uuid)
        trace = identity.VmTrace(vm.uuid == plan.uuid, vm.mark, vm.mark_journal)
    local = env.journal.path is not None
    if not identity.belongs(plan, here, trace, env.journal.identity(), local_journal=local, asked=asked):
        last = "" if plan.host or move_summary.owner is None else f" (run last by {move_summary.owner})"
        raise OtherHost(plan.move, plan.vm, identity.where(plan) + last, str(here), noted=bool(plan.host))


def site_of(env: Environment, move_summary: MoveSummary) -> Host:
    """The host of a move: this one, by whatever URI, or the one that its own URI leads to. Raises OtherHost.

    A host that does not answer is not asked; whoever runs the move asks before the first look (Site.expect).
    """
    own = env.site
    try:
        expect_host(env, move_summary, own.connection, asked=True)
    except OtherHost:
        if move_summary.plan.uri == own.uri:
            raise
    except HostUnreachable:
        if move_summary.plan.uri == own.uri:
            return own
    else:
        return own
    other = Host(move_summary.plan.uri, others=env.hosts)
    try:
        expect_host(env, move_summary, other.connection)
    except BaseException:
        other.close()
        raise
    return other


def adopt(env: Environment, move_summary: MoveSummary) -> MoveSummary:
    """Tie a move whose plan names no host to this one, as its user says. Raises UsageError."""
    connection = env.site.connection
    if identity.names_another_machine(move_summary.plan.uri, env.uri):
        raise UsageError(
            f"Move {move_summary.id} was planned by way of {move_summary.plan.uri}, which is another machine "
            f"than {env.uri}.",
            f"Say it there: `blockferry --uri {move_summary.plan.uri} cancel {move_summary.id} --here`.",
        )
    uuid = connection.host_id()
    if not uuid:
        raise UsageError(f"libvirt at {connection.uri} tells no UUID of this host, so the move cannot be tied to it.")
    if env.journal.adopt(move_summary.id, uuid, connection.hostname()):
        env.journal.event(
            move_summary.id, "user", f"{acting_user()} said that it was planned on {connection.hostname()} ({uuid})"
        )
    return env.journal.get(move_summary.id)
