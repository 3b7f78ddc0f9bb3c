"""How fast two images may be read beside a guest: as the user wants it now, and no faster than its contract allows."""

from __future__ import annotations

import time

from blockferry.hosts.helper.comparison import ComparisonProgress, ComparisonSpeed
from blockferry.storage_move.context import Context
from blockferry.storage_move.pace import rules as pace_rules
from blockferry.storage_move.record import Record


def speed(context: Context, record: Record) -> ComparisonSpeed:
    """The speed of a comparison that begins now."""
    contract, pacer = context.plan.pace.contract, context.pacer
    if contract is None or pacer is None or record.failure is not None:
        return ComparisonSpeed(lambda _: context.bandwidth())
    pacer.afresh(pace_rules.limit_s(contract, record.measured.before))

    def now(state: ComparisonProgress) -> int:
        return pacer.speed(time.monotonic(), max(state.source_read, state.dest_read), context.bandwidth())

    return ComparisonSpeed(now, gently=True)
