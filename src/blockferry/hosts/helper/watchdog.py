"""The watch beside a copy: starting it, giving it orders, hearing what it says; and what a destination stands on.

`hosts/helper/program/watchdog/` does the work on the copy's host. It outlives us on purpose.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from blockferry.base.errors import BlockferryError, HostCommandFailed
from blockferry.hosts import fencing
from blockferry.hosts.fencing import DestinationHealth, Fencing, Guarded, Storage, StorageFacts
from blockferry.hosts.runner import Runner

_LOG = logging.getLogger(__name__)

LOOK_S = 15.0
READY_S = 15.0
OBEY_S = 3.0


def storages(runner: Runner, directories: Iterable[str], wanted: Fencing) -> dict[str, Storage]:
    """Each directory (or where it would lie), what it does when it hangs, and who else uses that storage.

    Touches the directories, so they have to answer. Raises HostCommandFailed, also when they do not.
    """
    paths = tuple(dict.fromkeys(directories))
    if not paths:
        return {}
    answer = runner.call("watchdog.facts", timeout_s=LOOK_S, paths=list(paths))
    try:
        facts = msgspec.convert(answer, type=StorageFacts)
    except msgspec.ValidationError as error:
        raise HostCommandFailed("looking at what the destination stands on", 0, str(error)) from None
    found = {path: fencing.storage(facts, path, wanted) for path in paths}
    return {path: _with_others(runner, one) for path, one in found.items()}


def _with_others(runner: Runner, storage: Storage) -> Storage:
    if not storage.cuts or not storage.steps or storage.anyway:
        return storage
    found = runner.call("watchdog.others", timeout_s=LOOK_S, places=[_place(storage)], ours=[])
    return replace(storage, others=tuple(found))


def _place(storage: Storage) -> dict[str, object]:
    counter = storage.device if not storage.device.startswith("0:") else ""
    return {
        "directory": storage.directory,
        "chain": storage.chain,
        "cuts": storage.cuts,
        "steps": [asdict(step) for step in storage.steps],
        "counter": counter,
        "anyway": storage.anyway,
    }


def answers(runner: Runner, directories: Iterable[str], timeout_s: float) -> bool:
    """Whether a small write to each of the directories is done and flushed within that time."""
    paths = tuple(dict.fromkeys(directories))
    try:
        return bool(runner.call("watchdog.answers", timeout_s=timeout_s, paths=list(paths)))
    except HostCommandFailed:
        return False


@dataclass
class DirectoryHealth:
    """What the watch said last of one directory."""

    directory: str
    silent: float = 0.0
    times: int = 0
    longest: float = 0.0
    refused: str = ""
    fenced: float | None = None
    error: str = ""


class DestinationWatch:
    """One watch under way. `changed` is called from a thread of its own with what it says."""

    def __init__(
        self,
        runner: Runner,
        move: str,
        guarded: Guarded,
        limit_s: float | None,
        mode: str,
        changed: Callable[[DestinationHealth], None],
    ) -> None:
        """Start it. Raises HostCommandFailed when it does not come up."""
        wish = {
            "watch": move,
            "limit": limit_s or 0,
            "hanging": fencing.HANGING_S,
            "mode": mode,
            "pairs": guarded.pairs,
            "ours": guarded.ours,
            "places": [_place(place) for place in guarded.places],
        }
        self.health = DestinationHealth()
        self._changed = changed
        self._answers: list[str] = []
        self._heard = threading.Condition()
        self._ended = False
        self._last_words = ""
        self._process = runner.start_own("watchdog_calls", wish, stays=True, about=f"{move} {' '.join(guarded.ours)}")
        threading.Thread(target=self._listen, name=f"watch-{move}", daemon=True).start()
        if not self._await("ready", READY_S):
            self.abandon()
            raise HostCommandFailed("watching the destination", 1, self._last_words or "it did not come up")

    def order(self, words: str) -> bool:
        """Give an order and see it obeyed; False when it is not there any more, or does not answer."""
        name = words.split()[0]
        with self._heard:
            self._answers = [answer for answer in self._answers if answer != name]
        self._process.order(words)
        return self._await(name, OBEY_S)

    @property
    def alive(self) -> bool:
        return not self._ended

    def end(self) -> bool:
        """Send it away; whether it went, or was gone. It leaves nothing behind."""
        gone = self._ended or self.order("go")
        self.abandon()
        return gone or self._ended

    def abandon(self) -> None:
        """Hear it no longer. It goes on if there is something to guard."""
        self._process.close()

    def _await(self, word: str, seconds: float) -> bool:
        with self._heard:
            self._heard.wait_for(lambda: word in self._answers or self._ended, seconds)
            return word in self._answers

    def _listen(self) -> None:
        rest = b""
        while chunk := self._process.read():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                try:
                    self._take(json.loads(line))
                except Exception:  # noqa: BLE001 - a listener that ends would never hear of a hang again
                    _LOG.exception("the watch beside the copies said something that could not be used: %r", line[:200])
        with contextlib.suppress(BlockferryError):
            self._last_words = self._process.wait()[1].strip()
        with self._heard:
            self._ended = True
            self._heard.notify_all()

    def _take(self, words: dict[str, Any]) -> None:
        if "places" in words:
            self.health = summed([DirectoryHealth(**word) for word in words["places"]])
            self._changed(self.health)
        with self._heard:
            if "ready" in words:
                self._answers.append("ready")
            elif "ok" in words:
                self._answers.append(words["ok"])
            self._heard.notify_all()


def summed(places: Sequence[DirectoryHealth]) -> DestinationHealth:
    """All places of a move as one: the one that is silent longest counts."""
    if not places:
        return DestinationHealth()
    worst = max(places, key=lambda place: place.silent)
    cut = next((place for place in places if place.fenced is not None), None)
    return DestinationHealth(
        seconds=worst.silent,
        directory=worst.directory,
        times=max(place.times for place in places),
        longest=max(place.longest for place in places),
        refused=next((place.refused for place in places if place.refused), ""),
        fenced=None if cut is None else cut.directory,
        fenced_after=None if cut is None else cut.fenced,
    )
