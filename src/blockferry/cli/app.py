"""What all commands share: the global options, the output streams, and the client once it is needed."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, cast

import click

from blockferry.base import lazy
from blockferry.base.errors import BlockferryError, UsageError

if TYPE_CHECKING:
    from blockferry.base import log
    from blockferry.base.config import Config
    from blockferry.cli import output
    from blockferry.client import Client
else:  # `--help` does not wait for these
    log = lazy.module("blockferry.base.log")
    output = lazy.module("blockferry.cli.output")


def open_client(uri: str | None, journal: str | None) -> Client:
    """Return the client, loaded only by a command that needs it: `--help` must not wait for it."""
    return cast("Client", importlib.import_module("blockferry.client").connect(uri, journal=journal))


def load_config() -> Config:
    """Return the configuration, loaded only where it is needed. Raises ConfigInvalid."""
    return cast("Config", importlib.import_module("blockferry.base.config").Config.load())


@dataclass
class App:
    """One run of the program; click carries it as `ctx.obj`. Tests put an opener of their own in."""

    opener: Callable[[str | None, str | None], Client] = open_client
    uri: str | None = None
    host: str | None = None  # a name instead of `uri`
    host_typed: bool = False  # `uri` or `host` was typed: no variable stands against it
    journal: str | None = None
    json: bool = False
    color: str = "auto"
    verbose: int = 0
    poll_s: float = 0.5  # how often a move that another process runs is looked at
    _client: Client | None = field(default=None, repr=False)

    @cached_property
    def out(self) -> output.Out:
        """Results."""
        return output.Out(sys.stdout, self.color)

    @cached_property
    def err(self) -> output.Out:
        """Progress, notes, warnings and errors for people."""
        return output.Out(sys.stderr, self.color)

    @property
    def interactive(self) -> bool:
        """Whether a person can be asked something."""
        return sys.stdin.isatty() and sys.stderr.isatty()

    def client(self, *, tend: bool = True) -> Client:
        """The use cases, opened once.

        `tend`: moves that nobody runs (their process died) go on in the background first; commands that act on
        such moves themselves leave them alone.
        """
        if self._client is None:
            log.to_stderr(self.verbose)
            self._client = self.opener(self._address(), self.journal)
            self._client.poll_s = self.poll_s
            self._client.listen(self.err.note)
            if tend:
                self._tend(self._client)
        return self._client

    def name_host(self, *, uri: str | None = None, host: str | None = None, typed: bool) -> None:
        """Take one of --uri and --host. What was typed goes before a variable, and BLOCKFERRY_HOST before _URI.

        Raises UsageError when both were typed.
        """
        if not typed and (self.host_typed or self.host is not None):
            return
        other = self.host if uri is not None else self.uri
        if typed and self.host_typed and other is not None:
            raise UsageError("--uri and --host both say which host is meant.", "Leave one of them out.")
        self.uri, self.host, self.host_typed = uri, host, typed

    def _address(self) -> str | None:
        """The URI of the host that was named; None: as configured."""
        if self.host is None:
            return self.uri
        config = load_config()
        entry = config.address(self.host)
        names = [host.name for host in config.hosts]
        if names and self.host not in names:
            self.err.note(f"{self.host} is no configured host ({', '.join(names)}); it is taken as {entry.uri}")
        return entry.uri

    def _tend(self, client: Client) -> None:
        for summary in client.interrupted():
            name = f"move {summary.id} of {summary.plan.vm} was interrupted"
            try:
                client.start(summary.id)
            except (BlockferryError, OSError) as error:
                # The command that was asked for is not hurt by it.
                self.err.note(f"{name} and could not be taken up again: {error}")
            else:
                self.err.note(f"{name}; it goes on in the background (blockferry watch {summary.id})")

    def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()


pass_app = click.make_pass_decorator(App, ensure=True)
