"""The journal of storage moves: what a new move must leave to the others, and what they have yet to write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from blockferry.base.errors import DestinationTaken, RoomTaken
from blockferry.hosts.identity import may_be_here, may_share_host
from blockferry.hosts.kept import Kept
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import promises
from blockferry.storage_move.facts import Partial
from blockferry.storage_move.move_kind import MoveKind
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.space import NeededSpace, Promise, left_to_take
from blockferry.storage_move.promises import newcomers
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import MoveSummary, Progress, Report
from blockferry.store import Journal, codec, uses
from blockferry.store.beside import Beside
from blockferry.store.claiming import Superseded


class MoveJournal(Journal[Plan, Record, Progress, Report, MoveSummary]):
    """The storage moves in a journal."""

    kind = MoveKind()

    def add(
        self,
        plan: Plan,
        record: Record,
        request_json: str,
        user: str,
        instead_of: MoveSummary | None = None,
        room: NeededSpace | None = None,
        taken: Sequence[Kept] = (),
    ) -> MoveSummary:
        """A new move. Raises MoveBusy when the VM has one that is not finished, whatever races; and DestinationTaken
        when one of another VM makes a file of the same name on that host.

        `room`: what the plan was found to fit into. Moves that were planned since are counted in the same transaction:
        RoomTaken when it does not fit beside them. `taken`: old disks that become copies of this move, and so leave the
        quarantine in the same transaction; KeptTaken when one has left it, or was kept anew, meanwhile.

        `instead_of`: a move of the VM of which only the UEFI variables are left. It ends in the same transaction, for
        the new one has taken them into its plan; MoveBusy if somebody runs it by now.
        """

        def check(beside: Beside[Plan]) -> None:
            mine = self.kind.made(plan)
            _free(beside, plan)
            for kind in self.others:
                others = (kind.made(other) for other in beside.of(kind).unfinished(apart_from=plan.uuid))
                uses.keep_clear(mine, (made for made in others if made is not None))
            if room is not None and (store := room.overdrawn(newcomers(beside, (self.kind, *self.others), room, mine))):
                raise RoomTaken(plan.vm, store)

        supersedes = None
        if instead_of is not None:
            why = f"its UEFI variables, which had yet to follow, are part of move {plan.move} now"
            over = codec.encode(replace(instead_of.record, outcome=Outcome.MOVED))
            supersedes = Superseded(instead_of.id, over, Outcome.MOVED.value, why)
        return self.add_job(plan, record, request_json, user, check=check, supersedes=supersedes, taken=taken)

    def reservations(self, uri: str, host: str, exclude: str | None = None) -> tuple[Promise, ...]:
        """What unfinished moves of all hosts have yet to write, at most; `host` (libvirt's UUID) is the one that asks.

        What was copied again because the guest changed it takes no room twice.
        """
        found = []
        for move_summary in self.unfinished():
            if move_summary.id == exclude or move_summary.record.nvram.pending:
                continue
            here = may_be_here(move_summary.plan, uri, host)
            written = {disk.target: max(0, disk.done - disk.changed) for disk in move_summary.progress.disks}
            for store, left in left_to_take(
                move_summary.plan, written, home_copied=move_summary.record.home.copied
            ).items():
                found.append(Promise(store, left, move_summary.plan.space(store), here))
        for kind in self.others:
            found.extend(promises.of_jobs(self.list_of(kind), uri, host, exclude))
        return tuple(found)

    def partials(self, vm_uuid: str, host: str) -> dict[str, Partial]:
        """Destination path -> the broken copy that the latest move of this VM left there, to be gone on with.

        `host`: libvirt's UUID; copies of hosts that are not known are among them: a marker beside each is the proof.
        """
        found = self.partial_copies(vm_uuid, host)
        return {path: Partial(one.job, one.format, one.virtual_size, 0, one.target) for path, one in found.items()}


def _free(beside: Beside[Plan], plan: Plan) -> None:
    """Raise DestinationTaken unless no unfinished move of another VM makes what this plan makes, on whichever host."""
    for other in beside.unfinished(apart_from=plan.uuid):
        if may_share_host(other, plan) and (same := plan.made & other.made):
            raise DestinationTaken(plan.vm, min(same), other.move, other.vm)
        if files := plan.made_files & other.made_files:  # by another name, or from another host
            path = next(path for path in sorted(plan.made) if plan.known_file(path) in files)
            raise DestinationTaken(plan.vm, path, other.move, other.vm)
