"""What the content of a VM's disks takes at the destination, measured on the host. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from blockferry.base.errors import HostCommandFailed, ImageUnreadable
from blockferry.hosts.exports import is_export
from blockferry.hosts.helper import paths
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import Datastore, Image, Vm
from blockferry.hosts.path_facts import PathFacts
from blockferry.hosts.runner import Runner
from blockferry.storage_move.facts import Measured
from blockferry.storage_move.request import MoveRequest


def measured(
    runner: Runner, vm: Vm, chains: Mapping[str, tuple[Image, ...]], request: MoveRequest
) -> dict[str, Measured]:
    """What the content of each disk that is asked to move takes; of its lower layers too, where they are kept."""
    found: dict[str, Measured] = {}
    for target, chain in chains.items():
        disk = vm.disk(target)
        if not chain or request.disks.get(target, request.to) is None or disk is None or disk.encrypted:
            continue
        if any(image.encrypted or is_export(image.path) for image in chain):
            continue
        shallow = request.chain.keeps_layers and len(chain) > 1
        try:
            found[target] = _measure(runner, chain[0], request, alone=shallow)
            for image in chain[1:] if shallow else ():
                if image.path not in found:
                    found[image.path] = _measure(runner, image, request, alone=True)
        except (ImageUnreadable, HostCommandFailed):
            continue  # what is allocated counts then
    return found


def _measure(runner: Runner, image: Image, request: MoveRequest, *, alone: bool) -> Measured:
    """`data` by clusters of the usual size, whatever those of the new image are."""
    plain = qemu_img.measure(runner, image.path, image.format, alone=alone)
    as_it_was = image.cluster_size if image.format == "qcow2" else None
    options = qemu_img.creation_options("off", request.cluster_size or as_it_was)
    made = qemu_img.measure(runner, image.path, image.format, options, alone=alone) if options else plain
    return Measured(plain.data(image.virtual_size), made.required, made.fully_allocated)


def no_holes(
    runner: Runner,
    vm: Vm,
    stores: Iterable[Datastore],
    looks: Mapping[str, PathFacts],
    chains: Mapping[str, tuple[Image, ...]],
    request: MoveRequest,
) -> frozenset[str]:
    """The destinations on which QEMU cannot leave holes in a raw file; only looked at where that matters."""
    raw = request.format == "raw" or any(chain and chain[0].format == "raw" for chain in chains.values())
    if not vm.state.active or not raw or request.format not in (None, "raw"):
        return frozenset()
    usable = {
        store.path: store.name
        for store in stores
        if store.path and (look := looks.get(store.path)) and look.kind == "directory" and look.writable
    }
    try:
        return frozenset(usable[path] for path, can in paths.holes(runner, usable).items() if can is False)
    except HostCommandFailed:
        return frozenset()
