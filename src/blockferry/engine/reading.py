"""How fast two images may be read beside a guest: as the user wants it now, and no faster than its contract allows."""

from __future__ import annotations

import time

from blockferry.engine.context import Context
from blockferry.images.syncing import Speed, Synced
from blockferry.model import pace
from blockferry.model.record import Record


def speed(context: Context, record: Record) -> Speed:
    """The speed of a comparison that begins now."""
    contract, pacer = context.plan.contract, context.pacer
    if contract is None or pacer is None or record.failure is not None:
        return Speed(lambda _: context.bandwidth())
    pacer.afresh(pace.limit_s(contract, record.guest_before))

    def now(state: Synced) -> int:
        return pacer.speed(time.monotonic(), max(state.source_read, state.dest_read), context.bandwidth())

    return Speed(now, gently=True)
