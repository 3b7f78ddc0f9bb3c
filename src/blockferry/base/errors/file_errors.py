"""Images and files: unreadable, in the way, in use, not in the quarantine."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.errors.error import BlockferryError


@dataclass(eq=False, repr=False)
class ImageUnreadable(BlockferryError):
    """qemu-img cannot read the image: it is missing, damaged, or not of the format that the VM says it is."""

    code = "IMAGE_UNREADABLE"
    exit_status = 7
    sentence_form = "The image {path} cannot be read: {problem}"
    hint_form = "Nothing was changed. Try `qemu-img info {path}` on the host."
    path: str
    problem: str


@dataclass(eq=False, repr=False)
class FileExists(BlockferryError):
    """A file is already where a new one was to be made. It is not ours and was left as it is."""

    code = "FILE_EXISTS"
    exit_status = 7
    sentence_form = "{path} exists already and was not overwritten."
    hint_form = "Move it away, or choose another destination."
    path: str


@dataclass(eq=False, repr=False)
class OldDiskInDoubt(BlockferryError):
    """An old disk that was to become the copy (--use-kept) has changed, or is needed, since the move was planned.

    Nothing was written to it: it is in quarantine again. The VM stays on its disks.
    """

    code = "OLD_DISK_IN_DOUBT"
    exit_status = 5
    sentence_form = "{path}, the old disk of {vm}, does not become the copy: {why}; nothing was written to it."
    hint_form = "Give the command again: the disk is copied beside it then."
    path: str
    vm: str
    why: str


@dataclass(eq=False, repr=False)
class StillInUse(BlockferryError):
    """A half-made copy could not be removed yet, because something has it open or refers to it."""

    code = "STILL_IN_USE"
    exit_status = 7
    sentence_form = "{path} was to be removed, but {problem}; it was left as it is."
    path: str
    problem: str


@dataclass(eq=False, repr=False)
class NotInQuarantine(BlockferryError):
    """Nothing is kept under that name on this host: no file of that path, or no file of that VM. Nothing was touched.

    No other path is suggested: a name that is merely alike may be a file that somebody needs.
    """

    code = "NOT_IN_QUARANTINE"
    exit_status = 3
    sentence_form = "Nothing of {asked} is in quarantine here."
    hint = "`blockferry quarantine list` lists what is kept."
    asked: str


@dataclass(eq=False, repr=False)
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
