"""Looking: the host's facts in the words of the plan."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts import fingerprint as hosts_fingerprint
from blockferry.hosts.disk_counters import Counters
from blockferry.hosts.exports import is_export
from blockferry.hosts.fencing import ANSWERING, DestinationHealth
from blockferry.hosts.helper import files
from blockferry.hosts.inventory import Disk, DiskSource, PowerState
from blockferry.hosts.libvirt.domain import Control, DomainView
from blockferry.hosts.runner import Runner
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.firmware import rules as firmware_rules
from blockferry.storage_move.firmware.plan import NvramPlan
from blockferry.storage_move.firmware.record import ManagedSave
from blockferry.storage_move.lost_vm import past_libvirt
from blockferry.storage_move.observation import MISSING, UNKNOWABLE, DiskJob, DiskSide, DiskView, NvramView, Observation
from blockferry.storage_move.overlays import rules as overlays_rules
from blockferry.storage_move.overlays.convergence import FREED, Divergence, assess
from blockferry.storage_move.overlays.passes import CopyProgress
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.switch.graph_look import GraphLook
from blockferry.storage_move.templates import rules as templates_rules


@dataclass
class Memory:
    """What this process knows from its own clock; lost with it, and never needed to be right."""

    progress: dict[str, CopyProgress] = field(default_factory=dict)
    written: dict[str, tuple[Counters, ...]] = field(default_factory=dict)  # of late, where a guest may be slowed
    commits: dict[str, CopyProgress] = field(default_factory=dict)  # the same of overlays being committed
    outrun: set[str] = field(default_factory=set)  # targets whose overlay grows faster than it was being committed
    suspended_at: float | None = None  # monotonic seconds
    ended: str = ""  # the name of a suspension that a guard has ended, as its host has said
    resumed: bool = False  # we have ended our last suspension ourselves, whatever the journal could be told of it
    flushed_at: float | None = None
    flushed_bytes: dict[str, int] = field(default_factory=dict)  # target -> `cur` when QEMU last flushed its copy
    checkpoint_at: float | None = None  # monotonic seconds of that flush, or of the beginning
    pivot_failures: int = 0
    retry_at: float = 0.0  # monotonic seconds: not before is a switch tried again
    view_tried: bool = False
    view_trouble: str = ""  # why the view has to be given up
    view_taken: bool = False  # and it was: known to be of the instant of the switch
    held: bool = False  # the VM is saved, by us
    holds_it: bool = False  # by this process, or is about to be
    templates: dict[str, str] = field(default_factory=dict)  # target -> which file of a reused layer has changed
    health: DestinationHealth = ANSWERING  # of the destination, by the watch
    just_seen: DomainView | None = None  # a look that an effect has just taken: good for one observation

    @property
    def made(self) -> int:
        """Bytes that the copies and the commits of overlays have made, as far as this process knows."""
        return sum(copy_progress.cur for copy_progress in (*self.progress.values(), *self.commits.values()))


FLUSH_HOLDS_S = 3.0
LOOK_S = 2.0
"""So long is waited for storage to say whether a reused layer has changed; before a switch it is asked once more."""


class Observer:
    """Looks at one VM for one plan."""

    def __init__(self, plan: Plan, runner: Runner) -> None:
        self.plan = plan
        self._runner = runner
        self._targets = tuple(disk.target for disk in plan.disks)
        self._templates = TemplateLook(runner, plan)
        self._past = past_libvirt.PastLibvirt(plan, runner)
        self._graph = GraphLook(plan)
        self.last: DomainView | None = None

    def look(self, control: Control, record: Record, memory: Memory, now_s: float) -> Observation:
        """Observe. While the VM is suspended by us only what can change then is looked at, to be quick."""
        view = memory.just_seen
        memory.just_seen = None
        if view is None and memory.suspended_at is not None:
            # In step, synchronous writes keep both sides equal: there is no remainder to ask for.
            view = control.look(() if mirrored(self.plan, record) and record.switch.begun else self._targets, self.last)
        if memory.suspended_at is not None and view is not None and view.state is not PowerState.PAUSED:
            # The guard let the VM run while we were frozen (or it is gone): what we took for granted is so no more.
            memory.suspended_at = None
            view = None
        if view is None:
            closely = record.nvram.pending and firmware_rules.still_now(self.plan, record)
            # While QEMU owes us an answer libvirt makes every other question to it wait, for 30 s, and then refuses it.
            view = control.look(() if self._graph.pending else self._targets, closely=closely)
        beside = past_libvirt.QemuState()
        if not view.state.active and record.outcome is None and record.managed_save.state is ManagedSave.NONE:
            view, beside = self._past.look(control, view, record, now_s)
        hangs = (
            memory.health.hanging or record.fencing.fenced is not None
        )  # then nothing is gone onto, and a look would wait
        if memory.suspended_at is None and not record.switch.done and record.outcome is None and not hangs:
            changes = self._templates.look(LOOK_S if view.state.active else None)
            memory.templates = memory.templates if changes is None else changes
        self.last = view
        seen = self.interpret(view, record, memory, now_s)
        same = record.lost is not None and view.state.active and self._past.same_run(record.lost)
        seen = replace(seen, lost=beside.lost, off_doubt=beside.doubt, off_doubt_s=beside.doubt_s, same_run=same)
        if memory.suspended_at is None and not memory.health.hanging and graph_matters(seen):
            aliases = {disk.target: disk.alias for disk in view.disks}
            graph = self._graph.look(control, aliases, view.incarnation, beside=bool(record.graph.doubt))
            seen = replace(seen, graph=graph if not record.graph.doubt or (graph is not None and graph.wrong) else None)
        return seen

    def interpret(self, view: DomainView, record: Record, memory: Memory, now_s: float) -> Observation:
        """The observation that a look at the domain amounts to."""
        disks = tuple(self._disk(disk, view, record, memory) for disk in self.plan.disks)
        for disk_view in disks:
            if disk_view.job is DiskJob.OURS and disk_view.info is not None and not disk_view.ending:
                before = memory.progress.get(disk_view.target, CopyProgress())
                cur, end = disk_view.info.cur, disk_view.info.end
                memory.progress[disk_view.target] = before.sample(now_s, cur, end if end > 1 or disk_view.ready else 0)
        own = [
            disk_view for disk_view in disks if disk_view.job is DiskJob.OURS and disk_view.target in memory.progress
        ]
        ours = [memory.progress[disk_view.target] for disk_view in own]
        # Until it was in step a copy under a contract has shown less than it can do.
        known = [FREED if self.plan.pace.contract is not None and disk_view.ready else 0.0 for disk_view in own]
        if view.state is PowerState.RUNNING and record.switch.suspended and memory.suspended_at is None:
            # The guard (or somebody else) let the VM run on; a pause from now on is not ours.
            record = record.suspension_over()
        memory.held = view.saved and record.managed_save.state is not ManagedSave.NONE
        unflushed = self._unflushed(disks, memory)
        if memory.checkpoint_at is None and unflushed:
            memory.checkpoint_at = now_s
        return Observation(
            state=view.state,
            persistent=view.persistent,
            disks=disks,
            record=record,
            incarnation=view.incarnation,
            mark=view.mark,
            media=self._media(view, record),
            config_agrees=self._config_agrees(view, record),
            suspended_s=0.0 if memory.suspended_at is None else now_s - memory.suspended_at,
            expected_drain_s=max((one.drain_s(rate) for one, rate in zip(ours, known, strict=True)), default=0.0),
            passes=max((len(copy_progress.passes) for copy_progress in ours), default=0),
            pivot_failures=memory.pivot_failures,
            retry_s=max(0.0, memory.retry_at - now_s),
            view_tried=memory.view_tried,
            view_trouble=memory.view_trouble,
            diverging=() if mirrored(self.plan, record) else self._diverging(disks, record, memory),
            outrun=self.outrun_commits(disks, memory, now_s),
            unflushed=unflushed,
            unflushed_s=0.0 if memory.checkpoint_at is None else now_s - memory.checkpoint_at,
            nvram=self._nvram(view, record),
            saved=view.saved,
            pause_reason=view.pause_reason,
            health=memory.health,
            flushed=memory.flushed_at is not None and now_s - memory.flushed_at < FLUSH_HOLDS_S,
        )

    def outrun_commits(self, disks: tuple[DiskView, ...], memory: Memory, now_s: float) -> tuple[Divergence, ...]:
        """The overlays that grow faster than they are being committed."""
        found = []
        for disk in disks:
            if disk.job is not DiskJob.COMMIT or disk.info is None or disk.ready:
                memory.commits.pop(disk.target, None)
                continue
            before = memory.commits.get(disk.target, CopyProgress())
            after = before.sample(now_s, disk.info.cur, disk.info.end if disk.info.end > 1 else 0)
            memory.commits[disk.target] = after
            if (divergence := assess(disk.target, after, ready=False)) is not None:
                found.append(divergence)
        return tuple(found)

    def _diverging(self, disks: tuple[DiskView, ...], record: Record, memory: Memory) -> tuple[Divergence, ...]:
        found = []
        limited = bool(record.bandwidth) or self.plan.pace.contract is not None
        for disk in disks:
            if disk.job is DiskJob.OURS and disk.live is DiskSide.SOURCE and disk.target in memory.progress:
                divergence = assess(disk.target, memory.progress[disk.target], ready=disk.ready, limited=limited)
                if divergence is not None:
                    found.append(divergence)
        return tuple(found)

    def _unflushed(self, disks: tuple[DiskView, ...], memory: Memory) -> float:
        """The largest share of a destination that would be lost with QEMU (qcow2), or with device or host (raw)."""
        share = 0.0
        for disk in disks:
            copied = memory.progress.get(disk.target)
            plan = self.plan.disk(disk.target)
            if disk.job is not DiskJob.OURS or disk.ready or copied is None or disk.overlay:
                continue
            if plan.copy.resumable and copied.bulk > 0:
                share = max(share, (copied.cur - memory.flushed_bytes.get(disk.target, 0)) / copied.bulk)
        return share

    def _disk(self, disk: DiskPlan, view: DomainView, record: Record, memory: Memory) -> DiskView:
        found = next((one for one in view.disks if one.target == disk.target), None)
        live = config = None
        if view.state.active:
            live = _side(disk, found.live if found else None)
        if view.persistent:
            config = _side(disk, found.config if found else None)
        mirror = found.mirror if found else None
        foreign = "" if found is None else found.other_job or (f"block {mirror.job} to {mirror.dest}" if mirror else "")
        return DiskView(
            target=disk.target,
            live=live,
            config=config,
            job=self._job(disk, found, live),
            foreign=foreign,
            ready=bool(mirror and mirror.ready),
            ending=bool(mirror and mirror.ending),
            encrypted=bool(mirror and mirror.encrypted),
            info=view.jobs.get(disk.target),
            fingerprint=self.source_fingerprint(disk) if view.state is PowerState.OFF else "",
            live_overlay=view.state.active and _on_overlay(disk, found.live if found else None),
            foreign_base=_foreign_base(disk, found.live) if view.state.active and found is not None else "",
            config_overlay=view.persistent and _on_overlay(disk, found.config if found else None),
            template_changed=memory.templates.get(disk.target, ""),
            copy_on_read=view.state.active and found is not None and found.copy_on_read,
            config_path=(found.config.place or "") if found is not None and found.config is not None else "",
            overlay_fingerprint=self._overlay_fingerprint(disk, found, view, record),
        )

    @staticmethod
    def _job(disk: DiskPlan, found: Disk | None, live: DiskSide | None) -> DiskJob:
        if found is None:
            return DiskJob.NONE
        if found.other_job:
            return DiskJob.FOREIGN
        if found.mirror is None:
            return DiskJob.NONE
        mirror = found.mirror
        if mirror.job == "active-commit":
            base = disk.source.path if live is DiskSide.SOURCE else disk.dest.path
            mine = _on_overlay(disk, found.live) and same_path(mirror.dest, _foreign_base(disk, found.live) or base)
            return DiskJob.COMMIT if mine else DiskJob.FOREIGN
        ours = (disk.source.path,) if live is DiskSide.DESTINATION else (disk.dest.path, disk.overlays.dest)
        is_ours = any(one and same_path(mirror.dest, one) for one in ours)
        return DiskJob.OURS if mirror.job in ("copy", "") and is_ours else DiskJob.FOREIGN

    def source_fingerprint(self, disk: DiskPlan) -> str:
        """Changes whenever somebody writes to the disk at the source, base or overlay."""
        # Of a VMDK with a file of extents only that changes when the guest writes.
        if is_export(disk.source.path):
            return UNKNOWABLE
        parts = [fingerprint(self._runner, path) for path in (disk.source.path, *disk.source.parts)]
        if UNKNOWABLE in parts:
            return UNKNOWABLE
        base = " ".join(parts)
        above = fingerprint(self._runner, disk.overlays.source) if disk.overlays.source else "missing"
        return base if above == "missing" else f"{base}|{above}"

    def _overlay_fingerprint(self, disk: DiskPlan, found: Disk | None, view: DomainView, record: Record) -> str:
        """Of base and overlay of the side that the truth is on, where `decide` has to know it.

        A VM that runs on its overlay tells it by the live XML: who starts it in the moment before the configuration is
        written has it name the base.
        """
        source = None if found is None else found.live if view.state.active else found.config
        if source is None or not _on_overlay(disk, source):
            return ""
        at_source = same_path(source.path, disk.overlays.source)
        layer = record.disk(disk.target).overlay(at_source=at_source)
        if view.state.active and layer is not OverlayState.COMMITTED:
            return ""
        return layer_fingerprint(self._runner, disk, at_source=at_source)

    def _nvram(self, view: DomainView, record: Record) -> NvramView | None:
        plan = self.plan.firmware.nvram
        if plan is None:
            return None
        off = view.state is PowerState.OFF
        return NvramView(
            live=_nvram_side(plan, view.nvram) if view.state.active else None,
            config=_nvram_side(plan, view.config_nvram) if view.persistent else None,
            saved=_nvram_side(plan, view.saved_nvram) if view.saved else None,
            fingerprint=fingerprint(self._runner, plan.source) if off else "",
            made=fingerprint(self._runner, plan.dest) if off else "",
            busy=view.busy,
            image=view.image,
            image_fingerprint=image_fingerprint(self._runner, plan)
            if view.saved and record.managed_save.state is not ManagedSave.NONE
            else "",
        )

    def _media(self, view: DomainView, record: Record) -> tuple[str, ...]:
        """The drives of the running VM that still hold the medium of the old home; none that the guest may write to:
        its writes at the start of a copy could be lost (docs/design/start-race.md)."""
        if self.plan.home is None or not view.state.active:
            return ()
        inserted = {
            disk.target: disk.live.path
            for disk in view.disks
            if disk.live is not None and (disk.read_only or disk.device == "cdrom")
        }
        return tuple(
            file.target
            for file in self.plan.home.files
            if file.target is not None
            and file.source not in record.home.left
            and same_path(inserted.get(file.target), file.source)
        )

    def _config_agrees(self, view: DomainView, record: Record) -> bool:
        """Whether the next start would use the destination for all that the plan moves."""
        if not view.persistent:
            return True
        configs = {one.target: one.config for one in view.disks}
        for disk in self.plan.disks:
            config = configs.get(disk.target)
            if config is None or _side(disk, config) is not DiskSide.DESTINATION:
                return False
            if config.format != ("qcow2" if _on_overlay(disk, config) else disk.dest.format):
                return False
            live = next((one.live for one in view.disks if one.target == disk.target), None)
            if view.state.active and live is not None and not same_path(live.place, config.place):
                return False
        if self.plan.home is not None:
            for file in self.plan.home.files:
                if file.source in record.home.left:
                    continue
                if file.role == "nvram" and view.config_nvram == file.source:
                    return False
                if file.target is not None:
                    config = configs.get(file.target)
                    if config is not None and config.path == file.source:
                        return False
        return True


def graph_matters(seen: Observation) -> bool:
    """Whether QEMU's block graph has yet to be asked: all disks have switched, and no job of ours is left.

    Also once it could not be proven: what is wrong may show later.
    """
    record = seen.record
    if not seen.state.active or record.outcome is not None or record.nvram.pending:
        return False
    if record.graph.doubt and any(view.job is not DiskJob.NONE for view in seen.disks):
        return False
    if any(view.side is not DiskSide.DESTINATION or view.job is DiskJob.OURS or view.ending for view in seen.disks):
        return False
    committed = record.has_dest_overlay and not any(view.overlay for view in seen.disks)
    return not record.graph.proven or (committed and not record.graph.committed)


def fingerprint(runner: Runner, path: str) -> str:
    """What changes whenever somebody writes to the file or block device; UNKNOWABLE when nothing tells that.

    QEMU writes to a node of its own, so the times of a block device's node say nothing: there the kernel's counters do.
    """
    file_stat = files.stat_one(runner, path)
    if file_stat is None:
        return MISSING
    plain = hosts_fingerprint.of(file_stat.inode, file_stat.size, file_stat.mtime_ns)
    if file_stat.kind != "block":
        return plain
    writes = files.device_writes(runner, path)
    return f"{plain}@{writes}" if writes else UNKNOWABLE


def fingerprints(runner: Runner, paths: Iterable[str]) -> dict[str, str]:
    """The same of several, by one look. Not by ctime: libvirt changes owner and labels of what a VM stands on at each
    start of that VM."""
    return as_fingerprints(files.stat_many(runner, paths))


def as_fingerprints(stats: Mapping[str, files.FileStat | None]) -> dict[str, str]:
    """The fingerprints by what stat(2) says."""
    return {
        path: MISSING if one is None else hosts_fingerprint.of(one.inode, one.size, one.mtime_ns)
        for path, one in stats.items()
    }


class TemplateLook:
    """Whether the layers that a plan reuses are as they were when they were compared.

    They lie on storage that may hang: a look that has no answer yet is not waited for, and is not made a second time.
    """

    def __init__(self, runner: Runner, plan: Plan) -> None:
        self._runner = runner
        reused = {disk.target: disk.chain.reused for disk in plan.disks if disk.chain.reused is not None}
        self._then = {target: {**one.prints, **one.source_prints} for target, one in reused.items()}
        self._paths = [path for one in self._then.values() for path in one]
        self._asked: files.LaterStats | None = None

    def look(self, patience_s: float | None) -> dict[str, str] | None:
        """target -> the first file that has changed: of a layer that is reused, or of what it takes the place of.

        None when the storage does not answer within `patience_s` seconds; without a limit it is waited for, as for any
        command of a move. What cannot be looked at counts as changed. Raises HostUnreachable, Interrupted.
        """
        if not self._then:
            return {}
        try:
            if patience_s is None:
                return self._changes(files.stat_many(self._runner, self._paths))
            asked = self._asked or files.LaterStats(self._runner, self._paths)
            self._asked = None if asked.wait(patience_s) else asked
            return None if self._asked is not None else self._changes(asked.result())
        except HostCommandFailed:
            return self._changes({})

    def _changes(self, stats: Mapping[str, files.FileStat | None]) -> dict[str, str]:
        now = as_fingerprints(stats)
        found = {target: templates_rules.changed(one, now) for target, one in self._then.items()}
        return {target: path for target, path in found.items() if path}


def image_fingerprint(runner: Runner, plan: NvramPlan) -> str:
    """Which file the saved memory of the VM is in; what it names may be changed, its length stays."""
    file_stat = files.stat_one(runner, plan.now.image) if plan.now is not None else None
    return MISSING if file_stat is None else f"{file_stat.inode}:{file_stat.size}"


def mirrored(plan: Plan, record: Record) -> bool:
    """Whether every copy that counts was started as a mirror, so that nothing can remain to be copied."""
    for disk in plan.disks:
        copy = record.copy(disk.target)
        begun = copy.stage not in (Stage.NONE, Stage.IMAGE)
        if not (copy.synchronous if begun else overlays_rules.synchronous(plan, record, disk.target)):
            return False
    return bool(plan.disks)


def same_path(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and posixpath.normpath(one) == posixpath.normpath(other)


def _nvram_side(plan: NvramPlan, path: str | None) -> DiskSide:
    if same_path(path, plan.source):
        return DiskSide.SOURCE
    return DiskSide.DESTINATION if same_path(path, plan.dest) else DiskSide.ELSEWHERE


def _side(disk: DiskPlan, source: DiskSource | None) -> DiskSide:
    if source is not None and source.volume and source.volume == disk.source.volume:
        return DiskSide.SOURCE
    if source is None or source.place is None:
        return DiskSide.ELSEWHERE
    if any(one and same_path(source.place, one) for one in (disk.source.path, disk.overlays.source)):
        return DiskSide.SOURCE
    if any(one and same_path(source.place, one) for one in (disk.dest.path, disk.overlays.dest)):
        return DiskSide.DESTINATION
    return DiskSide.ELSEWHERE


def _on_overlay(disk: DiskPlan, source: DiskSource | None) -> bool:
    ours = [one for one in (disk.overlays.source, disk.overlays.dest) if one]
    return source is not None and any(same_path(source.path, one) for one in ours)


def _foreign_base(disk: DiskPlan, source: DiskSource | None) -> str:
    """What our overlay above the source stands on, if that is not the base that it was made for."""
    if source is None or not disk.overlays.source or not same_path(source.path, disk.overlays.source):
        return ""
    return source.backing[0] if source.backing and not same_path(source.backing[0], disk.source.path) else ""


def layer_fingerprint(runner: Runner, disk: DiskPlan, *, at_source: bool) -> str:
    """Fingerprint of a base and of the overlay above it: `base|overlay`."""
    base, overlay = (disk.source.path, disk.overlays.source) if at_source else (disk.dest.path, disk.overlays.dest)
    return f"{fingerprint(runner, base)}|{fingerprint(runner, overlay)}"
