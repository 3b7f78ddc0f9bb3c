"""Checkpoints of a VM, and the pull-mode backup through which their bitmaps are read.

https://libvirt.org/formatcheckpoint.html, https://libvirt.org/formatbackup.html. What we note at a point stands in the
checkpoint's own `<description>`: made in the same call, kept where the checkpoint is kept, gone when it is gone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import libvirt
import msgspec
from lxml import etree

from blockferry.base.errors import LibvirtFailed
from blockferry.hosts.libvirt import domain_list, domain_xml
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.tracking_points import NotedDisk, Point, PointNote, Present

NOTE_PREFIX = "blockferry tracking 1: "
"""What our descriptions begin with; the number grows when the JSON after it changes its meaning."""

BITMAP = "changes"
"""Under this name a backup job shows what has changed: `qemu:dirty-bitmap:changes`."""

INCONSISTENT = "VIR_ERR_CHECKPOINT_INCONSISTENT"
"""libvirt's word for a bitmap that is missing, or that QEMU found in use when it opened the image (a crash)."""


class Checkpoints:
    """One VM's. Every method may raise HostUnreachable or LibvirtFailed."""

    def __init__(self, connection: Connection, uuid: str, name: str) -> None:
        self.connection = connection
        self.uuid = uuid
        self.name = name

    def _domain(self) -> libvirt.virDomain:
        return self.connection.raw.lookupByUUIDString(self.uuid)

    def present(self, run: str | None) -> Present:
        """The disks as they are now: of a running VM with their nodes and the sizes that QEMU has."""
        with self.connection.doing(f"look at VM {self.name}"):
            domain = self._domain()
            state, _ = domain_list.power_state(domain)
            if not state.active:
                return Present(state, None, ())
            found = []
            for target, path, node in nodes(domain.XMLDesc(0)):
                try:
                    size = int(domain.blockInfo(target, 0)[0])
                except libvirt.libvirtError:
                    continue  # it has gone this moment: then it is not there
                found.append(NotedDisk(target, path, node, size))
            return Present(state, run, tuple(found))

    def points(self) -> tuple[Point, ...]:
        """All checkpoints, oldest first, ours and others'."""
        with self.connection.doing(f"list the checkpoints of VM {self.name}"):
            domain = self._domain()
            active = domain_list.power_state(domain)[0].active
            found = []
            for checkpoint in domain.listAllCheckpoints(0):
                flags = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE if active else 0
                try:
                    xml = checkpoint.getXMLDesc(flags | libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN)
                    found.append(parse(xml, sizes=active))
                except libvirt.libvirtError as error:
                    if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
                        continue
                    if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # the VM went off this moment
                        raise
                    found.append(parse(checkpoint.getXMLDesc(libvirt.VIR_DOMAIN_CHECKPOINT_XML_NO_DOMAIN), sizes=False))
        return tuple(sorted(found, key=lambda point: point.order))

    def create(self, id: str, note: PointNote) -> None:
        """Begin a bitmap for each disk of the note, all in one instant."""
        with self.connection.doing(f"make the checkpoint {id} of VM {self.name}"):
            domain = self._domain()
            domain.checkpointCreateXML(checkpoint_xml(id, note, _targets(domain)), 0)

    def delete(self, point: Point) -> None:
        """Drop a checkpoint with its bitmaps; bitmaps that are gone already are no hindrance. The VM runs.

        libvirt refuses to delete a checkpoint of which one bitmap is not there, and leaves the others with it; a broken
        one (in use when QEMU died) has no size either, but is deleted. So with doubts each disk is tried by itself.
        """
        with self.connection.doing(f"drop the checkpoint {point.id} of VM {self.name}"):
            domain = self._domain()
            checkpoint = domain.checkpointLookupByName(point.id, 0)
            if None not in point.bitmaps.values():
                checkpoint.delete(0)
                return
            xml = checkpoint.getXMLDesc(0)
            for target in point.targets:
                alone = without(xml, set(point.targets) - {target})
                one = domain.checkpointCreateXML(alone, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
                try:
                    one.delete(0)
                except libvirt.libvirtError:
                    if point.bitmaps.get(target) is not None:
                        raise
                    one.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)

    def forget(self, id: str) -> None:
        """Drop a checkpoint's metadata only."""
        with self.connection.doing(f"forget the checkpoint {id} of VM {self.name}"):
            checkpoint = self._domain().checkpointLookupByName(id, 0)
            checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)

    def begin(self, since: str, socket: str, scratch: Mapping[str, str], mark: tuple[str, PointNote] | None) -> None:
        """Freeze what has changed on the disks in `scratch` (target -> file that libvirt makes and removes).

        It is shown on `socket`: each disk an export of its name, with the bitmap BITMAP. With `mark` a new checkpoint
        is made at the very same instant.
        """
        with self.connection.doing(f"ask for the changes of VM {self.name} since {since}"):
            domain = self._domain()
            every = _targets(domain)
            new = None if mark is None else checkpoint_xml(*mark, every)
            domain.backupBegin(backup_xml(since, socket, scratch, every), new, 0)


