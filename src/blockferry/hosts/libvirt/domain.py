"""The calls that a move makes on one VM: look, copy, suspend, switch, mark, rewrite.

Facts this rests on (docs/measured.md): a persistent domain needs VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB;
`cur == end` is not readiness; an abort without ASYNC holds the domain's lock for as long as QEMU takes.
"""

from __future__ import annotations

import json
import posixpath
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import libvirt
import libvirt_qemu

from blockferry.base.errors import LibvirtFailed
from blockferry.hosts import block_graph
from blockferry.hosts.block_graph import BlockGraph
from blockferry.hosts.disk_counters import Counters
from blockferry.hosts.inventory import Disk, JobInfo, PowerState, Secret
from blockferry.hosts.libvirt import disk_xml, domain_list, domain_xml
from blockferry.hosts.libvirt.connection import Connection

_GRANULARITY = libvirt.VIR_DOMAIN_BLOCK_COPY_GRANULARITY
_BUF_SIZE = libvirt.VIR_DOMAIN_BLOCK_COPY_BUF_SIZE
AGENT_SILENT_S = 10
"""A guest agent that does not tell the time within this hangs."""

STATE_FRESH_S = 0.25
STATE_ATTEMPTS = 3
"""A libvirt that takes longer for its answer is asked again, so often: then it is slow, and no link was cut."""

_QUERIES = ("query-block", "query-named-block-nodes")
_BANDWIDTH = libvirt.VIR_DOMAIN_BLOCK_COPY_BANDWIDTH
_TARGET_ZEROED = 1 << 4
"""VIR_DOMAIN_BLOCK_COPY_TARGET_ZEROED of libvirt 12.2. The bindings here may be older than the host's libvirt."""


@dataclass(frozen=True, slots=True)
class CopyOrder:
    """How a block copy is to be done. Sizes are bytes, the rate bytes/s (0: unlimited)."""

    dest: str
    dest_format: str
    block: bool = False
    backing: tuple[str, str] | None = None
    synchronous: bool = True
    bandwidth: int = 0
    granularity: int = 0
    buffer: int = 0
    secret: Secret | None = None  # the destination is a LUKS image that this opens
    zeroed: bool = False  # the destination was just made and reads as zeros: libvirt may skip clearing it


@dataclass(frozen=True, slots=True)
class DomainView:
    """A VM as one quick look shows it: no file is opened for it."""

    state: PowerState
    pause_reason: str | None
    persistent: bool
    incarnation: int
    disks: tuple[Disk, ...]
    jobs: Mapping[str, JobInfo]
    mark: str | None
    nvram: str | None
    config_nvram: str | None
    busy: str = ""  # only if looked at closely: a job of libvirt's or QEMU's on the running VM
    image: bool = False  # only if looked at closely: it runs, and a managed save image is there all the same
    config: domain_xml.ParsedDomain | None = None
    saved: bool = False  # off, with a managed save image
    saved_nvram: str | None = None  # the NVRAM that it names


ABSENT = DomainView(PowerState.ABSENT, None, False, -1, (), {}, None, None, None)


_KINDS = {
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_PULL: "a block pull",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT: "a block commit",
    libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_BACKUP: "a backup",
}
"""virDomainBlockJobType: block jobs that the live XML does not show as a mirror."""


