"""Points with a name, at which a test can have this process die, stop or fail. Nothing happens without the variable.

`BLOCKFERRY_POINT=name:kill`, `name:stop` (SIGSTOP), `name:fail`, `name:bug` (an error that
nobody has foreseen), `name:sleep=SECONDS`, several separated by commas. `name@2` means the second time that the point
is passed. Each kind of job lists the names of its points (KillPoints), so that a test can walk all of them; passing one
that is not listed is a bug.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

_passed: Counter[str] = Counter()


class PointFailed(RuntimeError):
    """A test asked this point to fail."""


class KillPoints:
    """The points of one kind of job. To be called with the name of one when it is passed."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, name: str) -> None:
        """Pass a point."""
        wish = os.environ.get("BLOCKFERRY_POINT")
        if not wish:
            return
        if name not in self.names:
            raise AssertionError(f"point {name} is not listed")
        _passed[name] += 1
        for one in wish.split(","):
            where, _, what = one.partition(":")
            where, _, nth = where.partition("@")
            if where == name and _passed[name] == int(nth or 1):
                _do(what)


def _do(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif what.startswith("sleep="):
        time.sleep(float(what.removeprefix("sleep=")))
    elif what == "fail":
        raise PointFailed("a test asked for this failure")
    elif what == "bug":
        raise RuntimeError("a test asked for this bug")
    else:
        raise AssertionError(f"unknown wish {what} in BLOCKFERRY_POINT")
