"""What the XMLs of one VM name, and whether each place can be given another path: for the files of its home.

The catalogue of places is in xmlpaths. What other VMs name is here, too, as far as words tell; before a file is removed
the proof (safety/proof.py) looks closer.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field

import libvirt
from lxml import etree

from blockferry.hosts.file_use import FileUse
from blockferry.hosts.libvirt import domain_list, xml_paths
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.libvirt.xml_paths import Role

_MOVABLE = frozenset(
    {
        Role.KERNEL,
        Role.INITRD,
        Role.DTB,
        Role.SHIM,
        Role.ACPI,
        Role.LOADER,
        Role.TEMPLATE,
        Role.FW_CFG,
        Role.ROM,
        Role.CHARACTER,
        Role.LOG,
        Role.MEMORY,
        Role.FILESYSTEM,
        Role.AUDIO,
    }
)
"""What may be a plain file of the VM's own, that its next start finds under another path as well."""

RUNNING = "its path cannot be changed while the VM runs"
_LIVE, _CONFIG, _SAVED, _SNAPSHOT = "live", "config", "saved", "snapshot"


@dataclass(slots=True)
class Uses:
    """path -> the places that name it; and a place whose file cannot be told, a clause."""

    places: dict[str, tuple[FileUse, ...]] = field(default_factory=dict)
    unknown: str = ""

    def add(self, path: str, use: FileUse) -> None:
        path = posixpath.normpath(path)
        self.places[path] = (*self.places.get(path, ()), use)


def of_vm(connection: Connection, uuid: str) -> Uses:
    """What the VM's own XMLs name: live, persistent, of its saved state and of its snapshots."""
    uses = Uses()
    with connection.doing(f"read what VM {uuid} names"):
        domain = connection.raw.lookupByUUIDString(uuid)
        for kind, where, xml in _xmls(connection, domain):
            root = xml_paths.parse(xml)
            for name in xml_paths.names(root):
                if name.role is not Role.NVRAM:
                    uses.add(name.path, _use(name, kind, where))
            for volume in xml_paths.volumes(root):
                _add_volume(connection, volume, uses)
    return uses


def of_others(connection: Connection, uuid: str) -> dict[str, str]:
    """Path -> who names it, a clause, of all VMs but this one. One that vanishes while we look is left out."""
    found: dict[str, str] = {}
    with connection.doing("list the VMs"):
        every = connection.raw.listAllDomains(0)
    for domain in every:
        if domain.UUIDString() == uuid:
            continue
        try:
            for _kind, _where, xml in _xmls(connection, domain):
                paths = (posixpath.normpath(path) for path in xml_paths.paths(xml))
                found.update(dict.fromkeys(paths, f"VM {domain.name()} refers to it"))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                with connection.doing(f"describe VM {domain.name()}"):
                    raise
    return found


def _xmls(connection: Connection, domain: libvirt.virDomain) -> Iterator[tuple[str, str, str]]:
    """(kind, where it is as the start of a sentence's clause, XML)."""
    if domain.isActive():
        yield _LIVE, "the running VM", domain.XMLDesc(0)
    if domain.isPersistent():
        yield _CONFIG, "the configuration", domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
    if (saved := domain_list.saved_xml(connection, domain)) is not None:
        yield _SAVED, "the saved state", saved
    for snapshot in domain.listAllSnapshots(0):
        yield _SNAPSHOT, f"the snapshot {snapshot.getName()}", snapshot.getXMLDesc(0)


def _use(name: xml_paths.Name, kind: str, where: str) -> FileUse:
    disk = next((iterancestor for iterancestor in name.element.iterancestors("disk")), None)
    medium = name.role is Role.IMAGE and disk is not None and disk.get("device") in ("cdrom", "floppy")
    what = f"the {name.role.value}"
    if medium and disk is not None:
        target = disk.find("target")
        what = f"the medium of {'' if target is None else target.get('dev')}"
    if kind == _SNAPSHOT:
        what = f"{what} in {where}"
    if not name.role.known:
        return FileUse(f"named by <{etree.QName(name.element).localname}>", kind == _LIVE, "that cannot be changed")
    if kind == _SAVED:
        return FileUse(what, fixed="the VM's saved state names it")
    if medium:
        assert disk is not None
        writable = disk.find("readonly") is None and disk.get("device") != "cdrom"
        fixed = "the running guest may write to it" if kind == _LIVE and writable else ""
        return FileUse(what, kind == _LIVE, fixed)
    if name.role not in _MOVABLE:
        return FileUse(what, kind == _LIVE, "such a file is not moved")
    return FileUse(what, kind == _LIVE, RUNNING if kind == _LIVE else "")


def _add_volume(connection: Connection, volume: xml_paths.VolumeName, uses: Uses) -> None:
    try:
        pool = connection.raw.storagePoolLookupByName(volume.pool)
        path = str(pool.storageVolLookupByName(volume.volume).path())
    except libvirt.libvirtError:
        uses.unknown = f"the volume {volume.volume} of the pool {volume.pool}, which it names, cannot be looked up"
        return
    uses.add(path, FileUse(f"the volume {volume.volume} of the pool {volume.pool}", fixed="it is named as a volume"))
