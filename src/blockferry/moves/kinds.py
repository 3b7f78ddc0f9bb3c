"""What the use cases need of each kind of move: how it is run, where, and how its end is told. One entry for a kind."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from blockferry.base import lazy
from blockferry.base.errors import BlockferryError
from blockferry.host_move.host_summary import HostMoveSummary
from blockferry.moves.environment import Environment
from blockferry.storage_move.summary import MoveSummary

if TYPE_CHECKING:
    from blockferry.moves import host_moves, storage_moves
    from blockferry.store import AnyJournal
else:  # each room is loaded by a command that acts on a move of its kind
    host_moves = lazy.module("blockferry.moves.host_moves")
    storage_moves = lazy.module("blockferry.moves.storage_moves")

AnyMove = MoveSummary | HostMoveSummary


class MoveUseCases(ABC):
    """The use cases of one kind of move. `one` is always a move of that kind."""

    @abstractmethod
    def journal(self, env: Environment) -> AnyJournal:
        """Return the moves of this kind in the journal."""

    @abstractmethod
    def run(self, env: Environment, one: Any, on_change: Callable[[Any], None], stop: threading.Event) -> AnyMove:
        """Drive a move to its end in this thread; the finished summary. Raises as `Client.run`."""

    @abstractmethod
    def reach(self, env: Environment, one: Any) -> str:
        """Return the URI by which a process that runs the move is started. Raises OtherHost, HostUnreachable."""

    @abstractmethod
    def is_ours(self, env: Environment, one: Any) -> bool:
        """Whether a move that nobody runs is to be taken up from here, and there is something to do."""

    @abstractmethod
    def just_planned(self, one: Any) -> bool:
        """Whether nothing was done of it yet: the process that planned it may be about to run it."""

    def silent_host(self, env: Environment, one: Any) -> tuple[str, BlockferryError] | None:
        """Return a configured host without which nothing can be done of this move, and why it does not answer."""
        return None

    def adopt(self, env: Environment, one: Any) -> Any:
        """Tie a move whose plan names no host to this one, as its user says."""
        return one


_USE_CASES: dict[str, Callable[[], MoveUseCases]] = {
    MoveSummary.kind: lambda: storage_moves.StorageMoves(),
    HostMoveSummary.kind: lambda: host_moves.HostMoves(),
}


def of(any_move: AnyMove) -> MoveUseCases:
    """Return the use cases of the kind of this move."""
    return _USE_CASES[any_move.kind]()
