"""The public Python API: look at a host, check and start moves, follow them, take care of what they leave.

    from blockferry.client import connect

    with connect("qemu:///system") as client:
        move = client.move("web01", to="ssd")
        move.wait(on_progress=lambda progress: print(progress.phase, progress.done, progress.total))

The command line is made of this, and a server will be spoken to through the same class. docs/python-api.md tells it
with examples.

Promise of stability: the names in `__all__`, the parameters of their public methods, and the fields that
docs/python-api.md lists keep their meaning. Parameters, fields, members of enumerations and kinds of errors may be
added in any release. What goes away is announced by a DeprecationWarning for two minor releases. Not promised: names
that begin with `_`, the fields of `plan` and `record` of a move (the journal's own form), all other modules, and the
wording of sentences; an error's `code` is promised.

Sizes are bytes, rates bytes per second, durations seconds and times seconds since the epoch. Data are frozen
dataclasses of plain values; `to_json` and `from_json` carry them over a wire. Every method may raise a
BlockferryError, and all may be called from any thread. Importing this module loads neither libvirt nor a database.
"""

from __future__ import annotations

import abc
import importlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, cast, overload

import msgspec

from blockferry.base import lazy
from blockferry.base.config import Config
from blockferry.base.errors import (
    BlockferryError,
    ConfigInvalid,
    CopyDiffers,
    DatastoreNotFound,
    DiskNotFound,
    HostNotConfigured,
    HostUnreachable,
    Interrupted,
    JournalFailed,
    LeaseLost,
    MoveBusy,
    MoveCancelled,
    MoveFailed,
    MoveNotFound,
    MoveParked,
    NotInQuarantine,
    NotRestorable,
    NotTrackable,
    NotVerified,
    OtherHost,
    PermissionRefused,
    PointNotFound,
    Refused,
    StillInUse,
    TooLateToCancel,
    TooManyPoints,
    TrackingBusy,
    TrackingLost,
    UsageError,
    VmAmbiguous,
    VmNotFound,
    WaitTimedOut,
)
from blockferry.base.event import Event
from blockferry.base.host_entries import HostEntry
from blockferry.fleet.fleet_inventory import FleetInventory
from blockferry.fleet.host_listing import HostDatastore, HostFigures, HostListing, HostState
from blockferry.host_move.host_move_options import AnyMoveOptions, host_move_request, without_host
from blockferry.host_move.host_plan import HostMovePlan, TravellingDisk
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.host_move.host_summary import HostCheckResult, HostMoveProgress, HostMoveReport, HostMoveSummary
from blockferry.host_move.precheck.catalogue import EVERY_FINDING as CATALOGUE
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, PowerState, Vm
from blockferry.hosts.kept import Kept
from blockferry.hosts.tracking_points import Point
from blockferry.jobs.conclusion import conclude
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.move_handle import Move, Update
from blockferry.storage_move import old_plan
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.home.plan import HomePlan
from blockferry.storage_move.move_options import MoveOptions, move_request, read_rate
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.finding import Finding, FindingKind, Severity
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import (
    ANY_TEMPLATE,
    FORMATS,
    NO_TEMPLATE,
    ChainPolicy,
    Firmware,
    IfNotConverging,
    LatencyContract,
    Method,
    MoveRequest,
    OnBreak,
    PausedPolicy,
    Preallocation,
    Provision,
    SourcePolicy,
)
from blockferry.storage_move.summary import (
    CheckResult,
    DatastoreListing,
    DiskEstimate,
    DiskListing,
    DiskProgress,
    GuestReport,
    MoveSummary,
    Orphan,
    Orphans,
    Progress,
    Report,
    SpaceEstimate,
    VmListing,
)

