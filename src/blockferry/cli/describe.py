"""Plans, findings, moves and reports in words, and their JSON forms."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator

from rich.text import Text

from blockferry.base.units import format_duration, format_rate, format_size, format_time
from blockferry.cli.output import Cell, Out, clock, counted
from blockferry.client import (
    AnyMove,
    DiskEstimate,
    DiskPlan,
    DiskProgress,
    Event,
    Finding,
    GuestReport,
    HomePlan,
    HostMovePlan,
    HostMoveProgress,
    LatencyContract,
    Method,
    MoveSummary,
    Outcome,
    Plan,
    Progress,
    Report,
    Severity,
    SourcePolicy,
)

SEVERITY_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "dim"}
EVENT_STYLES = {"warning": "yellow", "error": "red", "user": "cyan", "phase": "bold"}
STATE_STYLES = {
    "running": "green",
    "interrupted": "yellow",
    "waiting": "cyan",
    "parked": "red",
    "moved": "green",
    "cancelled": "yellow",
    "failed": "red",
}

FOLLOWS = "its UEFI variables follow once it has been powered off"


def host(plan: Plan | HostMovePlan) -> str:
    """The host of a move, by its name where it was noted."""
    return f"{plan.host_name} ({plan.uri})" if plan.host_name else plan.uri


def nothing_to_do(out: Out, vm: str) -> None:
    """A move that would change nothing: success, as an administrator's script expects."""
    out.line(Text(f"{vm} is there already: nothing to do.", style="bold green"))


def findings(out: Out, found: Iterable[Finding]) -> None:
    """Errors first; the remedy below each."""
    order = list(Severity)
    for finding in sorted(found, key=lambda finding: order.index(finding.severity)):
        label = finding.severity.value
        out.line(
            Text.assemble(
                (f"{label:<8}", SEVERITY_STYLES[finding.severity]), (finding.code, "bold"), f": {finding.text}"
            )
        )
        if finding.remedy:
            out.line(Text(finding.remedy, style="dim"), indent=8)


STAYING_SHOWN = 10


Pair = tuple[str, Cell | list[Cell]]


def plan(out: Out, plan: Plan, estimates: tuple[DiskEstimate, ...] = ()) -> None:
    """How each disk gets across, and what happens to what is left behind."""
    estimate = {disk_estimate.target: disk_estimate for disk_estimate in estimates}
    pairs: list[Pair] = [("method", f"{plan.method.value}: {plan.method_reason}")]
    pairs.extend((disk.target, _disk_lines(plan, disk, estimate.get(disk.target))) for disk in plan.disks)
    if plan.home is not None:
        pairs.append(("home", _home_lines(plan.home)))
    if plan.firmware.nvram is not None:
        when_ = ["when it has been powered off"] if plan.domain.was.active else []
        if plan.firmware.nvram.now is not None:
            hold = plan.firmware.nvram.now
            when_ = [f"at once: stands still for up to about {format_duration(hold.expected_s)}, saved to {hold.image}"]
        pairs.append(
            ("firmware", [f"UEFI variables: {plan.firmware.nvram.source} -> {plan.firmware.nvram.dest}", *when_])
        )
    if plan.firmware.vtpm is not None:
        pairs.append(("vtpm", f"{plan.firmware.vtpm}, which is the host's and stays"))
    pairs.extend(_conditions(plan))
    pairs.append(("old disks", source_policy(plan.source)))
    out.details(pairs)


def _disk_lines(plan: Plan, disk: DiskPlan, estimate: DiskEstimate | None) -> list[Cell]:
    size = f"{format_size(disk.copy_bytes)} to copy of {format_size(disk.sizes.virtual)}"
    if estimate is not None and estimate.seconds is not None:
        size += f", about {format_duration(estimate.seconds)}"
    if estimate is not None and estimate.allocated_bytes is not None:
        size += f"; takes up to {format_size(estimate.allocated_bytes)} on {disk.dest.datastore}"
    lines: list[Cell] = [
        f"{format_size(disk.sizes.virtual)}, cloned: nothing to copy" if disk.copy.clone else size,
        f"from {place(disk.source.datastore, disk.source.path)} ({disk.source.format})",
        f"to   {place(disk.dest.datastore, disk.dest.path)} ({_dest_format(disk)})",
    ]
    lines.extend(f"with {layer.source} -> {layer.dest}" for layer in disk.chain.layers)
    below = None if disk.chain.stays_below is None else disk.chain.stays_below[0]
    if any(layer.dest == below for disk_plan in plan.disks for layer in disk_plan.chain.layers):
        lines.append(f"on   {below}, copied once for several disks")
    elif disk.chain.reused is not None:
        lines.append(
            f"on   {disk.chain.reused.path}, reused for {disk.chain.reused.source} ({disk.chain.reused.evidence})"
        )
    elif below is not None:
        lines.append(f"on   {below}, which stays where it is")
    return lines


