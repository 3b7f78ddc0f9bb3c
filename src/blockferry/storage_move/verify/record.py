"""What a move remembers of the backup export that `--verify` compares with."""

from __future__ import annotations

import enum
from dataclasses import dataclass

COMPARISON_CANCELLED = "it was cancelled"
"""Why a disk was not compared, when its user did not want to wait for that."""


class BackupExport(enum.Enum):
    """The frozen content of the new disks as they were at the switch: a pull-mode backup that nobody pulls but we."""

    NONE = "none"
    PREPARED = "prepared"  # its scratch files are there; it is taken in the suspension, and counts when noted
    READY = "held"  # proof: it was taken while the VM stood still after the switch
    ENDED = "ended"  # it is over, its files are gone


@dataclass(frozen=True, slots=True)
class ExportRecord:
    """The backup export of this move."""

    state: BackupExport = BackupExport.NONE
    incarnation: int = -1  # libvirt's domain id when it was prepared: it dies with its QEMU
    socket: str = ""
