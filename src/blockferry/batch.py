"""Many moves that belong together: all VMs of a host, or all that have a disk on a datastore. Each is a job of its own.

The moves run in processes of their own, some at a time; this process begins them and looks. If it dies, those that were
begun go on, and the same request goes on with the rest: a VM that has moved is no longer listed on its old place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from blockferry.base.errors import (
    BlockferryError,
    DatastoreNotFound,
    JournalFailed,
    MoveCancelled,
    MoveParked,
    Refused,
    TooLateToCancel,
    UsageError,
    nearest,
)
from blockferry.base.question import Question
from blockferry.base.units import MiB, format_size
from blockferry.fleet.fleet_inventory import FleetInventory
from blockferry.host_move.host_move_options import AnyMoveOptions
from blockferry.host_move.host_request import HostMoveRequest
from blockferry.host_move.host_summary import HostCheckResult, HostMoveSummary
from blockferry.host_move.precheck.catalogue import finding
from blockferry.hosts.datastore_id import SpaceId
from blockferry.jobs.conclusion import conclude
from blockferry.storage_move.precheck.finding import Finding
from blockferry.storage_move.precheck.space import RESERVE
from blockferry.storage_move.request import MoveRequest
from blockferry.storage_move.summary import CheckResult, MoveSummary, SpaceEstimate, VmListing

if TYPE_CHECKING:  # the client makes batches, and a batch holds its client
    from blockferry.client import Client

AnyMove = MoveSummary | HostMoveSummary
AnyCheck = CheckResult | HostCheckResult

PARALLEL = 2
"""So many moves run at a time: one copies while the other is begun or ended."""

CHECKS = 4
"""So many VMs are checked at a time."""

START_AGAIN_S = 15.0
"""A background process that was started gets so long to claim its move."""

OWN_MEMORY = 256 * MiB
"""What QEMU takes beside the guest's memory, about."""

_WORST = (1, 5, 11, 8, 7, 9, 3, 6, 4, 130, 2)
"""Exit statuses, the worst first."""


_Storage = SpaceId | tuple[str, str]
"""The file system that a datastore takes its bytes from, the same by whichever host; where that is not known, (host,
datastore)."""


@dataclass(frozen=True, slots=True)
class BatchVm:
    """A VM of a batch before anything is begun. `move`: its move to that place that is not over, which goes on.

    `host`: the name of the host that it is on, "" where all are on one that was asked for.
    `error`: why it could not be checked, a sentence; `code` and `exit_status` of that error.
    """

    vm: str
    host: str = ""
    check: AnyCheck | None = None
    move: str = ""
    error: str = ""
    code: str = ""
    exit_status: int = 0

    @property
    def refused(self) -> bool:
        return bool(self.error) or (self.check is not None and self.check.refused)

    @property
    def nothing_to_do(self) -> bool:
        return self.check is not None and self.check.nothing_to_do

    @property
    def reasons(self) -> tuple[Finding, ...]:
        """What stands against it."""
        return () if self.check is None else tuple(one for one in self.check.findings if one.is_error)


@dataclass(frozen=True, slots=True)
class BatchEnd:
    """What became of a VM: `state` is moved, unchanged, refused, failed, cancelled, parked, running or "not begun".

    `text`: a sentence where it did not go through. `move`: "" when there is none. `host`: as in BatchVm.
    """

    vm: str
    state: str
    move: str = ""
    text: str = ""
    code: str = ""
    exit_status: int = 0
    host: str = ""


@dataclass(frozen=True, slots=True)
class SilentHost:
    """A configured host that did not answer: which of its VMs belong to the batch is not known.

    `error`: why it did not, a sentence; `code` and `exit_status` of that error.
    """

    host: str
    error: str
    code: str
    exit_status: int


def worst_status(ends: Iterable[BatchEnd | SilentHost]) -> int:
    """Return the exit status of a batch: the worst of its VMs', and of the hosts that did not answer."""
    return _worst(end.exit_status for end in ends)


def _worst(statuses: Iterable[int]) -> int:
    failures = set(statuses) - {0}
    return min(failures, key=lambda status: _WORST.index(status) if status in _WORST else 0, default=0)


