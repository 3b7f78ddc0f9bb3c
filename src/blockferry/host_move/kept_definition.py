"""The VM's definition where the destination has the only one: the source keeps a copy until that is on the disk there.

libvirt removes the source's at the end of a migration, and does not flush the directory of its own files.
"""

from __future__ import annotations

from blockferry.base.errors import HostCallFailed
from blockferry.host_move.host_context import HostMoveContext
from blockferry.hosts.helper import files

CONFIG = "/etc/libvirt/qemu"
"""Where libvirt's system instance keeps definitions, by the VM's name, unless it was built otherwise."""


def give_up(context: HostMoveContext) -> str:
    """Remove the copies of the definition that the hosts keep. Return where the source's stays, and why, a sentence;
    "" when nothing does."""
    plan = context.plan
    context.dest_vm.drop()
    if not plan.persistent or _is_durable(context):
        context.source_vm.drop()
        return ""
    path, xml = context.source_vm.kept()
    if xml is None:
        return ""
    return (
        f"the definition of {plan.vm} as it was at {plan.host_name} is kept there in {path}: {plan.dest_host_name} has "
        f"none in {CONFIG} that could be proven to be on its disk"
    )


def _is_durable(context: HostMoveContext) -> bool:
    """Whether the destination has the definition in a file that is on its disk. Raises when it cannot be flushed."""
    plan, runner = context.plan, context.dest.runner
    path = f"{CONFIG}/{plan.vm}.xml"
    try:
        found = files.read_file(runner, path)
    except HostCallFailed:  # another directory, or it is not ours to read
        return False
    if f"<uuid>{plan.uuid}</uuid>".encode() not in found:
        return False
    for one in (path, CONFIG):
        files.flush(runner, one)
    return True
