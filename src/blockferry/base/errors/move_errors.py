"""How a move is refused, ends or is stopped; a wait that ends too early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from blockferry.base.errors.error import BlockferryError


@dataclass(eq=False, repr=False)
class Refused(BlockferryError):
    """The pre-check found reasons against the move. Nothing was touched.

    Each reason has a code of its own; `blockferry explain CODE` says more about it, `blockferry check` shows
    all of them together with the plan.
    """

    code = "REFUSED"
    exit_status = 4
    sentence_form = "The move of {vm} was refused before anything was touched: {reasons}"
    hint_form = "`blockferry check` shows the whole plan."
    vm: str
    reasons: str
    codes: tuple[str, ...] = ()


@dataclass(eq=False, repr=False)
class MoveFailed(BlockferryError):
    """The move did not succeed; the sentence says what happened and where the VM's disks are now.

    Before the switch the VM always stays on its old disks, and what was half-made at the destination is
    removed again.
    """

    code = "MOVE_FAILED"
    exit_status = 5
    sentence_form = "Move {move} of {vm} failed: {problem} {holds}"
    hint_form = "`blockferry show {move}` tells the whole story."
    move: str
    vm: str
    problem: str
    holds: str


@dataclass(eq=False, repr=False)
class CopyDiffers(BlockferryError):
    """`--verify` found that a new disk is not what the old one was at the switch.

    The VM runs on its new disks, which it has written to since; the old disks are kept. What is wrong may be a fault
    of the hardware below, of QEMU, or of ours: do not go on as if nothing were. As long as the old disks are there,
    a VM that is shut off can go back to them (`blockferry quarantine restore`); what it wrote since the switch is then
    lost.
    """

    code = "COPY_DIFFERS"
    exit_status = 11
    sentence_form = (
        "{vm} was moved, but what it runs on now differs from its old disks as they were at the switch: {where}. "
        "The old disks are kept, untouched since the switch."
    )
    hint_form = "`blockferry quarantine list` names the old files; the way back is in docs/verify.md."
    move: str
    vm: str
    where: str


@dataclass(eq=False, repr=False)
class NotVerified(BlockferryError):
    """`--verify` was asked for and could not be done to its end; the VM was moved and its old disks are kept."""

    code = "NOT_VERIFIED"
    exit_status = 11
    sentence_form = "{vm} was moved, but {disks} could not be verified ({why}). The old disks are kept."
    hint_form = "`blockferry quarantine list` names the old files, `blockferry quarantine purge` removes them."
    move: str
    vm: str
    disks: str
    why: str


@dataclass(eq=False, repr=False)
class MoveCancelled(BlockferryError):
    """The move was cancelled as asked: the VM runs on its old disks, the copies at the destination are gone."""

    code = "MOVE_CANCELLED"
    exit_status = 6
    sentence_form = "Move {move} of {vm} was cancelled. {holds}"
    move: str
    vm: str
    holds: str


@dataclass(eq=False, repr=False)
class TooLateToCancel(BlockferryError):
    """The VM uses its new disks already: a move cannot be cancelled after the switch. It goes on to its end.

    On the way to another host: the VM was handed over to that host already. To have the VM where it was, move it back
    once this move has ended.
    """

    code = "TOO_LATE"
    exit_status = 4
    sentence_form = "Move {move} cannot be cancelled any more: {vm} uses its disks on {destination} already."
    handed_form: ClassVar[str] = "Move {move} cannot be cancelled any more: {vm} was handed over to {destination}."
    hint_form = "To go back, move it again when this move has ended."
    move: str
    vm: str
    destination: str
    kind: str = "storage-move"

    @property
    def sentence(self) -> str:
        return (self.handed_form if self.kind == "host-move" else self.sentence_form).format(**self.facts)


@dataclass(eq=False, repr=False)
class DestinationGone(BlockferryError):
    """The destination's file system was unmounted during the move. Nothing is made, switched or removed meanwhile."""

    code = "UNMOUNTED"
    exit_status = 5
    sentence_form = "{directory} is not there any more: the file system mounted at {mount_point} has gone."
    hint = "Mount it again, then `blockferry resume`."
    directory: str
    mount_point: str