def admitted(vms: Sequence[BatchVm]) -> tuple[BatchVm, ...]:
    """Return the VMs, those refused that do not fit beside the ones before them: memory and space of all together.

    What counts is the storage that a datastore is: two hosts may have one under two names, or two under one name.
    """
    memory, taken, found = 0, dict[_Storage, int](), []
    for batch_vm in vms:
        result = batch_vm.check
        if result is None or result.refused or result.nothing_to_do:
            found.append(batch_vm)
            continue
        wanted = 0
        against = []
        if isinstance(result, HostCheckResult) and result.memory:
            wanted = result.memory + OWN_MEMORY
            if memory and memory + wanted > result.memory_free:
                text = (
                    f"{batch_vm.vm} needs {format_size(wanted)} of memory beside the {format_size(memory)} of the VMs "
                )
                against.append(finding("MEMORY_SHORT", f"{text}before it; {format_size(result.memory_free)} are free."))
        sizes: dict[_Storage, int] = {}
        for space in result.space:
            key, size = _storage(batch_vm, space), space.available_before - space.available_after
            sizes[key] = sizes.get(key, 0) + size
            before = sum(size for other, size in taken.items() if _is_one(key, other))
            if before and space.available_after - before < RESERVE:
                text = f"{batch_vm.vm} needs {format_size(size)} on {space.datastore} beside the "
                text += f"{format_size(before)} of the VMs before it; {format_size(space.available_before)} are free."
                against.append(finding("DESTINATION_FULL", text))
        if against:
            found.append(replace(batch_vm, check=replace(result, findings=(*result.findings, *against), plan=None)))
            continue
        memory += wanted
        for key, size in sizes.items():
            taken[key] = taken.get(key, 0) + size
        found.append(batch_vm)
    return tuple(found)


def _storage(batch_vm: BatchVm, estimate: SpaceEstimate) -> _Storage:
    plan = None if batch_vm.check is None else batch_vm.check.plan
    space = None if plan is None else plan.space(estimate.datastore)
    return (batch_vm.host, estimate.datastore) if space is None else space


def _is_one(storage: _Storage, other: _Storage) -> bool:
    """Whether what is written to one takes room from the other."""
    if isinstance(storage, SpaceId) and isinstance(other, SpaceId):
        return storage.shares_space(other)
    return storage == other


@dataclass(slots=True)
class _Begun:
    """A move that runs in a process of its own."""

    vm: BatchVm
    summary: AnyMove
    started_s: float  # monotonic: when a process was started for it


