"""Storage moves as a kind of job: how plans and records are read that older versions wrote, and what lists need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.exports import is_export
from blockferry.jobs.job_kind import JobKind
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import old_plan, old_record
from blockferry.storage_move.plan import PLAN_VERSION, Plan
from blockferry.storage_move.precheck.space import needs
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import MoveSummary, Progress, Report
from blockferry.store.kind import Head, Left, Listed, NewerPlan, PartialCopy, Place, Prints
from blockferry.store.uses import ClaimedPaths, HostOfJob, Made, Taken


@dataclass(frozen=True, slots=True)
class _Version:
    version: int


class MoveKind(JobKind[Plan, Record, Progress, Report, MoveSummary]):
    """What the store is told of storage moves."""

    name = MoveSummary.kind
    plan_type = Plan
    record_type = Record
    progress_type = Progress
    report_type = Report
    summary_type = MoveSummary

    def read_plan(self, text: str) -> Plan:
        version = msgspec.json.decode(text, type=_Version).version
        if version > PLAN_VERSION:
            raise NewerPlan(f"plan version {version}, this one knows {PLAN_VERSION}")
        if version <= old_plan.LAST_FLAT:
            return old_plan.read(text)
        return msgspec.json.decode(text, type=Plan)

    def read_record(self, text: str) -> Record:
        return old_record.read(text)

    def head(self, plan: Plan) -> Head:
        return Head(plan.move, plan.uuid, plan.vm, plan.host, plan.host_name, plan.uri)

    def listed(self, plan: Plan) -> Listed:
        reused = [disk.chain.reused for disk in plan.disks if disk.chain.reused is not None]
        pairs = tuple(pair(reused_layer.prints, reused_layer.source_prints) for reused_layer in reused)
        return Listed(_places(plan), pairs, tuple(files for one in pairs if (files := by_file(one, plan.file))))

    def made(self, plan: Plan) -> Made:
        takes = needs(plan.disks, plan.home, plan.firmware.nvram)
        taken = tuple(Taken(store, size, plan.space(store)) for store, size in takes.items())
        return Made(_host(plan), plan.vm, plan.made, plan.made_files, taken)

    def claimed(self, summary: MoveSummary) -> tuple[ClaimedPaths, ...]:
        plan, nvram = summary.plan, summary.plan.firmware.nvram
        reused = [disk.chain.reused for disk in plan.disks if disk.chain.reused is not None]
        changed, read = changed_by(plan), [path for layer in reused for path in layer.prints]
        if summary.record.nvram.pending:  # its disks are done with
            changed, read = [nvram.source, nvram.dest] if nvram else [], []
        return (ClaimedPaths(_host(plan), tuple(changed), tuple(plan.directories.values()), tuple(read)),)

    def left(self, plan: Plan, record: Record) -> Left:
        kept = [disk for disk in plan.disks if disk.dest.path in record.kept]
        partial = (
            PartialCopy(
                disk.dest.path, disk.target, disk.dest.format, disk.sizes.virtual, file=plan.file(disk.dest.path)
            )
            for disk in kept
        )
        gone = (disk.dest.path for disk in plan.disks if disk not in kept and record.outcome is Outcome.MOVED)
        return Left(tuple(partial), tuple((plan.file(path), path) for path in gone))


def changed_by(plan: Plan) -> list[str]:
    """Return every path that a move makes, writes to or removes."""
    every = [
        *(path for disk in plan.disks for path in (disk.source.path, disk.dest.path, *disk.release.files)),
        *(path for disk in plan.disks for layer in disk.chain.layers for path in (layer.source, layer.dest)),
        *(path for disk in plan.disks for path in (disk.overlays.source, disk.overlays.dest) if path),
        *(path for file in plan.small_files for path in (file.source, file.dest)),
    ]
    return [path for path in every if not is_export(path)]


def _host(plan: Plan) -> HostOfJob:
    return HostOfJob(plan.move, plan.uri, plan.host, plan.host_name)


def pair(prints: Mapping[str, str], source_prints: Mapping[str, str]) -> Prints:
    """Return the fingerprints of two images that were compared, as they are written down."""
    return tuple(sorted(prints.items())), tuple(sorted(source_prints.items()))


def by_file(prints: Prints, identify: Callable[[str], FileId]) -> Prints | None:
    """Return the same with `FileId.text` for each path; None unless several hosts can have all of these files."""
    files = {path: identify(path) for side in prints for path, _ in side}
    if not all(file.shared for file in files.values()):
        return None
    one, other = (tuple(sorted((files[path].text, mark) for path, mark in side)) for side in prints)
    return one, other


def _places(plan: Plan) -> tuple[Place, ...]:
    to = [*(disk.dest.datastore for disk in plan.disks), plan.home.datastore if plan.home is not None else None]
    roles = (("destination", to), ("source", [disk.source.datastore for disk in plan.disks]))
    return tuple(
        Place(role, name, _identity(plan, name))
        for role, names in roles
        for name in dict.fromkeys(name for name in names if name)
    )


def _identity(plan: Plan, name: str) -> str:
    directory = plan.directories.get(name)
    return "" if directory is None else directory.id.text
