"""A case: one fault at one place of one kind of move. All that is left to chance in it follows from (seed, id)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from faults import places

if TYPE_CHECKING:
    from faults.scene import Scene

MOVED, CANCELLED, FAILED, PARKED = "moved", "cancelled", "failed", "parked"
NO_MOVE = "no move"
"""The command ended before there was a move in the journal: refused, or the journal could not be used."""


@dataclass(frozen=True, slots=True)
class Case:
    """`place` is a point, a phase (then the point is drawn), or AT_RANDOM."""

    fault: str
    method: str
    disks: int
    place: str
    round: int = 0

    @property
    def id(self) -> str:
        return f"{self.fault}/{self.method}/{self.disks}/{self.place}/{self.round}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """The case of an id. Raises ValueError."""
        fault, method, disks, place, number = text.split("/")
        return cls(fault, method, int(disks), place, int(number))

    def chance(self, seed: int) -> random.Random:
        return random.Random(f"{seed}/{self.id}")


def _nothing(_scene: Scene) -> None:
    return


def by_phase(method: str, _disks: int) -> tuple[str, ...]:
    """Places of a fault that strikes once in each phase."""
    return places.phases(method)


@dataclass(frozen=True, slots=True)
class Fault:
    """A thing that goes wrong, how it is put right again, and what may come of it.

    `strike` finds our process stopped at the place (with `own` it runs the move itself); afterwards the process is
    woken, unless the fault has killed it, and `heal` puts right what does not heal by itself. Then a user's commands
    follow until the move is over, and the verdict.
    """

    name: str
    group: str
    what: str
    strike: Callable[[Scene], None]
    heal: Callable[[Scene], None] = _nothing
    tidy: Callable[[Scene], None] = _nothing  # after the verdict: as it was before the case
    methods: tuple[str, ...] = places.METHODS
    at: Callable[[str, int], tuple[str, ...]] = by_phase
    ends: frozenset[str] = frozenset({MOVED})
    states: frozenset[str] = frozenset({"running"})  # right for a VM that ran; one that was off stays off
    own: bool = False
    kills: int = 0  # about so many in a case, for planning
    disks: tuple[int, ...] = (1, 3)
    dest: str | None = None  # a datastore of its own as the destination (or the source): it will suffer
    source: bool = False
    quick: bool = True  # takes seconds, so it is in the short cut


class FaultFacts(Protocol):
    """What the plan and the tables must know of a fault, of whichever matrix."""

    @property
    def name(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def what(self) -> str: ...
    @property
    def kills(self) -> int: ...
    @property
    def methods(self) -> tuple[str, ...]: ...
    @property
    def disks(self) -> tuple[int, ...]: ...
    @property
    def at(self) -> Callable[[str, int], tuple[str, ...]]: ...


F = TypeVar("F", bound=FaultFacts)


@dataclass(slots=True)
class Catalogue(Generic[F]):
    """Every fault of a matrix by its name."""

    faults: dict[str, F] = field(default_factory=dict)

    def add(self, *faults: F) -> None:
        for fault in faults:
            assert fault.name not in self.faults, fault.name
            self.faults[fault.name] = fault

    def cells(
        self, names: Sequence[str] = (), methods: Sequence[str] = (), disks: Sequence[int] = (), round: int = 0
    ) -> list[Case]:
        """One case of each cell of the matrix, in the order of the catalogue. A name may be a group's."""
        return [
            Case(fault.name, method, count, place, round)
            for fault in self.faults.values()
            if not names or fault.name in names or fault.group in names
            for method in fault.methods
            if not methods or method in methods
            for count in fault.disks
            if not disks or count in disks
            for place in fault.at(method, count)
        ]

    def plan(
        self,
        seed: int,
        names: Sequence[str] = (),
        methods: Sequence[str] = (),
        disks: Sequence[int] = (),
        kills: int = 0,
    ) -> list[Case]:
        """Every cell once, shuffled; then the cells that kill, again and again, until there are `kills` kills."""
        planned: list[Case] = []
        number, killed = 0, 0
        while True:
            cells = self.cells(names, methods, disks, number)
            if number:
                cells = [case for case in cells if self.faults[case.fault].kills]
            random.Random(f"{seed}/{number}").shuffle(cells)
            for case in cells:
                if number and killed >= kills:
                    return planned
                planned.append(case)
                killed += self.faults[case.fault].kills
            number += 1
            if killed >= kills or not cells:
                return planned
