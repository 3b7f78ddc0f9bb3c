"""Looking: the host's facts in the words of the plan."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field, replace

from blockferry.hypervisor.control import Control, DomainView
from blockferry.images import files
from blockferry.images.runner import Runner
from blockferry.model.convergence import FREED, Divergence, assess
from blockferry.model.inventory import Disk, DiskSource, PowerState
from blockferry.model.observation import DiskView, Job, Observation, Side
from blockferry.model.passes import CopyProgress
from blockferry.model.plan import DiskPlan, Plan
from blockferry.model.record import Record


@dataclass
class Memory:
    """What this process knows from its own clock; lost with it, and never needed to be right."""

    progress: dict[str, CopyProgress] = field(default_factory=dict)
    suspended_at: float | None = None  # monotonic seconds
    flushed_at: float | None = None
    pivot_failures: int = 0
    view_tried: bool = False
    view_taken: bool = False  # and it was: known to be of the instant of the switch
    just_seen: DomainView | None = None  # a look that an effect has just taken: good for one observation


FLUSH_HOLDS_S = 3.0


class Observer:
    """Looks at one VM for one plan."""

    def __init__(self, plan: Plan, runner: Runner) -> None:
        self.plan = plan
        self._runner = runner
        self._targets = tuple(disk.target for disk in plan.disks)
        self.last: DomainView | None = None

    def look(self, control: Control, record: Record, memory: Memory, now_s: float) -> Observation:
        """Observe. While the VM is suspended by us only what can change then is looked at, to be quick."""
        view = memory.just_seen
        memory.just_seen = None
        if view is None and memory.suspended_at is not None:
            # In step, synchronous writes keep both sides equal: there is no remainder to ask for.
            view = control.look(() if mirrored(self.plan, record) and record.switching else self._targets, self.last)
        if memory.suspended_at is not None and view is not None and view.state is not PowerState.PAUSED:
            # The guard let the VM run while we were frozen (or it is gone): what we took for granted is so no more.
            memory.suspended_at = None
            view = None
        if view is None:
            view = control.look(self._targets)
        self.last = view
        return self.interpret(view, record, memory, now_s)

    def interpret(self, view: DomainView, record: Record, memory: Memory, now_s: float) -> Observation:
        """The observation that a look at the domain amounts to."""
        disks = tuple(self._disk(disk, view) for disk in self.plan.disks)
        for one in disks:
            if one.job is Job.OURS and one.info is not None and not one.ending:
                before = memory.progress.get(one.target, CopyProgress())
                cur, end = one.info.cur, one.info.end
                memory.progress[one.target] = before.sample(now_s, cur, end if end > 1 or one.ready else 0)
        own = [one for one in disks if one.job is Job.OURS and one.target in memory.progress]
        ours = [memory.progress[one.target] for one in own]
        # Until it was in step a copy under a contract has shown less than it can do.
        known = [FREED if self.plan.contract is not None and one.ready else 0.0 for one in own]
        if view.state is PowerState.RUNNING and record.suspended and memory.suspended_at is None:
            # The guard (or somebody else) let the VM run on; a pause from now on is not ours.
            record = replace(record, suspended=False)
        return Observation(
            state=view.state,
            persistent=view.persistent,
            disks=disks,
            record=record,
            incarnation=view.incarnation,
            mark=view.mark,
            media=self._media(view),
            config_agrees=self._config_agrees(view),
            suspended_s=0.0 if memory.suspended_at is None else now_s - memory.suspended_at,
            expected_drain_s=max((one.drain_s(rate) for one, rate in zip(ours, known, strict=True)), default=0.0),
            passes=max((len(one.passes) for one in ours), default=0),
            pivot_failures=memory.pivot_failures,
            view_tried=memory.view_tried,
            diverging=() if mirrored(self.plan, record) else self._diverging(disks, record, memory),
            saved=view.saved,
            flushed=memory.flushed_at is not None and now_s - memory.flushed_at < FLUSH_HOLDS_S,
        )

    def _diverging(self, disks: tuple[DiskView, ...], record: Record, memory: Memory) -> tuple[Divergence, ...]:
        found = []
        limited = bool(record.bandwidth) or self.plan.contract is not None
        for one in disks:
            if one.job is Job.OURS and one.live is Side.SOURCE and one.target in memory.progress:
                divergence = assess(one.target, memory.progress[one.target], one.ready, limited)
                if divergence is not None:
                    found.append(divergence)
        return tuple(found)

    def _disk(self, disk: DiskPlan, view: DomainView) -> DiskView:
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
            info=view.jobs.get(disk.target),
            fingerprint=self._fingerprint(disk) if view.state is PowerState.OFF else "",
        )

    @staticmethod
    def _job(disk: DiskPlan, found: Disk | None, live: Side | None) -> Job:
        if found is None:
            return Job.NONE
        if found.other_job:
            return Job.FOREIGN
        if found.mirror is None:
            return Job.NONE
        ours = disk.dest if live is Side.SOURCE else disk.source
        return Job.OURS if found.mirror.job in ("copy", "") and same_path(found.mirror.dest, ours) else Job.FOREIGN

    def _fingerprint(self, disk: DiskPlan) -> str:
        found = files.fingerprint(self._runner, disk.source)
        if found is None:
            return "missing"
        return f"{found.device}:{found.inode}:{found.size}:{found.mtime_ns}"

    def _media(self, view: DomainView) -> tuple[str, ...]:
        """The CD drives of the running VM that still hold the ISO of the old home."""
        if self.plan.home is None or not view.state.active:
            return ()
        inserted = {one.target: one.live.path for one in view.disks if one.live is not None}
        return tuple(
            file.target
            for file in self.plan.home.files
            if file.target is not None and same_path(inserted.get(file.target), file.source)
        )

    def _config_agrees(self, view: DomainView) -> bool:
        """Whether the next start would use the destination for all that the plan moves."""
        if not view.persistent:
            return True
        configs = {one.target: one.config for one in view.disks}
        for disk in self.plan.disks:
            config = configs.get(disk.target)
            if config is None or _side(disk, config) is not Side.DESTINATION or config.format != disk.dest_format:
                return False
        if self.plan.home is not None:
            for file in self.plan.home.files:
                if file.role == "nvram" and view.config_nvram == file.source:
                    return False
                if file.target is not None:
                    config = configs.get(file.target)
                    if config is not None and config.path == file.source:
                        return False
        return True


def mirrored(plan: Plan, record: Record) -> bool:
    """Whether every copy that counts was started as a mirror, so that nothing can remain to be copied."""
    if plan.synchronous:
        return True
    return bool(plan.disks) and all(record.copy(disk.target).synchronous for disk in plan.disks)


def same_path(one: str | None, other: str | None) -> bool:
    return one is not None and other is not None and posixpath.normpath(one) == posixpath.normpath(other)


def _side(disk: DiskPlan, source: DiskSource | None) -> Side:
    if source is not None and same_path(source.path, disk.source):
        return Side.SOURCE
    if source is not None and same_path(source.path, disk.dest):
        return Side.DESTINATION
    return Side.ELSEWHERE