if TYPE_CHECKING:
    from blockferry import batch
    from blockferry.batch import PARALLEL, Batch, BatchEnd, BatchVm, SilentHost, worst_status
    from blockferry.doctor.preparation_rules import HostPreparation
    from blockferry.doctor.rules import Diagnosis, HostCheck, Level
    from blockferry.leftovers.quarantine_rules import DiskLoss, KeptFile, Purged, Restore
    from blockferry.tracking.rules import (
        MOST_POINTS,
        ChangedArea,
        Changes,
        DiskChanges,
        DiskTracking,
        MadePoint,
        PointStatus,
        TrackingStatus,
    )
else:
    batch = lazy.module("blockferry.batch")
    __getattr__ = lazy.attributes(
        __name__,
        {
            "blockferry.batch": ("PARALLEL", "Batch", "BatchEnd", "BatchVm", "SilentHost", "worst_status"),
            "blockferry.doctor.preparation_rules": ("HostPreparation",),
            "blockferry.doctor.rules": ("Diagnosis", "HostCheck", "Level"),
            "blockferry.leftovers.quarantine_rules": ("DiskLoss", "KeptFile", "Purged", "Restore"),
            "blockferry.tracking.rules": (
                "MOST_POINTS",
                "ChangedArea",
                "Changes",
                "DiskChanges",
                "DiskTracking",
                "MadePoint",
                "PointStatus",
                "TrackingStatus",
            ),
        },
    )

__all__ = [
    "ANY_TEMPLATE",
    "CATALOGUE",
    "FORMATS",
    "MOST_POINTS",
    "NO_TEMPLATE",
    "PARALLEL",
    "AnyMove",
    "AnyMoveOptions",
    "AnyRequest",
    "Batch",
    "BatchEnd",
    "BatchVm",
    "BlockferryError",
    "ChainPolicy",
    "ChangedArea",
    "Changes",
    "CheckResult",
    "Client",
    "Config",
    "ConfigInvalid",
    "CopyDiffers",
    "Datastore",
    "DatastoreListing",
    "DatastoreNotFound",
    "Diagnosis",
    "Disk",
    "DiskChanges",
    "DiskEstimate",
    "DiskListing",
    "DiskLoss",
    "DiskNotFound",
    "DiskPlan",
    "DiskProgress",
    "DiskSource",
    "DiskTracking",
    "Event",
    "Finding",
    "FindingKind",
    "Firmware",
    "GuestReport",
    "HomePlan",
    "HostCheck",
    "HostCheckResult",
    "HostDatastore",
    "HostEntry",
    "HostFigures",
    "HostListing",
    "HostMovePlan",
    "HostMoveProgress",
    "HostMoveReport",
    "HostMoveRequest",
    "HostMoveSummary",
    "HostNotConfigured",
    "HostPreparation",
    "HostState",
    "HostUnreachable",
    "IfNotConverging",
    "Interrupted",
    "JournalFailed",
    "Kept",
    "KeptFile",
    "LatencyContract",
    "LeaseLost",
    "Level",
    "MadePoint",
    "Method",
    "Move",
    "MoveBusy",
    "MoveCancelled",
    "MoveFailed",
    "MoveNotFound",
    "MoveOptions",
    "MoveParked",
    "MoveRequest",
    "MoveSummary",
    "NotInQuarantine",
    "NotRestorable",
    "NotTrackable",
    "NotVerified",
    "OnBreak",
    "Orphan",
    "Orphans",
    "OtherHost",
    "Outcome",
    "PausedPolicy",
    "PermissionRefused",
    "Plan",
    "Point",
    "PointNotFound",
    "PointStatus",
    "PowerState",
    "Preallocation",
    "Progress",
    "Provision",
    "Purged",
    "Record",
    "Refused",
    "Report",
    "Restore",
    "Severity",
    "SilentHost",
    "SourcePolicy",
    "SpaceEstimate",
    "StillInUse",
    "TooLateToCancel",
    "TooManyPoints",
    "TrackingBusy",
    "TrackingLost",
    "TrackingStatus",
    "TravellingDisk",
    "Update",
    "UsageError",
    "Vm",
    "VmAmbiguous",
    "VmListing",
    "VmNotFound",
    "WaitTimedOut",
    "Wanted",
    "any_request",
    "conclude",
    "connect",
    "from_json",
    "move_request",
    "to_json",
    "worst_status",
]

