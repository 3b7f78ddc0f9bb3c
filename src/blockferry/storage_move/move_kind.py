"""Storage moves as a kind of job: how plans and records are read that older versions wrote, and what lists need."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from blockferry.jobs.job_kind import JobKind
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import old_fingerprints, old_record
from blockferry.storage_move.plan import PLAN_VERSION, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import MoveSummary, Progress, Report
from blockferry.store.kind import Head, Left, Listed, NewerPlan, PartialCopy, Place, Prints


class MoveKind(JobKind[Plan, Record, Progress, Report, MoveSummary]):
    """What the store is told of storage moves."""

    name = "storage-move"
    plan_type = Plan
    record_type = Record
    progress_type = Progress
    report_type = Report
    summary_type = MoveSummary

    def read_plan(self, text: str) -> Plan:
        plan = msgspec.json.decode(text, type=Plan)
        if plan.version > PLAN_VERSION:
            raise NewerPlan(f"plan version {plan.version}, this one knows {PLAN_VERSION}")
        return old_fingerprints.current_plan(plan)

    def read_record(self, text: str) -> Record:
        return old_record.read(text)

    def head(self, plan: Plan) -> Head:
        return Head(plan.move, plan.uuid, plan.vm, plan.host, plan.host_name, plan.uri)

    def listed(self, plan: Plan) -> Listed:
        reused = [disk.reused for disk in plan.disks if disk.reused is not None]
        return Listed(
            _places(plan), tuple(pair(reused_layer.prints, reused_layer.source_prints) for reused_layer in reused)
        )

    def left(self, plan: Plan, record: Record) -> Left:
        kept = [disk for disk in plan.disks if disk.dest in record.kept]
        partial = (PartialCopy(disk.dest, disk.target, disk.dest_format, disk.virtual_size) for disk in kept)
        used = [disk.dest for disk in plan.disks if disk not in kept and record.outcome is Outcome.MOVED]
        return Left(tuple(partial), tuple(used))


def pair(prints: Mapping[str, str], source_prints: Mapping[str, str]) -> Prints:
    """Return the fingerprints of two images that were compared, as they are written down."""
    return tuple(sorted(prints.items())), tuple(sorted(source_prints.items()))


def _places(plan: Plan) -> tuple[Place, ...]:
    to = [*(disk.datastore for disk in plan.disks), plan.home.datastore if plan.home is not None else None]
    roles = (("destination", to), ("source", [disk.source_datastore for disk in plan.disks]))
    return tuple(
        Place(role, name, _identity(plan, name))
        for role, names in roles
        for name in dict.fromkeys(name for name in names if name)
    )


def _identity(plan: Plan, name: str) -> str:
    directory = plan.directories.get(name)
    return "" if directory is None else directory.id.text
