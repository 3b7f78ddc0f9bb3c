"""A fault of the matrix of moves between hosts: what goes wrong, how it is put right, what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from faults.case import MOVED
from faults.host_moves import host_places

if TYPE_CHECKING:
    from faults.host_moves.host_scene import HostScene


def _nothing(_scene: HostScene) -> None:
    return


@dataclass(frozen=True, slots=True)
class HostFault:
    """`strike` finds our process stopped at the place (with `own` it runs the move itself); then it is woken and
    `heal` puts right what does not heal by itself. `prepare` comes before the move, `tidy` after the verdict.
    """

    name: str
    group: str
    what: str
    strike: Callable[[HostScene], None]
    at: Callable[[str, int], tuple[str, ...]]
    prepare: Callable[[HostScene], None] = _nothing
    heal: Callable[[HostScene], None] = _nothing
    tidy: Callable[[HostScene], None] = _nothing
    methods: tuple[str, ...] = host_places.KINDS
    ends: frozenset[str] = frozenset({MOVED})
    may_be_off: bool = False  # it ends the guest's QEMU at the destination, or with it the host
    own: bool = False
    kills: int = 0
    disks: tuple[int, ...] = (1,)
    failing_destination: bool = False  # the destination is a datastore that can be made to hang
