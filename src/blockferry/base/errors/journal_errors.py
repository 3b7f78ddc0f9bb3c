"""The journal, and what another process or another move has taken in it."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.errors.error import BlockferryError


@dataclass(eq=False, repr=False)
class JournalFailed(BlockferryError):
    """The journal (the database that remembers moves) cannot be opened, read or written.

    Without it no effect is begun. A process that runs a move waits until the journal answers again: copies go on in
    QEMU meanwhile, and a VM that was suspended is resumed first. It goes on when the journal is back, unless another
    process has taken the move over by then.
    """

    code = "JOURNAL_FAILED"
    exit_status = 8
    sentence_form = "The journal {journal} cannot be used: {problem}."
    hint_form = "Check its disk space and permissions; running copies are not affected."
    journal: str
    problem: str
    passing: bool = False  # it may be over by itself: the database is away, locked, or its disk is full


@dataclass(eq=False, repr=False)
class LeaseLost(BlockferryError):
    """Another blockferry process has taken over this move, because this one was silent for too long.

    It was frozen, or could not reach the journal for longer than its lease lasts. It has stopped acting on the move;
    nothing is lost, the other one finishes it. `move` and `resume` follow that one, and end as the move ends.
    """

    code = "LEASE_LOST"
    exit_status = 8
    sentence_form = (
        "Move {move} is now run by {owner}, because this process was silent for too long (it could not reach the "
        "journal, or was frozen). It has stopped acting on the move; nothing is lost."
    )
    hint_form = "`blockferry watch {move}` follows it."
    move: str
    owner: str


@dataclass(eq=False, repr=False)
class MoveBusy(BlockferryError):
    """The VM or the move is being worked on by another blockferry process."""

    code = "MOVE_BUSY"
    exit_status = 9
    sentence_form = "{vm} is already being moved (move {move}, run by {owner})."
    hint_form = "`blockferry watch {move}` follows it, `blockferry cancel {move}` stops it."
    vm: str
    move: str
    owner: str


@dataclass(eq=False, repr=False)
class OtherHost(BlockferryError):
    """The move belongs to another host: it is only run, resumed or ended on the host on which it was planned.

    A host is known by libvirt's UUID of it (`virsh capabilities` shows it), whatever URI it is reached by. Several
    hosts may share one journal, and `qemu:///system` is another host on each of them. Nothing was touched.

    An older blockferry noted no UUID. Such a move is known by its VM: where that is defined, `blockferry resume` and
    `blockferry cancel` act on it. If the VM is gone, only you know the host: `blockferry cancel ID --here` there.
    """

    code = "OTHER_HOST"
    exit_status = 9
    sentence_form = "Move {move} of {vm} belongs to {host}, and this is {here}. Nothing was touched."
    move: str
    vm: str
    host: str
    here: str
    noted: bool = True  # the plan says which host it is

    @property
    def hint(self) -> str:
        there = (
            f"Run it there, or name that host with --uri: `blockferry --uri qemu+ssh://HOST/system resume {self.move}`."
        )
        if self.noted:
            return there
        return (
            f"This host has no VM {self.vm} of that UUID. If the move was planned here and its VM is gone, end it: "
            f"`blockferry cancel {self.move} --here`. Else: {there}"
        )


@dataclass(eq=False, repr=False)
class DestinationTaken(BlockferryError):
    """A move that is not over makes a file of the same name at the destination. Nothing was begun."""

    code = "DESTINATION_TAKEN"
    exit_status = 9
    sentence_form = "{path}, to which {vm} would be copied, belongs to move {move} of {other}, which is not over."
    hint_form = "Wait for it (`blockferry watch {move}`), or choose another datastore."
    vm: str
    path: str
    move: str
    other: str


@dataclass(eq=False, repr=False)
class KeptTaken(BlockferryError):
    """An old disk left the quarantine in the moment in which a move was to take it over. Nothing was begun."""

    code = "KEPT_TAKEN"
    exit_status = 9
    sentence_form = "{path} is not in quarantine any more; {vm} cannot be copied into it."
    hint_form = "Try again; `blockferry quarantine list` shows what is kept."
    vm: str
    path: str


@dataclass(eq=False, repr=False)
class RoomTaken(BlockferryError):
    """Moves that were planned in the same moment leave too little room at the destination. Nothing was begun.

    The move is checked again by itself, and refused then if it does not fit; this is said only when others are
    planned again and again meanwhile.
    """

    code = "ROOM_TAKEN"
    exit_status = 9
    sentence_form = "{vm} does not fit on {datastore} beside moves that were planned at the same time."
    hint_form = "Try again, or choose another datastore."
    vm: str
    datastore: str
