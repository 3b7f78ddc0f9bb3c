"""Cutting a storage off: what is against it, and the steps, each of which may hang."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading

from blockferry.hosts.helper.program.watchdog.tables import Json
from blockferry.hosts.helper.program.watchdog.users import across, others, processes, table

LOOK_LIMIT_S = 3.0
MNT_FORCE = 1


def against(place: Json, pairs: list[list[str]], ours: set[str]) -> str:
    """Why it must not be fenced; "" when nothing is against it. Looks in a thread of its own, which may hang."""
    if place["anyway"]:
        return "; ".join(across(pairs, processes()[0]))
    found: list[str] = []

    def ask() -> None:
        known = table()
        found[:] = ["", *across(pairs, known.opened), *others(place, ours, known)]

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(LOOK_LIMIT_S)
    return "; ".join(found[1:4]) if found else "the users of the storage could not be listed"


def carry_out(steps: list[Json]) -> None:
    """All steps of a fence at once."""
    for step in steps:
        threading.Thread(target=_carry_out, args=(step,), daemon=True).start()


def _carry_out(step: Json) -> None:
    """One step. May hang: it has a thread of its own."""
    with contextlib.suppress(OSError):
        if step["kind"] == "write":
            with open(step["path"], "w") as file:
                file.write(step["text"])
        elif step["kind"] == "umount":
            # The system call, not umount(8): that looks at the mount point first, and hangs.
            ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(step["path"]), MNT_FORCE)
        else:
            subprocess.run(step["argv"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False)
