"""One host as the engine works with it: libvirt and the host's files, connected again when the way was lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from blockferry.base.errors import BlockferryError
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.helper import files
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.domain import Control
from blockferry.hosts.runner import LocalRunner, Runner, runner_for

CLOSE_S = 1.0

BEGUN_S = 0.1
"""So long `prepare` waits for its thread to begin."""

REFUSED_S = 2.0
"""So long what `prepare` met counts as an answer."""


class Host:
    """A host by its URI. `others`: the configured hosts, this one perhaps among them: they may reach its datastores."""

    others: tuple[ConfiguredHost, ...] = ()
    may_ask: bool = True
    _connecting_since: float | None = None  # monotonic seconds
    # What `prepare` met, and when (monotonic seconds): told to whoever asks first and soon, not tried twice.
    _refused: tuple[float, BlockferryError] | None = None
    _closed: bool = False

    def __init__(self, uri: str, *, others: tuple[ConfiguredHost, ...] = (), may_ask: bool = True) -> None:
        """Nothing is opened yet. Raises UsageError for a URI whose files cannot be reached.

        `may_ask`: whether ssh may ask the terminal for a password or a host key.
        """
        self.uri = uri
        self.others = others
        self.may_ask = may_ask
        self.runner: Runner = runner_for(uri)
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._see: Callable[[Connection], None] | None = None

    @property
    def connection(self) -> Connection:
        """An open connection. Raises HostUnreachable."""
        with self._lock:
            refused, self._refused = self._refused, None
            if self._connection is None and refused is not None and time.monotonic() - refused[0] < REFUSED_S:
                raise refused[1]
            if self._connection is None or not self._connection.alive:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                self._connection = self._made()
            return self._connection

    def _made(self) -> Connection:
        """A new connection, seen by whom `expect` names. The lock is held. Raises HostUnreachable."""
        self._connecting_since = time.monotonic()
        try:
            made = Connection(self.uri, may_ask=self.may_ask)
        finally:
            self._connecting_since = None
        try:
            if self._see is not None:
                self._see(made)
        except BaseException:
            made.close()
            raise
        if not isinstance(self.runner, LocalRunner):
            made.first_bytes = self._first_bytes
        return made

    def prepare(self) -> None:
        """Start the host's helper and connect to libvirt, and wait for neither: a command loads its code meanwhile.

        Raises nothing; `connection` does.
        """
        self.runner.prepare()
        if self._connection is None:
            begun = threading.Event()
            threading.Thread(target=self._connect, args=(begun,), name="connect", daemon=True).start()
            begun.wait(BEGUN_S)  # longer only while somebody else is connecting already

    def _connect(self, begun: threading.Event) -> None:
        with self._lock:
            begun.set()  # whoever asks for the connection from now on waits for this one
            self._refused = None
            if self._connection is not None or self._closed:
                return
            try:
                made = self._made()
            except BlockferryError as error:
                self._refused = (time.monotonic(), error)
                return
            if self._closed:
                made.close()
                return
            self._connection = made
        made.prepare_host_id()

    def expect(self, see: Callable[[Connection], None] | None) -> None:
        """Have `see` look at the connection, and at every later one before it is used; what it raises is raised.

        A URI may lead to another host from one moment to the next.
        """
        self._see = see
        with self._lock:
            if see is not None and self._connection is not None and self._connection.alive:
                see(self._connection)

    def _first_bytes(self, path: str, count: int) -> bytes:
        return files.first_bytes(self.runner, path, count, timeout_s=30)

    def slowest_call(self) -> tuple[str, float] | None:
        """What libvirt has owed an answer to for the longest, and for how many seconds; never waits."""
        since, connection = self._connecting_since, self._connection
        if since is not None:
            return "accept the connection", time.monotonic() - since
        return None if connection is None else connection.slowest()

    def control(self, uuid: str, name: str) -> Control:
        return Control(self.connection, uuid, name)

    def close(self) -> None:
        """Close the connection; one that is still being made in the background is closed once it is there."""
        self._closed = True
        if not self._lock.acquire(timeout=CLOSE_S):
            return
        try:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
        finally:
            self._lock.release()
