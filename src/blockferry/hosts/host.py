"""One host as the engine works with it: libvirt and the host's files, connected again when the way was lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.helper import files
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.domain import Control
from blockferry.hosts.runner import LocalRunner, Runner, runner_for


class Host:
    """A host by its URI. `others`: the configured hosts, this one perhaps among them: they may reach its datastores."""

    others: tuple[ConfiguredHost, ...] = ()
    may_ask: bool = True

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
            if self._connection is None or not self._connection.alive:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                made = Connection(self.uri, may_ask=self.may_ask)
                try:
                    if self._see is not None:
                        self._see(made)
                except BaseException:
                    made.close()
                    raise
                if not isinstance(self.runner, LocalRunner):
                    made.first_bytes = self._first_bytes
                self._connection = made
            return self._connection

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
        connection = self._connection
        return None if connection is None else connection.slowest()

    def control(self, uuid: str, name: str) -> Control:
        return Control(self.connection, uuid, name)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