class Control:
    """One VM on one connection. Every method may raise HostUnreachable or LibvirtFailed."""

    def __init__(self, connection: Connection, uuid: str, name: str) -> None:
        self.connection = connection
        self.uuid = uuid
        self.name = name

    def look(
        self, targets: tuple[str, ...], previous: DomainView | None = None, *, closely: bool = False
    ) -> DomainView:
        """What is there now: power state, disks of both XMLs, block jobs of `targets`.

        With `previous` the persistent XML is not read again: for the milliseconds of a suspension. Each target
        costs 0.7 ms. `closely`: also for jobs that are no block jobs, and for a saved state.
        """
        with self.connection.doing(f"look at VM {self.name}"):
            try:
                return self._look(self._domain(), targets, previous, closely=closely)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return ABSENT
                raise

    def _look(
        self, domain: libvirt.virDomain, targets: tuple[str, ...], previous: DomainView | None, *, closely: bool
    ) -> DomainView:
        state, reason = domain_list.power_state(domain)
        live = domain_xml.parse(domain.XMLDesc(0)) if state.active else None
        if previous is not None and live is not None:
            persistent, config = previous.persistent, previous.config
        else:
            persistent = bool(domain.isPersistent())
            config = domain_xml.parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)) if persistent else None
        jobs: dict[str, JobInfo] = {}
        others: dict[str, str] = {}
        for target in targets if state.active else ():
            info = self._job(domain, target)
            if info is None:
                continue
            kind = info.get("type", 0)
            if kind in (libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY, libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT):
                # The live XML shows either as a mirror, and says there which of them it is.
                jobs[target] = JobInfo(info["cur"], info["end"], info.get("bandwidth", 0))
            else:
                others[target] = _KINDS.get(kind, f"a block job of type {kind}")
        disks = tuple(replace(disk, other_job=others.get(disk.target)) for disk in domain_xml.merge(live, config))
        saved = domain_list.saved_xml(self.connection, domain) if live is None else None
        return DomainView(
            state=state,
            pause_reason=reason,
            persistent=persistent,
            incarnation=domain.ID(),
            disks=disks,
            jobs=jobs,
            mark=(live or config or domain_xml.ParsedDomain("", (), None, False, None)).mark,
            nvram=live.nvram if live else None,
            config_nvram=config.nvram if config else None,
            busy=self._busy(domain, reason, disks) if closely and live else "",
            image=closely and live is not None and bool(domain.hasManagedSaveImage(0)),
            config=config,
            saved=saved is not None,
            saved_nvram=domain_xml.parse(saved).nvram if saved is not None else None,
        )

    @staticmethod
    def _busy(domain: libvirt.virDomain, reason: str | None, disks: tuple[Disk, ...]) -> str:
        """What is being done with the VM, "" for nothing. While libvirt restores it, it shows as starting up."""
        if reason == "starting up":
            return reason
        for disk in disks:
            if disk.mirror is not None or disk.other_job is not None:
                return f"a block job on {disk.target}"
        return domain_list.job(domain, silent="a job") or ""

    @staticmethod
    def _job(domain: libvirt.virDomain, target: str) -> dict[str, int] | None:
        try:
            info = domain.blockJobInfo(target, libvirt.VIR_DOMAIN_BLOCK_JOB_INFO_BANDWIDTH_BYTES)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_OPERATION_INVALID):
                return None  # no such disk any more, or the VM went off this moment: the next look will tell
            raise
        return dict(info) if info else None

    def block_graph(self) -> BlockGraph:
        """QEMU's own block graph of the running VM.

        Two read-only queries that libvirt passes through to QEMU. libvirt notes the first of a run as "tainted:
        custom-monitor" in the VM's log; it changes nothing (docs/measured.md). Raises LibvirtFailed also for an answer
        that is none.
        """
        what = f"ask the QEMU of VM {self.name} for its block graph"
        with self.connection.doing(what):
            domain = self._domain()
            answers = [libvirt_qemu.qemuMonitorCommand(domain, json.dumps({"execute": one}), 0) for one in _QUERIES]
        try:
            block, named = (json.loads(answer)["return"] for answer in answers)
            return block_graph.read(block, named)
        except (ValueError, LookupError, TypeError) as error:
            raise LibvirtFailed(what, f"QEMU answered otherwise than expected ({error})", "VIR_ERR_OK") from None

    def goes_off(self) -> bool | None:
        """True: it is shutting down (QEMU is still there), None: it is off or gone, False: neither is to be seen."""
        with self.connection.doing(f"look at VM {self.name}"):
            try:
                state = self._domain().state()[0]
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                    return None
                raise
        return None if state == libvirt.VIR_DOMAIN_SHUTOFF else bool(state == libvirt.VIR_DOMAIN_SHUTDOWN)

    def autostart(self) -> bool:
        """Whether libvirt starts the VM when the host boots. False for one that libvirt does not know."""
        with self.connection.doing(f"look at VM {self.name}"):
            try:
                return bool(self._domain().autostart())
            except libvirt.libvirtError as error:
                if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                    return False
                raise

    def set_autostart(self, *, wanted: bool) -> None:
        """Have libvirt start the VM when the host boots, or not. Nothing is done when it is so already."""
        with self.connection.doing(f"set whether VM {self.name} is started with its host"):
            domain = self._domain()
            if bool(domain.autostart()) != wanted:
                domain.setAutostart(int(wanted))

    def suspend(self) -> bool:
        """Stop the guest's processors. False when they stood still already: then somebody else has stopped them."""
        with self.connection.doing(f"suspend VM {self.name}"):
            domain = self._domain()
            if self._power_state_just_now(domain) is PowerState.PAUSED:
                return False
            domain.suspend()
            return True

    def resume(self, unless: Callable[[], bool] | None = None) -> bool:
        """Let the guest run. False when it was running (or gone) already.

        `unless`: asked once libvirt has said that it is paused; when true it is left so, and False returned.
        """
        with self.connection.doing(f"resume VM {self.name}"):
            domain = self._domain()
            if self._power_state_just_now(domain) is not PowerState.PAUSED:
                return False
            if unless is not None and unless():
                return False
            domain.resume()
            return True

    @staticmethod
    def _power_state_just_now(domain: libvirt.virDomain) -> PowerState:
        """The VM's state, by a libvirt that has answered within moments: what is called next is carried out now.

        A cut link delivers later what was sent into it (TCP sends it again), when the VM's owner may have suspended or
        resumed the VM meanwhile. An answer that took long may be as old as the cut; then libvirt is asked again.
        """
        for _attempt in range(STATE_ATTEMPTS):
            asked = time.monotonic()
            state = domain_list.power_state(domain)[0]
            if time.monotonic() - asked < STATE_FRESH_S:
                break
        return state

    def save(self) -> None:
        """Save the VM's memory to libvirt's managed save image, in which it stays until it is started; QEMU ends.

        libvirt lets the guest run on when that fails. Returns when the image is complete.
        """
        with self.connection.doing(f"save the memory of VM {self.name}"):
            self._domain().managedSave(0)

    def restore(self, image: str = "", files: Mapping[str, str] | None = None) -> None:
        """Have the VM go on from its saved memory, its processors stopped.

        `files`: with these instead (old path -> new path), from the managed save image at `image`. Then the image stays
        as it was, to be dropped before the guest runs; without, libvirt removes it. When it fails, nothing has changed.
        The caller has seen that the VM is saved; otherwise it would boot.
        """
        with self.connection.doing(f"restore VM {self.name} from its saved memory"):
            domain = self._domain()
            if not files:
                domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                return
            xml = domain.managedSaveGetXMLDesc(libvirt.VIR_DOMAIN_SAVE_IMAGE_XML_SECURE)
            changed = domain_xml.repoint(xml, {}, files)
            self.connection.raw.restoreFlags(image, changed, libvirt.VIR_DOMAIN_SAVE_PAUSED)

    def drop_saved(self) -> bool:
        """Remove the managed save image of a VM that runs. False when there is none."""
        with self.connection.doing(f"remove the saved state of VM {self.name}"):
            domain = self._domain()
            if not domain.hasManagedSaveImage(0):
                return False
            domain.managedSaveRemove(0)
            return True

    def start_copy(self, target: str, order: CopyOrder) -> None:
        """Start a block copy into an existing image."""
        flags = libvirt.VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | libvirt.VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB
        if order.backing is not None:
            flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SHALLOW
        if order.synchronous:
            flags |= libvirt.VIR_DOMAIN_BLOCK_COPY_SYNCHRONOUS_WRITES
        values = {_BANDWIDTH: order.bandwidth, _GRANULARITY: order.granularity, _BUF_SIZE: order.buffer}
        with self.connection.doing(f"start the copy of disk {target} of {self.name} to {order.dest}"):
            domain = self._domain()
            xml = domain_xml.copy_destination_xml(
                order.dest, order.dest_format, block=order.block, backing=order.backing, secret=order.secret,
                carried=disk_xml.carried(domain.XMLDesc(0), target),
            )  # fmt: skip
            wanted = {name: value for name, value in values.items() if value}
            if order.zeroed and self.connection.knows_zeroed_targets:
                try:
                    domain.blockCopy(target, xml, wanted, flags | _TARGET_ZEROED)
                    return
                except libvirt.libvirtError as error:
                    # A libvirt before 12.2 refuses the flag before it does anything (virCheckFlags).
                    if error.get_error_code() != libvirt.VIR_ERR_INVALID_ARG:
                        raise
            domain.blockCopy(target, xml, wanted, flags)
            if order.zeroed:
                self.connection.knows_zeroed_targets = False

    def take_overlays(self, overlays: Mapping[str, str], bases: Mapping[str, str]) -> None:
        """Put overlays that exist (target -> path, qcow2) above these disks, all in one instant, live and persistent.

        libvirt keeps no snapshot of its own of it. Other disks are left alone. `bases`: what each overlay was made for;
        LibvirtFailed when the VM has anything else by now (somebody's snapshot), for libvirt would put it upon that.
        """
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
        with self.connection.doing(f"put overlays above disks of VM {self.name}"):
            domain = self._domain()
            domain.snapshotCreateXML(self._overlays_xml(domain, overlays, bases), flags)

    def overlays_xml(self, overlays: Mapping[str, str], bases: Mapping[str, str]) -> str:
        """The XML of that snapshot, for who has it made in another way. See `take_overlays`."""
        with self.connection.doing(f"look at the disks of VM {self.name}"):
            return self._overlays_xml(self._domain(), overlays, bases)

    def _overlays_xml(self, domain: libvirt.virDomain, overlays: Mapping[str, str], bases: Mapping[str, str]) -> str:
        live = domain.XMLDesc(0)
        now = {disk.target: disk.source for disk in domain_xml.parse(live).disks}
        for target, base in bases.items():
            path = None if (disk_source := now.get(target)) is None else disk_source.path
            if path is None or posixpath.normpath(path) != posixpath.normpath(base):
                raise LibvirtFailed(
                    f"put overlays above disks of VM {self.name}",
                    f"{target} is on {path or 'nothing'} by now, and no more on {base}",
                    "VIR_ERR_OPERATION_INVALID",
                )
        others = [target for target in now if target not in overlays]
        labels = {target: disk_xml.carried(live, target) for target in overlays}
        return domain_xml.snapshot_xml(overlays, others, labels)

    def start_commit(self, target: str, bandwidth: int) -> None:
        """Start committing the active overlay of a disk into the image right below it. `bandwidth`: bytes/s."""
        flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE | libvirt.VIR_DOMAIN_BLOCK_COMMIT_SHALLOW
        flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
        with self.connection.doing(f"commit the overlay of disk {target} of {self.name} into its base"):
            self._domain().blockCommit(target, None, None, bandwidth, flags)

    def set_speed(self, target: str, bytes_per_s: int) -> None:
        """Limit a running copy; 0 takes the limit off."""
        with self.connection.doing(f"change the speed of the copy of {target} of {self.name}"):
            self._domain().blockJobSetSpeed(target, bytes_per_s, libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)

    def trim(self, limit_s: int, least: int) -> None:
        """Have the guest's agent discard what its mounted file systems do not use; returns when the agent answers.

        `least`: bytes; stretches that are smaller stay as they are.
        virDomainFSTrim. libvirt waits for an agent without end unless it is told otherwise
        (virDomainAgentSetResponseTimeout), so it is told to give up after `limit_s`, also should this process die.
        It cannot be asked what was set before: afterwards its default holds again. An agent that hangs answers
        nothing else either: so it is first asked for the time, which takes no time.
        """
        with self.connection.doing(f"have the guest agent of {self.name} trim its file systems"):
            domain = self._domain()
            try:
                domain.agentSetResponseTimeout(AGENT_SILENT_S)
                domain.getTime()
                domain.agentSetResponseTimeout(limit_s)
                domain.fSTrim(None, least)
            finally:
                domain.agentSetResponseTimeout(libvirt.VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK)

    def counters(self, targets: Iterable[str]) -> dict[str, Counters]:
        """What QEMU has counted of the guest's writes to these disks; those that are gone are left out.

        virDomainBlockStatsFlags: `wr_total_times` is in nanoseconds and includes the time in QEMU's own queues.
        """
        found: dict[str, Counters] = {}
        with self.connection.doing(f"read the statistics of VM {self.name}"):
            domain = self._domain()
            for target in targets:
                try:
                    values = domain.blockStatsFlags(target, 0)
                except libvirt.libvirtError as error:
                    if error.get_error_code() in (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_OPERATION_INVALID):
                        continue
                    raise
                found[target] = Counters(
                    time.monotonic(), values["wr_operations"], values["wr_total_times"], values["wr_bytes"]
                )
        return found

    def limits(self, target: str) -> dict[str, int | str]:
        """The I/O limits of a disk of the running VM, by libvirt's names; 0 and "" for none."""
        with self.connection.doing(f"read the limits of disk {target} of {self.name}"):
            return dict(self._domain().blockIoTune(target, libvirt.VIR_DOMAIN_AFFECT_LIVE))

    def set_limits(self, target: str, limits: Mapping[str, int | str]) -> None:
        """Set the I/O limits of a disk of the running VM; what is written down for its next start stays.

        libvirt refuses a group's name when there is no limit at all.
        """
        values = {name: value for name, value in limits.items() if name != "group_name" or value}
        with self.connection.doing(f"set the limits of disk {target} of {self.name}"):
            domain = self._domain()
            self._power_state_just_now(domain)
            domain.setBlockIoTune(target, values, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def pivot(self, target: str) -> None:
        """Ask for the switch of one disk; the live XML tells when it is done."""
        flags = libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT | libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC
        with self.connection.doing(f"switch disk {target} of {self.name} to its copy"):
            self._domain().blockJobAbort(target, flags)

    def abort(self, target: str) -> None:
        """Ask for the end of a copy; the disk stays on its source. The live XML tells when it is done."""
        with self.connection.doing(f"end the copy of disk {target} of {self.name}"):
            self._domain().blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_ASYNC)

    def begin_view(self, socket: str, scratch: Mapping[str, str]) -> None:
        """Freeze a view of these disks (target -> empty qcow2 that exists) as they are now, served as NBD on `socket`.

        A pull-mode backup; one may run at a time. Export names are the targets. A stopped guest stays stopped.
        """
        with self.connection.doing(f"freeze a view of the disks of VM {self.name}"):
            domain = self._domain()
            every = [disk.target for disk in domain_xml.parse(domain.XMLDesc(0)).disks]
            domain.backupBegin(
                domain_xml.view_xml(socket, scratch, every), None, libvirt.VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
            )

    def view_socket(self) -> str | None:
        """The socket of the pull-mode backup that runs, whoever began it; None when there is none."""
        with self.connection.doing(f"look for a backup job of VM {self.name}"):
            try:
                xml = self._domain().backupGetXMLDesc(0)
            except libvirt.libvirtError as error:
                if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
                    return None
                raise
            return domain_xml.view_socket(xml)

    def end_view(self) -> None:
        """End the backup job of the VM; see that it is yours before."""
        with self.connection.doing(f"give up the frozen view of the disks of VM {self.name}"):
            self._domain().abortJob()

    def mark(self, move: str | None, journal: str = "") -> None:
        """Put the move's id and its journal's into the domain's metadata, live and persistent; None takes them away."""
        xml = None if move is None else domain_xml.mark_xml(move, journal)
        with self.connection.doing(f"mark VM {self.name}"):
            domain = self._domain()
            flags = 0
            if domain.isActive():
                flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
            if domain.isPersistent():
                flags |= libvirt.VIR_DOMAIN_AFFECT_CONFIG
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml, domain_xml.MARK_PREFIX, domain_xml.MARK_URI, flags
            )

    def config_disks(self, targets: tuple[str, ...]) -> dict[str, str]:
        """Target -> its `<disk>` in the persistent XML; nothing for a transient VM. Without anything secret."""
        with self.connection.doing(f"read the persistent configuration of VM {self.name}"):
            domain = self._domain()
            if not domain.isPersistent():
                return {}
            return disk_xml.disks(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE), targets)

    def has_no_metadata(self) -> bool:
        """Whether the persistent XML has no `<metadata>`."""
        with self.connection.doing(f"read the persistent configuration of VM {self.name}"):
            return not domain_xml.has_metadata(self._domain().XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

    def unmark(self, *, bare: bool) -> None:
        """Take our mark away, live and persistent.

        libvirt leaves an empty `<metadata/>` behind. `bare`: there was none before the mark, so the persistent XML is
        to have none either; the live one keeps it until the VM is off.
        """
        if not bare:
            self.mark(None)
            return
        with self.connection.doing(f"take the mark off VM {self.name}"):
            domain = self._domain()
            if domain.isPersistent():
                xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
                if (unmarked := domain_xml.unmarked(xml)) != xml:
                    self.connection.raw.defineXML(unmarked)
            if domain.isActive():
                flags = libvirt.VIR_DOMAIN_AFFECT_LIVE
                domain.setMetadata(
                    libvirt.VIR_DOMAIN_METADATA_ELEMENT, None, domain_xml.MARK_PREFIX, domain_xml.MARK_URI, flags
                )

    def names_now(self) -> tuple[set[str], set[str]]:
        """Every path that the XML of the running VM names, and every path that the persistent one names."""
        with self.connection.doing(f"look at VM {self.name}"):
            domain = self._domain()
            live = domain_xml.paths(domain.XMLDesc(0)) if domain.isActive() else set()
            inactive = libvirt.VIR_DOMAIN_XML_INACTIVE
            return live, domain_xml.paths(domain.XMLDesc(inactive)) if domain.isPersistent() else set()

    def write_config(
        self,
        disks: Mapping[str, tuple[str, str]],
        files: Mapping[str, str],
        before: Mapping[str, disk_xml.DiskBeforeMove] | None = None,
    ) -> None:
        """Point the persistent XML elsewhere, all in one write; see domainxml.repoint."""
        with self.connection.doing(f"write the persistent configuration of VM {self.name}"):
            if changed := self._config_with(disks, files, before):
                self.connection.raw.defineXML(changed)

    def config_with(
        self, disks: Mapping[str, tuple[str, str]], before: Mapping[str, disk_xml.DiskBeforeMove]
    ) -> str | None:
        """The persistent XML with these disks, for who writes it in another way; None when it is so already."""
        with self.connection.doing(f"read the persistent configuration of VM {self.name}"):
            return self._config_with(disks, {}, before)

    def _config_with(
        self,
        disks: Mapping[str, tuple[str, str]],
        files: Mapping[str, str],
        before: Mapping[str, disk_xml.DiskBeforeMove] | None,
    ) -> str | None:
        xml = self._domain().XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)
        changed = domain_xml.repoint(xml, disks, files, before)
        return None if changed == domain_xml.repoint(xml, {}, {}) else changed

    def write_snapshots(self, names: Mapping[str, str]) -> tuple[str, ...]:
        """Define the metadata of all snapshots anew, with files under their new names; those that were changed.

        virDomainSnapshotCreateXML with REDEFINE replaces what it has of a snapshot of that name; its parent, its
        children and which one is the current stay. Nothing is done to a disk.
        """
        changed = []
        with self.connection.doing(f"write the metadata of the snapshots of VM {self.name}"):
            domain = self._domain()
            for snapshot in domain.listAllSnapshots(libvirt.VIR_DOMAIN_SNAPSHOT_LIST_TOPOLOGICAL):
                xml = snapshot.getXMLDesc(libvirt.VIR_DOMAIN_SNAPSHOT_XML_SECURE)
                renamed = domain_xml.rename(xml, names)
                if renamed != domain_xml.rename(xml, {}):
                    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
                    if snapshot.isCurrent():
                        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_CURRENT
                    domain.snapshotCreateXML(renamed, flags)
                    changed.append(snapshot.getName())
        return tuple(changed)

    def metadata(self) -> dict[str, str]:
        """File name -> XML of all that libvirt knows of this VM, for the home directory.

        Without VIR_DOMAIN_XML_SECURE: passwords of graphics and secrets do not belong into a file there. Without our
        mark: a VM that is defined from that file is in no move.
        """
        with self.connection.doing(f"read the metadata of VM {self.name}"):
            domain = self._domain()
            flags = libvirt.VIR_DOMAIN_XML_INACTIVE if domain.isPersistent() else 0
            found = {f"{domain.name()}.xml": domain.XMLDesc(flags)}
            for snapshot in domain.listAllSnapshots(0):
                found[f"snapshot-{snapshot.getName()}.xml"] = snapshot.getXMLDesc(0)
            for checkpoint in domain.listAllCheckpoints(0):
                found[f"checkpoint-{checkpoint.getName()}.xml"] = checkpoint.getXMLDesc(0)
            return {name.replace("/", "_"): domain_xml.unmarked(str(xml)) for name, xml in found.items()}

    def _domain(self) -> libvirt.virDomain:
        return self.connection.raw.lookupByUUIDString(self.uuid)
