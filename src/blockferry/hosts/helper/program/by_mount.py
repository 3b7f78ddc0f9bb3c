"""Looking at many paths when some file system may not answer: a thread for each mount, and one limit for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from blockferry.hosts.helper.program import mount_table

MOST_WAITING = 32
"""So many threads may wait for one mount. Then it is not asked again until one of them comes back."""

waiting: dict[str, int] = {}  # mount point -> threads that look there now
lock = threading.Lock()

Key = TypeVar("Key", bound=Hashable)
Found = TypeVar("Found")


def look(wanted: Iterable[tuple[Key, str]], work: Callable[[Key], Found], seconds: float) -> dict[Key, Found]:
    """What `work` says of each key; a key whose path lies on a mount that did not answer in time is missing.

    A path is counted to a mount by its name alone: where a link leads elsewhere, only its own mount's paths wait.
    """
    table = mount_table.mounts()
    groups: dict[str, list[Key]] = {}
    points: dict[str, str] = {}
    for key, path in wanted:
        directory = path.rpartition("/")[0]
        if directory not in points:
            points[directory] = (mount_table.mount_of(directory or "/", table) or mount_table.NOWHERE).point
        groups.setdefault(points[directory], []).append(key)
    found: dict[Key, Found] = {}
    problems: list[BaseException] = []

    def look_at(point: str, keys: list[Key]) -> None:
        try:
            for key in keys:
                found[key] = work(key)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the call
            problems.append(error)
        finally:
            count(point, -1)

    threads = [
        threading.Thread(target=look_at, args=(point, keys), daemon=True)
        for point, keys in groups.items()
        if count(point, 1)
    ]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if problems:
        raise problems[0]
    return dict(found)


def count(point: str, change: int) -> bool:
    """Note that a thread begins (1) or ends (-1) to look at a mount; False when too many wait there already."""
    with lock:
        now = waiting.get(point, 0)
        if change > 0 and now >= MOST_WAITING:
            return False
        waiting[point] = now + change
        return True
