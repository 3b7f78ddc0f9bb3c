"""Looking at many paths when some file system may not answer: a thread for each mount, and one limit for all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

from blockferry.hosts.helper.program import mount_table

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

    def look_at(keys: list[Key]) -> None:
        try:
            for key in keys:
                found[key] = work(key)
        except BaseException as error:  # noqa: BLE001 - raised again in the thread of the call
            problems.append(error)

    threads = [threading.Thread(target=look_at, args=(keys,), daemon=True) for keys in groups.values()]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    if problems:
        raise problems[0]
    return dict(found)
