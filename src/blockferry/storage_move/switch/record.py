"""What a move remembers of its switch: the suspension, the proof by QEMU's block graph, the configuration."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SwitchRecord:
    """The suspension, and the switch in it."""

    suspended: bool = False  # intent: a suspension that is ours begins (or may have begun)
    begun: bool = False  # that suspension is the switch
    attempts: int = 0
    done: bool = False  # proof: all disks were seen at the destination
    let_run: bool = False  # a VM that QEMU had paused because its storage failed was resumed, as the plan says
    name: str = ""  # of the suspension: a guard that ends it writes that down under this name


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """The proof by QEMU's block graph (graph_proof.py)."""

    proven: bool = False  # QEMU itself named the new images, and had no old one open for writing
    committed: bool = False  # the same once the overlays at the destination were committed
    doubt: str = ""  # why that cannot be proven, a clause: the old files are kept


@dataclass(frozen=True, slots=True)
class ConfigurationRecord:
    """What is written down of the VM in libvirt."""

    marked: bool = False
    bare: bool = False  # the VM's persistent XML had no <metadata> before our mark
    written: bool = False  # proof: what is written down for the next start was seen to agree
    snapshots_written: bool = False  # the snapshots' metadata names the new files
    media_tried: tuple[str, ...] = ()  # CD drives that were dealt with, one way or the other