def _home_lines(home: HomePlan) -> list[Cell]:
    lines: list[Cell] = [place(home.datastore, home.dest)]
    lines.extend(f"{file.role}: {file.source} -> {file.dest}" for file in home.files)
    lines.extend(f"stays in the old home: {stay.path} ({stay.why})" for stay in home.stays[:STAYING_SHOWN])
    if len(home.stays) > STAYING_SHOWN:
        lines.append(f"stays in the old home: {len(home.stays) - STAYING_SHOWN} more (`--json` names all)")
    return lines


def _conditions(plan: Plan) -> Iterator[Pair]:
    """What holds while it is copied, and right after the switch."""
    if plan.pace.bandwidth:
        yield "limit", f"{format_rate(plan.pace.bandwidth)} for all disks together"
    if plan.pace.contract is not None:
        yield "guest", contract(plan.pace.contract)
    if plan.trim:
        yield "trim", "the guest gives back what it does not use before it is copied, and once more at the end"
    if plan.domain.resume_after:
        yield "afterwards", "the VM, paused because its storage failed, runs again"
    if plan.method is Method.CHANGED_BLOCKS:
        yield "if outrun", f"{plan.pace.if_not_converging.value}, when the guest writes as fast as it is copied"
    if plan.outage.hang is not None:
        yield "if it hangs", plan.outage.hang.bound


def contract(wanted: LatencyContract) -> str:
    if wanted.latency_s is not None:
        return f"p99 of its writes at most {format_duration(wanted.latency_s)}; the copy's speed follows that"
    return f"p99 of its writes at most {wanted.slowdown:g} times what it is before; the copy's speed follows that"


def source_policy(policy: SourcePolicy) -> str:
    if policy.delete:
        return "deleted once nothing needs them"
    if policy.shared:
        return f"kept, because {policy.shared} (--delete-source deletes them)"
    if policy.keep_s is None:
        return "kept until `blockferry quarantine purge --now` deletes them"
    until = format_time(time.time() + policy.keep_s)
    return (
        f"kept for {format_duration(policy.keep_s)}, until {until} at the earliest; "
        "`blockferry quarantine purge` deletes them after that"
    )


def place(datastore: str | None, path: str) -> str:
    """`ssd: /srv/ssd/web01/vda.qcow2`."""
    return f"{datastore}: {path}" if datastore and datastore != path else path


def _dest_format(disk: DiskPlan) -> str:
    return f"{disk.dest.format}, thick" if disk.dest.thick else disk.dest.format


def report_pairs(summary: MoveSummary) -> list[Pair]:
    """The report of a finished move."""
    done = summary.report
    assert done is not None
    again = ""
    if done.changed_bytes or done.passes:
        again = f", and {format_size(done.changed_bytes)} because the guest changed it"
        again += f" ({counted(done.passes, 'pass', 'passes')})" if done.passes else ""
    pairs: list[Pair] = [("copied", format_size(done.bulk_bytes) + again)]
    if done.trimmed_bytes is not None:
        pairs.append(("trimmed", f"{format_size(done.trimmed_bytes)} given back by the guest before the copy"))
    if done.trimmed_again_bytes is not None:
        pairs.append(("", f"{format_size(done.trimmed_again_bytes)} given back by it at the destination"))
    if done.compared_bytes:
        text = f"{format_size(done.compared_bytes)} read on both sides, {format_size(done.rewritten_bytes)} written"
        saved = f", {format_size(done.saved_bytes)} saved" if done.saved_bytes else ""
        pairs.append(("compared", text + saved))
    pairs.extend(_suffered(done, summary.record.managed_save.failed))
    if done.phases:
        times = ", ".join(f"{phase} {format_duration(seconds)}" for phase, seconds in done.phases.items())
        pairs.append(("times", times))
    if done.verified:
        pairs.append(("verified", list(done.verified)))
    if done.sources:
        pairs.append(("old disks", list(done.sources)))
    if done.notes:
        pairs.append(("notes", list(done.notes)))
    return pairs


def _suffered(done: Report, hold_failed: str) -> Iterator[Pair]:
    """When the VM stood still, for how long and why."""
    if done.switch_stall_s is not None:
        attempts = f", at attempt {done.switch_attempts}" if done.switch_attempts > 1 else ""
        yield "switch", f"the VM was suspended for {format_duration(done.switch_stall_s)}{attempts}"
    if done.start_stall_s is not None:
        yield "start", f"suspended for {format_duration(done.start_stall_s)} for a clean start of the copies"
    if done.guest is not None:
        yield "guest", list(_guest_lines(done.guest))
    if done.checkpoint_stall_s is not None:
        stall = format_duration(done.checkpoint_stall_s)
        yield "checkpoints", f"suspended for at most {stall}, so that what was copied outlives QEMU"
    if done.firmware_stall_s is not None:
        stall = format_duration(done.firmware_stall_s)
        yield "firmware", f"the VM was saved and restored, and stood still for {stall}"
    if hold_failed:
        yield "firmware", f"the UEFI variables did not move at once: {hold_failed}"


def _guest_lines(guest: GuestReport) -> Iterable[Cell]:
    """How the guest's writes fared, before and during."""
    for when_, seen in (("before", guest.before), ("during", guest.during)):
        if seen is not None:
            yield (
                f"{when_}: {seen.writes_per_s:.0f} writes/s, p50 {format_duration(seen.p50_s)}, "
                f"p99 {format_duration(seen.p99_s)}"
            )
    yield f"{guest.within:.1%} of the writes kept the limit of {format_duration(guest.limit_s)}"


