"""The libvirt calls with which a VM goes from one host to another, and a look at it on either of them.

Facts this rests on (docs/design/host-move.md): a migration with VIR_MIGRATE_PAUSED leaves the guest stopped at the
destination; peer-to-peer it goes on when this process dies; an error code is no verdict, so both sides are looked at.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import libvirt
import libvirt_qemu

from blockferry.base.errors import BlockferryError
from blockferry.base.units import MiB
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt import barred_xml, domain_list, domain_xml, interface_xml
from blockferry.hosts.libvirt.connection import Connection
from blockferry.hosts.migrating import ABSENT, Instance, MigrationStats

_SECURE = libvirt.VIR_DOMAIN_XML_SECURE
_UNKNOWN = libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN
_MIGRATIONS = (_UNKNOWN, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN, libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)
"""Operations of a job that is a migration, or may be one."""

_PAGE = 4096
"""Bytes of a page of the guest's memory, where libvirt does not tell."""


@dataclass(frozen=True, slots=True)
class MigrationOrder:
    """How a VM is to go. `peer`: libvirt URI by which the source's libvirtd reaches the destination's.

    `address`: by which the source's QEMU reaches the destination. `disks`: target -> (path at the destination, format)
    of the disks whose content goes along; the images must exist there. `bandwidth`: bytes/s, 0 for no limit.
    `proven_shared`: disks stay, and it was seen that both hosts have the same files. libvirt knows only a few file
    systems by name, and calls all others unsafe. `auto_converge`: QEMU slows the guest's CPUs when its memory changes
    as fast as it is sent. `tls`: memory and disks are encrypted; `tls_name`: in the destination's certificate, where
    that is not `address`. `networks`: network, bridge or device -> its name at the destination. `channels`: connections
    for the memory, 0 for one. `compression` of the memory: a method of libvirt's, "" for none. `files`: path of what
    else the XML names -> its path at the destination. `only_top`: what the top images stand on is at the destination
    already, below the images that exist there.
    """

    peer: str
    address: str
    disks: Mapping[str, tuple[str, str]]
    bandwidth: int = 0
    persistent: bool = True
    proven_shared: bool = False
    auto_converge: bool = False
    tls: bool = False
    tls_name: str = ""
    networks: Mapping[str, str] = field(default_factory=dict)
    channels: int = 0
    compression: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    only_top: bool = False


def look(connection: Connection, uuid: str, name: str) -> Instance:
    """What this host has of the VM. Raises HostUnreachable, LibvirtFailed."""
    with connection.doing(f"look at VM {name}"):
        try:
            return _look(connection.raw.lookupByUUIDString(uuid))
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return ABSENT
            raise


def _look(domain: libvirt.virDomain) -> Instance:
    state, reason = domain_list.power_state(domain)
    xml = domain.XMLDesc(0)
    parsed = domain_xml.parse(xml)
    migrated = False
    if state is PowerState.OFF:
        migrated = domain.state(0) == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_MIGRATED]
    job, foreign = _job(domain) if state.active else (False, False)
    return Instance(
        state=state,
        reason=reason or "",
        persistent=bool(domain.isPersistent()),
        mark=parsed.mark or "",
        job=job,
        foreign=foreign,
        migrated=migrated,
        barred=barred_xml.targets(xml, barred_xml.ending(parsed.mark)) if parsed.mark else (),
        paths=tuple(
            (disk.target, disk.source.path or "") for disk in parsed.disks if disk.source is not None
        ),
        nvram=parsed.nvram or "",
        tpm=parsed.tpm,
    )  # fmt: skip


def _job(domain: libvirt.virDomain) -> tuple[bool, bool]:
    """Whether a job is under way, and whether it is known to be no migration.

    Of a migration that comes in libvirt tells no more than that there is a job (measured on 9.0).
    """
    try:
        found = domain.jobStats(0)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            return True, False
        raise
    if found.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return False, False
    return True, found.get(libvirt.VIR_DOMAIN_JOB_OPERATION, _UNKNOWN) not in _MIGRATIONS


def has_handed_over(connection: Connection, uuid: str, name: str) -> bool:
    """Whether the VM's QEMU says that it has handed its guest over, and the guest has not run there since.

    QEMU's state `postmigrate` ends when the guest is let run. A query that libvirt passes through.
    """
    with connection.doing(f"ask the QEMU of VM {name} for its state"):
        domain = connection.raw.lookupByUUIDString(uuid)
        answer = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": "query-status"}), 0))
    return bool(answer["return"]["status"] == "postmigrate")


