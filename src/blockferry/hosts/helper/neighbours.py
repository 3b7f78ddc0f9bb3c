"""What two hosts are to each other, asked of their helpers: clocks, names, ports, certificates.

All raise HostCallFailed, HostCommandFailed (also when there is no answer in time), HostUnreachable.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts.neighbour_facts import Certificate, ClockSeen, NamesSeen, PortTrial
from blockferry.hosts.runner import Runner

_T = TypeVar("_T")

LOOK_S = 30.0
CONNECT_S = 3.0
"""A port that has not answered by then counts as closed: a firewall that drops packets says nothing."""
LISTEN_S = 45.0


def clock(runner: Runner) -> ClockSeen:
    """Compare a host's clock with ours."""
    before = time.time()
    there = float(runner.call("host.clock", timeout_s=LOOK_S))
    after = time.time()
    return ClockSeen(there - (before + after) / 2, (after - before) / 2)


def names(runner: Runner, peer: str = "") -> NamesSeen:
    answer = runner.call("host.names", timeout_s=LOOK_S, peer=peer)
    return _converted(answer, NamesSeen, "looking up names")


def links(runner: Runner) -> dict[str, str]:
    """Network device -> "bridge", "ovs" or "device"."""
    return dict(runner.call("host.links", timeout_s=LOOK_S))


def qemu_conf(runner: Runner) -> dict[str, str]:
    """The one-line settings of /etc/libvirt/qemu.conf."""
    return dict(runner.call("host.qemu_conf", timeout_s=LOOK_S))


def certificates(runner: Runner, paths: Iterable[str]) -> tuple[Certificate, ...]:
    answer = runner.call("host.certificates", timeout_s=LOOK_S, paths=list(paths))
    return _converted(answer, tuple[Certificate, ...], "reading certificates")


def bindable(runner: Runner, wanted: Sequence[tuple[str, int]]) -> tuple[int, ...]:
    """Of each (address, port; 0: any) the errno of binding to it; 0 when it can be done."""
    if not wanted:
        return ()
    return tuple(runner.call("ports.bindable", timeout_s=LOOK_S, wanted=[list(one) for one in wanted]))


def reached(runner: Runner, host: str, port: int) -> int:
    """The errno of connecting to a port that should be open; 0: somebody listens."""
    answer = runner.call("ports.connect", timeout_s=LOOK_S, host=host, ports=[port], token="", seconds=CONNECT_S)
    return int(answer["ports"].get(str(port), -1))


def try_ports(source: Runner, destination: Runner, host: str, span: tuple[int, int], *, count: int = 3) -> PortTrial:
    """Listen on ports of the destination and connect to them from the source. Nothing listens there afterwards.

    `host`: the name or address by which the source is to reach the destination; `span`: first and last port.
    """
    first, last = span
    heard = destination.call(
        "ports.listen", timeout_s=LOOK_S, repeat=False, first=first, last=last, count=count, seconds=LISTEN_S
    )
    ports = [int(one) for one in heard["ports"]]
    try:
        said = source.call(
            "ports.connect", timeout_s=LOOK_S, host=host, ports=ports, token=heard["token"], seconds=CONNECT_S
        )
    finally:
        destination.call("ports.close", timeout_s=LOOK_S, token=heard["token"])
    return PortTrial(
        host,
        str(said["address"]),
        {int(port): int(number) for port, number in said["ports"].items()},
        {int(port): int(number) for port, number in heard["refused"].items()},
        int(said["name"]),
    )


def _converted(answer: object, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(answer, type=kind)
    except msgspec.ValidationError as error:
        raise HostCommandFailed(what, 0, str(error)) from None
