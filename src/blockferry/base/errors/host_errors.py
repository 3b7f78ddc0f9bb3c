"""A host, its libvirt or a program on it: out of reach, refusing, failed, not healthy."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.errors.error import BlockferryError


@dataclass(eq=False, repr=False)
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


@dataclass(eq=False, repr=False)
class PermissionRefused(HostUnreachable):
    """libvirt on that host runs, but does not let this user in. Nothing was touched."""

    code = "PERMISSION_REFUSED"
    sentence_form = "libvirt at {uri} does not let you in: {problem}."
    hint_form = "Run as root, or join the group libvirt (`usermod -aG libvirt USER`, then log in again)."


@dataclass(eq=False, repr=False)
class HostCommandFailed(BlockferryError):
    """A command that blockferry ran on the host (qemu-img, ssh, ...) failed; its own words are quoted."""

    code = "HOST_COMMAND_FAILED"
    exit_status = 7
    sentence_form = "`{command}` failed with status {status}: {stderr}"
    command: str
    status: int
    stderr: str


@dataclass(eq=False, repr=False)
class HostCallFailed(HostCommandFailed):
    """The host's kernel refused something that blockferry wanted of a file: no room, no permission, an I/O error...

    `errno_name` is the error's name in the manual pages (errno(3)).
    """

    code = "HOST_CALL_FAILED"
    sentence_form = "`{command}` failed on the host: {stderr} ({errno_name})."
    errno: int = 0
    errno_name: str = ""


@dataclass(eq=False, repr=False)
class NoAnswer(HostCommandFailed):
    """The host did not answer in time: storage hangs there, most often. Whether it will be done is not known.

    What could not be looked at counts as a doubt: nothing is removed because of it.
    """

    code = "NO_ANSWER"
    sentence_form = "The host has not answered `{command}`: {stderr}"


@dataclass(eq=False, repr=False)
class OutcomeUnknown(HostUnreachable):
    """The connection to the host broke while something was being done there that cannot simply be done again.

    A move looks at the host anew when it answers, and goes on from what it finds.
    """

    code = "OUTCOME_UNKNOWN"
    sentence_form = "The connection to {uri} broke; whether it has done this is not known: {problem}."


@dataclass(eq=False, repr=False)
class MoveNotHeld(HostUnreachable):
    """A host does nothing for this process yet: another call of the move is being carried out there, or is not over.

    A move asks again. It lasts for long where libvirt or the storage there does not answer.
    """

    code = "MOVE_NOT_HELD"
    sentence_form = "The host of {uri} does nothing for this process yet: {problem}."
    hint_form = ""


@dataclass(eq=False, repr=False)
class HelperEnded(HostUnreachable):
    """The program through which blockferry looks at files of a host was killed, or does not answer.

    libvirt may be well. A move starts another one and goes on.
    """

    code = "HELPER_ENDED"
    sentence_form = "blockferry's helper on {uri} (python3) is gone: {problem}."
    hint_form = "Try again. The host's log tells who killed it, and whether memory ran out: `journalctl -k`."


@dataclass(eq=False, repr=False)
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


@dataclass(eq=False, repr=False)
class Unhealthy(BlockferryError):
    """`doctor` found something that stands in the way of moves, or endangers what was moved.

    Each line says what it is and what to do. Warnings alone do not make this status.
    """

    code = "UNHEALTHY"
    exit_status = 10
    sentence_form = "{uri}: {number} of the checks failed."
    uri: str
    number: int
