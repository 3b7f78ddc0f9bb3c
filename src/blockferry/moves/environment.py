"""What every use case works with: the host, the journal, the configuration. No use case stands here."""

from __future__ import annotations

import getpass
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from blockferry.base import host_entries, lazy
from blockferry.base.config import Config, hidden_journal
from blockferry.base.errors import JournalFailed
from blockferry.hosts.configured_hosts import ConfiguredHost
from blockferry.hosts.host import Host
from blockferry.safety.shared_directory import SharedDirectories
from blockferry.store import glance

if TYPE_CHECKING:
    from blockferry.host_move import host_move_journal
    from blockferry.host_move.host_summary import HostMoveSummary
    from blockferry.storage_move import move_journal
    from blockferry.storage_move.summary import MoveSummary
    from blockferry.store.job_list import JobList

    AnyMove = MoveSummary | HostMoveSummary
else:  # it loads SQLAlchemy: a completion of VM names does without
    host_move_journal = lazy.module("blockferry.host_move.host_move_journal")
    move_journal = lazy.module("blockferry.storage_move.move_journal")


class Environment:
    """One host and one journal, opened when they are needed. May be used from any thread."""

    def __init__(self, config: Config, base: Environment | None = None) -> None:
        """Opens nothing yet. `base`: one for another host, whose journal and configured hosts are used, and not closed.

        Raises UsageError for a URI that cannot be used.
        """
        self.config = config
        self._base = base
        self.hosts: tuple[ConfiguredHost, ...] = _configured(config) if base is None else base.hosts
        """The configured hosts, each with a connection that is kept."""

        self.site = Host(config.uri, others=self.hosts)
        self.shared = SharedDirectories()
        """What was proven of directories of two hosts; for as long as this environment is used."""

        self.say: Callable[[str], None] = lambda _: None
        """Hears, in words for people, what takes long before there is a move to show the progress of."""

        self.uris: dict[str, str] = {} if base is None else base.uris
        """Move -> URI of its host: a background process is started also while the journal is away."""

        self._journal: move_journal.MoveJournal | None = None
        self._lock = threading.Lock()

    @property
    def uri(self) -> str:
        return self.config.uri

    @property
    def own(self) -> ConfiguredHost:
        """Our own host, as one of several; not to be closed by itself."""
        return ConfiguredHost(host_entries.entry_of(self.uri), lambda _uri: self.site)

    @property
    def journal(self) -> move_journal.MoveJournal:
        """The journal as it is. Looking at it does not make one: see `made_journal`. Raises JournalFailed."""
        if self._base is not None:
            return self._base.journal
        with self._lock:
            if self._journal is None:
                self._journal = _opened(self.config.journal, make=False)
                hidden = hidden_journal(self.config.journal) if self._journal.missing else None
                if hidden is not None:
                    self.say(f"root's journal {hidden} is not readable by you; moves in it are not shown")
            return self._journal

    @property
    def every_move(self) -> JobList[AnyMove]:
        """The moves of all kinds. Raises JournalFailed."""
        return self.journal.every

    @property
    def host_moves(self) -> host_move_journal.HostMoveJournal:
        """The moves to another host. Raises JournalFailed."""
        return self.journal.of_kind(host_move_journal.HostMoveJournal)

    @property
    def readable_moves(self) -> JobList[AnyMove]:
        """The same, for whoever asks about moves. Raises JournalFailed where root's is not readable."""
        return self.readable_journal.every

    @property
    def readable_journal(self) -> move_journal.MoveJournal:
        """The journal, for whoever asks about moves. Raises JournalFailed where root's is not readable."""
        journal = self.journal
        hidden = hidden_journal(self.config.journal) if journal.missing else None
        if hidden is not None:
            raise JournalFailed(str(hidden), "it is root's and not readable by you: run as root")
        return journal

    def nothing_under_way(self) -> bool:
        """Whether it is sure, without opening the journal, that no move in it is unfinished."""
        if self._base is not None:
            return self._base.nothing_under_way()
        with self._lock:
            unopened = self._journal is None
        return (
            unopened and hidden_journal(self.config.journal) is None and glance.nothing_under_way(self.config.journal)
        )

    def made_journal(self) -> move_journal.MoveJournal:
        """The journal, made if there is none: the first move makes it, nothing that only looks does."""
        if self._base is not None:
            return self._base.made_journal()
        with self._lock:
            if self._journal is None or self._journal.missing:
                made = _opened(self.config.journal, make=True)
                if self._journal is not None:
                    self._journal.close()
                self._journal = made
            return self._journal

    def release(self, site: Host) -> None:
        """Close a site that a use case has opened beside our own."""
        if site is not self.site:
            site.close()

    def close(self) -> None:
        self.site.close()
        for host in self.hosts if self._base is None else ():
            host.close()
        if self._journal is not None:
            self._journal.close()


def _opened(url: str, *, make: bool) -> move_journal.MoveJournal:
    """The journal, with all kinds of jobs that may be in it."""
    return move_journal.MoveJournal.open(url, make=make, others=(host_move_journal.HostMoveJournal.kind,))


def _configured(config: Config) -> tuple[ConfiguredHost, ...]:
    return tuple(ConfiguredHost(entry, lambda uri: Host(uri, may_ask=False)) for entry in config.hosts)


def acting_user() -> str:
    """The name of the person for whom this process works, for the story of a move."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
