"""Whether QEMU really uses the new images after a switch, judged by its own block graph. Pure.

libvirt's XML says what libvirt believes. With a filter node above the old image (copy-on-read) a pivot succeeds, the
XML names the new image, and QEMU goes on writing to the old one (docs/defects.md, LIBVIRT_COPY_ON_READ). So before
anything old is released, and before the configuration is written, QEMU itself is asked.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field

from blockferry.hosts.block_graph import BlockGraph, GraphDisk, GraphNode
from blockferry.hosts.exports import is_export
from blockferry.hosts.inventory import Vm
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.plan import Plan


@dataclass(frozen=True, slots=True)
class GraphView:
    """QEMU's block graph in the words of a plan.

    `wrong` is an alarm: the guest's writes go to that image, whatever libvirt says. `doubt` says why nothing could be
    proven; then the old files are kept. With neither, each disk's root is its new image and no old image is open for
    writing.
    """

    roots: Mapping[str, str] = field(default_factory=dict)  # target -> path of the image that takes the guest's writes
    wrong: Mapping[str, str] = field(default_factory=dict)  # the same, of disks that are not on their new image
    doubt: str = ""

    @property
    def proven(self) -> bool:
        return not self.wrong and not self.doubt


PROVEN = GraphView()


def judge(plan: Plan, graph: BlockGraph, aliases: Mapping[str, str]) -> GraphView:
    """Compare QEMU's graph with a plan all of whose disks libvirt names at the destination.

    `aliases`: target -> libvirt's name of the device.
    """
    roots: dict[str, str] = {}
    wrong: dict[str, str] = {}
    doubts: list[str] = []
    for disk in plan.disks:
        device = _device(graph, disk, aliases.get(disk.target, ""))
        root = device.root if device is not None else None
        if root is None:
            doubts.append(f"QEMU shows no image of {disk.target}")
            continue
        roots[disk.target] = root.path
        if _among(root.path, old_images(disk)):
            wrong[disk.target] = root.path
        elif is_export(disk.dest.path):
            if root.path:
                wrong[disk.target] = root.path
        elif not root.path or root.path.startswith("/dev/fdset/"):
            doubts.append(f"QEMU does not tell the file of {disk.target} ({root.filename or root.driver})")
        elif not _among(root.path, new_images(disk)):
            wrong[disk.target] = root.path
    writable = graph.writable()
    left = [path for disk in plan.disks for path in old_images(disk) if posixpath.normpath(path) in writable]
    if left and not wrong:
        doubts.append(f"QEMU still has {', '.join(left)} open for writing, although no disk uses it any more")
    return GraphView(roots, wrong, "; ".join(doubts))


def new_images(disk: DiskPlan) -> tuple[str, ...]:
    return tuple(path for path in (disk.dest.path, disk.overlays.dest) if path)


def old_images(disk: DiskPlan) -> tuple[str, ...]:
    """The local files or devices that the disk was on before the switch."""
    return tuple(path for path in (disk.source.path, disk.overlays.source) if path and not is_export(path))


def differing(vm: Vm, graph: BlockGraph) -> dict[str, str]:
    """Disks of a running VM that QEMU has on another image than libvirt's live XML says: target -> that image."""
    found = {}
    for disk in vm.disks:
        path = disk.live.path if disk.live is not None and disk.live.kind in ("file", "block") else None
        device = next((graph_disk for graph_disk in graph.disks if disk.alias and graph_disk.alias == disk.alias), None)
        root: GraphNode | None = device.root if device is not None else None
        if path is None or root is None or not root.path or root.path.startswith("/dev/fdset/"):
            continue
        if not _among(root.path, (path,)):
            found[disk.target] = root.path
    return found


def _device(graph: BlockGraph, disk: DiskPlan, alias: str) -> GraphDisk | None:
    by_alias = next((graph_disk for graph_disk in graph.disks if alias and graph_disk.alias == alias), None)
    return by_alias or graph.on((*new_images(disk), *old_images(disk)))


def _among(path: str, paths: tuple[str, ...]) -> bool:
    return bool(path) and posixpath.normpath(path) in {posixpath.normpath(one) for one in paths}
