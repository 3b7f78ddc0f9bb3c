"""A client in memory, as the command line uses one; also a program: `python cli_fake.py ARGS`.

As a program its behaviour is set with FAKE_* variables, and what was asked of it is appended to FAKE_LOG.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from blockferry.base.config import Config
from blockferry.base.errors import (
    Interrupted,
    LeaseLost,
    MoveBusy,
    MoveCancelled,
    MoveFailed,
    MoveNotFound,
    NotRestorable,
    Refused,
    StillInUse,
    TooLateToCancel,
    UsageError,
    nearest,
)
from blockferry.base.event import Event
from blockferry.base.units import GiB, MiB, TiB
from blockferry.cli import main
from blockferry.cli.app import App
from blockferry.client import AnyRequest, Client
from blockferry.doctor.preparation_rules import HostPreparation
from blockferry.doctor.rules import Diagnosis, HostCheck, Level
from blockferry.fleet.host_listing import HostDatastore, HostFigures, HostListing, HostState
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.host_move.host_summary import HostCheckResult
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, PowerState, Vm
from blockferry.hosts.tracking_points import Point
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.leftovers.quarantine_rules import KeptFile, Purged, Restore
from blockferry.storage_move.destination.plan import DestinationImage
from blockferry.storage_move.disk_plan import DiskPlan, DiskSizes, SourceImage
from blockferry.storage_move.home.plan import HomeFile, HomePlan
from blockferry.storage_move.plan import DomainPlan, Plan
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method, MoveRequest
from blockferry.storage_move.summary import (
    CheckResult,
    DatastoreListing,
    DiskEstimate,
    DiskListing,
    DiskProgress,
    MoveSummary,
    Orphan,
    Orphans,
    Progress,
    Report,
    SpaceEstimate,
    VmListing,
)
from blockferry.storage_move.switch.record import SwitchRecord
from blockferry.tracking.rules import (
    ChangedArea,
    Changes,
    DiskChanges,
    DiskTracking,
    MadePoint,
    PointStatus,
    TrackingStatus,
)

AT = 1_790_000_000.0  # 2026-09-21
OLD = "/srv/storage/old-san/web01"
NEW = "/srv/storage/ssd/web01"


def vm(name: str, state: PowerState = PowerState.RUNNING, targets: tuple[str, ...] = ("vda",)) -> VmListing:
    disks = tuple(
        Disk(target, "disk", "virtio", DiskSource("file", f"{OLD}/{name}-{target}.qcow2", "qcow2"), None)
        for target in targets
    )
    listings = tuple(
        DiskListing(target, "disk", f"{OLD}/{name}-{target}.qcow2", "qcow2", "old-san", 20 * GiB, 4 * GiB)
        for target in targets
    )
    return VmListing(Vm(name, f"uuid-{name}", state, True, disks), listings)


def plan(move: str = "3f2a", name: str = "web01", to: str = "ssd") -> Plan:
    disks = tuple(
        DiskPlan(
            target=target,
            source=SourceImage(path=f"{OLD}/{name}-{target}.qcow2", format="qcow2", kind="file", datastore="old-san"),
            dest=DestinationImage(path=f"{NEW}/{name}-{target}.qcow2", format="qcow2", datastore=to),
            sizes=DiskSizes(virtual=20 * GiB, allocation=size),
        )
        for target, size in (("vda", 4 * GiB), ("vdb", 1 * GiB))
    )
    home = HomePlan(to, NEW, OLD, (HomeFile(f"{OLD}/seed.iso", f"{NEW}/seed.iso", "iso", 366 * 1024, "sda"),))
    reason = "the guest runs and the destination is local"
    return Plan(
        move, "qemu:///system", name, f"uuid-{name}", Method.MIRROR, reason, disks,
        DomainPlan(persistent=True, was=PowerState.RUNNING), MoveRequest(name, to).source, home,
    )  # fmt: skip


def report(outcome: Outcome = Outcome.MOVED) -> Report:
    return Report(
        outcome=outcome,
        seconds=22.4,
        phases={"prepare": 0.2, "copy": 21.6, "switch": 0.1, "clean up": 0.5},
        bulk_bytes=5 * GiB,
        changed_bytes=152 * MiB,
        passes=3,
        switch_stall_s=0.012,
        start_stall_s=0.003,
        switch_attempts=1,
        sources=(f"{OLD}/web01-vda.qcow2 was removed.", f"{OLD}/web01-vdb.qcow2 was removed."),
    )


def summary(
    move: str = "3f2a", name: str = "web01", outcome: Outcome | None = None, owner: str | None = None, **changes: object
) -> MoveSummary:
    at = MoveSummary(
        id=move,
        plan=plan(move, name),
        record=Record(outcome=outcome),
        progress=progress(0.0, "prepare"),
        created=AT,
        finished=None if outcome is None else AT + 22.4,
        owner=owner,
        owner_alive=owner is not None,
        report=None if outcome is None else report(outcome),
    )
    return dataclasses.replace(at, **changes)  # type: ignore[arg-type]


def progress(part: float, phase: str = "copy") -> Progress:
    disks = []
    for disk, passes in zip(plan().disks, ((120 * MiB, 32 * MiB), ()), strict=True):
        total = disk.copy_bytes
        done = int(total * part)
        seen = passes if part > 0.7 else ()
        disks.append(
            DiskProgress(
                disk.target,
                "in step" if part >= 1 else "copying",
                total,
                done,
                total,
                sum(seen),
                len(seen),
                seen,
                212.0 * MiB if part else 0.0,
                (total - done) / (212 * MiB),
            )
        )
    return Progress(phase, AT, "", tuple(disks))


HEALTHY = Diagnosis("qemu:///system", (HostCheck("tools", Level.OK, "All there."),))


@dataclass
class FakeClient(Client):
    """Moves take `steps` steps of `step_s`; `ends` says how."""

    steps: int = 3
    step_s: float = 0.0
    ends: Outcome = Outcome.MOVED
    findings: tuple[Finding, ...] = ()
    journal: dict[str, MoveSummary] = field(default_factory=dict)
    orphaned: list[Orphan] = field(default_factory=list)
    unsearched: tuple[str, ...] = ()
    in_use: set[str] = field(default_factory=set)  # what cannot be removed after all
    log: list[str] = field(default_factory=list)
    raises: Exception | None = None  # by every listing
    hangs_s: float = 0.0  # before every name
    busy_first: bool = False
    run_raises: list[Exception] = field(default_factory=list)  # by one run after the other
    journal_away: bool = False
    cannot_start: Exception | None = None
    after_start: Outcome | None = Outcome.MOVED
    closed: bool = False
    switched: bool = False  # from the beginning of a run
    diagnosis: Diagnosis = HEALTHY
    kept: tuple[KeptFile, ...] = ()
    agreed: Restore | None = None
    requests: list[MoveRequest] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return "qemu:///system"

    @property
    def config(self) -> Config:
        return Config.load()

    @property
    def missing_journal(self) -> str | None:
        return None

    def listen(self, say: Callable[[str], None]) -> None:
        del say

    def _note(self, text: str) -> None:
        self.log.append(text)
        if "FAKE_LOG" in os.environ:
            with open(os.environ["FAKE_LOG"], "a") as file:
                file.write(text + "\n")

    def _look(self) -> None:
        time.sleep(self.hangs_s)
        if self.raises is not None:
            raise self.raises

    def hosts(self) -> tuple[HostListing, ...]:
        self._look()
        stores = (HostDatastore("old-san", True, 2 * TiB, 300 * GiB), HostDatastore("ssd", False, 0, 0))
        figures = HostFigures("u-1", "kvm1.lan", "9.0.0", "7.2.0", 16, 64 * GiB, 20 * GiB, 1.5, 12, 9, stores)
        up, down = "qemu+ssh://kvm1/system", "qemu+ssh://kvm2/system"
        return (
            HostListing("kvm1", up, HostState.UP, "", figures, time.time(), (up,), ("kvm1-ip",)),
            HostListing("kvm2", down, HostState.DOWN, "no route to host", figures, time.time() - 7200, (down,)),
            HostListing("kvm3", "qemu+ssh://kvm3/system", HostState.ASKED, "it has not answered yet"),
        )

    def vms(self) -> tuple[VmListing, ...]:
        self._look()
        long = "the-rather-long-name-of-a-database-server-01.prod.example.com"
        return (
            vm("web01", targets=("vda", "vdb")),
            dataclasses.replace(vm("db01"), move="3f2a"),
            vm(long, PowerState.OFF),
            VmListing(Vm("diskless", "u", PowerState.OFF, True, ()), ()),
            VmListing(
                Vm("broken", "u2", PowerState.PAUSED, True, ()),
                (DiskListing("sda", "disk", "/mnt/gone/broken.img", "raw", None, None, None, "No such file"),),
            ),
        )

    def vm_names(self) -> tuple[str, ...]:
        self._look()
        return ("db01", "web01", "web02")

    def datastore_names(self) -> tuple[str, ...]:
        self._look()
        return ("archive", "old-san", "ssd")

    def disk_names(self, vm: str) -> tuple[str, ...]:
        return ("vda", "vdb") if vm == "web01" else ()

    def datastores(self) -> tuple[DatastoreListing, ...]:
        self._look()
        old = Datastore("old-san", "u1", "netfs", True, "/srv/storage/old-san", 2 * TiB, 300 * GiB, 1700 * GiB)
        ssd = Datastore("ssd", "u2", "dir", True, "/srv/storage/ssd", 500 * GiB, 420 * GiB, 80 * GiB)
        off = Datastore("archive", "u3", "dir", False, "/srv/storage/archive")
        return (
            DatastoreListing(old, 3 * TiB, ("web01", "db01")),
            DatastoreListing(ssd, 100 * GiB, ()),
            DatastoreListing(off, None, (), "the pool is not active"),
        )

    def diagnose(self) -> Diagnosis:
        self._look()
        return self.diagnosis

    def prepare_host(self, name: str) -> HostPreparation:
        self._note(f"prepare {name}")
        return HostPreparation(name, f"qemu+ssh://{name}/system", self.diagnosis.checks, ("ssh root@kvm2 true",))

    def _at_host(self, name: str) -> FakeClient:
        del name
        return self

    def _check(self, request: AnyRequest) -> CheckResult | HostCheckResult:
        if isinstance(request, HostMoveRequest):
            return HostCheckResult(request.vm, self.findings, None)
        self._look()
        self._note(f"check {request}")
        refused = any(found.is_error for found in self.findings)
        return CheckResult(
            request.vm,
            self.findings,
            None
            if refused
            else dataclasses.replace(plan(name=request.vm, to=request.to or "ssd"), source=request.source),
            (DiskEstimate("vda", 4 * GiB, 19.3), DiskEstimate("vdb", GiB, None)),
            (SpaceEstimate("ssd", 420 * GiB, 415 * GiB, 620 * GiB, 500 * GiB),),
            24.0,
        )

    def _plan(self, request: AnyRequest) -> MoveSummary:
        assert isinstance(request, MoveRequest)
        self._look()
        self.requests.append(request)
        self._note(f"move {request}")
        errors = [found for found in self.findings if found.is_error]
        if errors:
            reasons = "; ".join(f"{found.text} ({found.code})" for found in errors)
            raise Refused(request.vm, reasons, tuple(found.code for found in errors))
        made = summary(name=request.vm, owner="root@kvm1 pid 1", created=time.time())
        self.journal[made.id] = made
        return made

    def run(
        self, move_id: str, on_progress: Callable[[MoveSummary], None], stop: threading.Event | None = None
    ) -> MoveSummary:
        stop = stop or threading.Event()
        self._note(f"run {move_id}")
        if self.run_raises:
            error = self.run_raises.pop(0)
            if isinstance(error, LeaseLost):  # the other process is quick
                self.journal[move_id] = self._ended(move_id, Outcome.MOVED)
            raise error
        if self.busy_first:
            self.busy_first = False
            self.journal[move_id] = self._ended(move_id, Outcome.MOVED)
            raise MoveBusy("web01", move_id, "root@kvm1 pid 7")
        if self.switched:
            now = self.journal[move_id]
            self.journal[move_id] = dataclasses.replace(
                now, record=dataclasses.replace(now.record, switch=SwitchRecord(done=True))
            )
        for step in range(self.steps + 1):
            if self.journal[move_id].record.wanted is Wanted.CANCEL:
                self.journal[move_id] = self._ended(move_id, Outcome.CANCELLED)
                raise MoveCancelled(move_id, "web01", "It runs on its old disks.")
            if stop.wait(self.step_s):
                self._note(f"left {move_id}")
                raise Interrupted("left")
            part = min(1.0, step / self.steps)
            now = dataclasses.replace(self.journal[move_id], progress=progress(part, "copy" if part < 1 else "switch"))
            self.journal[move_id] = now
            on_progress(now)
        self.journal[move_id] = self._ended(move_id, self.ends)
        if self.ends is Outcome.FAILED:
            raise MoveFailed(move_id, "web01", "The destination is full.", "web01 keeps running on old-san.")
        return self.journal[move_id]

    def _ended(self, move_id: str, outcome: Outcome) -> MoveSummary:
        now = self.journal[move_id]
        record = dataclasses.replace(
            now.record, outcome=outcome, failure="it broke" if outcome is Outcome.FAILED else None
        )
        return dataclasses.replace(now, record=record, finished=now.created + 22.4, report=report(outcome), owner=None)

    def start(self, move_id: str) -> bool:
        self._note(f"start {move_id}")
        if self.cannot_start is not None:
            raise self.cannot_start
        if self.after_start is not None and move_id in self.journal:
            self.journal[move_id] = self._ended(move_id, self.after_start)
        return not self.journal_away

    def moves(self) -> tuple[MoveSummary, ...]:
        self._look()
        return tuple(move_summary for move_summary in self.journal.values() if move_summary.finished is None)

    def history(self, limit: int = 20) -> tuple[MoveSummary, ...]:
        return tuple(move_summary for move_summary in self.journal.values() if move_summary.finished is not None)[
            :limit
        ]

    def show(self, move: str) -> tuple[MoveSummary, tuple[Event, ...]]:
        found = [one for one in self.journal if one.startswith(move)]
        if not found:
            raise MoveNotFound(move, "/var/lib/blockferry/journal.db", nearest(move, self.journal))
        warnings = tuple(Event(AT, "warning", f"{one.code}: {one.text}") for one in self.findings if not one.is_error)
        story = (Event(AT, "user", "root asked for the move"), *warnings, Event(AT + 1, "phase", "copy"))
        return self.journal[found[0]], story

    def _find(self, word: str | None) -> MoveSummary:
        named = [move_summary for move_summary in self.journal.values() if word is None or move_summary.plan.vm == word]
        named = [move_summary for move_summary in named if move_summary.finished is None] or (named if word else [])
        if word is not None and not named:
            return self.show(word)[0]
        if len(named) != 1:
            raise UsageError("Several moves are under way." if named else "No move is under way.")
        return named[0]

    def cancel(self, move: str, *, here: bool = False) -> MoveSummary:
        self._note(f"cancel {move}" + (" here" if here else ""))
        now = self.show(move)[0]
        if now.too_late_to_cancel:
            raise TooLateToCancel(now.id, now.plan.vm, now.plan.destination, now.kind)
        if now.owner_alive and "other" in (now.owner or ""):  # another process, which obeys at once
            self.journal[now.id] = self._ended(now.id, Outcome.CANCELLED)
        else:
            record = dataclasses.replace(now.record, wanted=Wanted.CANCEL)
            self.journal[now.id] = dataclasses.replace(now, record=record)
        return dataclasses.replace(now, record=dataclasses.replace(now.record, wanted=Wanted.CANCEL))

    def _set_speed(self, move: str, bandwidth: int) -> MoveSummary:
        self._note(f"speed {move} {bandwidth}")
        return self.show(move)[0]

    def interrupted(self) -> tuple[MoveSummary, ...]:
        return tuple(move for move in self.moves() if move.state == "interrupted")

    def resumable(self, move: str | None = None) -> tuple[MoveSummary, ...]:
        self._note(f"resume {move}")
        return (self.show(move)[0],) if move else self.interrupted()

    def orphans(self) -> Orphans:
        self._look()
        return Orphans(tuple(self.orphaned), self.unsearched)

    def remove_orphan(self, orphan: Orphan, *, abandoned: bool = False) -> str:
        self._note(f"remove {orphan.path}" + (" abandoned" if abandoned else ""))
        if orphan.path in self.in_use:
            raise StillInUse(orphan.path, "VM web03 uses it")
        self.orphaned.remove(orphan)
        return f"{orphan.path} was removed."

    def quarantine(self) -> tuple[KeptFile, ...]:
        self._look()
        return self.kept

    def tracking(self, vm: str) -> TrackingStatus:
        self._look()
        disks = (DiskTracking("vda", True, "", 65536), DiskTracking("vdb", False, "the VM has been off since then"))
        point = PointStatus("bf-1", AT, True, False, disks)
        return TrackingStatus(vm, f"uuid-{vm}", PowerState.RUNNING, (point,), {"vdc": "raw images cannot"})

    def enable_tracking(self, vm: str, disks: Sequence[str] = ()) -> MadePoint:
        self._note(f"enable {vm} {' '.join(disks)}")
        return MadePoint(Point("bf-1", AT, ("vda",), None, {}), new=False)

    def make_point(
        self, vm: str, disks: Sequence[str] = (), *, name: str | None = None, keep: int | None = None
    ) -> Point:
        self._note(f"point {vm} {' '.join(disks)} {name} {keep}")
        return Point(name or "bf-2", AT, ("vda",), None, {})

    def drop_points(self, vm: str, ids: Sequence[str] = (), *, everything: bool = False) -> tuple[str, ...]:
        self._note(f"drop {vm} {' '.join(ids)} {everything}")
        return ("bf-1",) if everything else tuple(ids)

    def changes(
        self,
        vm: str,
        since: str,
        disks: Sequence[str] = (),
        *,
        mark: str | None = None,
        keep: int | None = None,
        accept_power_cycles: bool = False,
    ) -> Changes:
        self._note(f"changes {vm} {since} {' '.join(disks)} {mark!r} {keep} {accept_power_cycles}")
        areas = (ChangedArea(0, 65536), ChangedArea(131072, 65536))
        until = None if mark is None else mark or "bf-2"
        return Changes(vm, f"uuid-{vm}", since, AT, until, AT, (DiskChanges("vda", GiB, 131072, areas),))

    def purge(self, paths: Sequence[str] = (), *, now: bool = False) -> tuple[Purged, ...]:
        self._note(f"purge {' '.join(paths)} now={now}")
        chosen = [
            kept_file for kept_file in self.kept if (kept_file.kept.path in paths if paths else kept_file.expired)
        ]
        return tuple(
            Purged(
                kept_file.kept.path,
                kept_file.doubt is None,
                f"{kept_file.kept.path} stays" if kept_file.doubt else f"{kept_file.kept.path} was removed",
            )
            for kept_file in chosen
        )

    def restorable(self, what: str, *, compare: bool | None = None) -> Restore:
        self._note(f"restorable {what} {compare}")
        if self.agreed is None:
            raise NotRestorable("web01", "web01 is running; it must be off")
        return self.agreed

    def restore(self, agreed: Restore) -> tuple[str, ...]:
        self._note(f"restore {agreed.swap.vm}")
        return ("vda of web01 uses the old file again",)

    def close(self) -> None:
        self.closed = True


WARNING = finding("NVRAM_STAYS", "The NVRAM of web01 stays on old-san until the VM is off.")
ERROR = finding("DESTINATION_FULL", "ssd has 3.0 GiB free; the copy takes 5.0 GiB.")


def orphan_list() -> list[Orphan]:
    return [
        Orphan(f"{NEW}/half.qcow2", "copy", "1b4c", "web01", "ssd", 3 * GiB, "Half-made by move 1b4c.", True),
        Orphan(f"{OLD}/kept.qcow2", "source", "2c5d", "db01", "old-san", 9 * GiB, "Kept for 7 d as asked.", True,
               time.time() + 86400),
        Orphan(f"{OLD}/used.qcow2", "source", "2c5d", "db01", "old-san", 9 * GiB, "VM web02 uses it.", False),
    ]  # fmt: skip


def from_environment() -> FakeClient:
    env = os.environ
    client = FakeClient(
        steps=int(env.get("FAKE_STEPS", "3")),
        step_s=float(env.get("FAKE_STEP_S", "0")),
        ends=Outcome(env.get("FAKE_ENDS", "moved")),
        hangs_s=float(env.get("FAKE_HANGS_S", "0")),
        switched="FAKE_SWITCHED" in env,
    )
    if "FAKE_MOVES" in env:
        client.journal = {
            "3f2a": summary(owner="root@kvm1 pid 4711", progress=progress(0.8)),
            "9e01": summary("9e01", "db01", outcome=Outcome.MOVED),
            "77aa": summary("77aa", "web02", parked="disk vda is neither at the source nor at the destination"),
        }
        client.orphaned = orphan_list()
    if "FAKE_FINDINGS" in env:
        client.findings = (WARNING,) if env["FAKE_FINDINGS"] == "warning" else (WARNING, ERROR)
    return client


if __name__ == "__main__":
    main.root.main(sys.argv[1:], obj=App(opener=lambda _uri, _journal: from_environment(), poll_s=0.05))
