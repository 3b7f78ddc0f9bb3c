"""The proof that two directories on two hosts are one: a file written on one side is seen on the other.

Names prove nothing: two hosts may have two servers mounted at one path, or one server by two names.
"""

from __future__ import annotations

import logging
import posixpath
import secrets
import threading
import time

from blockferry.base.errors import BlockferryError
from blockferry.hosts.helper import files
from blockferry.hosts.host import Host
from blockferry.hosts.runner import Runner

log = logging.getLogger(__name__)

PREFIX = ".blockferry-proof-"

TRIES = 4
WAIT_S = 1.0
"""A name that nobody has asked for before is looked up on the server; so often we look before we say that it is not
there."""


class SharedDirectories:
    """What was proven of directories of hosts; kept as long as this object, the session of a client or a worker.

    May be used from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[frozenset[tuple[str, str]], bool] = {}

    def same(self, host: Host, directory: str, other: Host, other_directory: str, *, wait_s: float = WAIT_S) -> bool:
        """Whether these are one directory. Nothing is left in it.

        Raises HostUnreachable, HostCommandFailed when it cannot be proven: no right to write, a directory that is not
        there or does not answer. That is no answer, and is not kept.
        """
        here, there = host.connection.host_id(), other.connection.host_id()
        if here and here == there:
            wanted = directory, other_directory
            return files.realpath(host.runner, wanted[0]) == files.realpath(host.runner, wanted[1])
        key = frozenset({(here or host.uri, directory), (there or other.uri, other_directory)})
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = _seen_from_both(host.runner, directory, other.runner, other_directory, wait_s)
            with self._lock:
                self._known[key] = known
        return known


def _seen_from_both(runner: Runner, directory: str, other: Runner, other_directory: str, wait_s: float) -> bool:
    """Write a file with a name and a content that nobody can have by chance, and look for it on the other side."""
    files.list_directory(other, other_directory)  # one that cannot be looked at proves nothing
    name, content = f"{PREFIX}{secrets.token_hex(16)}", secrets.token_hex(32).encode()
    path = posixpath.join(directory, name)
    try:
        files.write_file(runner, path, content, mode=0o644)  # root may be nobody there
        for attempt in range(TRIES):
            if attempt:
                time.sleep(wait_s)
            if _content(other, posixpath.join(other_directory, name)) == content:
                return True
        return False
    finally:
        _remove(runner, path)


def _content(runner: Runner, path: str) -> bytes | None:
    """None: it is not there. Raises HostCommandFailed."""
    if files.stat_one(runner, path) is None:
        return None
    return files.read_file(runner, path)


def _remove(runner: Runner, path: str) -> None:
    """Remove our file and what a write that was cut short has left of it; a failure hides no other error."""
    try:
        files.remove_file(runner, path)
        files.remove_leftover(runner, path)
    except BlockferryError as error:
        log.warning("the test file %s on %s could not be removed: %s", path, runner.uri, error)
