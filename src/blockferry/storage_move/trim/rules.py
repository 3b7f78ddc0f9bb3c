"""Whether the guest can be asked to give back what it does not use, before its copy and after. Pure. docs/trim.md"""

from __future__ import annotations

from collections.abc import Sequence

from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Wanted
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.observation import Observation
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.finding import Finding, Severity, finding
from blockferry.storage_move.request import MoveRequest, Trim


def planned(request: MoveRequest, facts: Facts, targets: Sequence[str]) -> tuple[bool, list[Finding]]:
    """Whether these disks are trimmed first, and what speaks against it.

    What the user asks for by name is refused when it cannot be done; what is only configured is left out and told.
    """
    if request.trim is Trim.NO or not targets:
        return False, []
    discards = {target: disk.discard == "unmap" for target in targets if (disk := facts.vm.disk(target)) is not None}
    why = _why_not(facts, discards=any(discards.values()))
    if why is not None:
        severity = Severity.ERROR if request.trim is Trim.YES else Severity.WARNING
        return False, [finding("CANNOT_TRIM", f"{facts.vm.name} cannot be trimmed: {why}.", severity=severity)]
    return True, [
        finding("TRIM_IGNORED", f"{target} of {facts.vm.name} does not pass discards on; nothing is given back there.")
        for target, passes in discards.items()
        if not passes
    ]


def again(plan: Plan, seen: Observation) -> bool:
    """Whether the guest is to be asked once more: all else is done, and it runs at its destination.

    While it is copied, QEMU drops what it discards (docs/measured.md, 13), and what it deletes is copied before. This
    comes last: nothing waits for an agent then, no frozen view has to keep what is discarded, no block job runs.
    A thick disk would lose the space that was set aside for it, and an agent cannot be asked for some disks only.
    """
    record = seen.record
    asked_before = plan.trim and record.trim.asked
    wanted = not record.trim.asked_again and record.wanted is Wanted.GO
    return (
        asked_before and wanted and seen.state is PowerState.RUNNING and not any(disk.dest.thick for disk in plan.disks)
    )


def _why_not(facts: Facts, *, discards: bool) -> str | None:
    vm = facts.vm
    if vm.state is not PowerState.RUNNING:
        return f"it is {vm.state.value}, and only a running guest knows what it does not use"
    if vm.agent is None:
        return "it has no channel for a guest agent (org.qemu.guest_agent.0)"
    if vm.agent != "connected":
        return "no guest agent answers in it"
    return None if discards else "none of its disks that move passes discards on (discard='unmap')"
