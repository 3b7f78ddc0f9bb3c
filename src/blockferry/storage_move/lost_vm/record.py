"""What a move remembers of a VM that libvirt has lost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LostVm:
    """libvirt has lost the running VM (lost_vm/rules.py): what QEMU itself said of its disks, which is the truth."""

    run: str = ""  # boot id, process id and start time of its QEMU
    current: dict[str, str] = field(default_factory=dict)  # target -> the image that takes the guest's writes
    unclear: dict[str, str] = field(default_factory=dict)  # target -> a path of no file, to keep the VM from starting
    autostart: bool = False  # we have switched its autostart off
