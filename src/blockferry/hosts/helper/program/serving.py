"""The helper's loop: a call a thread, answers in any order, the end when nobody is there any more.

A call that hangs (storage that does not answer: the thread waits in the kernel and cannot be ended) holds up nobody
else. The loop itself touches no file.
"""

from __future__ import annotations

import errno
import functools
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from blockferry.hosts.helper.program import keeping
from blockferry.hosts.helper.program.refusing import CallRefused
from blockferry.hosts.helper.program.starting import Sent
from blockferry.hosts.helper.program.streaming import Stream

Json = dict[str, Any]

MODULES = {
    "alone": "alone_calls",
    "arrival": "arrival_calls",
    "bitmaps": "bitmap_calls",
    "files": "file_calls",
    "guard": "guard_calls",
    "holder": "holder_calls",
    "host": "host_calls",
    "images": "image_calls",
    "monitor": "monitor_calls",
    "owners": "owner_calls",
    "paths": "path_calls",
    "ports": "port_calls",
    "references": "reference_calls",
    "users": "user_calls",
    "watchdog": "watchdog_calls",
}
"""The first part of a call's name -> the module that has it in its CALLS."""

MOST_CALLS = 256
"""So many may be under way. More only come together when storage hangs and is asked again and again."""

LOOK_S = 5.0

GAP_SHARE = 6
"""After a silence of such a part of the longest one (20 of 120 s) we ask who is there. Whoever sent us says something
every 5 s, and gives us up after 30 s without an answer."""


def now() -> float:
    """Seconds, also of those in which the machine slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Output:
    """Lines to whoever sent us; a whole line at a time, from any thread."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.lock = threading.Lock()

    def send(self, words: Json) -> None:
        left = memoryview(json.dumps(words, separators=(",", ":")).encode() + b"\n")
        with self.lock:
            while left:
                left = left[os.write(self.descriptor, left) :]


def find(name: str, stream: Stream) -> Callable[..., Any]:
    """The function that a call names. Raises Refused."""
    area, _, call = name.partition(".")
    if area in MODULES:
        module = importlib.import_module("blockferry.hosts.helper.program." + MODULES[area])
        if call in module.CALLS:
            found: Callable[..., Any] = module.CALLS[call]
            return found
        if call in getattr(module, "STREAMS", {}):
            return functools.partial(module.STREAMS[call], stream)
    raise CallRefused("it knows no call named " + name)


def answer(wish: Json, stream: Stream) -> Json:
    """What comes of a call; every failure is an answer, too."""
    try:
        return {"id": wish["id"], "result": find(wish["do"], stream)(**wish["with"])}
    except OSError as error:
        number = error.errno or errno.EIO
        path = error.filename
        where = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
        return {"id": wish["id"], "error": {"errno": number, "name": errno.errorcode.get(number, ""), "path": where}}
    except CallRefused as error:
        return {"id": wish["id"], "error": {"errno": 0, "name": "", "words": str(error)}}
    except BaseException as error:  # noqa: BLE001 - a fault of ours; whoever asked is told, and decides
        import traceback  # noqa: PLC0415 - 3 ms, for what should not happen

        words = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        return {"id": wish["id"], "error": {"errno": 0, "name": type(error).__name__, "words": words[-4000:]}}


class Serving:
    """The calls of one session."""

    def __init__(self, output: Output, leave: Callable[[], None], silence_s: float = 0.0) -> None:
        self.output = output
        self.leave = leave
        self.gap_s = silence_s / GAP_SHARE
        self.heard_at = now()
        self.asked = 0  # how often whoever sent us was asked whether they are still there
        self.held: list[bytes] | None = None  # what came since, until that is answered
        self.under_way: dict[int, Stream] = {}
        self.lock = threading.Lock()

    def take(self, line: bytes) -> None:
        """Begin what a line says. After a long silence: once it is known that somebody still wants it. A link that had
        stalled delivers what was said before, also when whoever said it has given us up and does it another way."""
        late = self.gap_s and now() - self.heard_at > self.gap_s
        self.heard_at = now()
        if late:
            self.asked += 1
            self.held = self.held or []
            self.say({"there": self.asked})
        if self.held is None:
            self.begin(line)
        elif (there := json.loads(line).get("there")) is None:
            self.held.append(line)
        elif there == self.asked and not late:
            held, self.held = self.held, None
            for one in held:
                self.begin(one)

    def begin(self, line: bytes) -> None:
        wish = json.loads(line)
        if "there" in wish:  # an answer to what was asked before
            return
        if "ping" in wish:
            self.say({"pong": wish["ping"]})
            return
        with self.lock:
            if "to" in wish:
                stream = self.under_way.get(wish["to"])
            else:
                stream = Stream(self.say, wish["id"])
                full = len(self.under_way) >= MOST_CALLS
                if not full:
                    self.under_way[wish["id"]] = stream
        if "to" in wish:
            if stream is not None:
                stream.hear(wish)
        elif full:
            self.say({"id": wish["id"], "error": {"errno": errno.EAGAIN, "name": "EAGAIN", "path": ""}})
        else:
            threading.Thread(target=self.work, args=(wish, stream), daemon=True).start()

    def work(self, wish: Json, stream: Stream) -> None:
        found = answer(wish, stream)
        with self.lock:
            del self.under_way[wish["id"]]
        self.say(found)

    def say(self, words: Json) -> None:
        try:
            self.output.send(words)
        except OSError:  # nobody reads any more
            self.leave()

    def watch_silence(self, limit_s: float) -> None:
        while now() - self.heard_at < limit_s:
            time.sleep(min(LOOK_S, limit_s / 4))
        self.leave()


def main(silence_s: float, text: bytes) -> None:
    """Serve until standard input ends. `silence_s`: or until nothing was heard for so long; 0 for no limit."""
    Sent.text = text
    output = Output(os.dup(1))
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)  # what a library prints must not stand between our lines
    keeper = keeping.start()

    def leave() -> None:
        keeper.let_go()
        os._exit(0)  # threads that wait for storage hold nobody up

    serving = Serving(output, leave, silence_s)
    output.send({"hello": 1, "pid": os.getpid(), "python": list(sys.version_info[:3]), "uid": os.geteuid()})
    if silence_s:
        threading.Thread(target=serving.watch_silence, args=(silence_s,), daemon=True).start()
    try:
        for line in sys.stdin.buffer:
            if line.endswith(b"\n"):
                serving.take(line)
    finally:
        leave()
