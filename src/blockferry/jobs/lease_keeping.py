"""Becoming the one who runs a job, and leaving it in good order whatever goes wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import tenacity

from blockferry.base.errors import BlockferryError, MoveBusy
from blockferry.jobs import unexpected_errors
from blockferry.store import AnyJournal, Lease, Owner


@tenacity.retry(
    retry=tenacity.retry_if_exception_type(MoveBusy),
    stop=tenacity.stop_after_delay(5),
    wait=tenacity.wait_fixed(0.5),
    reraise=True,
)
def claim(journal: AnyJournal, job: str) -> Lease:
    """Become the one who runs it; a process that is just leaving it is waited for. Raises what `Journal.claim` does."""
    return journal.claim(job, Owner.here())


@contextlib.contextmanager
def parking_bugs(journal: AnyJournal, lease: Lease) -> Iterator[None]:
    """An unexpected error around the loop is counted, and parks the job, as one in it does.

    The lease is released after that: nobody can write without it.
    """
    try:
        yield
    except BlockferryError:
        raise
    except Exception as error:
        with contextlib.suppress(BlockferryError):  # the journal's own; then it is only logged
            why = unexpected_errors.note(
                f"job {lease.move}",
                error,
                lambda: journal.read(lease.move),
                lambda record: journal.write(lease, record),
                lambda kind, text: journal.event(lease.move, kind, text),
            )
            if why is not None:
                journal.park(lease, why)
        raise
    finally:
        _release_quietly(journal, lease)


def _release_quietly(journal: AnyJournal, lease: Lease) -> None:
    try:
        journal.release(lease)
    except BlockferryError:
        return  # it expires by itself