@dataclass(eq=False, repr=False)
class DestinationFenced(BlockferryError):
    """The destination did not answer for longer than the hang limit, so it was fenced: the guest was waiting for it.

    The VM goes on with its old disks, which have every write; no write of the guest has failed. What was made at the
    destination cannot be removed yet, and is not counted as removed. Bring the storage back (docs/reliability.md says
    what is done to each kind: mount a FUSE or shut down file system anew, set a SCSI disk `running`, let a multipath
    device queue again), then `blockferry resume` removes what was made there, and the move ends as failed.
    """

    code = "CUT_OFF"
    exit_status = 5
    sentence_form = (
        "the destination {directory} had not answered for {after}, so it was fenced (CUT_OFF); {vm} goes on with its "
        "old disks, which have every write"
    )
    hint_form = "Bring it back, then `blockferry resume` removes what was made there."
    vm: str
    directory: str
    after: str


@dataclass(eq=False, repr=False)
class LostVmUnreachable(BlockferryError):
    """libvirt has lost a running VM, and the monitor of its QEMU cannot be reached either.

    libvirt removes the monitor's socket when it tries to start the VM; after that nobody can speak with this QEMU.
    """

    code = "LOST_VM_UNREACHABLE"
    exit_status = 7
    sentence_form = "libvirt has lost {vm}, and its QEMU (process {process}) cannot be asked: {problem}"
    hint = "Shut the VM down from inside the guest, and end its QEMU with `kill` when it has powered off."
    vm: str
    process: int
    problem: str


@dataclass(eq=False, repr=False)
class CopyIncomplete(BlockferryError):
    """A copy was made that is not what it should be. It is not used; the source is untouched."""

    code = "COPY_INCOMPLETE"
    exit_status = 5
    sentence_form = "The copy of disk {disk} is not right: {problem}."
    disk: str
    problem: str


@dataclass(eq=False, repr=False)
class CloneFailed(BlockferryError):
    """The file system did not clone an image, although it was tried before the move. The source is untouched."""

    code = "CLONE_FAILED"
    exit_status = 5
    sentence_form = "{source} could not be cloned to {dest}: {problem}."
    hint = "Make room if it is full; else move it by another method (`--method mirror`)."
    source: str
    dest: str
    problem: str


@dataclass(eq=False, repr=False)
class StillSaved(BlockferryError):
    """A VM that was saved to change the path of its UEFI variables could not be restored yet. Its memory is whole.

    It is tried again; when blockferry is gone, its guard goes on trying for an hour.
    """

    code = "STILL_SAVED"
    exit_status = 5
    sentence_form = "VM {vm} could not be restored yet: {problem} Its memory is whole in {image}."
    hint_form = "`virsh start {vm}` lets it go on from there, and so does `blockferry resume`."
    vm: str
    image: str
    problem: str


@dataclass(eq=False, repr=False)
class MoveParked(BlockferryError):
    """The move stands still because going on could hurt: something changed that blockferry does not understand.

    Nothing is deleted while a move is parked. The sentence says what was found; when it is put right,
    `blockferry resume` goes on, `blockferry cancel` goes back where that is still possible.
    """

    code = "MOVE_PARKED"
    exit_status = 9
    sentence_form = "Move {move} of {vm} stands still: {problem}"
    hint_form = "`blockferry show {move}` tells the story; put it right, then `blockferry resume {move}`."
    move: str
    vm: str
    problem: str


@dataclass(eq=False, repr=False)
class WaitTimedOut(BlockferryError):
    """A program waited for a move (Python API, `Move.wait`) and its timeout passed before the move had ended.

    The move goes on.
    """

    code = "WAIT_TIMED_OUT"
    exit_status = 9
    sentence_form = "Move {move} of {vm} has not ended within the timeout; it goes on."
    hint_form = "`blockferry watch {move}` follows it."
    move: str
    vm: str


@dataclass(eq=False, repr=False)
class Interrupted(BlockferryError):
    """The command was interrupted; the move goes on in the background or waits for `blockferry resume`."""

    code = "INTERRUPTED"
    exit_status = 130
    sentence_form = "Interrupted. {holds}"
    holds: str
