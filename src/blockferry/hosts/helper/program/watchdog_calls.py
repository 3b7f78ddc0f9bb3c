"""Watches the destination of a copy, and cuts it off when it hangs for too long. The parts are in `watchdog/`.

What hangs must not be touched by anybody but the threads that beat: the users of a storage are found by links and
tables of /proc and /sys alone, which the kernel answers from memory.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program.watchdog.beat import answers
from blockferry.hosts.helper.program.watchdog.storage_facts import facts
from blockferry.hosts.helper.program.watchdog.tables import Json
from blockferry.hosts.helper.program.watchdog.users import others, table
from blockferry.hosts.helper.program.watchdog.watch_loop import WatchLoop


def answers_all(paths: list[str]) -> bool:
    """Write and flush once in each of the directories. Raises OSError."""
    for path in paths:
        answers(path)
    return True


def others_of(places: list[Json], ours: list[str]) -> list[str]:
    """Who else uses what would be fenced with these places."""
    known = table()
    return [other for place in places for other in others(place, set(ours), known)]


def alone(wish: Json) -> None:
    """Write and flush a nameless file in each place twice a second; tell on standard output what comes of it; take
    orders from standard input. When a place has not answered for `limit` seconds while the mode is `fence`, carry out
    its steps, unless somebody else uses that storage. Goes on when blockferry is gone, until the copy is closed, or
    until another watch of the same move takes over."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    WatchLoop(wish).run()
    os._exit(0)  # a beat that hangs holds nobody up


CALLS: dict[str, Callable[..., Any]] = {"facts": facts, "answers": answers_all, "others": others_of}
