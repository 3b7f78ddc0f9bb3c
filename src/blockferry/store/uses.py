"""What a job of any kind does to the files of hosts, so that jobs of other kinds and clean-ups keep clear of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from blockferry.base.errors import DestinationTaken
from blockferry.hosts import identity
from blockferry.hosts.datastore_id import Directory, FileId, SpaceId, file_of


@dataclass(frozen=True, slots=True)
class HostOfJob:
    """A host of a job, as its plan names it. `host`: libvirt's UUID; "": not known. See hosts/identity.py."""

    move: str
    uri: str
    host: str = ""
    host_name: str = ""


@dataclass(frozen=True, slots=True)
class ClaimedPaths:
    """Paths of one host that a job has to do with. `directories`: the datastores that are known of it.

    `changed`: what it makes, writes to or removes. `read`: what it only needs: others may use that, too, but not change
    or remove it.
    """

    where: HostOfJob
    changed: tuple[str, ...]
    directories: tuple[Directory, ...] = ()
    read: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        return (*self.changed, *self.read)

    def file(self, path: str) -> FileId | None:
        """Return which file a path is, so that other hosts know it; None: not known."""
        return file_of(path, self.directories)


@dataclass(frozen=True, slots=True)
class Taken:
    """Bytes that a job takes at most of a datastore, as its host calls it. `space`: what that stands on."""

    datastore: str
    size: int
    space: SpaceId | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """What a job makes at its destination. `files`: those of `paths` of which every host knows which file it is."""

    where: HostOfJob
    vm: str
    paths: frozenset[str]
    files: frozenset[FileId] = frozenset()
    takes: tuple[Taken, ...] = field(default=())


def keep_clear(made: Made, others: Iterable[Made]) -> None:
    """Raise DestinationTaken when one of these jobs of other VMs makes a file that this one makes, too."""
    for other in others:
        unknown = not (other.where.host and made.where.host)  # planned by an older version
        if (unknown or identity.may_share_host(other.where, made.where)) and (same := made.paths & other.paths):
            raise DestinationTaken(made.vm, min(same), other.where.move, other.vm)
        if made.files & other.files:  # by another name, or from another host
            raise DestinationTaken(made.vm, min(made.paths), other.where.move, other.vm)
