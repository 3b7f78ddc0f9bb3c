"""A host on paper: libvirt's own test driver (domains and pools without QEMU) and real files of this machine.

It defines domains, parses and keeps their XML, and forgets all when closed; nothing of it runs. Volumes of its pools
are not looked up in the file system.
"""

from __future__ import annotations

import threading
from pathlib import Path

import libvirt

from blockferry.hosts.host import Host
from blockferry.hosts.libvirt import connection
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.runner import LocalRunner

HOST = "11111111-2222-3333-4444-555555555555"


class PaperConnection(Connection):
    """The test driver has no keepalive and no UUID of its host."""

    def __init__(self, node: Path) -> None:
        connection._ensure_event_loop()
        self.uri = "qemu:///system"  # what plans say
        self._host_id = HOST
        self.raw = libvirt.open(f"test://{node}")
        self.closed = threading.Event()
        self._calls = {}

    def close(self) -> None:
        self.raw.close()


class PaperSite(Host):
    """A site whose VMs are on paper and whose files are real."""

    def __init__(self, directory: Path) -> None:
        node = directory / "node.xml"
        node.write_text("<node><cpu><mhz>1000</mhz><nodes>1</nodes></cpu></node>")
        self.uri = "qemu:///system"
        self.runner = LocalRunner(self.uri)
        self._connection = PaperConnection(node)
        self._lock = threading.Lock()

    def define(
        self,
        name: str,
        disks: dict[str, Path],
        *,
        format: str = "qcow2",
        mark: str = "",
        devices: str = "",
        os: str = "",
    ) -> None:
        """A VM that is off; `mark`: attributes of our mark; `devices`, `os`: more XML of these elements."""
        words = "".join(
            f"<disk type='file' device='disk'><driver name='qemu' type='{format}'/><source file='{path}'/>"
            f"<target dev='{target}' bus='virtio'/></disk>"
            for target, path in disks.items()
        )
        metadata = f"<metadata><b:move xmlns:b='urn:blockferry:move:1' {mark}/></metadata>" if mark else ""
        known = [
            listAllDomain for listAllDomain in self.connection.raw.listAllDomains() if listAllDomain.name() == name
        ]
        uuid = f"<uuid>{known[0].UUIDString()}</uuid>" if known else ""
        self.connection.raw.defineXML(
            f"<domain type='test'><name>{name}</name>{uuid}{metadata}<memory>65536</memory>"
            f"<os><type>hvm</type>{os}</os><devices>{words}{devices}</devices></domain>"
        )

    def undefine(self, name: str) -> None:
        self.connection.raw.lookupByName(name).undefine()

    def start(self, name: str) -> None:
        self.connection.raw.lookupByName(name).create()

    def uuid(self, name: str) -> str:
        return str(self.connection.raw.lookupByName(name).UUIDString())

    def pool(self, name: str, path: Path, *, active: bool = True) -> None:
        xml = f"<pool type='dir'><name>{name}</name><target><path>{path}</path></target></pool>"
        pool = self.connection.raw.storagePoolDefineXML(xml)
        if active:
            path.mkdir(exist_ok=True)
            pool.create()
