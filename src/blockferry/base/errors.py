"""The errors a user can meet: each a class with a code, a sentence, a hint and an exit status.

The facts are fields; `sentence` says what happened to what and what still holds, `hint` what to do next.
`blockferry explain CODE` prints the class's docstring, and docs/errors.md is generated from here, so a
docstring is written for the administrator who has just met the error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, ClassVar


def nearest(name: str, known: Iterable[str], limit: int = 3) -> tuple[str, ...]:
    """Up to `limit` of the known names that look like `name`, best first."""
    return tuple(difflib.get_close_matches(name, sorted(known), n=limit, cutoff=0.4))


@dataclass
class BlockferryError(Exception):
    """Something that blockferry can say in a sentence. Never raised itself: each kind is a subclass."""

    code: ClassVar[str] = "ERROR"
    exit_status: ClassVar[int] = 1
    sentence_form: ClassVar[str] = ""
    hint_form: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__init__(*(getattr(self, field.name) for field in fields(self)))

    @property
    def facts(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def sentence(self) -> str:
        return self.sentence_form.format(**self.facts)

    @property
    def hint(self) -> str:
        return self.hint_form.format(**self.facts)

    def __str__(self) -> str:
        return f"{self.sentence} {self.hint}".strip()


def _suggest(names: tuple[str, ...]) -> str:
    return f"Did you mean {', '.join(names)}? " if names else ""


@dataclass
class UsageError(BlockferryError):
    """The request itself makes no sense (an unknown disk, two answers to one question). Nothing was touched."""

    code = "USAGE"
    exit_status = 2
    sentence_form = "{problem}"
    hint_form = "{remedy}"
    problem: str
    remedy: str = ""


@dataclass
class ConfigInvalid(BlockferryError):
    """The configuration file cannot be read or holds a value that makes no sense. Nothing was touched."""

    code = "CONFIG_INVALID"
    exit_status = 2
    sentence_form = "The configuration file {path} is not usable: {problem}."
    hint_form = "Correct it, or move it away to go on with the defaults."
    path: str
    problem: str


@dataclass
class VmNotFound(BlockferryError):
    """No VM (libvirt domain) of that name or UUID on this host. Nothing was touched."""

    code = "VM_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no VM named {vm} on {uri}."
    vm: str
    uri: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return _suggest(self.nearest) + "`blockferry vms` lists all VMs."


@dataclass
class DatastoreNotFound(BlockferryError):
    """No datastore (libvirt storage pool) of that name on this host. Nothing was touched."""

    code = "DATASTORE_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no datastore (storage pool) named {datastore} on {uri}."
    datastore: str
    uri: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return _suggest(self.nearest) + "`blockferry datastores` lists all datastores."


@dataclass
class DiskNotFound(BlockferryError):
    """The VM has no disk of that target name (`vda`, `sdb`). Nothing was touched."""

    code = "DISK_NOT_FOUND"
    exit_status = 3
    sentence_form = "VM {vm} has no disk {disk}."
    vm: str
    disk: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return _suggest(self.nearest) + "`blockferry vms` shows each VM's disks."


@dataclass
class HostNotConfigured(BlockferryError):
    """The configuration lists no host of that name. Nothing was touched.

    Hosts are listed in blockferry.toml: `hosts = ["kvm1", "kvm2"]` (docs/configuration.md).
    """

    code = "HOST_NOT_CONFIGURED"
    exit_status = 3
    sentence_form = "There is no host named {host} in the configuration; it lists: {configured}."
    host: str
    configured: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return _suggest(self.nearest) + 'Hosts are listed in blockferry.toml: hosts = ["kvm1", "kvm2"].'


@dataclass
class MoveNotFound(BlockferryError):
    """The journal holds no move with that id (or with an id that starts so). Nothing was touched."""

    code = "MOVE_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no move {move} in the journal {journal}."
    move: str
    journal: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return _suggest(self.nearest) + "`blockferry moves` and `blockferry history` list them."


@dataclass
class CodeNotFound(BlockferryError):
    """`explain` was asked for a code that does not exist."""

    code = "CODE_NOT_FOUND"
    exit_status = 3
    sentence_form = "There is no code {asked}."
    asked: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return _suggest(self.nearest) + "`blockferry explain` without a code lists all."


@dataclass
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


@dataclass
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


@dataclass
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


@dataclass
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


@dataclass
class MoveCancelled(BlockferryError):
    """The move was cancelled as asked: the VM runs on its old disks, the copies at the destination are gone."""

    code = "MOVE_CANCELLED"
    exit_status = 6
    sentence_form = "Move {move} of {vm} was cancelled. {holds}"
    move: str
    vm: str
    holds: str


@dataclass
class TooLateToCancel(BlockferryError):
    """The VM uses its new disks already: a move cannot be cancelled after the switch. It goes on to its end.

    To have the VM on its former datastore again, move it back once this move has ended.
    """

    code = "TOO_LATE"
    exit_status = 4
    sentence_form = "Move {move} cannot be cancelled any more: {vm} uses its disks on {destination} already."
    hint_form = "To go back, move it again when this move has ended."
    move: str
    vm: str
    destination: str


@dataclass
class HostUnreachable(BlockferryError):
    """libvirt on that host does not answer (daemon down, wrong URI, no permission, network).

    A copy that runs in QEMU goes on without libvirt and without blockferry; `blockferry resume` takes it up
    again when the host answers.
    """

    code = "HOST_UNREACHABLE"
    exit_status = 7
    sentence_form = "libvirt at {uri} cannot be reached: {problem}."
    hint_form = "Check the URI and that libvirtd (or virtqemud) runs: `virsh -c {uri} list`."
    uri: str
    problem: str


@dataclass
class PermissionRefused(HostUnreachable):
    """libvirt on that host runs, but does not let this user in. Nothing was touched."""

    code = "PERMISSION_REFUSED"
    sentence_form = "libvirt at {uri} does not let you in: {problem}."
    hint_form = "Run as root, or join the group libvirt (`usermod -aG libvirt USER`, then log in again)."


@dataclass
class HostCommandFailed(BlockferryError):
    """A command that blockferry ran on the host (qemu-img, ssh, ...) failed; its own words are quoted."""

    code = "HOST_COMMAND_FAILED"
    exit_status = 7
    sentence_form = "`{command}` failed with status {status}: {stderr}"
    command: str
    status: int
    stderr: str


@dataclass
class HostCallFailed(HostCommandFailed):
    """The host's kernel refused something that blockferry wanted of a file: no room, no permission, an I/O error...

    `errno_name` is the error's name in the manual pages (errno(3)).
    """

    code = "HOST_CALL_FAILED"
    sentence_form = "`{command}` failed on the host: {stderr} ({errno_name})."
    errno: int = 0
    errno_name: str = ""


@dataclass
class NoAnswer(HostCommandFailed):
    """The host did not answer in time: storage hangs there, most often. Whether it will be done is not known.

    What could not be looked at counts as a doubt: nothing is removed because of it.
    """

    code = "NO_ANSWER"
    sentence_form = "The host has not answered `{command}`: {stderr}"


@dataclass
class OutcomeUnknown(HostUnreachable):
    """The connection to the host broke while something was being done there that cannot simply be done again.

    A move looks at the host anew when it answers, and goes on from what it finds.
    """

    code = "OUTCOME_UNKNOWN"
    sentence_form = "The connection to {uri} broke; whether it has done this is not known: {problem}."


@dataclass
class HelperEnded(HostUnreachable):
    """The program through which blockferry looks at files of a host was killed, or does not answer.

    libvirt may be well. A move starts another one and goes on.
    """

    code = "HELPER_ENDED"
    sentence_form = "blockferry's helper on {uri} (python3) is gone: {problem}."
    hint_form = "Try again. The host's log tells who killed it, and whether memory ran out: `journalctl -k`."


@dataclass
class LibvirtFailed(BlockferryError):
    """libvirt refused or failed a call; its own words are quoted.

    `libvirt_code` is the name of libvirt's error code (VIR_ERR_...), for searching.
    """

    code = "LIBVIRT_FAILED"
    exit_status = 7
    sentence_form = "libvirt could not {doing}: {message} ({libvirt_code})"
    doing: str
    message: str
    libvirt_code: str


@dataclass
class ImageUnreadable(BlockferryError):
    """qemu-img cannot read the image: it is missing, damaged, or not of the format that the VM says it is."""

    code = "IMAGE_UNREADABLE"
    exit_status = 7
    sentence_form = "The image {path} cannot be read: {problem}"
    hint_form = "Nothing was changed. Try `qemu-img info {path}` on the host."
    path: str
    problem: str


@dataclass
class FileExists(BlockferryError):
    """A file is already where a new one was to be made. It is not ours and was left as it is."""

    code = "FILE_EXISTS"
    exit_status = 7
    sentence_form = "{path} exists already and was not overwritten."
    hint_form = "Move it away, or choose another destination."
    path: str


@dataclass
class StillInUse(BlockferryError):
    """A half-made copy could not be removed yet, because something has it open or refers to it."""

    code = "STILL_IN_USE"
    exit_status = 7
    sentence_form = "{path} was to be removed, but {problem}; it was left as it is."
    path: str
    problem: str


@dataclass
class NotInQuarantine(BlockferryError):
    """Nothing is kept under that name on this host: no file of that path, or no file of that VM. Nothing was touched.

    No other path is suggested: a name that is merely alike may be a file that somebody needs.
    """

    code = "NOT_IN_QUARANTINE"
    exit_status = 3
    sentence_form = "Nothing of {asked} is in quarantine here."
    hint = "`blockferry quarantine list` lists what is kept."
    asked: str


@dataclass
class NotRestorable(BlockferryError):
    """The VM cannot go back to the files in quarantine; the sentence says what stands in the way. Nothing was touched.

    It must be off and still use the disks of that move, all of them; and each old file must be there exactly as it was
    when it was kept, used by nobody else.
    """

    code = "NOT_RESTORABLE"
    exit_status = 4
    sentence_form = "{vm} cannot go back to its old files: {problem}."
    hint_form = "Nothing was touched. `blockferry quarantine list` shows what is kept; docs/quarantine.md says more."
    vm: str
    problem: str


@dataclass
class DestinationGone(BlockferryError):
    """The destination's file system was unmounted during the move. Nothing is made, switched or removed meanwhile."""

    code = "UNMOUNTED"
    exit_status = 5
    sentence_form = "{directory} is not there any more: the file system mounted at {mount_point} has gone."
    hint = "Mount it again, then `blockferry resume`."
    directory: str
    mount_point: str


