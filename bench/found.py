"""The trials of a run that succeeded, by what they are."""

from __future__ import annotations

from bench import movers
from bench.record import Run, Trial
from bench.stats import Spread


class Results:
    """The trials of a run that succeeded, by what they are."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.good = [trial for trial in run.trials if trial.failure is None and trial.seconds is not None]

    def of(
        self,
        measure: str,
        method: str,
        *,
        image_format: str | None = None,
        load: str | None = None,
        disks: int = 1,
        size: int = 0,
        buffer: int = 0,
    ) -> list[Trial]:
        wanted = (measure, method, disks, size, buffer)
        return [
            trial
            for trial in self.good
            if (trial.measure, trial.method, trial.disks, trial.size, trial.buffer) == wanted
            and image_format in (None, trial.format)
            and load in (None, trial.load)
        ]

    def floor(self, image_format: str) -> str | None:
        """The fastest of the plain copies of this format, by median."""
        medians = {}
        for method in movers.FLOORS:
            spread = Spread.of(trial.seconds for trial in self.of("time", method, image_format=image_format))
            if spread is not None:
                medians[method] = spread.median
        return min(medians, key=medians.__getitem__) if medians else None
