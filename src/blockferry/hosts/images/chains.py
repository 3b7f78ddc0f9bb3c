"""What many images of a host stand on, in one call to its helper (hosts/helper/program/image_calls.py).

For whom files belong to, and how large they are. Of an image that is to be moved more is asked
(hosts/images/qemu_img.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from blockferry.base.errors import BlockferryError, HostCommandFailed, HostUnreachable
from blockferry.hosts.helper.files import absolute
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import ChainLayer, Disk, DiskSource, ImageChain, Vm
from blockferry.hosts.runner import Runner

PATIENCE_S = 60.0

Named = tuple[str, str]
"""An image as an XML names it: path and format. The format is never guessed."""


def read(runner: Runner, images: Iterable[Named]) -> dict[Named, ImageChain]:
    """The chain of each image; one that does not answer, or cannot be read, has a problem, and so have only those.

    Takes no longer than `PATIENCE_S` and what a few unusual images need. Raises HostUnreachable.
    """
    wanted = list(dict.fromkeys(images))
    if not wanted:
        return {}
    absolute(*(path for path, _ in wanted))
    try:
        answer: list[dict[str, Any]] = runner.call("images.chains", timeout_s=PATIENCE_S, images=wanted)
    except HostUnreachable:
        raise
    except HostCommandFailed as error:  # the helper as a whole: no image is known then
        return dict.fromkeys(wanted, ImageChain(problem=error.sentence))
    return {named: _chain(runner, named[0], one) for named, one in zip(wanted, answer, strict=True)}


def of_drives(runner: Runner, vms: Iterable[Vm]) -> dict[Named, ImageChain]:
    """The chains of all disks and drives of these VMs, as they are now."""
    sources = (disk.source for vm in vms for disk in vm.disks)
    return read(runner, (named for source in sources if (named := _named(source)) is not None))


def of_disk(images: Mapping[Named, ImageChain], disk: Disk) -> ImageChain:
    """The chain of a disk; one without layers and problem when it is no image on the host."""
    named = _named(disk.source)
    return ImageChain() if named is None else images.get(named, ImageChain())


def _named(source: DiskSource | None) -> Named | None:
    if source is None or source.kind not in ("file", "block") or not (source.path or "").startswith("/"):
        return None
    assert source.path is not None
    return source.path, source.format


def _chain(runner: Runner, path: str, one: Mapping[str, Any]) -> ImageChain:
    if "layers" in one:
        return ImageChain(tuple(ChainLayer(*layer) for layer in one["layers"]))
    if "errno" in one:
        return ImageChain(problem=f"{path} does not answer ({os.strerror(one['errno'])}).")
    try:
        if "info" not in one:
            raise qemu_img.failed(path, one["status"], one["words"])
        layers = qemu_img.layers_of(runner, path, one["info"])
    except HostUnreachable:
        raise
    except BlockferryError as error:
        return ImageChain(problem=error.sentence)
    return ImageChain(
        tuple(
            ChainLayer(
                chain_image.path,
                chain_image.format,
                chain_image.virtual_size,
                chain_image.allocation,
                chain_image.parts,
            )
            for chain_image in layers
        )
    )
