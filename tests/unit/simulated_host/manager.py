"""blockferry's process on the simulated host. It can die before and after each call to the outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

POINTS_A_CALL = 2


class Killed(BaseException):
    """The process is dead: nothing that it would still do reaches anybody."""


class Manager:
    """One process. `dies_at`: the how-manieth point it dies at; None: it lives.

    Before and after each call that changes something lies a point; a call that only looks is none: to die there is to
    die after the change before it.
    """

    def __init__(
        self,
        moment: Callable[[], None],
        dies_at: int | None = None,
        happens: Mapping[int, Callable[[], None]] | None = None,
    ) -> None:
        """`happens`: what happens at which point."""
        self._moment = moment
        self._dies_at = dies_at
        self._happens = happens or {}
        self.points = 0
        self.dead = False
        self.last = ""
        self.doing = ""

    @contextlib.contextmanager
    def calls(self, what: str, *, changes: bool) -> Iterator[None]:
        """Around a call to the outside. A moment passes before it. Raises Killed."""
        self.must_live()
        self.doing = what
        self._moment()
        if changes:
            self._point(f"before {what}")
        yield
        if changes:
            self._point(f"after {what}")

    def must_live(self) -> None:
        if self.dead:
            raise Killed

    def _point(self, where: str) -> None:
        self.points += 1
        if self.points in self._happens:
            self._happens[self.points]()
            self.must_live()
        if self._dies_at is not None and self.points >= self._dies_at:
            self.dead, self.last = True, where
            raise Killed
