"""A clock for leases and for what goes on on two machines: it counts also the time for which this one sleeps."""

from __future__ import annotations

import time


def seconds() -> float:
    """Return the seconds since this machine has booted, those of its sleep too.

    time.monotonic() stands still while a machine sleeps, and the other machine does not: what was armed there for 3 s
    is over, though here no second has passed. A lease in the journal expires meanwhile, too.
    """
    return time.clock_gettime(time.CLOCK_BOOTTIME)