class Batch:
    """All pre-checks of a batch, and the moves once `run` is called. Made by `Client.plan_all`."""

    def __init__(
        self,
        clients: dict[str, Client],
        vms: Sequence[BatchVm],
        options: AnyMoveOptions,
        silent: tuple[SilentHost, ...] = (),
    ) -> None:
        self._clients, self._options, self.silent = clients, options, silent
        self._vms = admitted(vms)
        self._stopped = False
        self._left = False
        self._begun: dict[str, _Begun] = {}  # by the move's ID

    @property
    def vms(self) -> tuple[BatchVm, ...]:
        """Every VM with what its pre-check has said."""
        return self._vms

    @property
    def refused(self) -> tuple[BatchVm, ...]:
        """Those that cannot go, with their reasons."""
        return tuple(batch_vm for batch_vm in self.vms if batch_vm.refused)

    @property
    def check_status(self) -> int:
        """The exit status of the pre-checks: 0 when all VMs are known, and all of them can go."""
        refused = (Refused.exit_status,) if self.refused else ()
        return _worst((*refused, *(host.exit_status for host in self.silent)))

    @property
    def going(self) -> tuple[BatchVm, ...]:
        """Those that go, or whose move goes on."""
        return tuple(batch_vm for batch_vm in self.vms if not batch_vm.refused and not batch_vm.nothing_to_do)

    @property
    def running(self) -> tuple[AnyMove, ...]:
        """The moves that were begun and are not over, as last seen."""
        return tuple(begun.summary for begun in self._begun.values())

    @property
    def begun(self) -> tuple[tuple[BatchVm, AnyMove], ...]:
        """Return each of those with its VM."""
        return tuple((begun.vm, begun.summary) for begun in self._begun.values())

    def run(
        self, *, parallel: int = PARALLEL, on_look: Callable[[Batch, tuple[BatchEnd, ...]], None] | None = None
    ) -> tuple[BatchEnd, ...]:
        """Move those that can go, `parallel` at a time; return what became of every VM. Those refused stay.

        `on_look` is called in this thread after each look at the moves, with those that have ended; it may call
        `cancel` and `leave`. An error of one VM does not stop the others.
        """
        if parallel < 1:
            raise UsageError(f"--parallel {parallel}: at least one move has to run.")
        ends = [_unmoved(one) for one in self.vms if one.refused or one.nothing_to_do]
        waiting = list(self.going)
        while self._begun or (waiting and not self._stopped):
            while waiting and len(self._begun) < parallel and not self._stopped:
                end = self._begin(waiting.pop(0))
                ends += [] if end is None else [end]
            if on_look is not None:
                on_look(self, tuple(ends))
            if self._left:
                break
            ends += self._look()
        ends += [_of(begun.vm, begun.summary.id, "running", 130) for begun in self._begun.values()]
        status = 130 if self._left else MoveCancelled.exit_status
        ends += [_of(batch_vm, batch_vm.move, "not begun", status) for batch_vm in waiting]
        order = [(batch_vm.host, batch_vm.vm) for batch_vm in self.vms]
        return tuple(sorted(ends, key=lambda end: order.index((end.host, end.vm))))

    def cancel(self) -> None:
        """Begin no more, and cancel those that run; one that is past its switch goes on to its end.

        All are tried; then the first error is raised, if there was one.
        """
        self._stopped = True
        errors: list[BlockferryError] = []
        for begun in self._begun.values():
            try:
                self._clients[begun.vm.host].cancel(begun.summary.id)
            except TooLateToCancel:
                continue
            except BlockferryError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def leave(self) -> None:
        """Begin no more, and leave those that run to their processes; `run` returns."""
        self._stopped = self._left = True

    def _begin(self, batch_vm: BatchVm) -> BatchEnd | None:
        """Begin a move, or go on with one. Return the end of a VM for which that cannot be done."""
        client = self._clients[batch_vm.host]
        try:
            summary = (
                client.show(batch_vm.move)[0]
                if batch_vm.move
                else client.plan_move(_request(client, batch_vm.vm, self._options)).latest
            )
            if not summary.owner_alive and summary.finished is None:
                client.start(summary.id)
        except BlockferryError as error:
            if isinstance(error, Refused) and error.codes == ("NOTHING_TO_MOVE",):
                return _of(batch_vm, "", "unchanged", 0)
            state = "refused" if isinstance(error, Refused) else "failed"
            return _of(batch_vm, batch_vm.move, state, error.exit_status, error)
        self._begun[summary.id] = _Begun(batch_vm, summary, time.monotonic())
        return None

    def _look(self) -> list[BatchEnd]:
        """Look at all that run, a moment later; return those that have ended."""
        time.sleep(next(iter(self._clients.values())).poll_s)
        ends = []
        for move, begun in tuple(self._begun.items()):
            client = self._clients[begun.vm.host]
            try:
                begun.summary = client.show(begun.summary.id)[0]
                late = time.monotonic() - begun.started_s > START_AGAIN_S
                if begun.summary.state == "interrupted" and late:
                    begun.started_s = time.monotonic()
                    client.start(begun.summary.id)
            except BlockferryError as error:
                if isinstance(error, JournalFailed):  # it is the journal of all
                    if not error.passing:
                        raise
                    continue  # the move goes on without it
                state = "running" if begun.summary.owner_alive else "failed"  # as last seen
                ends.append(_of(begun.vm, move, state, error.exit_status, error))
                del self._begun[move]
                continue
            end = _ended(begun.vm, begun.summary)
            if end is not None:
                ends.append(end)
                del self._begun[move]
        return ends


def _unmoved(batch_vm: BatchVm) -> BatchEnd:
    if batch_vm.nothing_to_do:
        return _of(batch_vm, "", "unchanged", 0)
    end = _of(batch_vm, "", "refused", batch_vm.exit_status)
    if batch_vm.error:
        return replace(end, text=batch_vm.error, code=batch_vm.code)
    text = " ".join(f"[{reason.code}] {reason.text}" for reason in batch_vm.reasons)
    return replace(end, text=text, code=Refused.code, exit_status=Refused.exit_status)


def _of(batch_vm: BatchVm, move: str, state: str, exit_status: int, error: BlockferryError | None = None) -> BatchEnd:
    text, code = ("", "") if error is None else (error.sentence, error.code)
    return BatchEnd(batch_vm.vm, state, move, text, code, exit_status, batch_vm.host)


def _ended(batch_vm: BatchVm, summary: AnyMove) -> BatchEnd | None:
    """What became of a move; None while it is not over."""
    if not summary.over:
        if summary.parked is None:
            return None
        error = MoveParked(summary.id, batch_vm.vm, summary.parked)
        return _of(batch_vm, summary.id, "parked", error.exit_status, error)
    try:
        conclude(summary)
    except BlockferryError as failed:
        state = "moved" if failed.exit_status == 11 else summary.state
        return _of(batch_vm, summary.id, state, failed.exit_status, failed)
    return _of(batch_vm, summary.id, "moved", 0)


# ------------------------------------------------------------ which VMs


