"""The watch itself: it looks at every place, tells what it sees, takes orders, and cuts off when it is time."""

from __future__ import annotations

import json
import os
import select
import time

from blockferry.hosts.helper.program.watchdog.beat import WatchedDirectory
from blockferry.hosts.helper.program.watchdog.claim import Claim
from blockferry.hosts.helper.program.watchdog.cutting import LOOK_LIMIT_S, against, carry_out
from blockferry.hosts.helper.program.watchdog.tables import Json
from blockferry.hosts.helper.program.watchdog.users import one_is_open

TICK_S = 0.1
LATE_S = 1.0
CLOSED_LOOK_S = 1.0
AGAIN_S = 1.0  # a fence that may be needed more than once, and one that was refused


class WatchLoop:
    """The loop. Orders are lines on standard input: `look`, `fence`, `fence SECONDS`, `go`; each is answered."""

    def __init__(self, wish: Json) -> None:
        self.limit = float(wish["limit"])  # seconds, 0: never
        self.hanging_s = float(wish["hanging"])  # seconds: from then on it is told
        self.pairs: list[list[str]] = wish["pairs"]
        self.ours = set(wish["ours"])
        self.images = {dest for _, dest in self.pairs} | self.ours
        self.mode = wish["mode"]
        self.until: float | None = None
        self.claim = Claim(wish["watch"])
        self.places = [WatchedDirectory(one, wish["watch"]) for one in wish["places"]]
        for place in self.places:
            place.fenced = self.claim.before.get(place.wish["directory"])
            place.beat.start()
        self.poll = select.poll()  # select(2) takes no descriptor above 1,023
        self.poll.register(0, select.POLLIN)
        self.parent = True
        self.told = ""
        self.unsent = b""
        self.rest = b""
        self.closed_at = 0.0

    def run(self) -> None:
        os.set_blocking(1, False)
        self.tell()  # first: what one before has fenced
        self.say({"ready": os.getpid()})
        while True:
            before = time.monotonic()
            if not self.orders():
                self.claim.end(keep=False)
                return
            now = time.monotonic()
            late = now - before > LATE_S
            for place in self.places:
                place.look(now, late=late, hanging_s=self.hanging_s, limit=self.limit)
                self.see_to(place, now)
            self.tell()
            if now - self.closed_at > CLOSED_LOOK_S:
                self.closed_at = now
                if not self.claim.holds():
                    return
                if not self.parent and (not self.armed(now) or not one_is_open(self.images)):
                    self.claim.end(keep=True)
                    return

    def armed(self, now: float) -> bool:
        return self.mode == "fence" and (self.until is None or now < self.until)

    def see_to(self, place: WatchedDirectory, now: float) -> None:
        """Cut it off if it is time."""
        if not (self.limit and place.steps and self.armed(now) and place.silent >= self.limit):
            return
        if now - place.tried_at < AGAIN_S:
            return
        place.tried_at = now
        if place.fenced is not None and not any(step.get("again") for step in place.steps):
            return
        place.refused = against(place.wish, self.pairs, self.ours)
        if time.monotonic() - now > LOOK_LIMIT_S + LATE_S:
            return  # frozen in between: it may have answered
        if place.refused or not self.claim.note(place.wish["directory"], place.silent):
            return
        if place.fenced is None:
            place.fenced = round(place.silent, 2)
        carry_out(place.steps)

    def orders(self) -> bool:
        """Take what the parent says; False when we are to go."""
        if not self.parent:
            time.sleep(TICK_S)
            return True
        if not self.poll.poll(TICK_S * 1000):
            return True
        data = os.read(0, 4096)
        if not data:
            self.parent = False
            return True
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            try:
                name, *seconds = line.decode().split()
                until = time.monotonic() + float(seconds[0]) if seconds else None
            except ValueError:
                continue  # not an order: it is not answered, so whoever gave it knows that it was not obeyed
            self.mode, self.until = name, until
            self.say({"ok": name})
            if name == "go":
                return False
        return True

    def tell(self) -> None:
        words = {"places": [place.state() for place in self.places]}
        text = json.dumps(words)
        if self.unsent:
            self.send()
        if text != self.told and not self.unsent:  # a parent that is frozen is told how it is when it reads again
            self.told = text
            self.say(words)

    def say(self, words: Json) -> None:
        self.unsent += json.dumps(words).encode() + b"\n"
        self.send()

    def send(self) -> None:
        """As much as the parent takes: one that is frozen does not hold us up, for it is our work to fence."""
        if not self.parent:
            self.unsent = b""
            return
        try:
            self.unsent = self.unsent[os.write(1, self.unsent) :]
        except BlockingIOError:
            pass
        except OSError:
            self.parent = False