AnyMove = MoveSummary | HostMoveSummary
"""A move of any kind; its `kind` is "storage-move" or "host-move"."""

AnyRequest = MoveRequest | HostMoveRequest

POLL_S = 0.5
"""Seconds between two looks at a move that another process runs."""

T = TypeVar("T")


def connect(
    uri: str | None = None,
    *,
    host: str | None = None,
    journal: str | None = None,
    config: Config | None = None,
) -> Client:
    """Return a client for one libvirt host and one journal. Nothing is opened before it is needed.

    `uri`: as in `virsh -c`. `host`: the same by name, as of `--host`. `journal`: its URL or, for SQLite, its path.
    Where neither is given and hosts are configured, a VM is found on whichever of them has it.
    What is left out is as `config` says, or else the configuration files and the environment. Raises ConfigInvalid,
    UsageError for a URI that cannot be used, and for a URI with a host's name beside it.
    """
    found = config or Config.load()
    named = uri or host or os.environ.get("BLOCKFERRY_URI") or os.environ.get("BLOCKFERRY_HOST")
    if host is not None:
        if uri is not None:
            raise UsageError("A URI and a host's name both say which host is meant.", "Leave one of them out.")
        uri = found.address(host).uri
    found = replace(found, uri=uri or found.uri, journal=journal or found.journal or Config.load().journal)
    # libvirt and SQLAlchemy take a noticeable part of a second to load: only now.
    if found.hosts and not named:
        return cast(Client, importlib.import_module("blockferry.fleet_client").FleetClient(found))
    return cast(Client, importlib.import_module("blockferry.local_client").LocalClient(found))