@dataclass
class DestinationCutOff(BlockferryError):
    """The destination did not answer for longer than the hang limit, so it was cut off: the guest was waiting for it.

    The VM goes on with its old disks, which have every write; no write of the guest has failed. What was made at the
    destination cannot be removed yet, and is not counted as removed. Bring the storage back (docs/reliability.md says
    what is done to each kind: mount a FUSE or shut down file system anew, set a SCSI disk `running`, let a multipath
    device queue again), then `blockferry resume` removes what was made there, and the move ends as failed.
    """

    code = "CUT_OFF"
    exit_status = 5
    sentence_form = (
        "the destination {directory} had not answered for {after}, so it was cut off (CUT_OFF); {vm} goes on with its "
        "old disks, which have every write"
    )
    hint_form = "Bring it back, then `blockferry resume` removes what was made there."
    vm: str
    directory: str
    after: str


@dataclass
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


@dataclass
class CopyIncomplete(BlockferryError):
    """A copy was made that is not what it should be. It is not used; the source is untouched."""

    code = "COPY_INCOMPLETE"
    exit_status = 5
    sentence_form = "The copy of disk {disk} is not right: {problem}."
    disk: str
    problem: str


@dataclass
class CloneFailed(BlockferryError):
    """The file system did not clone an image, although it was tried before the move. The source is untouched."""

    code = "CLONE_FAILED"
    exit_status = 5
    sentence_form = "{source} could not be cloned to {dest}: {problem}."
    hint = "Make room if it is full; else move it by another method (`--method mirror`)."
    source: str
    dest: str
    problem: str