def headline(summary: AnyMove) -> Text:
    """One sentence: how the move ended."""
    took = f" in {format_duration(_seconds(summary))}" if summary.finished is not None or summary.report else ""
    match summary.record.outcome:
        case Outcome.MOVED:
            words = (f"{summary.plan.vm} was moved to {summary.plan.destination}{took}.", "bold green")
        case Outcome.CANCELLED:
            words = (f"The move of {summary.plan.vm} was cancelled{took and ' after' + took[3:]}.", "bold yellow")
        case Outcome.FAILED:
            words = (f"The move of {summary.plan.vm} failed{took and ' after' + took[3:]}.", "bold red")
        case None if summary.state == "waiting":
            text = f"{summary.plan.vm} was moved to {summary.plan.destination}{took}; {FOLLOWS}."
            words = (text, "bold green")
        case None:
            words = (f"{summary.plan.vm} is being moved to {summary.plan.destination}.", "bold")
    return Text(*words)


def _seconds(summary: AnyMove) -> float:
    if summary.report is not None:
        return summary.report.seconds
    return max(0.0, (summary.finished or summary.created) - summary.created)


def story(out: Out, events: Iterable[Event]) -> None:
    pairs: list[tuple[str, Cell]] = []
    day = None
    for event in events:
        date = format_time(event.at)[:10]
        stamp = clock(event.at) if date == day else format_time(event.at)
        day = date
        style = EVENT_STYLES.get(event.kind, "")
        prefix = f"{event.kind}: " if event.kind in ("warning", "error") else ""
        pairs.append((f"{stamp:>19}" if out.pretty else format_time(event.at), Text(prefix + event.text, style=style)))
    out.details(pairs)


def cancelling(summary: MoveSummary) -> str:
    """What a wish to cancel leads to, a sentence."""
    vm = summary.plan.vm
    if summary.record.switch.done:
        return f"The comparison of move {summary.id} ends; {vm} stays on its new disks, the old ones are kept."
    return f"Cancelling move {summary.id}; {vm} stays on its old disks."


def progress_sentence(progress: Progress) -> str:
    """`copying, 45%, 1.8 GiB of 4.0 GiB, 212 MiB/s, 10.4 s left, pass 3 over changed blocks (152 MiB so far)`."""
    parts = [progress.phase, *amount(progress)]
    passes = max((disk.passes for disk in progress.disks), default=0)
    changed = sum(disk.changed for disk in progress.disks)
    if changed and not passes:
        parts.append(f"{format_size(changed)} of it changed by the guest meanwhile")
    elif passes:
        parts.append(f"{counted(passes, 'pass', 'passes')} over changed blocks ({format_size(changed)} so far)")
    if progress.pace:
        parts.append(f"speed {progress.pace}")
    if progress.note:
        parts.append(progress.note)
    return ", ".join(parts)


def amount(progress: Progress | HostMoveProgress) -> list[str]:
    """How much is done, how fast it goes, and how long the rest takes; nothing of what is not known."""
    parts = []
    if progress.total:
        parts.append(percent(progress.done, progress.total))
        parts.append(f"{format_size(progress.done)} of {format_size(progress.total)}")
    if progress.rate and progress.done < progress.total:
        parts.append(format_rate(progress.rate))
    if progress.seconds_left is not None:
        parts.append(time_left(progress.seconds_left))
    return parts


def start_sentence(summary: MoveSummary) -> str:
    """`Moving web01 (vda; 4.0 GiB) to ssd by mirror: the guest runs (move 3f2a)`."""
    plan = summary.plan
    disks = ", ".join(disk.target for disk in plan.disks)
    size = format_size(plan.copy_bytes) if plan.copy_bytes else "nothing to copy"
    return (
        f"Moving {plan.vm} ({disks}; {size}) to {plan.destination} by "
        f"{plan.method.value}: {plan.method_reason} (move {summary.id})"
    )


def passes(disk: DiskProgress) -> str:
    """What the guest changed of a disk meanwhile."""
    sizes = ", ".join(format_size(size) for size in disk.pass_sizes[-5:])
    earlier = "..., " if len(disk.pass_sizes) > 5 else ""
    listed = f": {earlier}{sizes}" if sizes else ""
    if not disk.passes:
        return f"{disk.target}: the guest changed {format_size(disk.changed)} meanwhile"
    return (
        f"{disk.target}: the guest changed {format_size(disk.changed)} meanwhile; passes over changed blocks: "
        f"{disk.passes}{' (' + listed[2:] + ')' if listed else ''}"
    )


def time_left(seconds: float) -> str:
    """`19 s left`: whole seconds, an estimate has no tenths."""
    return f"{max(1, round(seconds))} s left" if seconds < 59.5 else f"{format_duration(seconds)} left"


def percent(done: int, total: int) -> str:
    """Never 100% before all is done."""
    return f"{done * 100 // total if total else 100}%"
