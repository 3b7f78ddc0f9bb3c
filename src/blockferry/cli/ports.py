"""What the command line needs of the engine: one Protocol, and the one place that opens it."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:  # for types only: `--help` and a Tab key do not wait for them
    from blockferry.doctor.rules import Diagnosis
    from blockferry.leftovers.quarantine_rules import KeptFile, Restore
    from blockferry.storage_move.request import MoveRequest
    from blockferry.storage_move.summary import (
        CheckResult,
        DatastoreListing,
        Event,
        MoveSummary,
        Orphan,
        Orphans,
        VmListing,
    )
    from blockferry.tracking.rules import Changes, Point, TrackingStatus


class Service(Protocol):
    """The use cases. Every method may raise a BlockferryError; all may be called from any thread."""

    @property
    def uri(self) -> str: ...

    @property
    def no_journal(self) -> str | None:
        """The place of the journal when there is none yet: the first move makes it."""
        ...

    def listen(self, say: Callable[[str], None]) -> None:
        """`say` hears, in words for people, what takes long before there is a move to show the progress of."""
        ...

    def vms(self) -> tuple[VmListing, ...]: ...

    def datastores(self) -> tuple[DatastoreListing, ...]: ...

    def vm_names(self) -> tuple[str, ...]:
        """Cheap, for completion; so are the next two."""
        ...

    def datastore_names(self) -> tuple[str, ...]: ...

    def disk_names(self, vm: str) -> tuple[str, ...]:
        """Targets (vda, sdb) of the disks that can be named in `--disk`."""
        ...

    def diagnose(self) -> Diagnosis:
        """Whether the host is fit for moves; nothing is touched."""
        ...

    def check(self, request: MoveRequest) -> CheckResult:
        """Every reason for and against, and the plan. Nothing is touched."""
        ...

    def move(self, request: MoveRequest) -> MoveSummary:
        """Pre-check (raises Refused) and write the move into the journal; it does not run yet.

        The move belongs to this process until `run` or `spawn`. Findings that are warnings are in its story
        as events of kind "warning".
        """
        ...

    def run(self, move_id: str, on_progress: Callable[[MoveSummary], None], stop: threading.Event) -> MoveSummary:
        """Drive the move to its end in this thread; the finished summary.

        Raises MoveFailed, MoveCancelled, MoveParked, LeaseLost, MoveBusy, ...; Interrupted once `stop` is set:
        the move is then left in place and free for another process.
        """
        ...

    def spawn(self, move_id: str) -> bool:
        """A background process runs the move (`blockferry run-move ID`), also after this one is gone.

        False: the journal is away, and that process waits for it first.
        """
        ...

    def moves(self) -> tuple[MoveSummary, ...]:
        """Moves that have not ended."""
        ...

    def history(self, limit: int) -> tuple[MoveSummary, ...]:
        """Moves that have ended, the latest first."""
        ...

    def show(self, move: str) -> tuple[MoveSummary, tuple[Event, ...]]:
        """One move and its story so far, oldest first; `move` is an id or its beginning."""
        ...

    def find(self, word: str | None) -> MoveSummary:
        """The move that a person means by a VM's name or UUID, an id, or the beginning of either.

        Of several of one VM the one that is not over, else the latest. None: the only one that is not over. Raises
        MoveNotFound, UsageError.
        """
        ...

    def cancel(self, move: str, here: bool = False) -> MoveSummary:
        """Write the wish down; whoever runs the move obeys. Raises TooLateToCancel after the switch.

        `here`: the user says that a move whose plan names no host was planned on this one.
        """
        ...

    def speed(self, move: str, bandwidth: int) -> MoveSummary:
        """Limit the copy to `bandwidth` bytes/s in all, 0 for no limit; obeyed while it runs."""
        ...

    def interrupted(self) -> tuple[MoveSummary, ...]:
        """Moves that nobody runs and that are not parked."""
        ...

    def resume(self, move: str | None) -> tuple[str, ...]:
        """Unpark and return the ids that are to be run: this move, or all that nobody runs."""
        ...

    def orphans(self) -> Orphans: ...

    def remove_orphan(self, orphan: Orphan, abandoned: bool = False) -> str:
        """Remove it after proving once more that nothing needs it; a sentence that says what was done.

        `abandoned`: the user has said that the other journals whose moves made things here are gone for good.
        """
        ...

    def quarantine(self) -> tuple[KeptFile, ...]:
        """What is kept on this host, and what the proof says of it now."""
        ...

    def purge(self, paths: Sequence[str], now: bool) -> tuple[tuple[str, bool, str], ...]:
        """Remove what has expired, or with `now` what is named: (path, whether it is gone, a sentence)."""
        ...

    def restorable(self, what: str, compare: bool | None) -> Restore:
        """What going back to the kept files of a VM (or of a path) would do and lose. Nothing is touched."""
        ...

    def restore(self, agreed: Restore) -> tuple[str, ...]:
        """Go back, as agreed to; sentences of what was done."""
        ...

    def tracking(self, vm: str) -> TrackingStatus:
        """The points of a VM, and whether each is good. Nothing is touched."""
        ...

    def enable_tracking(self, vm: str, disks: Sequence[str]) -> tuple[Point, bool]:
        """(a good point of these disks, or of all; whether it was made now)."""
        ...

    def make_point(self, vm: str, disks: Sequence[str], id: str | None, keep: int | None) -> Point: ...

    def drop_points(self, vm: str, ids: Sequence[str], *, everything: bool) -> tuple[str, ...]:
        """Drop these, or all of ours; the ids that are gone."""
        ...

    def changes(
        self, vm: str, since: str, disks: Sequence[str], mark: str | None, keep: int | None, power_cycles: bool
    ) -> Changes:
        """What has changed since a point. `mark`: make one at that instant, of this name (empty: made up).

        Raises TrackingLost rather than leave out a change.
        """
        ...

    def close(self) -> None: ...


if TYPE_CHECKING:
    from blockferry import service

    _fits: type[Service] = service.Service  # open_service loads it by name, so the fit is checked here

Opener = Callable[[str | None, str | None], Service]


def open_service(uri: str | None, journal: str | None) -> Service:
    """The engine's use cases, loaded only by a command that needs them.

    libvirt and SQLAlchemy take a noticeable part of a second to load, which `--help`, `explain` and a Tab key
    must not wait for.
    """
    engine = importlib.import_module("blockferry.service")
    return cast(Service, engine.open_service(uri, journal))