@dataclass
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


@dataclass
class TrackingLost(BlockferryError):
    """What has changed since that point cannot be told any more; the sentence says why. Nothing was touched.

    Since that point everything may have changed: treat the whole disk as changed (a full backup, a full copy), and make
    a new point. There is never a list that may be too short. docs/changed-blocks-tracking.md tells what loses the
    tracking, and what cannot be noticed.
    """

    code = "TRACKING_LOST"
    exit_status = 12
    sentence_form = "tracking lost: since {since} everything on {disk} of {vm} may have changed; {why}."
    hint_form = "Treat the whole disk as changed, and make a new point: `blockferry cbt point {vm}`."
    vm: str
    disk: str
    since: str
    why: str


@dataclass
class PointNotFound(BlockferryError):
    """The VM has no such point (it was dropped, or never made): since then everything may have changed."""

    code = "POINT_NOT_FOUND"
    exit_status = 3
    sentence_form = "VM {vm} has no point {point}."
    vm: str
    point: str
    nearest: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        return _suggest(self.nearest) + f"`blockferry cbt status {self.vm}` lists its points."


@dataclass
class NotTrackable(BlockferryError):
    """The changes of that VM or disk cannot be tracked, or not asked for now; the sentence says why. Nothing was
    touched."""

    code = "NOT_TRACKABLE"
    exit_status = 4
    sentence_form = "{what} of {vm} cannot be tracked: {why}."
    vm: str
    what: str
    why: str


