"""What all hosts have told of their VMs and datastores, and which of them have not answered."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.errors import BlockferryError
from blockferry.storage_move.summary import VmListing


@dataclass(frozen=True, slots=True)
class FleetInventory:
    """`place`: words for the hosts that have answered. `silent`: name of each configured host that has not, and why."""

    vms: tuple[VmListing, ...]
    datastores: tuple[str, ...]
    place: str
    silent: tuple[tuple[str, BlockferryError], ...] = ()
