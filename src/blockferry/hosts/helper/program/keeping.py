"""Who ends what the helper has started, when the helper ends or is killed: a process that waits for that and nothing
else.

Nothing kills a child when its parent dies of SIGKILL, and a qemu-img that goes on would write to an image that somebody
else believes to have for himself. The helper and its children are one session of processes (setsid(2)); what is meant
to outlive the helper is started in a session of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

KILL_AFTER_S = 10.0
LOOK_S = 0.1


class Keeper:
    """The helper's side: as long as it holds the pipe, its children live."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def let_go(self) -> None:
        """To be called before an end that may take long: threads that wait for storage keep a dead process's files."""
        with contextlib.suppress(OSError):
            os.close(self.pipe)


def start() -> Keeper:
    """Make this process the leader of a session, and leave it in the care of a keeper. Before any thread is started."""
    with contextlib.suppress(OSError):  # it is a leader already
        os.setsid()
    session = os.getsid(0)
    reading, writing = os.pipe()
    if os.fork() != 0:
        os.close(reading)
        return Keeper(writing)
    try:
        os.setsid()
        os.dup2(reading, 0)
        os.closerange(1, 64)
        while os.read(0, 4096):
            pass
        end(session)
    finally:
        os._exit(0)


def members(session: int) -> list[int]:
    """The processes of a session (field 6 of /proc/PID/stat, proc(5)); those that have ended are none."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open("/proc/" + name + "/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in (b"Z", b"X"):
            found.append(int(name))
    return found


def end(session: int) -> None:
    """Ask them to end, then see to it."""
    number, until = signal.SIGTERM, time.monotonic() + KILL_AFTER_S
    asked: set[int] = set()
    while True:
        left = members(session)
        if not left:
            return
        if time.monotonic() > until:
            if number == signal.SIGKILL:
                return  # they wait in the kernel, and die when that answers
            number, until, asked = signal.SIGKILL, time.monotonic() + KILL_AFTER_S, set()
        for pid in left:
            if pid not in asked:
                asked.add(pid)
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
        time.sleep(LOOK_S)
