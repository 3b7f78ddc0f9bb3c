"""Watches the destination of a copy, and cuts it off when it hangs for too long. Runs by itself on the copy's host.

The modules beside this one are sent to the host's own python3 as one text (`images/watching.py`, `images/shipping.py`),
so they import nothing but each other and the standard library.

argv[1] is JSON with `do`:

- `facts`: what the directories `paths` stand on, device by device, down to what answers or hangs. Printed as JSON.
- `answers`: write and flush once in each of the directories `paths`; the status tells.
- `others`: who else uses what would be cut off with `places`. Printed as JSON.
- `watch`: write and flush a nameless file in each place twice a second; tell on standard output what comes of it;
  take orders from standard input. When a place has not answered for `limit` seconds while the mode is `fence`, carry
  out its steps, unless somebody else uses that storage. Goes on when blockferry is gone, until the copy is closed, or
  until another watch of the same move takes over.

What hangs must not be touched by anybody but the threads that beat: the users of a storage are found by links and
tables of /proc and /sys alone, which the kernel answers from memory.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from blockferry.images.watching_program.beat import answers
from blockferry.images.watching_program.facts import facts
from blockferry.images.watching_program.loop import Watch
from blockferry.images.watching_program.users import others, table


def main() -> None:
    wish = json.loads(sys.argv[1])
    if wish["do"] == "facts":
        sys.stdout.write(json.dumps(facts(wish["paths"])))
    elif wish["do"] == "answers":
        for path in wish["paths"]:
            answers(path)
    elif wish["do"] == "others":
        known = table()
        sys.stdout.write(
            json.dumps([one for place in wish["places"] for one in others(place, set(wish["ours"]), known)])
        )
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        Watch(wish).run()
        os._exit(0)  # a beat that hangs holds nobody up


if __name__ == "__main__":
    main()
