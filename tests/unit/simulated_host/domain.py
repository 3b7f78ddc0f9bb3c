"""libvirt's domain object, as far as hosts/libvirt asks it. Errors have libvirt's own codes."""

from __future__ import annotations

import copy
import json
from typing import Any

import libvirt
from lxml import etree

from simulated_host.machine import UUID, Machine, disk_element
from simulated_host.manager import Manager
from simulated_host.qemu import BlockJob, QemuDisk, block_graph

TARGET_ZEROED = 1 << 4
"""VIR_DOMAIN_BLOCK_COPY_TARGET_ZEROED, of libvirt 12.2."""

_METADATA_FLAGS = (libvirt.VIR_DOMAIN_AFFECT_LIVE, libvirt.VIR_DOMAIN_AFFECT_CONFIG)


def refusal(code: int, message: str, domain: int = libvirt.VIR_FROM_QEMU) -> libvirt.libvirtError:
    """An error as libvirt raises it."""
    error = libvirt.libvirtError(message)
    error.err = (code, domain, message, libvirt.VIR_ERR_ERROR, None, None, None, 0, 0)
    return error


class Side:
    """Whose calls they are: a manager's, which may be dead, or a guard's; over which libvirtd."""

    def __init__(self, machine: Machine, manager: Manager | None) -> None:
        self.machine = machine
        self.manager = manager
        self.generation = machine.generation

    @property
    def who(self) -> str:
        return "move" if self.manager is not None else "guard"

    def call(self, what: str, work: Any, *, changes: bool = False) -> Any:
        """Do it as one call to libvirt. Raises libvirtError when libvirtd has been started anew since."""
        machine = self.machine
        if self.manager is None:
            self._must_be_up()
            return work()
        with self.manager.calls(what, changes=changes):
            self.manager.must_live()  # in the moment before, power may have been lost
            self._must_be_up()
            answer = work()
            if changes:
                machine.check()
            if changes and machine.lose_answer:
                machine.lose_answer = False
                machine.libvirtd_restarts()
                self._must_be_up()
        return answer

    def _must_be_up(self) -> None:
        if self.generation != self.machine.generation:
            raise refusal(libvirt.VIR_ERR_INTERNAL_ERROR, "client socket is closed", libvirt.VIR_FROM_RPC)