class Client(abc.ABC):
    """All use cases, on one host with one journal. Made by `connect`; a context manager that closes itself."""

    poll_s: float = POLL_S

    # ------------------------------------------------------------ the client itself

    @property
    @abc.abstractmethod
    def uri(self) -> str:
        """The libvirt URI that this client talks to."""

    @property
    @abc.abstractmethod
    def config(self) -> Config:
        """The configuration: what options of a move that are left out stand for."""

    @property
    @abc.abstractmethod
    def missing_journal(self) -> str | None:
        """The place of the journal when there is none yet (the first move makes it), else None."""

    @abc.abstractmethod
    def listen(self, say: Callable[[str], None]) -> None:
        """Have `say` hear, in words for people, what takes long before there is a move to show the progress of."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the connections. Moves go on."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ looking

    @abc.abstractmethod
    def hosts(self) -> tuple[HostListing, ...]:
        """Return what is known of each configured host, or of the one host when none are; waits for none that is down.

        Raises nothing for a host that is down: its `state` says so, and its figures are those of when it was seen.
        """

    @abc.abstractmethod
    def vms(self) -> tuple[VmListing, ...]:
        """Return all VMs of the host, or of all configured ones, with their disks, sizes and datastores."""

    @abc.abstractmethod
    def datastores(self) -> tuple[DatastoreListing, ...]:
        """Return all datastores (storage pools) with their space and the VMs on them."""

    @abc.abstractmethod
    def vm_names(self) -> tuple[str, ...]:
        """Return the names of all VMs. Cheap, for completion; so are the next two."""

    @abc.abstractmethod
    def datastore_names(self) -> tuple[str, ...]:
        """Return the names of all datastores."""

    @abc.abstractmethod
    def disk_names(self, vm: str) -> tuple[str, ...]:
        """Return the targets (vda, sdb) of the VM's disks. Raises VmNotFound."""

    @abc.abstractmethod
    def diagnose(self) -> Diagnosis:
        """Look the host over, as `blockferry doctor` does. Touches nothing, raises nothing for what is wrong."""

    @abc.abstractmethod
    def prepare_host(self, name: str) -> HostPreparation:
        """Look over a host that is to take VMs from the other configured hosts, and try the ways between them.

        `name`: as of `to_host`. Touches nothing, raises nothing for what is wrong; `commands` mend it. Raises
        UsageError for what can be no host.
        """

    # ------------------------------------------------------------ moving

    @overload
    def check(self, vm: str | MoveRequest, **options: Unpack[MoveOptions]) -> CheckResult: ...

    @overload
    def check(self, vm: str | AnyRequest, **options: Unpack[AnyMoveOptions]) -> CheckResult | HostCheckResult: ...

    def check(self, vm: str | AnyRequest, **options: Unpack[AnyMoveOptions]) -> CheckResult | HostCheckResult:
        """Return every reason for and against a move, and its plan. Touches nothing.

        `options`: see MoveOptions, and AnyMoveOptions for a move to another host (`to_host`), of which HostCheckResult
        tells. Raises UsageError, VmNotFound, DatastoreNotFound, DiskNotFound.
        """
        return self._check(self._request(vm, options))

    def plan_move(self, vm: str | AnyRequest, **options: Unpack[AnyMoveOptions]) -> Move:
        """Check a move and write it into the journal. It does not run yet: `start` or `run` does that.

        Warnings are in its story. Raises Refused with the codes of all reasons against it; MoveBusy; as `check`.
        """
        return Move(self, self._plan(self._request(vm, options)))

    def move(self, vm: str | AnyRequest, **options: Unpack[AnyMoveOptions]) -> Move:
        """Check a move and start it in a process of its own, which outlives this one; return its handle.

        `options`: see MoveOptions, and AnyMoveOptions for a move to another host. Raises as `plan_move`.
        """
        move = self.plan_move(vm, **options)
        move.start()
        return move

    def plan_all(self, on: str, **options: Unpack[AnyMoveOptions]) -> Batch:
        """Check the moves of all VMs on the host `on` (with `to_host`), or with a disk on the datastore `on` (without).

        Nothing is touched: `Batch.run` moves them, each by a process of its own. A configured host that does not answer
        is in `Batch.silent`. Raises UsageError, HostUnreachable, DatastoreNotFound.
        """
        return batch.plan(self, on, options)

    def find(self, name: str | None = None) -> Move:
        """Return the move that a person means by a VM's name or UUID, a move's ID, or the beginning of either.

        Of several moves of one VM the one that is not over, else the latest. None: the only one that is not over.
        Raises MoveNotFound; UsageError when several moves are meant.
        """
        return Move(self, self._find(name))

    def handle(self, move: str) -> Move:
        """Return the handle of a move by its ID, or the beginning of it. Raises MoveNotFound."""
        return Move(self, self.show(move)[0])

    @abc.abstractmethod
    def moves(self) -> tuple[AnyMove, ...]:
        """Return the moves of all kinds that have not ended, the oldest first. A summary's `kind` tells which it is."""

    @abc.abstractmethod
    def history(self, limit: int = 20) -> tuple[AnyMove, ...]:
        """Return the latest `limit` moves that have ended, the latest first."""

    @abc.abstractmethod
    def show(self, move: str) -> tuple[AnyMove, tuple[Event, ...]]:
        """Return a move and its story so far, oldest first. `move`: an ID or its beginning. Raises MoveNotFound."""

    @abc.abstractmethod
    def start(self, move: str) -> bool:
        """Have a background process run the move; it outlives this process and its terminal.

        False: the journal is away, and that process waits for it first.
        """

    @abc.abstractmethod
    def run(self, move: str, on_change: Callable[[Any], None], stop: threading.Event | None = None) -> AnyMove:
        """Run the move in this thread, to its end; return its finished summary.

        Raises MoveFailed, MoveCancelled, MoveParked, NotVerified, CopyDiffers, LeaseLost, MoveBusy; Interrupted once
        `stop` is set: the move is then left in place, free for another process.
        """

    @abc.abstractmethod
    def cancel(self, move: str, *, here: bool = False) -> AnyMove:
        """Ask for a cancellation; whoever runs the move obeys. Raises TooLateToCancel after the switch.

        `here`: the user says that a move whose plan names no host (an older version's) was planned on this one.
        """

    def set_speed(self, move: str, bandwidth: str | int) -> AnyMove:
        """Limit the copy to `bandwidth` over all disks ("50MiB/s", or bytes per second), 0 for no limit."""
        return self._set_speed(move, _rate(bandwidth))

    @abc.abstractmethod
    def interrupted(self) -> tuple[AnyMove, ...]:
        """Return the moves that are run from here, whose process died and that are not parked."""

    @abc.abstractmethod
    def resumable(self, move: str | None = None) -> tuple[AnyMove, ...]:
        """Return the moves that `resume` would start: this one, or all of this host that nobody runs. Starts none."""

    def resume(self, name: str | None = None) -> tuple[Move, ...]:
        """Start moves that nobody runs, in the background: the named one, also if it is parked; or all that are not.

        Return their handles; none for a move that has ended. Raises MoveNotFound, OtherHost.
        """
        found = self.resumable(None if name is None else self._find(name).id)
        for summary in found:
            self.start(summary.id)
        return tuple(Move(self, summary) for summary in found)

    # ------------------------------------------------------------ leftovers

    @abc.abstractmethod
    def orphans(self) -> Orphans:
        """Return what earlier moves left or keep on purpose, and where could not be searched."""

    @abc.abstractmethod
    def remove_orphan(self, orphan: Orphan, *, abandoned: bool = False) -> str:
        """Remove it after proving once more that nothing needs it; a sentence that says what was done.

        `abandoned`: the user says that other journals whose moves made things here are gone for good. Raises
        StillInUse.
        """

    @abc.abstractmethod
    def quarantine(self) -> tuple[KeptFile, ...]:
        """Return the old disks that are kept on this host, and whether each could be removed now."""

    @abc.abstractmethod
    def purge(self, paths: Sequence[str] = (), *, now: bool = False) -> tuple[Purged, ...]:
        """Remove old disks that have expired: all, or those named; with `now` also those that have not.

        Each only after the proof that nothing needs it. Raises NotInQuarantine.
        """

    @abc.abstractmethod
    def restorable(self, vm_or_path: str, *, compare: bool | None = None) -> Restore:
        """Return what going back to the old disks would do, and lose. Touches nothing.

        `compare`: compare old and new images; None: only small ones. Raises NotRestorable, NotInQuarantine.
        """

    @abc.abstractmethod
    def restore(self, agreed: Restore) -> tuple[str, ...]:
        """Point a VM that is off back to its old disks, as agreed to; sentences of what was done."""

    # ------------------------------------------------------------ changed blocks

    @abc.abstractmethod
    def tracking(self, vm: str) -> TrackingStatus:
        """Return the VM's tracking points, and whether the changes since each can be told."""

    @abc.abstractmethod
    def enable_tracking(self, vm: str, disks: Sequence[str] = ()) -> MadePoint:
        """Return a good point of these disks, or of all; one is made if there is none. Raises NotTrackable."""

    @abc.abstractmethod
    def make_point(
        self, vm: str, disks: Sequence[str] = (), *, name: str | None = None, keep: int | None = None
    ) -> Point:
        """Make a point, of all disks at one instant. `keep`: drop our oldest points, so that so many are left."""

    @abc.abstractmethod
    def drop_points(self, vm: str, ids: Sequence[str] = (), *, everything: bool = False) -> tuple[str, ...]:
        """Drop these points, or with `everything` all of ours; the ids that are gone. Raises PointNotFound."""

    @abc.abstractmethod
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
        """Return the areas that have changed since a point; never too few.

        `mark`: make a point of this name at that instant ("": a name is made up). `accept_power_cycles`: answer also
        if the VM was off since then. Raises TrackingLost rather than leave out a change; PointNotFound.
        """

    # ------------------------------------------------------------ what an implementation brings

    def _request(self, vm: str | AnyRequest, options: AnyMoveOptions) -> AnyRequest:
        if not isinstance(vm, str):
            if options:
                raise TypeError(f"a {type(vm).__name__} takes no options beside it")
            return vm
        return any_request(vm, options, self.config)

    def _fleet_inventory(self) -> FleetInventory:
        """Return the VMs and the datastores of all hosts that this client asks. Raises as `vms`."""
        return FleetInventory(self.vms(), self.datastore_names(), self.uri)

    @abc.abstractmethod
    def _at_host(self, name: str) -> Client:
        """Return the client of one host, by a configured name, a name for ssh or a URI; closed with this one."""

    @abc.abstractmethod
    def _check(self, request: AnyRequest) -> CheckResult | HostCheckResult: ...

    @abc.abstractmethod
    def _plan(self, request: AnyRequest) -> AnyMove: ...

    @abc.abstractmethod
    def _find(self, name: str | None) -> AnyMove: ...

    @abc.abstractmethod
    def _set_speed(self, move: str, bandwidth: int) -> AnyMove: ...


