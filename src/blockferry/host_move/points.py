"""The kill points of a move to another host, in the order in which most pass them."""

from __future__ import annotations

from blockferry.jobs.kill_points import KillPoints

point = KillPoints(
    "marked",
    "image-named",
    "image-made",
    "cold-copying",
    "cold-part-copied",
    "cold-copied",
    "migrating",
    "migration-called",
    "migration-ended",
    "defining",
    "defined",
    "handed-noted",
    "source-ended",
    "source-undefined",
    "alone-noted",
    "destination-armed",
    "resuming",
    "destination-resumed",
    "resumed",
    "image-renamed",
    "arrived-noted",
    "images-flushed",
    "settled",
    "releasing-image",
    "image-released",
    "stopping-migration",
    "migration-stopped",
    "source-resumed",
    "destination-ended",
    "images-removed",
    "unmarked",
    "finishing",
)
