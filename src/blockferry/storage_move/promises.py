"""What jobs of all kinds have yet to write to datastores: for the pre-check, and for the proof when one is added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from blockferry.hosts.identity import may_be_here, may_share_host
from blockferry.storage_move.precheck.space import NeededSpace, Promise
from blockferry.store.uses import Made

if TYPE_CHECKING:  # it loads SQLAlchemy
    from blockferry.store.beside import AnyKind, Beside
    from blockferry.store.job_list import JobList


def of_jobs(jobs: JobList[Any], uri: str, host: str, apart_from: str | None = None) -> Iterator[Promise]:
    """Yield what the unfinished jobs of this list have yet to write, at most, seen from a host.

    What of it is written already is not told from here: it counts in full.
    """
    for one in jobs.unfinished():
        made = None if one.id == apart_from else jobs.kind_of(one).made(one.plan)
        if made is not None:
            here = may_be_here(made.where, uri, host)
            for taken in made.takes:
                yield Promise(taken.datastore, taken.size, taken.space, here)


def newcomers(beside: Beside[Any], kinds: Iterable[AnyKind], room: NeededSpace, mine: Made) -> list[Promise]:
    """Return what jobs take that were planned since room was looked for. Those count in full, also what is over by
    now: how much of it the free space that was seen has in it is not known."""
    found = []
    for kind in kinds:
        for plan in beside.of(kind).recent(room.since, room.seen):
            made = kind.made(plan)
            if made is not None:
                here = may_share_host(made.where, mine.where)
                found += [Promise(take.datastore, take.size, take.space, here) for take in made.takes]
    return found