def statistics(connection: Connection, uuid: str, name: str) -> MigrationStats | None:
    """How far the migration is; None when there is none."""
    with connection.doing(f"read the statistics of the migration of VM {name}"):
        try:
            return _stats(connection.raw.lookupByUUIDString(uuid).jobStats(0))
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                return None
            raise


def completed(connection: Connection, uuid: str, name: str) -> MigrationStats | None:
    """The statistics of the VM's last migration that is over, as its destination knows them; None: it knows none."""
    flags = libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
    with connection.doing(f"read the statistics of the last migration of VM {name}"):
        return _stats(connection.raw.lookupByUUIDString(uuid).jobStats(flags))


def _stats(found: Mapping[str, int]) -> MigrationStats | None:
    if found.get("type", libvirt.VIR_DOMAIN_JOB_NONE) == libvirt.VIR_DOMAIN_JOB_NONE:
        return None
    return MigrationStats(
        disk_total=found.get(libvirt.VIR_DOMAIN_JOB_DISK_TOTAL, 0),
        disk_done=found.get(libvirt.VIR_DOMAIN_JOB_DISK_PROCESSED, 0),
        memory_total=found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_TOTAL, 0),
        memory_done=found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_PROCESSED, 0),
        memory_left=found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_REMAINING, 0),
        rate=found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_BPS, 0) + found.get(libvirt.VIR_DOMAIN_JOB_DISK_BPS, 0),
        passes=found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_ITERATION, 0),
        downtime_ms=found.get(libvirt.VIR_DOMAIN_JOB_DOWNTIME, 0),
        memory_rate=found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_BPS, 0),
        dirty_rate=found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_DIRTY_RATE, 0)
        * found.get(libvirt.VIR_DOMAIN_JOB_MEMORY_PAGE_SIZE, _PAGE),
        throttle=found.get(libvirt.VIR_DOMAIN_JOB_AUTO_CONVERGE_THROTTLE, 0),
    )


def set_downtime_limit(connection: Connection, uuid: str, name: str, milliseconds: int) -> None:
    """How long QEMU may stop the guest for the last of its memory."""
    with connection.doing(f"set the downtime limit of the migration of VM {name}"):
        connection.raw.lookupByUUIDString(uuid).migrateSetMaxDowntime(milliseconds, 0)


