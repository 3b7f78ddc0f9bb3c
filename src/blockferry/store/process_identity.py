"""Who runs a move: one process, so exactly that it is not mistaken for a later one with its number."""

from __future__ import annotations

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Owner:
    """One process. Its JSON form stands in `moves.owner` (docs/journal.md): fields are only added, with defaults.

    `boot` and `started` make `pid` unique for all time; `namespace` says in which world the number counts, for
    two containers of one machine may share a host name and a boot id and yet not see each other's processes.
    """

    host: str
    boot: str  # /proc/sys/kernel/random/boot_id
    pid: int
    started: int  # clock ticks since boot: field 22 of /proc/PID/stat (proc(5))
    user: str
    namespace: str = ""  # /proc/self/ns/pid; empty: written by a version that did not note it

    @classmethod
    def here(cls) -> Owner:
        """This process."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a uid without a name
            user = str(os.getuid())
        return cls(socket.gethostname(), _boot(), os.getpid(), _look(os.getpid())[1], user, _namespace())

    @property
    def surely_dead(self) -> bool:
        """Whether this was a process that we could see if it lived, and it is gone.

        False does not mean alive: a process of another machine, or one that we may not look at, is judged by its
        lease alone. A host name is no proof of a machine (there are many called `localhost`), the boot id is.
        """
        return self._dead() is True

    @property
    def surely_alive(self) -> bool:
        """Whether this process is seen to live. A process of another machine never is, whether it lives or not."""
        return self._dead() is False

    def _dead(self) -> bool | None:
        """None: that cannot be told."""
        if self.boot != _boot() or self.host != socket.gethostname():
            return None
        if self.namespace not in ("", _namespace()):
            return None
        try:
            state, started = _look(self.pid)
        except (FileNotFoundError, ProcessLookupError):
            return True if _vanished(self.pid) else None
        except OSError:
            return None  # no file descriptor left, say: that proves nothing
        return state in ("Z", "X") or started != self.started

    def __str__(self) -> str:
        return f"{self.user}@{self.host} pid {self.pid}"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _look(pid: int) -> tuple[str, int]:
    """A process's state (Z: a zombie, X: dead) and when it was started. Raises OSError."""
    words = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    fields = words.rpartition(")")[2].split()  # the name before may hold spaces and brackets
    return fields[0], int(fields[19])


def _vanished(pid: int) -> bool:
    """Whether a process that is not in /proc is dead, not merely hidden there (mount option hidepid)."""
    try:
        os.kill(pid, 0)
    except OSError as error:
        return isinstance(error, ProcessLookupError)
    return False
