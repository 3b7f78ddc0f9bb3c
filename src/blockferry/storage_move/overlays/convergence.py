"""Whether a copy in the background gets in step with its guest, told as early as it can be. Pure.

A pass over changed blocks takes as long as what is outstanding takes to copy; what the guest changes in that time is
the next pass. So the passes shrink when the guest changes less in a second than is copied in it. What counts are the
bytes that have to be copied again (whole tracked regions, 64 KiB by default), not those that the guest writes.

During the bulk only what lies behind the copy can be changed again: a guest that writes all over the disk shows a
share of its rate that grows with the part copied, so the rate to come is what is seen, divided by that part. A guest
that writes to one place only is not overrated by that: a region counts once until it is copied again.
"""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.units import MiB, format_rate
from blockferry.storage_move.overlays.passes import CopyProgress

WINDOW_S = 3.0
"""Rates over less are no evidence."""

EARLY = 0.25
"""From this part of the bulk on it is spoken of; from SURE on it is acted on, for a new beginning costs the rest."""

SURE = 0.5
MARGIN = 0.95

LONGEST_PAUSE_S = 0.5
"""A remainder that is copied in this time can be copied in the switch: see `decide.allowed_pause_s`."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """A copy that the guest outruns. Bytes/s. `sure`: reason enough to act."""

    target: str
    dirty_rate: float
    copy_rate: float
    sure: bool

    @property
    def sentence(self) -> str:
        return (
            f"{self.target} does not get in step: the guest changes {format_rate(self.dirty_rate)} of it, and "
            f"{format_rate(self.copy_rate)} are copied"
        )


FREED = 64 * MiB
"""Bytes/s that a limited copy is taken to make once it is in step: from then on QEMU applies no limit to it."""


def assess(target: str, copied: CopyProgress, *, ready: bool, limited: bool = False) -> Divergence | None:
    """Whether the guest outruns this copy; None when it does not, or when that cannot be told yet.

    `limited`: by a bandwidth or a latency contract.
    """
    if copied.bulk == 0 or copied.window_s < WINDOW_S or copied.rate <= 0:
        return None
    if copied.bulk_s is None:
        part = min(1.0, copied.cur / copied.bulk)
        expected = copied.dirty_rate / part if part else 0.0
        if part < EARLY or expected < MARGIN * copied.rate:
            return None
        return Divergence(target, expected, copied.rate, sure=part >= SURE)
    if copied.drain_s(FREED if limited and ready else 0.0) <= LONGEST_PAUSE_S:
        # Nearly there, so that it copies no more than the guest changes: only a limited copy can stay so for ever.
        stuck = copied.stuck and not ready
        return Divergence(target, copied.dirty_rate, copied.rate, sure=True) if stuck else None
    if copied.dirty_rate < MARGIN * copied.rate:
        return None
    last = [pass_.size for pass_ in copied.passes[-2:]]
    shrinking = len(last) == 2 and last[1] < MARGIN * last[0]
    return Divergence(target, copied.dirty_rate, copied.rate, sure=copied.stuck or (bool(last) and not shrinking))
