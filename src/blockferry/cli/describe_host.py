"""Plans, progress and reports of moves to another host, in words."""

from __future__ import annotations

from collections.abc import Iterator

from blockferry.base.units import format_duration, format_rate, format_size
from blockferry.cli import describe
from blockferry.cli.describe import Pair
from blockferry.cli.output import Cell, counted
from blockferry.client import (
    DiskEstimate,
    DiskProgress,
    HostMovePlan,
    HostMoveProgress,
    HostMoveReport,
    HostMoveSummary,
    Outcome,
    TravellingDisk,
)

_STATE_FILES = {"nvram": "UEFI variables", "tpm": "TPM"}


def plan_pairs(plan: HostMovePlan, estimates: tuple[DiskEstimate, ...]) -> Iterator[Pair]:
    """How the VM gets to the other host, and what happens to what is left behind."""
    estimate = {disk_estimate.target: disk_estimate for disk_estimate in estimates}
    yield "from", f"{plan.host_name} ({plan.uri})"
    yield "to", f"{plan.dest_host_name} ({plan.dest_uri})"
    for disk in plan.disks:
        yield disk.target, _disk_lines(disk, estimate.get(disk.target))
    for file in plan.state_files:
        yield _STATE_FILES[file.role], f"{file.source} -> {file.dest}" if file.source != file.dest else file.dest
    if plan.staying:
        yield "stays", f"{', '.join(plan.staying)}: both hosts have the storage"
    if plan.networks:
        yield "networks", network_words(plan.networks)
    if plan.cold:
        yield "memory", "none: the VM is off"
    else:
        how = "while the VM runs" if plan.was_running else "of a paused VM, which arrives paused"
        yield "memory", f"{format_size(plan.memory)}, {how}"
    yield "way", f"from host to host, to {plan.address}" + ("" if plan.cold else f"; libvirt by way of {plan.peer}")
    if plan.disks or not plan.cold:
        yield "encrypted", "no" if plan.tls is None else "by TLS"
    if plan.first:
        yield "disks", "go before the VM, while overlays take its writes; a break costs at most 6 % of the copy"
    if plan.bandwidth:
        yield "limit", f"{format_rate(plan.bandwidth)} for disks and memory"
    if plan.downtime_ms:
        yield "downtime", f"at most {format_duration(plan.downtime_ms / 1000)} for the last of the memory"
    if plan.channels or plan.compression:
        ways = (
            plan.channels and f"over {plan.channels} connections",
            plan.compression and f"compressed by {plan.compression}",
        )
        yield "memory sent", ", ".join(way for way in ways if way)
    if plan.auto_converge:
        yield "if outrun", "QEMU slows the guest when its memory changes as fast as it is sent"
    if plan.disks:
        yield "old disks", describe.source_policy(plan.source)


def _disk_lines(disk: TravellingDisk, estimate: DiskEstimate | None) -> list[Cell]:
    size = f"{format_size(disk.allocation)} to copy of {format_size(disk.virtual_size)}"
    if estimate is not None and estimate.seconds is not None:
        size += f", about {format_duration(estimate.seconds)}"
    size += f"; takes up to {format_size(disk.required)} on {disk.datastore}"
    thick = ", thick" if disk.thick else ""
    return [
        size,
        f"from {describe.place(disk.source_datastore, disk.source)} ({disk.format})",
        f"to   {describe.place(disk.datastore, disk.dest)} ({disk.format}{thick})",
    ]


def start_sentence(summary: HostMoveSummary) -> str:
    """`Moving web01 (vda; 1.2 GiB) from kvm1 to kvm2 (ssd) while it runs (move 3f2a)`."""
    plan = summary.plan
    disks = f"{', '.join(disk.target for disk in plan.disks)}; " if plan.disks else ""
    how = "while it is off" if plan.cold else "while it runs" if plan.was_running else "while it is paused"
    return (
        f"Moving {plan.vm} ({disks}{format_size(plan.copy_bytes)}) from {plan.host_name} to {plan.destination} "
        f"{how} (move {summary.id})"
    )


