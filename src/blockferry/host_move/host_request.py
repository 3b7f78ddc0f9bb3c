"""What a user asks of a move to another host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HostMoveRequest:
    """`vm`: name or UUID. `to`: datastore of the destination for all disks whose storage it does not share; `disks`:
    target -> datastore, for single ones. `address`: by which the source's QEMU reaches the destination, `peer`: libvirt
    URI by which its libvirtd does; "": both follow from the destination's own URI. Bytes/s, milliseconds; 0: no limit.
    """

    vm: str
    to: str = ""
    disks: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    peer: str = ""
    keep_source: bool = False
    bandwidth: int = 0
    downtime_ms: int = 0
    thick: bool = False
