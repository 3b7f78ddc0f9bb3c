"""Moves to another host as a kind of job: how their JSON is read, and what lists need."""

from __future__ import annotations

import msgspec

from blockferry.host_move.host_plan import PLAN_VERSION, HostMovePlan
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.host_summary import HostMoveProgress, HostMoveReport, HostMoveSummary
from blockferry.jobs.job_kind import JobKind
from blockferry.store.kind import Head, Listed, NewerPlan, Place
from blockferry.store.uses import ClaimedPaths, HostOfJob, Made, Taken


class HostMoveKind(JobKind[HostMovePlan, HostMoveRecord, HostMoveProgress, HostMoveReport, HostMoveSummary]):
    """What the store is told of moves to another host. The job stands under its source host."""

    name = HostMoveSummary.kind
    plan_type = HostMovePlan
    record_type = HostMoveRecord
    progress_type = HostMoveProgress
    report_type = HostMoveReport
    summary_type = HostMoveSummary

    def read_plan(self, text: str) -> HostMovePlan:
        host_move_plan = msgspec.json.decode(text, type=HostMovePlan)
        if host_move_plan.version > PLAN_VERSION:
            raise NewerPlan(f"plan version {host_move_plan.version}, this one knows {PLAN_VERSION}")
        return host_move_plan

    def head(self, plan: HostMovePlan) -> Head:
        return Head(plan.move, plan.uuid, plan.vm, plan.host, plan.host_name, plan.uri)

    def made(self, plan: HostMovePlan) -> Made:
        taken = tuple(Taken(store, size, plan.space(store)) for store, size in plan.takes.items())
        return Made(_destination(plan), plan.vm, plan.made, plan.made_files, taken)

    def claimed(self, summary: HostMoveSummary) -> tuple[ClaimedPaths, ...]:
        plan = summary.plan
        source = HostOfJob(plan.move, plan.uri, plan.host, plan.host_name)
        return (
            ClaimedPaths(source, (*plan.old_files, *(file.source for file in plan.state_files))),
            ClaimedPaths(_destination(plan), tuple(sorted(plan.made)), tuple(plan.dest_datastores.values())),
        )

    def listed(self, plan: HostMovePlan) -> Listed:
        """The places by role; a datastore counts once for each role."""
        found = [Place("destination", disk.datastore) for disk in plan.disks]
        found += [Place("source", disk.source_datastore) for disk in plan.disks if disk.source_datastore]
        return Listed(tuple(dict.fromkeys(found)))


def _destination(plan: HostMovePlan) -> HostOfJob:
    return HostOfJob(plan.move, plan.dest_uri, plan.dest_host, plan.dest_host_name)