def inconsistent(error: LibvirtFailed) -> bool:
    """Whether libvirt says that a bitmap is missing or broken."""
    return error.libvirt_code == INCONSISTENT


def _targets(domain: libvirt.virDomain) -> list[str]:
    return [disk.target for disk in domain_xml.parse(domain.XMLDesc(0)).disks if disk.source is not None]


def _encode(note: PointNote) -> str:
    return NOTE_PREFIX + msgspec.json.encode(note).decode()


def nodes(xml: str) -> list[tuple[str, str, str]]:
    """(target, path, number of the block node) of each disk of a live XML that has a path."""
    found = []
    for disk in etree.fromstring(xml.encode()).iterfind("./devices/disk"):
        target, source = disk.find("target"), disk.find("source")
        if target is None or source is None or disk.get("device", "disk") != "disk":
            continue
        path = source.get("file") or source.get("dev")
        if path:
            found.append((target.get("dev", ""), path, source.get("index", "")))
    return found


def parse(xml: str, *, sizes: bool) -> Point:
    """A checkpoint's XML. `sizes`: it was asked for with them, so a disk without one has no bitmap."""
    root = etree.fromstring(xml.encode())
    disks = [disk for disk in root.iterfind("./disks/disk") if disk.get("checkpoint") == "bitmap"]
    return Point(
        id=root.findtext("name") or "",
        created=float(root.findtext("creationTime") or 0),
        targets=tuple(disk.get("name", "") for disk in disks),
        note=_decode(root.findtext("description") or ""),
        bitmaps={disk.get("name", ""): _number(disk.get("size")) for disk in disks} if sizes else {},
    )


def _number(text: str | None) -> int | None:
    return None if text is None else int(text)


def _decode(text: str) -> PointNote | None:
    if not text.startswith(NOTE_PREFIX):
        return None
    try:
        return msgspec.json.decode(text.removeprefix(NOTE_PREFIX).encode(), type=PointNote)
    except msgspec.DecodeError:
        return None  # somebody has written into it: not ours any more


def checkpoint_xml(id: str, note: PointNote, every: Sequence[str]) -> str:
    """A checkpoint of the note's disks, none of the others."""
    root = etree.Element("domaincheckpoint")
    etree.SubElement(root, "name").text = id
    etree.SubElement(root, "description").text = _encode(note)
    disks = etree.SubElement(root, "disks")
    for target in every:
        etree.SubElement(disks, "disk", name=target, checkpoint="no" if note.disk(target) is None else "bitmap")
    return etree.tostring(root, encoding="unicode")


def backup_xml(since: str, socket: str, scratch: Mapping[str, str], every: Sequence[str]) -> str:
    """A pull-mode backup that shows the changes since a checkpoint."""
    backup = etree.Element("domainbackup", mode="pull")
    etree.SubElement(backup, "incremental").text = since
    etree.SubElement(backup, "server", transport="unix", socket=socket)
    disks = etree.SubElement(backup, "disks")
    for target in every:
        disk = etree.SubElement(disks, "disk", name=target, backup="yes" if target in scratch else "no")
        if target in scratch:
            disk.set("type", "file")
            disk.set("exportname", target)
            disk.set("exportbitmap", BITMAP)
            etree.SubElement(disk, "driver", type="qcow2")
            etree.SubElement(disk, "scratch", file=scratch[target])
    return etree.tostring(backup, encoding="unicode")


def without(xml: str, targets: set[str]) -> str:
    """A checkpoint's XML that says nothing of these disks."""
    root = etree.fromstring(xml.encode())
    for disk in root.iterfind("./disks/disk"):
        if disk.get("name") in targets:
            disk.set("checkpoint", "no")
            for name in ("bitmap", "size"):
                if name in disk.attrib:
                    del disk.attrib[name]
    return etree.tostring(root, encoding="unicode")
