"""Where in a move to another host a fault strikes: the points (host_move/points.py) that each kind of VM passes."""

from __future__ import annotations

OWN, SHARED, PAUSED, OFF_OWN, OFF_SHARED = "own", "shared", "paused", "off-own", "off-shared"
LIVE = (OWN, SHARED, PAUSED)
OFF = (OFF_OWN, OFF_SHARED)
KINDS = (*LIVE, *OFF)
"""A VM that runs with a disk of its host's own or one that both hosts have, is paused (own disk), or is off."""

UNDER_WAY = "under-way"
"""A moment while disk and memory go, drawn by the seed; the move is slowed for it."""

WHOLE_MOVE = "whole-move"
"""A fault that is there from before the move to its end."""

_IMAGES = ("image-named", "image-made")
_END = ("settled", "releasing-image", "image-released", "finishing")

_OWN = (
    *("marked", *_IMAGES, "migrating", "migration-called", "handed-noted", "alone-noted"),
    *("destination-armed", "resuming", "destination-resumed", "resumed", "arrived-noted", "images-flushed", *_END),
)
_WAYS = {
    OWN: _OWN,
    SHARED: tuple(
        point for point in _OWN if point not in (*_IMAGES, "images-flushed", "releasing-image", "image-released")
    ),
    PAUSED: tuple(
        point for point in _OWN if point not in ("destination-armed", "resuming", "destination-resumed", "resumed")
    ),
    OFF_OWN: (
        *("marked", *_IMAGES, "cold-copying", "cold-part-copied", "cold-copied", "defining", "defined"),
        *("source-undefined", "handed-noted", "alone-noted", "image-renamed", "arrived-noted", "images-flushed", *_END),
    ),
    OFF_SHARED: (
        *("marked", "defining", "defined", "source-undefined", "handed-noted", "alone-noted", "arrived-noted"),
        *("settled", "finishing"),
    ),
}

BACK_LIVE = ("stopping-migration", "migration-stopped", "images-removed", "unmarked")
BACK_OFF = ("images-removed", "unmarked")
"""Passed only on the way back, after a wish to cancel."""

STATE_FILES = tuple(f"state-file-{name}" for name in ("named", "written", "copied", "proven", "released"))

STORAGE_FIRST = (
    *("overlay-named", "overlay-made", "overlay-taken", "new-overlay-named", "new-overlay-made", "commit-starting"),
    *("commit-called", "commit-started", "commit-pivoting", "commit-pivoted", "committing-off", "committed-off"),
    *("commit-noted", "new-overlay-removed", "old-image-merging", "overlay-removed"),
)
"""Passed with --storage-first, which the matrix does not play yet (tests/system/test_storage_first.py does)."""

RARE = (
    *("migration-ended", "source-ended", "destination-ended", "source-resumed"),
    *(*STATE_FILES, "releasing-state-file", *STORAGE_FIRST),
)
"""Passed only with --storage-first, by VMs with UEFI variables or a TPM (tests/system plays those kills), after a fault
that is no kill of ours (source-ended: libvirtd of the source was killed at the switch; destination-ended: what a broken
migration left there; source-resumed: it broke between stop and end), or by no move."""

CALLS = tuple(
    f"calling-{name}"
    for name in (
        *(
            "metadata",
            "run",
            "migrate",
            "snapshot-create",
            "blockcommit",
            "blockjob",
            "autostart",
            "define",
            "undefine",
            "destroy",
            "resume",
            "domjobabort",
            "remove",
        ),
    )
)
"""Right before a call that a host refuses once another process runs the move (tests/system/test_host_move_late.py). A
kill there is one at the point before it."""


def way(kind: str) -> tuple[str, ...]:
    """The points of an undisturbed move, in order."""
    return _WAYS[kind]


def back(kind: str) -> tuple[str, ...]:
    """The points of the way back after a cancel while the copy goes."""
    if kind == OFF_SHARED:
        return ()
    points = BACK_OFF if kind in OFF else BACK_LIVE
    return tuple(point for point in points if kind != SHARED or point != "images-removed")


def has_own_disk(kind: str) -> bool:
    """Whether its disk goes along."""
    return kind not in (SHARED, OFF_SHARED)


def before_handover(kind: str) -> tuple[str, ...]:
    """The points at which the source is the truth."""
    points = way(kind)
    return points[: points.index("handed-noted")]


def slowed(kind: str) -> tuple[str, ...]:
    """`under-way`, where there is something that goes for a while."""
    return () if kind == OFF_SHARED else (UNDER_WAY,)


def part_of(place: str, kind: str) -> str:
    """The part of the move a place lies in, for the table."""
    if place in (UNDER_WAY, WHOLE_MOVE):
        return place
    if place in back(kind):
        return "back"
    points = way(kind)
    at = points.index(place)
    if at < points.index("handed-noted"):
        return "before the handover"
    return "handed over" if at < points.index("arrived-noted") else "arrived"


PARTS = ("before the handover", UNDER_WAY, "handed over", "arrived", "back", WHOLE_MOVE)
