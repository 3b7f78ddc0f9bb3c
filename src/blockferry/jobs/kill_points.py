"""Named points at which a test can have this process die, stop or fail. Nothing happens without the variable.

`BLOCKFERRY_POINT=name:kill`, `name:stop` (SIGSTOP), `name:fail`, `name:bug` (an error that
nobody has foreseen), `name:sleep=SECONDS`, several separated by commas. `name@2` means the second time that the point
is passed. The names are listed in POINTS, so that a test can walk all of them; passing an unlisted one is a bug.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

POINTS = (
    "marked",
    "trimming",
    "trimmed",
    "measured",
    "going-synchronous",
    "leaving-synchronous",
    "cut-off-noted",
    "throttling",
    "throttled",
    "unthrottled",
    "home-named",
    "home-copied",
    "layer-named",
    "layer-copied",
    "image-named",
    "image-made",
    "suspending-to-start",
    "suspended-to-start",
    "watching",
    "starting-copy",
    "copy-called",
    "copy-started",
    "resuming-from-start",
    "copying",
    "in-step",
    "flushed",
    "suspending-to-switch",
    "suspended-to-switch",
    "pivoting",
    "pivoted-one",
    "pivots-asked",
    "pivoted",
    "resuming",
    "resumed",
    "view-prepared",
    "taking-view",
    "view-taken",
    "verifying",
    "verified",
    "ending-view",
    "view-ended",
    "switched-noted",
    "config-written",
    "snapshots-written",
    "settled",
    "guest-resumed",
    "graph-noted",
    "truth-named",
    "releasing-source",
    "source-released",
    "releasing-home-file",
    "home-file-aside",
    "home-released",
    "trimming-again",
    "trimmed-again",
    "unmarked",
    "following",
    "nvram-named",
    "nvram-copied",
    "nvram-pointed",
    "saving",
    "vm-saved",
    "saved-noted",
    "restoring",
    "restored",
    "let-go",
    "releasing-nvram",
    "nvram-released",
    "finishing",
    "overlay-named",
    "overlay-made",
    "overlay-taken",
    "cloning",
    "cloned",
    "syncing-base",
    "base-synced",
    "checkpoint-suspending",
    "checkpoint-suspended",
    "fold-starting",
    "fold-started",
    "fold-pivoting",
    "fold-pivoted",
    "folding-off",
    "folded-off",
    "cold-copying",
    "cold-copied",
    "aborting",
    "abort-asked",
    "lost-running",
    "lost-noted",
    "lost-pointed",
    "lost-barred",
    "lost-ended",
    "found-noted",
    "removing-destination",
    "destination-removed",
    "point-made",
    "changes-begun",
    "changes-read",
    "purging",
)

_passed: Counter[str] = Counter()


class PointFailed(RuntimeError):
    """A test asked this point to fail."""


def point(name: str) -> None:
    """Pass a named point."""
    wish = os.environ.get("BLOCKFERRY_POINT")
    if not wish:
        return
    if name not in POINTS:
        raise AssertionError(f"point {name} is not listed in POINTS")
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
