"""What a plan says of the speed of its copies."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.storage_move.request import COPY_BUFFER, IfNotConverging, LatencyContract


@dataclass(frozen=True, slots=True)
class PacePlan:
    """How fast the disks are copied, and what is done for the guest and when it outruns the copy."""

    bandwidth: int = 0  # bytes/s for all disks together, 0 unlimited
    buffer: int = COPY_BUFFER  # bytes that QEMU copies in one go
    contract: LatencyContract | None = None
    if_not_converging: IfNotConverging = IfNotConverging.WAIT  # never AUTO: that is decided in the pre-check
    background_only: bool = False  # a defect of the host's QEMU forbids synchronous copies (hosts/defects.py)
