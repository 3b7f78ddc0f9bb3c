"""What a move remembers of the UEFI variables (NVRAM), and of the managed save that moves them now."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ManagedSave(enum.Enum):
    """`--firmware now`: the VM is in libvirt's managed save image while its UEFI variables change their place.

    Whoever starts it meanwhile, has it go on from its memory. So it may be restored at any time, by anybody.
    """

    NONE = "none"  # a saved state, if there is one, is its owner's
    SAVING = "saving"  # intent: the next thing is, or was, the call that saves it; a saved state is ours from now on
    SAVED = "saved"  # proof: its memory is whole in the image, on stable storage


@dataclass(frozen=True, slots=True)
class NvramRecord:
    """The copy of the variables. Fingerprints: hosts/fingerprint.py."""

    pending: bool = False  # all else is done: only the UEFI variables are to follow, once the VM is off
    copied: str = ""  # proof: fingerprint of the old NVRAM that was copied
    made: str = ""  # and of the copy: another one means that the VM has run on it


@dataclass(frozen=True, slots=True)
class ManagedSaveRecord:
    """The managed save of this move."""

    state: ManagedSave = ManagedSave.NONE
    incarnation: int = -1  # libvirt's domain id before it was saved: with the same one it has never been down
    since: float = 0.0  # wall time, seconds since the epoch
    running: bool = True  # whether the guest ran: so it is restored
    fingerprint: str = ""  # which file its memory is in: another one is somebody else's saved state
    attempts: int = 0
    failed: str = ""  # why the variables do not move now, a sentence; then at the next power-off
    stood_still_s: float = 0.0
