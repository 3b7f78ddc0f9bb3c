"""What a move to another host cannot do yet: pure, from what is known of the VM. Not the pre-check of both hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from blockferry.hosts.inventory import Disk, PowerState, Vm


def unsupported(vm: Vm, layers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Return (code, sentence) for each reason. `layers`: target -> images in the backing chain."""
    if not vm.persistent:
        yield "HOST_TRANSIENT", f"{vm.name} has no persistent definition; such VMs cannot go to another host yet."
    if vm.nvram or vm.config_nvram:
        yield "HOST_UEFI", f"{vm.name} has UEFI variables in a file; they cannot go to another host yet."
    if vm.tpm:
        yield "HOST_TPM", f"{vm.name} has a TPM; its state cannot go to another host yet."
    if vm.snapshots:
        yield "HOST_SNAPSHOTS", f"{vm.name} has snapshots ({', '.join(vm.snapshots)}); libvirt migrates no such VM."
    if vm.checkpoints:
        yield "HOST_CHECKPOINTS", f"{vm.name} has checkpoints ({', '.join(vm.checkpoints)}); they would be lost."
    if vm.has_managed_save:
        yield (
            "HOST_SAVED",
            f"{vm.name} is saved to a memory file; start it, or remove that (`virsh managedsave-remove`).",
        )
    if vm.job or vm.mark:
        yield "HOST_BUSY", f"{vm.name} is in another job ({vm.job or f'move {vm.mark}'}); wait for it."
    if vm.state not in (PowerState.RUNNING, PowerState.PAUSED, PowerState.OFF):
        yield "HOST_STATE", f"{vm.name} is {vm.state.value}; only running, paused and off VMs move."
    for disk in vm.disks:
        yield from _disk(vm, disk, layers)


def _disk(vm: Vm, disk: Disk, layers: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    if disk.source is None:
        return  # an empty drive
    if disk.live is not None and disk.config is not None and disk.live.path != disk.config.path:
        yield "HOST_CONFIG", f"Disk {disk.target} of {vm.name} is another file in the persistent configuration."
    if disk.mirror is not None or disk.other_job is not None:
        yield "HOST_BUSY", f"A block job runs on disk {disk.target} of {vm.name}; wait for it."
    if disk.encrypted or disk.sliced or disk.transient or disk.shareable:
        yield "HOST_DISK", f"Disk {disk.target} of {vm.name} is of a kind that cannot go to another host yet."
    if layers.get(disk.target, 1) > 1:
        yield "HOST_CHAIN", f"Disk {disk.target} of {vm.name} stands on a backing file; such disks cannot go yet."


def cached(vm: Vm, disk: Disk) -> Iterator[tuple[str, str]]:
    """Return why a disk on shared storage is not safe there: what one host caches, the other does not see."""
    if vm.state.active and not disk.read_only and disk.cache not in ("none", "directsync"):
        yield (
            "HOST_CACHE",
            f"Disk {disk.target} of {vm.name} is on shared storage with cache={disk.cache or 'writeback'}: the other "
            "host may read old data. Set cache='none' and start it anew.",
        )


def travels(disk: Disk) -> bool:
    """Return whether the content of this disk may have to go along: a plain image in a file."""
    return disk.device == "disk" and disk.source is not None and disk.source.kind == "file"
