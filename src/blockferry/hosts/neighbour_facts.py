"""What two hosts are to each other: clocks, names, ports, certificates. Frozen; seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClockSeen:
    """A host's clock against this machine's. Seconds: how much it is ahead, and how wrong that may be."""

    ahead: float
    doubt: float


@dataclass(frozen=True, slots=True)
class NamesSeen:
    """A host's own name, the addresses that it resolves that to, and those of its peer's name."""

    name: str
    own: tuple[str, ...]
    peer: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Certificate:
    """A file of TLS. `errno` 0: it is there. `since`, `until`: seconds since the epoch, -1: no certificate."""

    path: str
    errno: int
    since: float = -1.0
    until: float = -1.0
    names: tuple[str, ...] = ()
    curve: bool = False


@dataclass(frozen=True, slots=True)
class PortTrial:
    """What came of connecting from one host to listeners on another.

    `ports`: port -> errno, 0 when the answer came from that listener (EREMCHG: from somebody else). `busy`: port ->
    errno of listening. `name_error`: an EAI number when the name cannot be resolved, else 0. `address`: what was used.
    """

    host: str
    address: str
    ports: Mapping[int, int]
    busy: Mapping[int, int]
    name_error: int = 0
