"""What QEMU's own block graph says: which image each disk reads and writes, and what else is open. Pure.

libvirt's XML is libvirt's belief; this is QEMU's answer to `query-block` and `query-named-block-nodes` (QEMU's QMP
reference manual, block-core.json). Whoever asks it is in hosts/libvirt (through libvirt) and hosts/helper (past it).

Facts that this rests on, recorded from QEMU 7.2 (tests/unit/data/block-graph):
- `query-block` names, for each device, the node that the device uses. The filter that a mirror or commit job puts
  above it is skipped; a copy-before-write filter (backup) and a copy-on-read filter are not.
- `ro` of a format node says whether QEMU may write to the image. That of the protocol node below it
  ("libvirt-3-storage") says nothing: it is "auto-read-only".
- An image with options of its own (LUKS, slices) has a `json:` filename, below which the path is to be looked for.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FILTERS = frozenset(
    {
        "blkdebug",
        "blklogwrites",
        "blkverify",
        "commit_top",
        "compress",
        "copy-before-write",
        "copy-on-read",
        "mirror_top",
        "preallocate",
        "replication",
        "snapshot-access",
        "throttle",
        "backup-top",
    }
)
"""Drivers that hold no data of their own: what is read or written goes on to the node below."""

PROTOCOLS = frozenset({"file", "host_device", "host_cdrom", "nbd", "rbd", "iscsi", "http", "https", "ftp", "ftps"})
PROTOCOLS |= {"nfs", "ssh", "gluster", "nvme", "nvme-io_uring", "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa"}
PROTOCOLS |= {"io_uring", "null-co", "null-aio", "vvfat", "virtio-blk-vfio-pci"}
"""Drivers that reach the storage itself; an image's format node stands on one."""

_LOCAL = frozenset({"file", "host_device", "host_cdrom"})


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One image that QEMU has open. `path` "": it is no local file or block device."""

    name: str
    driver: str  # qcow2, raw, luks ...
    path: str
    writable: bool
    filename: str = ""  # as QEMU says it; may be `json:{...}`, `nbd://...`


@dataclass(frozen=True, slots=True)
class GraphDisk:
    """One device of the guest, and the images below it.

    `chain`: the root first, then its backing images; empty for a drive without a medium. `filters`: drivers of
    filter nodes that the device stands on or that stand directly above its root: a job's ("mirror_top"), a backup's
    ("copy-before-write"), the user's ("copy-on-read").
    """

    qdev: str  # /machine/peripheral/virtio-disk0/virtio-backend, scsi0-0-0-0
    chain: tuple[GraphNode, ...]
    filters: tuple[str, ...] = ()

    @property
    def alias(self) -> str:
        """libvirt's alias of the device ("virtio-disk0"), "" when it cannot be told."""
        parts = self.qdev.split("/")
        return parts[3] if self.qdev.startswith("/machine/peripheral/") and len(parts) > 3 else self.qdev

    @property
    def root(self) -> GraphNode | None:
        """The image that takes the guest's writes."""
        return self.chain[0] if self.chain else None


@dataclass(frozen=True, slots=True)
class BlockGraph:
    """All of one QEMU. `loose`: images that are open below no device: the target of a mirror, one left behind."""

    disks: tuple[GraphDisk, ...]
    loose: tuple[GraphNode, ...] = ()

    def on(self, paths: Iterable[str]) -> GraphDisk | None:
        """The disk whose root is one of these files."""
        wanted = {posixpath.normpath(path) for path in paths if path}
        return next((disk for disk in self.disks if disk.root and _norm(disk.root.path) in wanted), None)

    def writable(self) -> frozenset[str]:
        """Paths of all images that QEMU has open for writing, wherever they hang."""
        nodes = [node for disk in self.disks for node in disk.chain] + list(self.loose)
        return frozenset(_norm(node.path) for node in nodes if node.path and node.writable)


