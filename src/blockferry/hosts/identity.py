"""Which host a move belongs to. A host is known by libvirt's UUID of it; a URI is only a way to reach one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol
from urllib.parse import urlsplit


class Planned(Protocol):
    """A plan, as far as it says to which host it belongs."""

    @property
    def move(self) -> str: ...

    @property
    def uri(self) -> str: ...

    @property
    def host(self) -> str: ...  # libvirt's UUID; "": planned by an older version

    @property
    def host_name(self) -> str: ...


@dataclass(frozen=True, slots=True)
class HostId:
    """A host as it is seen now. `uuid`: libvirt's; "" when libvirt tells none."""

    uri: str
    uuid: str
    name: str = ""

    def __str__(self) -> str:
        return f"{self.name or self.uri} (UUID {self.uuid or 'unknown'})"


@dataclass(frozen=True, slots=True)
class VmTrace:
    """What a host shows of the VM of a move: whether it is defined there, and whose mark it bears."""

    there: bool = False
    mark: str | None = None
    mark_journal: str = ""


def same_host(plan: Planned, uri: str, uuid: str) -> bool | None:
    """Whether a move was planned on the host with this UUID, reached by this URI; None when that cannot be told.

    Plans of older versions have no UUID. There an equal URI is a proof only if it names the machine:
    `qemu:///system` is another host on every machine.
    """
    if plan.host and uuid:
        return plan.host == uuid
    if plan.uri == uri and urlsplit(uri).hostname:
        return True
    return None


def may_be_here(plan: Planned, uri: str, uuid: str) -> bool:
    """Whether what the move has planned has to be counted on that host: a doubt counts."""
    return same_host(plan, uri, uuid) is not False


def may_share_host(planned: Planned, other: Planned) -> bool:
    """Whether two moves are on one host, or cannot be told apart."""
    if planned.host and other.host:
        return planned.host == other.host
    return planned.uri == other.uri


def belongs(plan: Planned, here: HostId, trace: VmTrace, journal: str, *, local_journal: bool, asked: bool) -> bool:
    """Whether the move may be taken up on this host.

    `journal`: the identity of the journal that the move is in; `local_journal`: it is a file of this machine, so that
    a local URI in it means this machine; `asked`: the user named this move in a command on this host.
    """
    known = same_host(plan, here.uri, here.uuid)
    marked = trace.there and trace.mark == plan.move and trace.mark_journal in ("", journal)
    if known is not None:
        # Without SMBIOS and machine-id libvirt makes up a new UUID at each of its starts.
        return known or (marked and bool(here.name) and plan.host_name == here.name and plan.uri == here.uri)
    return marked or (asked and trace.there) or (local_journal and plan.uri == here.uri)


def where(plan: Planned) -> str:
    """The host of a move, for people."""
    if plan.host:
        return str(HostId(plan.uri, plan.host, plan.host_name))
    return f"the host that planned it at {plan.uri} with an older blockferry, which noted no UUID"


def names_another_machine(planned: str, uri: str) -> bool:
    """Whether the URI that a move was planned by names a machine, and is not `uri`."""
    return bool(urlsplit(planned).hostname) and planned != uri
