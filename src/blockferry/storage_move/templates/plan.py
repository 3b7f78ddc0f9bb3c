"""What a plan says of a disk's backing chain: the layers that are copied, and those that a template stands in for."""

from __future__ import annotations

from dataclasses import dataclass

from blockferry.base.units import format_duration


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """A lower, immutable layer of a backing chain that is copied as a layer (`--chain keep`)."""

    source: str
    source_format: str
    dest: str
    dest_format: str
    virtual_size: int
    allocation: int
    data: int = -1  # bytes that are read and written; -1: not measured
    required: int = -1  # bytes that the new image takes

    @property
    def copy_bytes(self) -> int:
        return self.allocation if self.data < 0 else self.data


@dataclass(frozen=True, slots=True)
class ReusedLayer:
    """An image at the destination that takes the place of a lower layer, and of all below that. Never ours to remove.

    It was compared with the layer while both had these fingerprints (path -> fingerprint, all files that they consist
    of). Bytes, seconds.
    """

    source: str
    path: str
    format: str
    virtual_size: int
    saved: int  # what would have been copied
    prints: dict[str, str]
    source_prints: dict[str, str]
    seconds: float = 0.0  # what comparing took
    known: bool = False  # they were compared by an earlier move, and have not changed since

    @property
    def evidence(self) -> str:
        """How it is known that both read the same, a clause."""
        if self.known:
            return "same content, known: neither has changed since an earlier move compared them"
        return f"same content, compared in {format_duration(self.seconds)}"


@dataclass(frozen=True, slots=True)
class ChainPlan:
    """What the new top image stands on."""

    layers: tuple[LayerPlan, ...] = ()  # copied, top first
    backing: tuple[str, str] | None = None  # (path, format) that the new top layer stands on
    stays_below: tuple[str, str] | None = None  # (path, format) of the first layer that stays where it is, or is reused
    reused: ReusedLayer | None = None  # what `backing`, or the lowest of `layers`, stands on instead of a copy
