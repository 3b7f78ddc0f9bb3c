"""Whether the disks of a running VM can go before it, below overlays, and why not. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blockferry.base.units import format_size
from blockferry.host_move.precheck.catalogue import finding
from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts
from blockferry.hosts.defects import dotted
from blockferry.storage_move.overlays.resume_rules import LEAST_OVERLAY
from blockferry.storage_move.precheck.finding import Finding
from blockferry.storage_move.precheck.method import race_possible


def findings(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    """Yield why the disks cannot go first, where that is asked for. A VM that is off goes so in any case."""
    if not asked.storage_first or not facts.vm.state.active:
        return
    for target in asked.disks:
        reason = why_not(facts, target)
        if reason is not None:
            yield finding("NOT_STORAGE_FIRST", f"{target} of {facts.vm.name} cannot go before it: {reason}.")


def why_not(facts: HostFacts, target: str) -> str | None:
    """Why this disk cannot go before its running VM, a clause; None when it can."""
    vm, found, free = facts.vm, facts.vm.disk(target), facts.source_free.get(target)
    if found is not None and found.read_only:
        return "it is read-only, and libvirt puts no overlay above such a disk"
    if vm.pause_reason == "ioerror":
        return f"{vm.name} is paused because its storage failed, where an overlay would have to lie, too"
    if facts.variables is not None or facts.tpm is not None:
        return "this is not tried yet together with UEFI variables or an emulated TPM"
    for qemu in (facts.running_qemu, facts.source.qemu, facts.destination.qemu):
        if qemu is not None and race_possible(qemu, "qcow2", shallow=True):
            return f"a commit of its overlay by QEMU {dotted(qemu)} could lose a write (defect QEMU_3273)"
    if free is not None and free < LEAST_OVERLAY:
        return f"only {format_size(free)} are free beside its image for what the guest writes meanwhile"
    return None
