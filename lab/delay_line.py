"""Runs in the namespace of the lab's switch: a link that is long. Frames leave later than they came, and some never.

Arguments: the names of the line's two ends, the delay in milliseconds (each way), the share of frames that are lost.
The ends are TAP devices that whoever started it plugs in; what comes into one leaves the other. The kernel of the lab's
machine may have no netem; a TAP device has the kernel cut large segments into frames. Only the standard library.
"""

from __future__ import annotations

import fcntl
import os
import random
import select
import struct
import sys
import time
from collections import deque

_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_LONGEST_FRAME = 65536
_MOST_AT_ONCE = 256


def _end(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TAP_WITHOUT_HEADER))
    return descriptor


def _take(descriptor: int, queue: deque[tuple[float, bytes]], due: float, loss: float) -> None:
    for _ in range(_MOST_AT_ONCE):
        try:
            frame = os.read(descriptor, _LONGEST_FRAME)
        except BlockingIOError:
            return
        if random.random() >= loss:
            queue.append((due, frame))


def _give(descriptor: int, queue: deque[tuple[float, bytes]], now: float) -> None:
    while queue and queue[0][0] <= now:
        _, frame = queue.popleft()
        try:
            os.write(descriptor, frame)
        except OSError:  # the end is not up yet, or the other side is full: as on a real line, the frame is lost
            continue


def main() -> None:
    """Until it is killed."""
    first, second, delay_ms, loss = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
    ends = _end(first), _end(second)
    queues: tuple[deque[tuple[float, bytes]], deque[tuple[float, bytes]]] = (deque(), deque())
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        waits = [queue[0][0] - now for queue in queues if queue]
        readable, _, _ = select.select(ends, [], [], max(0.0, min(waits)) if waits else None)
        now = time.monotonic()
        for at in (0, 1):
            if ends[at] in readable:
                _take(ends[at], queues[at], now + delay_ms / 1000, loss)
            _give(ends[1 - at], queues[at], now)


if __name__ == "__main__":
    main()
