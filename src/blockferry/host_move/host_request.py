"""What a user asks of a move to another host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from blockferry.storage_move.request import SourcePolicy


@dataclass(frozen=True, slots=True)
class HostMoveRequest:
    """`vm`: name or UUID; `to_host`: name of a host, or its libvirt URI.

    `to`: datastore of the destination for all disks whose storage it does not share; `disks`: target -> datastore, for
    single ones. `address`: by which the source's QEMU reaches the destination, `peer`: libvirt URI by which its
    libvirtd does; "": both follow from the destination's own URI. Bytes/s, milliseconds; 0: no limit.
    `networks`: network, bridge or device of the VM -> its name at the destination.
    """

    vm: str
    to_host: str = ""
    to: str = ""
    disks: Mapping[str, str] = field(default_factory=dict)
    address: str = ""
    peer: str = ""
    source: SourcePolicy = field(default_factory=SourcePolicy)
    bandwidth: int = 0
    downtime_ms: int = 0
    auto_converge: bool = False
    channels: int = 0  # connections for the memory; 0: one
    compression: str = ""  # of the memory: one of base/config.py's; "": none
    thick: bool = False
    tls: str = "auto"  # or "off": as the configuration says (base/config.py)
    require_tls: bool = False
    networks: Mapping[str, str] = field(default_factory=dict)
    storage_first: bool = False  # the disks of a running VM go before it, below overlays
    any_network: bool = False  # `networks` is for many VMs, of which this one need not be on each