def progress_rows(progress: HostMoveProgress) -> tuple[DiskProgress, ...]:
    """A row for the disks and one for the memory; of a VM that is off, a row for each disk."""
    stats = progress.stats
    if stats is None:
        return tuple(
            DiskProgress(target, "copying" if 0 < part < 1 else "", progress.sizes.get(target, 0),
                         int(progress.sizes.get(target, 0) * part))
            for target, part in progress.cold.items()
        )  # fmt: skip
    rows = []
    if stats.disk_total:
        copying = stats.disk_done < stats.disk_total
        rate = float(max(0, stats.rate - stats.memory_rate)) if copying else 0.0
        rows.append(
            DiskProgress("disks", "copying" if copying else "in step", stats.disk_total, stats.disk_done, rate=rate)
        )
    phase = f"pass {stats.passes}" if stats.passes else "waiting" if stats.disk_total else ""
    total = stats.memory_done + stats.memory_left or stats.memory_total
    known = stats.memory_rate and not stats.outrun
    left = stats.memory_left / stats.memory_rate if known else None
    rows.append(DiskProgress("memory", phase, total, stats.memory_done, rate=stats.memory_rate, seconds_left=left))
    return tuple(rows)


def memory_words(progress: HostMoveProgress) -> str:
    """How fast the guest changes its memory; "" while that is not known."""
    stats = progress.stats
    if stats is None or not stats.dirty_rate:
        return ""
    slowed = f", slowed by {stats.throttle} %" if stats.throttle else ""
    return f"the guest changes {format_rate(stats.dirty_rate)} of its memory{slowed}"


def progress_sentence(progress: HostMoveProgress) -> str:
    """`migrate, 45%, 1.8 GiB of 4.0 GiB, 212 MiB/s, 10 s left, memory, pass 3`."""
    parts = [progress.phase, *describe.amount(progress)]
    if words := memory_words(progress):
        parts.append(words)
    if progress.note:
        parts.append(progress.note)
    return ", ".join(parts)


def network_words(networks: dict[str, str]) -> str:
    """`lan is dmz there, br0 is br1 there`."""
    return ", ".join(f"{old} is {new} there" for old, new in networks.items())


def report_pairs(plan: HostMovePlan, done: HostMoveReport) -> Iterator[Pair]:
    """What was sent, how long the VM stood still, what was proven, and what became of the old disks."""
    passes = f" ({counted(done.passes, 'pass', 'passes')})" if done.passes else ""
    sent = [f"{format_size(done.bulk_bytes)} of disks"] if done.bulk_bytes else []
    sent += [f"{format_size(done.memory_bytes)} of memory{passes}"] if done.memory_bytes else []
    unknown = done.outcome is Outcome.MOVED and not plan.cold
    yield "copied", " and ".join(sent) or ("how much was not seen" if unknown else "nothing")
    if done.switch_stall_s is not None:
        own = f" (QEMU counts {done.qemu_downtime_ms} ms)" if done.qemu_downtime_ms else ""
        yield "switch", f"the VM stood still for {format_duration(done.switch_stall_s)}{own}"
    elif done.qemu_downtime_ms:
        yield "switch", f"QEMU counts {done.qemu_downtime_ms} ms; how long it was until the VM ran again was not seen"
    if done.phases:
        yield "times", ", ".join(f"{phase} {format_duration(seconds)}" for phase, seconds in done.phases.items())
    if done.networks:
        yield "networks", network_words(done.networks)
    if done.verified:
        yield "verified", list(done.verified)
    if done.sources:
        yield "old disks", list(done.sources)
    if done.notes:
        yield "notes", list(done.notes)


def cancelling(summary: HostMoveSummary) -> str:
    """What a wish to cancel leads to, a sentence."""
    return f"Cancelling move {summary.id}; {summary.plan.vm} stays at {summary.plan.host_name}."
