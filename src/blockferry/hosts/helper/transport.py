"""How a program is started on a host: as a child of ours, or by the system's ssh. Argument lists only."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

LANGUAGE = {"LC_ALL": "C.UTF-8", "LANGUAGE": ""}
"""Messages in English, for people who search for them; nothing is decided by them. LANGUAGE alone would override
LC_ALL (gettext does so for every locale but plain C)."""
SECRETS = ("BLOCKFERRY_JOURNAL", "PGPASSWORD")
"""Variables that no program on a host has any use for."""


def environment() -> dict[str, str]:
    """The environment of what we start: ours, without secrets, in English."""
    return {**{name: value for name, value in os.environ.items() if name not in SECRETS}, **LANGUAGE}


class Transport(Protocol):
    """The way to a host."""

    @property
    def uri(self) -> str:
        """The host, for error sentences."""
        ...

    @property
    def silence_s(self) -> float:
        """After so many seconds without a word from us a helper ends itself; 0 where the end of its input is sure."""
        ...

    def command(self, argv: Sequence[str]) -> list[str]:
        """The argument list, for this machine, that runs `argv` on the host."""
        ...

    def env(self) -> Mapping[str, str]:
        """The environment in which `command` is run."""
        ...


@dataclass(frozen=True, slots=True)
class Local:
    """This machine. A pipe's end is seen at once, whoever dies."""

    uri: str = "qemu:///system"
    silence_s: float = 0.0

    def command(self, argv: Sequence[str]) -> list[str]:
        """See Transport."""
        return list(argv)

    def env(self) -> Mapping[str, str]:
        """See Transport."""
        return environment()


@dataclass(frozen=True, slots=True)
class Ssh:
    """Another machine by the system's ssh, which must get in without asking for anything.

    A link that is cut sends no end of input: sshd notices after hours (TCPKeepAlive). So the helper ends itself when
    it has heard nothing for `silence_s`; a session says something every few seconds.
    """

    host: str
    user: str | None = None
    port: int | None = None
    keyfile: str | None = None
    verify_host: bool = True
    program: str = "ssh"
    silence_s: float = 120.0

    @property
    def uri(self) -> str:
        """See Transport."""
        where = f"{self.user}@{self.host}" if self.user else self.host
        return f"qemu+ssh://{where}{f':{self.port}' if self.port else ''}/system"

    def options(self) -> list[str]:
        """ssh's options, without the program's name; ssh takes the first value it meets for an option."""
        words = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
        words += ["-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4"]
        words += [] if self.verify_host else ["-o", "StrictHostKeyChecking=no"]
        for option, value in (("-l", self.user), ("-p", self.port), ("-i", self.keyfile)):
            words += [option, str(value)] if value else []
        return words

    @staticmethod
    def remote(argv: Sequence[str]) -> str:
        """The command line for the remote user's shell, every word quoted."""
        return shlex.join(["env", *(f"{name}={value}" for name, value in LANGUAGE.items()), *argv])

    def command(self, argv: Sequence[str]) -> list[str]:
        """See Transport. A connection of its own: sshd allows ten commands on a shared one (MaxSessions)."""
        own = ["-o", "ControlPath=none", "-o", "ControlMaster=no"]
        return [self.program, *own, *self.options(), "--", self.host, self.remote(argv)]

    def env(self) -> Mapping[str, str]:
        """See Transport."""
        return environment()
