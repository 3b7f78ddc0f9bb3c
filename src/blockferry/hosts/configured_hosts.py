"""The hosts that the configuration lists: connected when they are needed, waited for no longer than a limit."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from blockferry.base.errors import BlockferryError, HostUnreachable
from blockferry.base.host_entries import HostEntry

if TYPE_CHECKING:  # a host has these in a field of its own
    from collections.abc import Callable

    from blockferry.hosts.host import Host

CONNECT_S = 10.0
"""So long may it take to connect to a host. One that is off answers nothing at all, and ssh would wait for minutes."""

NAMED_S = 60.0
"""The same for a host that was asked for by its name: one that has just been started answers late, and is wanted."""

TOLD_FIRST_S = 3.0
TOLD_EVERY_S = 10.0
"""When whoever waits for such a host is told so."""

AGAIN_S = 15.0
"""A host that could not be reached is not tried again for so long: a purge of 50 files waits for it once."""


class ConfiguredHost:
    """A host by the name and the URI of the configuration. May be used from any thread."""

    def __init__(self, entry: HostEntry, make: Callable[[str], Host]) -> None:
        """Nothing is opened yet. `make`: makes the Host of a URI; what it raises is raised by `connected`."""
        self.name, self.uri = entry.name, entry.uri
        self._make = make
        self._lock = threading.Lock()
        self._host: Host | None = None
        self._attempt: _Attempt | None = None
        self._failed: tuple[float, BlockferryError] | None = None  # when, by the monotonic clock
        self._given_up = False  # it was waited for as long as for one that was asked for by its name

    def opened(self) -> Host:
        """Return the host without connecting to it. Raises UsageError for a URI that gives no way to its files."""
        with self._lock:
            if self._host is None:
                self._host = self._make(self.uri)
            return self._host

    def connected(self, limit_s: float = CONNECT_S) -> Host:
        """Return the host with an open connection, within about `limit_s`.

        Raises HostUnreachable, also when it failed a moment ago or an earlier attempt still hangs; UsageError for a URI
        that gives no way to the host's files.
        """
        with self._lock:
            if self._failed is not None and time.monotonic() - self._failed[0] < AGAIN_S:
                raise self._failed[1]
            attempt = self._begun()
        attempt.thread.join(limit_s)
        return self._outcome(attempt, limit_s)

    def awaited(self, tell: Callable[[float], None], limit_s: float = NAMED_S) -> Host:
        """The same for a host that its user has named: one that has not answered yet is waited for longer.

        `tell`: hears now and then for how many seconds it has been waited for. Raises as `connected`; a refusal is an
        answer, and not waited for.
        """
        with self._lock:
            if self._given_up and self._failed is not None and time.monotonic() - self._failed[0] < AGAIN_S:
                raise self._failed[1]
            attempt = self._begun()
        began, next_s = time.monotonic(), TOLD_FIRST_S
        while attempt.thread.is_alive() and (waited_s := time.monotonic() - began) < limit_s:
            if waited_s >= next_s:
                tell(waited_s)
                next_s += TOLD_EVERY_S
            attempt.thread.join(min(next_s, limit_s) - waited_s)
        self._given_up = attempt.thread.is_alive()
        return self._outcome(attempt, limit_s)

    def _begun(self) -> _Attempt:
        """The attempt that is under way, or a new one. The lock is held."""
        if self._host is None:
            self._host = self._make(self.uri)
        ended = self._attempt is not None and not self._attempt.thread.is_alive()
        if self._attempt is None or (ended and self._attempt.error is not None):  # that was long ago
            self._attempt = _Attempt(self._host)
        return self._attempt

    def _outcome(self, attempt: _Attempt, limit_s: float) -> Host:
        error = attempt.error
        if attempt.thread.is_alive():
            error = HostUnreachable(self.uri, f"it did not answer within {limit_s:g} s")
        with self._lock:
            if self._attempt is attempt and not attempt.thread.is_alive():
                self._attempt = None
            self._failed = None if error is None else (time.monotonic(), error)
        if error is not None:
            raise error
        return attempt.host

    def close(self) -> None:
        """Close the connection, unless an attempt still hangs in it: closing would hang, too."""
        with self._lock:
            if self._host is not None and self._attempt is None:
                self._host.close()
                self._host = None


class _Attempt:
    """One attempt to connect, in a thread of its own."""

    def __init__(self, host: Host) -> None:
        self.error: BlockferryError | None = None
        self.host = host
        self.thread = threading.Thread(target=self._connect, name=f"connect-{host.uri}", daemon=True)
        self.thread.start()

    def _connect(self) -> None:
        try:
            _ = self.host.connection  # no more: libvirt may look at every QEMU before it tells its capabilities
        except BlockferryError as error:
            self.error = error