@dataclass
class TooManyPoints(BlockferryError):
    """The VM has as many points as it may have. Each is a bitmap that QEMU keeps up at every write."""

    code = "TOO_MANY_POINTS"
    exit_status = 4
    sentence_form = "{vm} has {number} points already, which is the limit."
    hint_form = "`blockferry cbt drop {vm} ID` drops one, `--keep N` drops the oldest."
    vm: str
    number: int


@dataclass
class TrackingBusy(BlockferryError):
    """Something else is going on with the VM that does not let its changes be asked for now. Nothing was touched."""

    code = "TRACKING_BUSY"
    exit_status = 9
    sentence_form = "{vm} cannot be asked for changes now: {problem}."
    hint_form = "Try again when that is over."
    vm: str
    problem: str


@dataclass
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


@dataclass
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


@dataclass
class MoveBusy(BlockferryError):
    """The VM or the move is being worked on by another blockferry process."""

    code = "MOVE_BUSY"
    exit_status = 9
    sentence_form = "{vm} is already being moved (move {move}, run by {owner})."
    hint_form = "`blockferry watch {move}` follows it, `blockferry cancel {move}` stops it."
    vm: str
    move: str
    owner: str


@dataclass
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


@dataclass
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


@dataclass
class KeptTaken(BlockferryError):
    """An old disk left the quarantine in the moment in which a move was to take it over. Nothing was begun."""

    code = "KEPT_TAKEN"
    exit_status = 9
    sentence_form = "{path} is not in quarantine any more; {vm} cannot be copied into it."
    hint_form = "Try again; `blockferry quarantine list` shows what is kept."
    vm: str
    path: str


@dataclass
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


@dataclass
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


@dataclass
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


@dataclass
class Unhealthy(BlockferryError):
    """`doctor` found something that stands in the way of moves, or endangers what was moved.

    Each line says what it is and what to do. Warnings alone do not make this status.
    """

    code = "UNHEALTHY"
    exit_status = 10
    sentence_form = "{uri}: {number} of the checks failed."
    uri: str
    number: int


@dataclass
class Interrupted(BlockferryError):
    """The command was interrupted; the move goes on in the background or waits for `blockferry resume`."""

    code = "INTERRUPTED"
    exit_status = 130
    sentence_form = "Interrupted. {holds}"
    holds: str


def all_errors() -> tuple[type[BlockferryError], ...]:
    """Every kind of error, by code, for `explain` and the generated docs/errors.md."""
    found: list[type[BlockferryError]] = []
    queue = list(BlockferryError.__subclasses__())
    while queue:
        kind = queue.pop()
        queue.extend(kind.__subclasses__())
        found.append(kind)
    return tuple(sorted(found, key=lambda kind: kind.code))