def any_request(vm: str, options: AnyMoveOptions, config: Config) -> AnyRequest:
    """Return the request that these options make, the rest as configured: with `to_host` of a move to another host.

    Raises UsageError where a value cannot be read or two options contradict each other, TypeError for an unknown name.
    """
    if options.get("to_host") is not None:
        return host_move_request(vm, options, config)
    return move_request(vm, without_host(options), config)


def to_json(value: object) -> Any:
    """Return the JSON form (objects, lists, texts, numbers) of any data of this module.

    Dataclasses become objects of their fields, enumerations their values. A move has its `kind` and `state`, a progress
    its sums (`total`, `done`, `rate`, `seconds_left`) and a check its verdict (`refused`, `nothing_to_do`) besides.
    The plan of a storage move is shown flat, as it always was (storage_move/old_plan.py).
    """
    fields = msgspec.to_builtins(old_plan.flat(value) if isinstance(value, Plan) else value)
    match value:
        case MoveSummary() | HostMoveSummary():
            own = {"kind": value.kind, "state": value.state, "progress": to_json(value.progress)}
            return {**fields, **own, "plan": to_json(value.plan)}
        case Progress() | HostMoveProgress():
            sums = {"total": value.total, "done": value.done, "rate": value.rate, "seconds_left": value.seconds_left}
            return {**fields, **sums}
        case CheckResult() | HostCheckResult():
            plan = None if value.plan is None else to_json(value.plan)
            return {**fields, "plan": plan, "refused": value.refused, "nothing_to_do": value.nothing_to_do}
    # No class of a room that most commands do not use is loaded for this.
    return {**fields, "healthy": value.healthy} if hasattr(value, "healthy") else fields


def from_json(kind: type[T], data: object) -> T:
    """Return the data of this kind that `to_json` made `data` of; fields that are not known are ignored.

    Raises ValueError where `data` is not of that form.
    """
    try:
        return msgspec.convert(_with_parts(data, kind), kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"this is no {kind.__name__}: {error}") from error


def _with_parts(data: object, kind: type) -> object:
    """The JSON form with its plan in parts, where it has one."""
    if kind is Plan:
        return msgspec.to_builtins(old_plan.today(msgspec.convert(data, old_plan.FlatPlan)))
    if kind in (MoveSummary, CheckResult) and isinstance(data, dict) and data.get("plan") is not None:
        return {**data, "plan": _with_parts(data["plan"], Plan)}
    return data


def _rate(bandwidth: str | int) -> int:
    try:
        return read_rate(bandwidth)
    except ValueError as error:
        raise UsageError(f"{error}.", 'Write it like "50MiB/s".') from None