def set_bandwidth(connection: Connection, uuid: str, name: str, bytes_per_s: int) -> None:
    """Bandwidth of the memory, 0 for no limit. See `set_disk_bandwidth`."""
    most = 2**31 - 1
    with connection.doing(f"set the bandwidth of the migration of VM {name}"):
        domain = connection.raw.lookupByUUIDString(uuid)
        domain.migrateSetMaxSpeed(max(1, bytes_per_s // MiB) if bytes_per_s else most, 0)


def set_disk_bandwidth(connection: Connection, uuid: str, name: str, bytes_per_s: int) -> None:
    """Bandwidth of the disk copies of a migration that run, for all of them together; 0 for no limit.

    libvirt takes a limit for them only at the start, and no other call for a disk while a VM migrates: QEMU is told.
    """
    with connection.doing(f"set the bandwidth of the disks of VM {name}"):
        domain = connection.raw.lookupByUUIDString(uuid)
        jobs = [job for job in _ask_qemu(domain, "query-block-jobs") if job["type"] == "mirror"]
        share = bytes_per_s and max(1, bytes_per_s // max(1, len(jobs)))
        for job in jobs:
            if job["speed"] != share:
                _ask_qemu(domain, "block-job-set-speed", device=job["device"], speed=share)


def _ask_qemu(domain: libvirt.virDomain, command: str, **arguments: object) -> Any:
    """QEMU's answer; [] where it refuses: a job may have ended meanwhile."""
    text = json.dumps({"execute": command, "arguments": arguments} if arguments else {"execute": command})
    return json.loads(libvirt_qemu.qemuMonitorCommand(domain, text, 0)).get("return", [])


def network_names(connection: Connection, uuid: str, name: str) -> tuple[str, ...]:
    """Return what the persistent definition names of networks, bridges and devices, in its order."""
    with connection.doing(f"read the persistent configuration of VM {name}"):
        return interface_xml.names(connection.raw.lookupByUUIDString(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))


def definition(
    connection: Connection, uuid: str, name: str, disks: Mapping[str, tuple[str, str]], files: Mapping[str, str],
    networks: Callable[[str], str],
) -> str:  # fmt: skip
    """Return the VM's persistent definition, secrets included, with these disks elsewhere.

    `files`: path of what else the XML names -> its path there.
    `networks`: XML -> the same with networks as they are called there.
    """
    with connection.doing(f"read the persistent configuration of VM {name}"):
        xml = connection.raw.lookupByUUIDString(uuid).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | _SECURE)
    return networks(domain_xml.repoint(xml, disks, files))


class Migration:
    """One migration, in a thread of its own: `call` returns only when it is over.

    `call`: has virsh on the source's host do it, by these words and files (name -> text). `switched_at`: monotonic
    seconds at which the source's guest was stopped for good, as libvirt told of it; None: not seen. `stats`: the
    statistics with which it was completed. Nothing of this is proof of where the VM is.
    """

    def __init__(
        self,
        connection: Connection,
        uuid: str,
        name: str,
        order: MigrationOrder,
        call: Callable[[Sequence[str], Mapping[str, str]], None],
    ) -> None:
        self.switched_at: float | None = None
        self.stats: MigrationStats | None = None
        self.problem: BlockferryError | None = None
        self.over = threading.Event()
        self._connection, self._uuid, self._name, self._order, self._call = connection, uuid, name, order, call
        self._thread = threading.Thread(target=self._run, name=f"migrate-{name}", daemon=True)

    def start(self) -> None:
        """Begin the call. Returns at once."""
        self._thread.start()

    def _run(self) -> None:
        ids: list[int] = []
        connection = self._connection
        try:
            with connection.doing(f"describe VM {self._name}"):
                domain = connection.raw.lookupByUUIDString(self._uuid)
                ids = self._subscribe(connection, domain)
                texts = self._texts(domain)
            self._call(self._words(texts), texts)
        except BlockferryError as error:
            self.problem = error
        finally:
            for event_id in ids:
                with contextlib.suppress(libvirt.libvirtError):
                    connection.raw.domainEventDeregisterAny(event_id)
            self.over.set()

    def _texts(self, domain: libvirt.virDomain) -> dict[str, str]:
        """The VM's XML as it is at the destination: of the running one, and of the persistent one."""
        found = {"live": self._there(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_MIGRATABLE | _SECURE))}
        if self._order.persistent:
            config = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_MIGRATABLE | _SECURE)
            found["persistent"] = self._there(config)
        return found

    def _words(self, texts: Mapping[str, str]) -> list[str]:
        """virsh's words: https://libvirt.org/manpages/virsh.html#migrate"""
        order = self._order
        words = ["migrate", "--live", "--p2p", "--suspend", "--abort-on-error", "--xml", "@live"]
        if "persistent" in texts:
            words += ["--persistent", "--undefinesource", "--persistent-xml", "@persistent"]
        words += ["--unsafe"] if order.proven_shared else []
        words += ["--auto-converge"] if order.auto_converge else []
        words += ["--parallel", "--parallel-connections", str(order.channels)] if order.channels else []
        words += ["--compressed", "--comp-methods", order.compression] if order.compression else []
        words += ["--tls"] if order.tls else []
        words += ["--tls-destination", order.tls_name] if order.tls and order.tls_name else []
        copied = "--copy-storage-inc" if order.only_top else "--copy-storage-all"
        words += [copied, "--migrate-disks", ",".join(order.disks)] if order.disks else []
        words += ["--bandwidth", str(max(1, order.bandwidth // MiB))] if order.bandwidth else []
        return [*words, self._uuid, order.peer, f"tcp://{order.address}"]

    def _there(self, xml: str) -> str:
        """The XML as it is at the destination."""
        return interface_xml.rename(domain_xml.repoint(xml, self._order.disks, self._order.files), self._order.networks)

    def _subscribe(self, connection: Connection, domain: libvirt.virDomain) -> list[int]:
        raw = connection.raw
        return [
            raw.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None),
            raw.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._on_completed, None),
        ]

    def _on_lifecycle(self, _c: object, _d: object, event: int, detail: int, _o: object) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED:
            self.switched_at = time.monotonic()
        elif event == libvirt.VIR_DOMAIN_EVENT_RESUMED:
            self.switched_at = None
        elif event == libvirt.VIR_DOMAIN_EVENT_UNDEFINED:
            # VIR_MIGRATE_UNDEFINE_SOURCE, at the very end: virsh tells that some 10 ms later, and the guest stands
            # still. Whoever looks now sees what is there.
            self.over.set()

    def _on_completed(self, _c: object, _d: object, stats: Mapping[str, int], _o: object) -> None:
        self.stats = _stats({"type": libvirt.VIR_DOMAIN_JOB_COMPLETED, **stats})
