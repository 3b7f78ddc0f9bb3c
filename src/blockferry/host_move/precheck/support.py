"""What a move to another host cannot do yet, whatever the hosts are like. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from blockferry.host_move.precheck.catalogue import finding
from blockferry.host_move.precheck.host_move_facts import Asked, HostFacts
from blockferry.hosts.inventory import Disk, PowerState
from blockferry.storage_move.precheck.finding import Finding

FORMATS = ("raw", "qcow2")
"""Of disks whose content goes along."""

DROPS_CACHE = (4, 0, 0)
"""QEMU from this version on drops what the host has cached of an image when a guest arrives (`drop-cache`)."""


def unsupported(facts: HostFacts, asked: Asked) -> Iterator[Finding]:
    """Yield what stands against the move by itself."""
    vm = facts.vm
    if not vm.persistent:
        yield finding("VM_TRANSIENT", f"{vm.name} has no persistent definition.")
    if vm.state not in (PowerState.RUNNING, PowerState.PAUSED, PowerState.OFF):
        yield finding("VM_STATE", f"{vm.name} is {vm.state.value}.")
    if facts.under_way:
        yield finding("MOVE_UNDER_WAY", f"Move {facts.under_way} of {vm.name} is not over.")
    elif vm.mark:
        yield finding("MOVE_UNDER_WAY", f"{vm.name} bears the mark of move {vm.mark}.")
    for disk in vm.disks:
        yield from _disk(facts, asked, disk)


def _disk(facts: HostFacts, asked: Asked, disk: Disk) -> Iterator[Finding]:
    name = f"{disk.target} of {facts.vm.name}"
    if disk.source is None:
        return  # an empty drive
    if disk.live is not None and disk.config is not None and disk.live.path != disk.config.path:
        text = f"{name} is {disk.live.path}, and {disk.config.path} in the persistent configuration."
        yield finding("CONFIG_DIFFERS", text)
    if disk.encrypted:
        yield finding("ENCRYPTED_IMAGE", f"{name} is encrypted; the other host does not have its secret.")
    if disk.shareable:
        yield finding("SHARED_DISK", f"{name} is shareable: another VM may write to it.")
    if disk.transient:
        yield finding("TRANSIENT_DISK", f"{name} is transient.", "Remove <transient/>, and power-cycle the VM.")
    if disk.sliced:
        yield finding("UNSUPPORTED_SOURCE", f"The content of {name} is a part of its file (<slices>).", "")
    if disk.target in asked.disks:
        yield from _travelling(facts, disk, name)
    else:
        yield from _staying(facts, disk, name)


def _travelling(facts: HostFacts, disk: Disk, name: str) -> Iterator[Finding]:
    if disk.device != "disk" or disk.source is None or disk.source.kind != "file":
        yield finding("UNSUPPORTED_SOURCE", f"{name} is no image in a file; only those can go along.", "")
        return
    layers = facts.images.get(disk.target, ())
    if len(layers) > 1:
        yield finding("CHAIN_STAYS", f"{name} stands on the backing file {layers[1].path}.")
    for image in layers[:1]:
        if image.format not in FORMATS:
            yield finding("UNSUPPORTED_FORMAT", f"{name} is {image.format}; raw and qcow2 go to another host.")
        elif image.encrypted and not disk.encrypted:
            yield finding("ENCRYPTED_IMAGE", f"{image.path} of {name} is encrypted.")
        elif image.data_file:
            text = f"{image.path} of {name} keeps its data in {image.data_file}."
            yield finding("UNSUPPORTED_SOURCE", text, "Convert it into one file with qemu-img while the VM is off.")


def _staying(facts: HostFacts, disk: Disk, name: str) -> Iterator[Finding]:
    """What one host has cached of an image, the other must not read."""
    if not facts.vm.state.active or disk.read_only or disk.cache in ("none", "directsync", "unsafe"):
        return
    older = min(facts.running_qemu or facts.source.qemu, facts.destination.qemu)
    if disk.device in ("disk", "lun") and older < DROPS_CACHE:
        yield finding("CACHE_STALE", f"{name} stays and has cache={disk.cache or 'writeback'}.")
