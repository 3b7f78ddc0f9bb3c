"""The journal of moves to another host: what a new one must leave to other jobs, of both kinds."""

from __future__ import annotations

from blockferry.base.errors import DestinationTaken
from blockferry.host_move.host_move_kind import HostMoveKind
from blockferry.host_move.host_plan import HostMovePlan
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.host_summary import HostMoveProgress, HostMoveReport, HostMoveSummary
from blockferry.storage_move.move_kind import MoveKind
from blockferry.store import Journal
from blockferry.store.journal import Beside

_STORAGE_MOVES = MoveKind()


class HostMoveJournal(Journal[HostMovePlan, HostMoveRecord, HostMoveProgress, HostMoveReport, HostMoveSummary]):
    """The moves to another host in a journal."""

    kind = HostMoveKind()

    def add(self, plan: HostMovePlan, record: HostMoveRecord, request_json: str, user: str) -> HostMoveSummary:
        """Write a new move down. Raises MoveBusy when the VM has any job that is not over, DestinationTaken when a job
        of another VM, of either kind, makes a file of the same name at the destination."""

        def check(beside: Beside[HostMovePlan]) -> None:
            for other in beside.unfinished(apart_from=plan.uuid):
                if other.dest_host == plan.dest_host and (same := plan.made & other.made):
                    raise DestinationTaken(plan.vm, min(same), other.move, other.vm)
            for move in beside.of(_STORAGE_MOVES).unfinished(apart_from=plan.uuid):
                if move.host in ("", plan.dest_host) and (same := plan.made & move.made):
                    raise DestinationTaken(plan.vm, min(same), move.move, move.vm)

        return self.add_job(plan, record, request_json, user, check=check)
