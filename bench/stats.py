"""Few numbers need few statistics: median, the whole range, a high percentile; ratios are taken within a round."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bench.record import Trial


@dataclass(frozen=True, slots=True)
class Spread:
    """Of n values: the median and the range."""

    n: int
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """None when there is no value."""
        known = [value for value in values if value is not None]
        return cls(len(known), statistics.median(known), min(known), max(known)) if known else None


def percentile(values: Iterable[float | None], percent: float) -> float | None:
    """Nearest rank: a value that was measured, never one in between."""
    known = sorted(value for value in values if value is not None)
    return known[max(0, math.ceil(len(known) * percent / 100) - 1)] if known else None


def ratios(trials: Iterable[Trial], others: Iterable[Trial], of: Callable[[Trial], float | None]) -> Spread | None:
    """`of` a trial by `of` the other's trial in the same round: what drifts, drifts for both."""
    by_round = {other.round: of(other) for other in others if other.failure is None}
    found = []
    for trial in trials:
        mine, theirs = of(trial), by_round.get(trial.round)
        if trial.failure is None and mine is not None and theirs:
            found.append(mine / theirs)
    return Spread.of(found)
