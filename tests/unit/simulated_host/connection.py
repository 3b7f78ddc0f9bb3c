"""libvirt's connection object, and our Connection and Host around it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import libvirt
from lxml import etree

from blockferry.base.errors import HostUnreachable
from blockferry.hosts.host import Host
from blockferry.hosts.libvirt.connection import Connection
from simulated_host.domain import Side, SimulatedDomain, refusal
from simulated_host.helper import SimulatedRunner
from simulated_host.machine import HOST_UUID, UUID, Machine
from simulated_host.manager import Manager

URI = "qemu:///system"


class SimulatedLibvirt:
    """virConnect."""

    def __init__(self, machine: Machine, manager: Manager | None) -> None:
        self._machine = machine
        self._side = Side(machine, manager)

    def isAlive(self) -> int:  # noqa: N802 - libvirt's name
        return int(self._side.generation == self._machine.generation)

    def close(self) -> int:
        return 0

    def getLibVersion(self) -> int:  # noqa: N802 - libvirt's name
        return int(self._side.call("getLibVersion", lambda: 9000000))

    def getHostname(self) -> str:  # noqa: N802 - libvirt's name
        return "kvm1"

    def lookupByUUIDString(self, uuid: str) -> SimulatedDomain:  # noqa: N802 - libvirt's name
        return self._found(uuid == UUID)

    def lookupByName(self, name: str) -> SimulatedDomain:  # noqa: N802 - libvirt's name
        return self._found(name == self._machine.domain.name)

    def _found(self, known: bool) -> SimulatedDomain:
        def work() -> SimulatedDomain:
            domain = self._machine.domain
            if not known or (domain.config is None and not domain.active):
                raise refusal(libvirt.VIR_ERR_NO_DOMAIN, "Domain not found")
            return SimulatedDomain(self._side)

        found: SimulatedDomain = self._side.call("lookup", work)
        return found

    def listAllDomains(self, flags: int = 0) -> list[SimulatedDomain]:  # noqa: N802 - libvirt's name
        def work() -> list[SimulatedDomain]:
            domain = self._machine.domain
            has = {
                libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE: domain.active,
                libvirt.VIR_CONNECT_LIST_DOMAINS_PERSISTENT: domain.config is not None,
                libvirt.VIR_CONNECT_LIST_DOMAINS_AUTOSTART: domain.autostart,
            }
            return [SimulatedDomain(self._side)] if has.get(flags, flags == 0) else []

        return list(self._side.call("listAllDomains", work))

    def defineXML(self, xml: str) -> SimulatedDomain:  # noqa: N802 - libvirt's name
        def work() -> SimulatedDomain:
            try:
                root = etree.fromstring(xml.encode())
            except etree.XMLSyntaxError as error:
                raise refusal(libvirt.VIR_ERR_XML_ERROR, str(error)) from None
            if root.findtext("uuid") != UUID:
                raise refusal(libvirt.VIR_ERR_OPERATION_FAILED, "domain is already defined with another uuid")
            self._machine.defined(root)
            return SimulatedDomain(self._side)

        found: SimulatedDomain = self._side.call("defineXML", work, changes=True)
        return found

    def domainEventRegisterAny(self, _domain: object, kind: int, callback: Callable[..., None], opaque: object) -> int:  # noqa: N802
        def tell(happened: int, *words: object) -> None:
            if happened != kind:
                return
            if kind == libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2:
                callback(self, None, words[0], 0, libvirt.VIR_DOMAIN_BLOCK_JOB_COMPLETED, opaque)
            else:
                callback(self, None, 0, 0, opaque)

        def work() -> int:
            number = max(self._machine.listeners, default=0) + 1
            self._machine.listeners[number] = tell
            return number

        return int(self._side.call("domainEventRegisterAny", work))

    def domainEventDeregisterAny(self, number: int) -> None:  # noqa: N802 - libvirt's name
        self._machine.listeners.pop(number, None)

    def listAllStoragePools(self, _flags: int = 0) -> list[SimulatedPool]:  # noqa: N802 - libvirt's name
        pools = [SimulatedPool(name, path) for name, path in self._machine.pools.items()]
        return list(self._side.call("listAllStoragePools", lambda: pools))

    def storagePoolLookupByName(self, name: str) -> SimulatedPool:  # noqa: N802 - libvirt's name
        if name not in self._machine.pools:
            raise refusal(libvirt.VIR_ERR_NO_STORAGE_POOL, "Storage pool not found")
        return SimulatedPool(name, self._machine.pools[name])


class SimulatedPool:
    """virStoragePool of a directory."""

    def __init__(self, name: str, path: str) -> None:
        self._name, self._path = name, path

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return f"pool-{self._name}"

    def isActive(self) -> int:  # noqa: N802 - libvirt's name
        return 1

    def autostart(self) -> int:
        return 1

    def refresh(self, _flags: int = 0) -> int:
        return 0

    def info(self) -> list[int]:
        return [libvirt.VIR_STORAGE_POOL_RUNNING, 1 << 40, 1 << 30, 1 << 39]

    def XMLDesc(self, _flags: int = 0) -> str:  # noqa: N802 - libvirt's name
        return f"<pool type='dir'><name>{self._name}</name><target><path>{self._path}</path></target></pool>"


class SimulatedConnection(Connection):
    """Ours. A guard's has no manager, so that it outlives every one."""

    def __init__(self, machine: Machine, manager: Manager | None) -> None:
        self.uri = URI
        self._host_id = HOST_UUID
        self.raw = SimulatedLibvirt(machine, manager)
        self.closed = threading.Event()
        self._calls = {}

    def close(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self.raw.close()


class SimulatedHost(Host):
    """Ours, of one manager's process."""

    def __init__(self, machine: Machine, manager: Manager) -> None:
        self.uri = URI
        self._machine, self._manager = machine, manager
        self.runner = SimulatedRunner(machine, manager)
        self._connection: Connection | None = None
        self._lock = threading.Lock()
        self._see: Callable[[Connection], Any] | None = None

    def _made(self) -> Connection:
        with self._manager.calls("open", changes=False):
            if self._machine.refuses > 0:
                self._machine.refuses -= 1
                raise HostUnreachable(self.uri, "libvirtd is being started")
            return SimulatedConnection(self._machine, self._manager)