def plan(client: Client, on: str, options: AnyMoveOptions) -> Batch:
    """Pre-check a move of every VM on a host (with `to_host`), or of every VM with a disk on the datastore `on`.

    Nothing is touched. Raises UsageError, HostUnreachable, DatastoreNotFound, and as `Client.vms`.
    """
    _request(client, on, options)  # what makes no sense is said before anybody is asked
    clients: dict[str, Client] = {}
    silent: tuple[SilentHost, ...] = ()
    if options.get("to_host") is not None:
        clients[""] = client._at_host(on)
        listings = [replace(listing, host="") for listing in clients[""].vms()]
    else:
        inventory = client._fleet_inventory()
        _see_datastore(client, on, inventory)
        listings = [vm for vm in inventory.vms if any(disk.datastore == on for disk in vm.disks)]
        for listing in listings:
            clients.setdefault(listing.host, client._at_host(listing.host) if listing.host else client)
        silent = tuple(
            SilentHost(host, error.sentence, error.code, error.exit_status) for host, error in inventory.silent
        )
    clients = clients or {"": client}
    moves = {summary.id: summary for summary in next(iter(clients.values())).moves()}
    # By the move that a host tells of its VM, not by UUID: several hosts may have VMs of one UUID that are off.
    vms = _checked_all([(clients[one.host], one, moves.get(one.move or "")) for one in _in_order(listings)], options)
    for move in moves.keys() - {listing.move for listing in listings}:
        # Its definition at the source is gone, and nobody has let it run at the destination yet.
        if clients.get("") is not None and _goes_there(clients[""], moves[move], options):
            vms.append(BatchVm(moves[move].plan.vm, "", None, move))
    return Batch(clients, vms, options, silent)


def _in_order(listings: Sequence[VmListing]) -> list[VmListing]:
    return sorted(listings, key=lambda listing: (listing.host, listing.vm.name, listing.vm.uuid))


def _checked_all(asked: Sequence[tuple[Client, VmListing, AnyMove | None]], options: AnyMoveOptions) -> list[BatchVm]:
    """Check all, some side by side: most of the time a check waits for hosts. Raises UsageError."""
    places, given_up = threading.Semaphore(CHECKS), threading.Event()

    def check(client: Client, listing: VmListing, under_way: AnyMove | None) -> BatchVm | None:
        with places:
            if given_up.is_set():
                return None
            return _checked(client, listing.host, listing.vm.name, under_way, options)

    # Not by an executor: Python waits for its threads at the end, and one may wait for a silent host for minutes.
    checks = [Question(partial(check, *one), "check") for one in asked]
    try:
        return [checked for one in checks if (checked := one.answer()) is not None]
    except BaseException:
        given_up.set()
        raise


def _see_datastore(client: Client, on: str, inventory: FleetInventory) -> None:
    """Raise DatastoreNotFound when no host has it, UsageError when it is a host; what a silent host has met otherwise.

    A name that is mistyped must not look like a datastore without VMs: somebody may delete it then.
    """
    if on in inventory.datastores:
        return
    if any(on in (host.name, host.uri) for host in client.config.hosts):
        raise UsageError(f"{on} is a host; add --to-host.", f"Write it like `--all-on {on} --to-host HOST`.")
    if inventory.silent:
        raise inventory.silent[0][1]  # it may have it: that is no "not found"
    raise DatastoreNotFound(on, inventory.place, nearest(on, inventory.datastores))


def _checked(client: Client, host: str, name: str, under_way: AnyMove | None, options: AnyMoveOptions) -> BatchVm:
    if under_way is not None and _goes_there(client, under_way, options):
        return BatchVm(name, host, None, under_way.id)
    try:
        return BatchVm(name, host, client.check(_request(client, name, options)))
    except UsageError:
        raise
    except BlockferryError as error:
        return BatchVm(name, host, None, "", error.sentence, error.code, error.exit_status)


def _request(client: Client, vm: str, options: AnyMoveOptions) -> MoveRequest | HostMoveRequest:
    """What is asked of one VM: a network of `map_network` that only others are on is no error."""
    request = client._request(vm, options)
    return replace(request, any_network=True) if isinstance(request, HostMoveRequest) else request


def _goes_there(client: Client, summary: AnyMove, options: AnyMoveOptions) -> bool:
    """Whether a move that is not over leads from this host to the place of the batch."""
    to_host = options.get("to_host")
    if isinstance(summary, HostMoveSummary):
        if to_host is None or summary.plan.uri != client.uri:
            return False
        known = next((host.uri for host in client.config.hosts if to_host in (host.name, host.uri)), None)
        return summary.plan.dest_uri == (known or client.config.address(to_host).uri)
    to = options.get("to")
    return to_host is None and summary.plan.destination == to