def read(block: Sequence[Mapping[str, Any]], named: Sequence[Mapping[str, Any]]) -> BlockGraph:
    """What the answers ("return") to `query-block` and to `query-named-block-nodes` amount to.

    Raises ValueError for answers of another form.
    """
    try:
        nodes = {str(mapping["node-name"]): mapping for mapping in named}
        disks = tuple(_disk(mapping, nodes) for mapping in block)
        held = {node.name for disk in disks for node in disk.chain}
        loose = tuple(_node(one) for name, one in nodes.items() if name not in held and _is_image(one, nodes))
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not an answer of QEMU's: {error!r}") from None
    return BlockGraph(disks, loose)


def _is_image(one: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a node is an image by itself: a format node, or a raw file that newer libvirt opens without one."""
    if one["drv"] not in (FILTERS | PROTOCOLS):
        return True
    path = _path(one)
    formats = (other for other in nodes.values() if other["drv"] not in (FILTERS | PROTOCOLS))
    return one["drv"] in _LOCAL and bool(path) and all(_path(other) != path for other in formats)


def _disk(device: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> GraphDisk:
    qdev = str(device.get("qdev") or device.get("device") or "")
    inserted = device.get("inserted")
    if inserted is None:
        return GraphDisk(qdev, ())
    top = nodes.get(str(inserted.get("node-name")), inserted)
    filters = [str(top["drv"])] if top["drv"] in FILTERS else []
    root = _below(top, nodes) if filters else top
    if root is None:
        return GraphDisk(qdev, (_node(top),), tuple(filters))
    chain = [_node(root)]
    image: Any = root.get("image", {}).get("backing-image")
    while image is not None:
        chain.append(_find(image, nodes, {node.name for node in chain}))
        image = image.get("backing-image")
    for mapping in nodes.values():
        if mapping["drv"] in FILTERS and mapping is not top and _path(mapping) == chain[0].path and chain[0].path:
            filters.append(str(mapping["drv"]))
    return GraphDisk(qdev, tuple(chain), tuple(filters))


def _below(top: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The image below a filter node: QEMU gives a filter the filename of what it stands on."""
    found = [
        node
        for node in nodes.values()
        if node["drv"] not in (FILTERS | PROTOCOLS) and _path(node) and _path(node) == _path(top)
    ]
    return found[0] if len(found) == 1 else None


def _find(image: Mapping[str, Any], nodes: Mapping[str, Mapping[str, Any]], taken: set[str]) -> GraphNode:
    filename = str(image.get("filename", ""))
    path = local_path(filename)
    for node in nodes.values():
        format_node = node["drv"] == image.get("format") and str(node["node-name"]) not in taken
        if format_node and (_path(node) == path if path else _filename(node) == filename):
            return _node(node)
    return GraphNode("", str(image.get("format", "")), path, False, filename)  # a backing image that QEMU gave no name


def _node(one: Mapping[str, Any]) -> GraphNode:
    return GraphNode(str(one.get("node-name", "")), str(one["drv"]), _path(one), not one["ro"], _filename(one))


def _filename(one: Mapping[str, Any]) -> str:
    return str(one.get("image", {}).get("filename") or one.get("file") or "")


def _path(one: Mapping[str, Any]) -> str:
    return local_path(_filename(one))


def local_path(filename: str) -> str:
    """The local file or block device that a filename of QEMU's means, "" for any other."""
    if filename.startswith("json:"):
        try:
            options = json.loads(filename.removeprefix("json:"))
        except ValueError:
            return ""
        while isinstance(options, dict):
            if options.get("driver") in _LOCAL:
                return str(options.get("filename", ""))
            if "file" not in options and "file.filename" in options:
                return str(options["file.filename"]) if options.get("file.driver", "file") in _LOCAL else ""
            options = options.get("file")
        return ""
    for driver in _LOCAL:
        if filename.startswith(f"{driver}:"):
            return filename.removeprefix(f"{driver}:")
    return filename if filename.startswith("/") else ""


def _norm(path: str) -> str:
    return posixpath.normpath(path) if path else ""