class SimulatedDomain:
    """virDomain of the one VM."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self._machine = side.machine

    # ------------------------------------------------------------ looking

    def name(self) -> str:
        return self._machine.domain.name

    def UUIDString(self) -> str:  # noqa: N802 - libvirt's name
        return UUID

    def ID(self) -> int:  # noqa: N802 - libvirt's name
        return self._machine.domain.id

    def state(self, _flags: int = 0) -> list[int]:
        def work() -> list[int]:
            if self._side.manager is not None:
                self._machine.started_unseen = False
            return [self._machine.domain.state, 1]

        return list(self._side.call("state", work))

    def isActive(self) -> int:  # noqa: N802 - libvirt's name
        return int(self._side.call("isActive", lambda: self._machine.domain.active))

    def isPersistent(self) -> int:  # noqa: N802 - libvirt's name
        return int(self._side.call("isPersistent", lambda: self._machine.domain.config is not None))

    def autostart(self) -> int:
        return int(self._machine.domain.autostart)

    def setAutostart(self, wanted: int) -> int:  # noqa: N802 - libvirt's name
        self._machine.domain.autostart = bool(wanted)
        return 0

    def hasManagedSaveImage(self, _flags: int = 0) -> int:  # noqa: N802 - libvirt's name
        return 0

    def listAllSnapshots(self, _flags: int = 0) -> list[Any]:  # noqa: N802 - libvirt's name
        return []

    def listAllCheckpoints(self, _flags: int = 0) -> list[Any]:  # noqa: N802 - libvirt's name
        return []

    def jobInfo(self) -> list[int]:  # noqa: N802 - libvirt's name
        return [libvirt.VIR_DOMAIN_JOB_NONE]

    def jobStats(self, _flags: int = 0) -> dict[str, int]:  # noqa: N802 - libvirt's name
        return {"type": libvirt.VIR_DOMAIN_JOB_NONE}

    def XMLDesc(self, flags: int = 0) -> str:  # noqa: N802 - libvirt's name
        return str(self._side.call("XMLDesc", lambda: self._xml(flags)))

    def _xml(self, flags: int) -> str:
        domain = self._machine.domain
        if domain.live is None or flags & libvirt.VIR_DOMAIN_XML_INACTIVE:
            assert domain.config is not None
            return etree.tostring(domain.config, encoding="unicode")
        root = copy.deepcopy(domain.live)
        assert self._machine.qemu is not None
        for number, disk in enumerate(self._machine.qemu.disks.values()):
            element = disk_element(root, disk.target)
            assert element is not None
            _describe(element, disk, number)
        return etree.tostring(root, encoding="unicode")

    def blockJobInfo(self, target: str, _flags: int = 0) -> dict[str, int]:  # noqa: N802 - libvirt's name
        return dict(self._side.call("blockJobInfo", lambda: self._job_info(target)))

    def _job_info(self, target: str) -> dict[str, int]:
        job = self._disk(target).job
        if job is None or not job.looked:
            kind = libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY
            return {} if job is None else {"type": kind, "bandwidth": 0, "cur": 0, "end": 1}
        copies = job.kind == "copy"
        kind = libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY if copies else libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT
        return {"type": kind, "bandwidth": 0, "cur": job.end - (len(job.dirty) << 20), "end": job.end}

    def _disk(self, target: str) -> QemuDisk:
        if self._machine.qemu is None or not self._machine.domain.active:
            raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "Requested operation is not valid: domain is not running")
        if target not in self._machine.qemu.disks:
            raise refusal(libvirt.VIR_ERR_INVALID_ARG, f"invalid argument: disk '{target}' not found in domain")
        return self._machine.qemu.disks[target]

    # ------------------------------------------------------------ power

    def suspend(self) -> int:
        def work() -> int:
            if self._machine.qemu is None or not self._machine.domain.active:
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")
            if not self._machine.qemu.paused:
                self._machine.pause(self._side.who)
            return 0

        return int(self._side.call("suspend", work, changes=True))

    def resume(self) -> int:
        def work() -> int:
            if self._machine.qemu is None or not self._machine.domain.active:
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")
            if self._machine.qemu.paused:
                self._machine.resume(self._side.who)
            return 0

        return int(self._side.call("resume", work, changes=True))

    # ------------------------------------------------------------ block jobs

    def blockCopy(self, target: str, xml: str, _params: dict[int, int], flags: int) -> int:  # noqa: N802
        def work() -> int:
            zeroed = bool(flags & TARGET_ZEROED)
            if zeroed and not self._machine.knows_zeroed:
                raise refusal(libvirt.VIR_ERR_INVALID_ARG, "invalid argument: unsupported flags (0x10)")
            disk = self._free(target)
            wanted = etree.fromstring(xml.encode())
            path = str(wanted.find("source").get("file"))  # type: ignore[union-attr]
            format = str(wanted.find("driver").get("type"))  # type: ignore[union-attr]
            if not flags & libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB:
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not transient")
            if self._machine.files.get(path) is None:
                raise refusal(libvirt.VIR_ERR_SYSTEM_ERROR, f"missing destination file for disk {target}: {path}")
            shallow = bool(flags & libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW)
            chain = self._machine.files.chain(path)
            paths = [(path, format), *self._machine.paths(path)[1:]]
            synchronous = bool(flags & libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES)
            disk.job = BlockJob("copy", chain, paths, synchronous, shallow, zeroed)
            return 0

        return int(self._side.call("blockCopy", work, changes=True))

    def blockCommit(self, target: str, _base: None, _top: None, _bandwidth: int, _flags: int) -> int:  # noqa: N802
        def work() -> int:
            disk = self._free(target)
            if len(disk.chain) < 2:
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, f"no backing file of '{target}'")
            disk.job = BlockJob("active-commit", disk.chain[1:], disk.paths[1:])
            return 0

        return int(self._side.call("blockCommit", work, changes=True))

    def _free(self, target: str) -> QemuDisk:
        disk = self._disk(target)
        if self._machine.view is not None:
            raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "a backup job is running")
        if disk.job is not None:
            raise refusal(libvirt.VIR_ERR_BLOCK_COPY_ACTIVE, f"block copy still active: disk '{target}' already in job")
        return disk

    def blockJobSetSpeed(self, target: str, _speed: int, _flags: int) -> int:  # noqa: N802 - libvirt's name
        def work() -> int:
            if self._disk(target).job is None:
                raise refusal(libvirt.VIR_ERR_INVALID_ARG, f"invalid argument: disk {target} does not have a job")
            return 0

        return int(self._side.call("blockJobSetSpeed", work, changes=False))

    def blockJobAbort(self, target: str, flags: int) -> int:  # noqa: N802 - libvirt's name
        def work() -> int:
            job = self._disk(target).job
            if job is None:
                raise refusal(libvirt.VIR_ERR_INVALID_ARG, f"invalid argument: disk {target} does not have a job")
            if job.ending:
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, f"block job on disk {target} is still being ended")
            pivot = bool(flags & libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
            if pivot and (not job.ready or target in self._machine.refuse_pivots):
                self._machine.refuse_pivots.discard(target)
                raise refusal(libvirt.VIR_ERR_BLOCK_COPY_ACTIVE, f"disk '{target}' not ready for pivot yet")
            if pivot and job.kind == "copy":
                self._machine.switching()
            job.ending = "pivot" if pivot else "abort"
            return 0

        return int(self._side.call("blockJobAbort", work, changes=True))

    def snapshotCreateXML(self, xml: str, flags: int) -> None:  # noqa: N802 - libvirt's name
        def work() -> None:
            assert flags & libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
            wanted = {
                str(disks.get("name")): str(disks.find("source").get("file"))  # type: ignore[union-attr]
                for disks in etree.fromstring(xml.encode()).iterfind("./disks/disk[@snapshot='external']")
            }
            for target, path in wanted.items():
                disk = self._free(target)
                image = self._machine.files.find(path).image
                assert image is not None
                assert image.backing is not None
                if image.backing[0] != disk.paths[0][0]:  # libvirt does not look, so here it is told
                    raise AssertionError(f"{path} stands on {image.backing[0]}, and is put upon {disk.paths[0][0]}")
            for target, path in wanted.items():
                self._machine.put_above(target, path)

        self._side.call("snapshotCreateXML", work, changes=True)

    # ------------------------------------------------------------ a view

    def backupBegin(self, xml: str, _checkpoint: None, _flags: int) -> int:  # noqa: N802 - libvirt's name
        def work() -> int:
            machine = self._machine
            if machine.qemu is None or not machine.domain.active:
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")
            if machine.view is not None or any(disk.job is not None for disk in machine.qemu.disks.values()):
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "another job is running")
            root = etree.fromstring(xml.encode())
            scratch = {
                str(disks.get("name")): str(disks.find("scratch").get("file"))  # type: ignore[union-attr]
                for disks in root.iterfind("./disks/disk[@backup='yes']")
            }
            machine.begin_view(str(root.find("server").get("socket")), scratch)  # type: ignore[union-attr]
            return 0

        return int(self._side.call("backupBegin", work, changes=True))

    def backupGetXMLDesc(self, _flags: int = 0) -> str:  # noqa: N802 - libvirt's name
        def work() -> str:
            view = self._machine.view
            if view is None:
                raise refusal(libvirt.VIR_ERR_NO_DOMAIN_BACKUP, "no domain backup job present")
            return f"<domainbackup mode='pull'><server transport='unix' socket='{view.socket}'/></domainbackup>"

        return str(self._side.call("backupGetXMLDesc", work))

    def abortJob(self) -> int:  # noqa: N802 - libvirt's name
        def work() -> int:
            if self._machine.view is None:
                raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "no job is active on the domain")
            self._machine.end_view()
            return 0

        return int(self._side.call("abortJob", work, changes=True))

    # ------------------------------------------------------------ metadata

    def setMetadata(self, _kind: int, xml: str | None, prefix: str, uri: str, flags: int) -> int:  # noqa: N802
        def work() -> int:
            domain = self._machine.domain
            roots = (domain.live, domain.config)
            for root, flag in zip(roots, _METADATA_FLAGS, strict=True):
                if flags & flag and root is not None:
                    _mark(root, xml, prefix, uri)
            return 0

        return int(self._side.call("setMetadata", work, changes=True))

    def blockIoTune(self, _target: str, _flags: int) -> dict[str, Any]:  # noqa: N802 - libvirt's name
        return {}

    # ------------------------------------------------------------ QEMU's own monitor

    def monitor(self, command: str) -> str:
        """What QEMU answers to query-block and query-named-block-nodes (hosts/block_graph.py)."""
        return str(self._side.call("monitor", lambda: self._monitor(json.loads(command)["execute"])))

    def _monitor(self, query: str) -> str:
        if self._machine.qemu is None or not self._machine.domain.active:
            raise refusal(libvirt.VIR_ERR_OPERATION_INVALID, "domain is not running")
        return json.dumps({"return": block_graph(self._machine.qemu)[query]})


def _describe(element: etree._Element, disk: QemuDisk, number: int) -> None:
    """The disk as it is now: its images, its job, its alias."""
    for name in ("backingStore", "mirror", "alias"):
        for old in element.findall(name):
            element.remove(old)
    around = element
    for path, format in disk.paths[1:]:
        below = etree.SubElement(around, "backingStore", type="file")
        etree.SubElement(below, "format", type=format)
        etree.SubElement(below, "source", file=path)
        around = below
    etree.SubElement(around, "backingStore")
    job = disk.job
    if job is not None:
        mirror = etree.SubElement(element, "mirror", type="file", job=job.kind)
        if job.ending or job.ready:
            mirror.set("ready", job.ending or "yes")
        etree.SubElement(mirror, "format", type=job.format)
        etree.SubElement(mirror, "source", file=job.path)
    etree.SubElement(element, "alias", name=f"virtio-disk{number}")


def _mark(root: etree._Element, xml: str | None, prefix: str, uri: str) -> None:
    metadata = root.find("metadata")
    if metadata is None:
        metadata = etree.Element("metadata")
        root.insert(0, metadata)
    for old in metadata.findall(f"{{{uri}}}move"):
        metadata.remove(old)
    if xml is not None:
        plain = etree.fromstring(xml)
        metadata.append(
            etree.Element(
                f"{{{uri}}}move", {str(name): str(value) for name, value in plain.attrib.items()}, nsmap={prefix: uri}
            )
        )
