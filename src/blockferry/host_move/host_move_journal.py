"""The journal of moves to another host: what a new one must leave to other jobs, of all kinds."""

from __future__ import annotations

from collections.abc import Sequence

from blockferry.base.errors import RoomTaken
from blockferry.host_move.host_move_kind import HostMoveKind
from blockferry.host_move.host_plan import HostMovePlan
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.host_move.host_summary import HostMoveProgress, HostMoveReport, HostMoveSummary
from blockferry.storage_move.move_kind import MoveKind
from blockferry.storage_move.precheck.space import NeededSpace
from blockferry.storage_move.promises import newcomers
from blockferry.store import Journal, uses
from blockferry.store.beside import AnyKind, Beside
from blockferry.store.database import Database


class HostMoveJournal(Journal[HostMovePlan, HostMoveRecord, HostMoveProgress, HostMoveReport, HostMoveSummary]):
    """The moves to another host in a journal."""

    kind = HostMoveKind()

    def __init__(self, database: Database, others: Sequence[AnyKind] = (MoveKind(),)) -> None:
        super().__init__(database, others)

    def add(
        self, plan: HostMovePlan, record: HostMoveRecord, request_json: str, user: str, room: NeededSpace | None = None
    ) -> HostMoveSummary:
        """Write a new move down. Raises MoveBusy when the VM has any job that is not over, DestinationTaken when a job
        of another VM, of whatever kind, makes a file of the same name at the destination.

        `room`: what the plan was found to fit into; RoomTaken when it does not fit beside what was planned since.
        """

        def check(beside: Beside[HostMovePlan]) -> None:
            mine = self.kind.made(plan)
            for kind in (self.kind, *self.others):
                others = (kind.made(other) for other in beside.of(kind).unfinished(apart_from=plan.uuid))
                uses.keep_clear(mine, (made for made in others if made is not None))
            if room is not None and (store := room.overdrawn(newcomers(beside, (self.kind, *self.others), room, mine))):
                raise RoomTaken(plan.vm, store)

        return self.add_job(plan, record, request_json, user, check=check)
