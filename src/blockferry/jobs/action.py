"""What every action of a job is. The actions of a kind of job are subclasses; those of the loop itself are here.

An action says what is to be done, never how; none of them holds a handle of anything.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

from blockferry.jobs.outcome import Outcome


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Action:
    """One small effect, and all that is true of it whatever the job: who decides, acts and shows reads it here."""

    phase: ClassVar[str] = ""  # what a job shows meanwhile; empty: the phase before goes on
    failure_turns_back: ClassVar[bool] = False  # before the switch: its failure means that the way is back, else again
    waits_for_destination: ClassVar[bool] = False  # QEMU, or a command, stands still while the destination hangs
    ends_round: ClassVar[bool] = False  # no effect on the host: the loop ends with it, parks, or leaves the job
    routine: ClassVar[bool] = False  # it comes often, or when every ms counts: the progress is shown now and then only

    # These serve all actions: dataclass() would compile them for each of a hundred kinds, at each start of the command.

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and isinstance(other, Action) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        values = (f"{field.name}={getattr(self, field.name)!r}" for field in fields(self))
        return f"{type(self).__name__}({', '.join(values)})"

    def phase_after(self, before: str) -> str:
        """Return the phase that a job is in with this action, after the phase `before`."""
        return self.phase or before


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LookAgain(Action):
    """Nothing to do but to look again. `why` is a word for the phase, `pause_s` how long to wait at most."""

    routine: ClassVar[bool] = True

    why: str
    pause_s: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Finish(Action):
    """The job is over."""

    ends_round: ClassVar[bool] = True

    outcome: Outcome
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Park(Action):
    """Stand still and say why: going on could hurt."""

    ends_round: ClassVar[bool] = True

    problem: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Done(Action):
    """Nothing is left to do."""

    ends_round: ClassVar[bool] = True

    outcome: Outcome
