"""What the user asks of a move, before anything is known about the host."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field


class Method(enum.Enum):
    """How the bulk gets across (DESIGN 3)."""

    AUTO = "auto"
    MIRROR = "mirror"  # synchronous writes: every write goes to both sides once its area is across
    CHANGED_BLOCKS = "changed-blocks"  # background copy, then passes over what changed
    SNAPSHOT = "snapshot"  # an overlay takes the writes, the immutable base goes across, the overlay follows
    COLD = "cold"  # the VM is off


class Provision(enum.Enum):
    """What is allocated at the destination beyond what holds data."""

    SAME = "same"
    THIN = "thin"
    THICK = "thick"


class Chain(enum.Enum):
    """What becomes of a backing chain."""

    FLATTEN = "flatten"  # one image with all content
    KEEP = "keep"  # the same layers at the destination


class OnBreak(enum.Enum):
    """What becomes of a copy that breaks."""

    AUTO = "auto"  # kept where comparing is much cheaper than copying anew, see model/resume.py
    KEEP = "keep"  # kept, also when the move is cancelled
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class SourcePolicy:
    """What happens to the old disks once it is proven that nothing needs them."""

    delete: bool = True
    keep_s: float | None = None  # seconds; None with delete=False: for ever


@dataclass(frozen=True, slots=True)
class MoveRequest:
    """One wish: this VM, to that datastore."""

    vm: str  # name or UUID
    to: str | None  # datastore for every disk without one of its own
    disks: dict[str, str] = field(default_factory=dict)  # target -> datastore
    home: str | None = None  # datastore of the home; None: where `to` is
    format: str | None = None  # None: as it is
    provision: Provision = Provision.SAME
    method: Method = Method.AUTO
    chain: Chain = Chain.FLATTEN
    bandwidth: int = 0  # bytes/s over all disks, 0 unlimited
    source: SourcePolicy = SourcePolicy()
    on_break: OnBreak = OnBreak.AUTO
    from_scratch: bool = False  # a kept partial copy is not gone on with but replaced
