"""What a plan says of the VM's firmware: UEFI variables (NVRAM), the managed save that moves them, the TPM's state."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ManagedSavePlan:
    """A running VM saved to a memory file and restored, to change a path that QEMU has open. Bytes, bytes/s, seconds.

    `rate`: what the image's storage was measured to write just before.
    """

    image: str  # libvirt's managed save image of the VM
    memory: int
    rate: float
    expected_s: float


@dataclass(frozen=True, slots=True)
class NvramPlan:
    """The UEFI variables (NVRAM): from where to where, once the VM is off. `size` is bytes.

    Never part of the home's files: those are copied first, and the VM may run and write its variables after that.
    """

    source: str
    dest: str
    size: int
    now: ManagedSavePlan | None = None  # the VM runs, and is held for a moment to change their place


@dataclass(frozen=True, slots=True)
class FirmwarePlan:
    """What becomes of the firmware's files."""

    nvram: NvramPlan | None = None  # None: there is none, or it stays
    vtpm: str | None = None  # where the host keeps the state of the VM's TPM; it stays there
