"""What all commands share: the global options, the output streams, and the service once it is needed."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from functools import cached_property

import click

from blockferry.base import log
from blockferry.base.errors import BlockferryError
from blockferry.cli import output, ports


@dataclass
class App:
    """One run of the program; click carries it as `ctx.obj`. Tests put an opener of their own in."""

    opener: ports.Opener = ports.open_service
    uri: str | None = None
    journal: str | None = None
    json: bool = False
    color: str = "auto"
    verbose: int = 0
    poll_s: float = 0.5  # how often a move that another process runs is looked at
    _service: ports.Service | None = field(default=None, repr=False)

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

    def service(self, *, tend: bool = True) -> ports.Service:
        """The engine's use cases, opened once.

        `tend`: moves that nobody runs (their process died) go on in the background first; commands that act on
        such moves themselves leave them alone.
        """
        if self._service is None:
            log.to_stderr(self.verbose)
            self._service = self.opener(self.uri, self.journal)
            self._service.listen(self.err.note)
            if tend:
                self._tend(self._service)
        return self._service

    def _tend(self, service: ports.Service) -> None:
        for summary in service.interrupted():
            name = f"move {summary.id} of {summary.plan.vm} was interrupted"
            try:
                service.spawn(summary.id)
            except (BlockferryError, OSError) as error:
                # The command that was asked for is not hurt by it.
                self.err.note(f"{name} and could not be taken up again: {error}")
            else:
                self.err.note(f"{name}; it goes on in the background (blockferry watch {summary.id})")

    def close(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            service.close()


pass_app = click.make_pass_decorator(App, ensure=True)
