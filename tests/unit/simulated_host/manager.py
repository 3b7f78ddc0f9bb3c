"""blockferry's process on the simulated host. It can die before and after each call to the outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

POINTS_A_CALL = 2


class Killed(BaseException):
    """The process is dead: nothing that it would still do reaches anybody."""


class Manager:
    """One process. `dies_at`: the how-manieth point it dies at; None: it lives.

    Before and after each call that changes something lies a point; a call that only looks is none: to die there is to
    die after the change before it.
    """

    def __init__(self, moment: Callable[[], None], dies_at: int | None = None) -> None:
        self._moment = moment
        self._dies_at = dies_at
        self.points = 0
        self.dead = False
        self.last = ""

    @contextlib.contextmanager
    def calls(self, what: str, *, changes: bool) -> Iterator[None]:
        """Around a call to the outside. A moment passes before it. Raises Killed."""
        self.must_live()
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
        if self._dies_at is not None and self.points >= self._dies_at:
            self.dead, self.last = True, where
            raise Killed
