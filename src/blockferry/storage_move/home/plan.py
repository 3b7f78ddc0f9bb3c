"""What a plan says of the VM's home: the directory with its metadata, and the files in it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HomeFile:
    """One file that belongs to the VM and is no disk that is copied as a disk."""

    source: str
    dest: str
    role: str  # "iso", "file"; "nvram" in plans of older versions
    size: int
    target: str | None = None  # the CD drive that has an ISO inserted


@dataclass(frozen=True, slots=True)
class StayingFile:
    """A file, or directory, of the old home that stays where it is. `why`: a clause."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class HomePlan:
    """Where the VM's metadata goes: domain XML, snapshot and checkpoint metadata, ISO."""

    datastore: str
    dest: str
    source: str | None  # the old home directory, None when the VM's files lie flat in the pool
    files: tuple[HomeFile, ...] = ()
    stays: tuple[StayingFile, ...] = ()
