"""What a plan says of a disk's new image, and of the old files that are released when it is in use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DestinationImage:
    """The image that is made at the destination."""

    path: str
    format: str
    datastore: str
    thick: bool = False
    preallocation: str = "off"  # how the new image is made: off, metadata, falloc, full
    cluster_size: int | None = None
    extended_l2: bool = False


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """The files that nothing should need once the disk is across.

    The old top layer and those lower layers that are not left where they are, top first, then their parts.
    """

    files: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()  # those of `files` that are parts; released after the images
