"""A move's loop over a context that a test has made: its journal takes everything and says what the test wants."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from blockferry.storage_move.context import Context
from blockferry.storage_move.move_loop import MoveLoop
from blockferry.storage_move.record import Record


def make_loop(context: object, read: Callable[[], Record] = Record) -> MoveLoop:
    nothing: Any = lambda *_words: None  # noqa: E731
    names = ("publish", "park", "finish", "check", "regain", "away", "interim", "log_event", "save")
    job = SimpleNamespace(read=read, stop=cast(Context, context).stop, **dict.fromkeys(names, nothing))
    return MoveLoop(context=cast(Context, context), job=cast(Any, job), began_at=0.0)
