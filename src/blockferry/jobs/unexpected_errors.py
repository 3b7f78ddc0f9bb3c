"""Errors that nobody has foreseen: a bug of ours, or of a library. Told with their traceback, counted, then parked.

Without a count such a job would be released in good order, taken up by the next command, and fail again for ever.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from blockferry.base.log import masked
from blockferry.jobs.record import JobRecord

RecordT = TypeVar("RecordT", bound=JobRecord)

LIMIT = 3
"""So many of them, over all processes that ran the job since its user last looked, and it is parked."""

log = logging.getLogger(__name__)


def note(
    job: str, error: Exception, read: Callable[[], RecordT], save: Callable[[RecordT], None],
    log_event: Callable[[str, str], None],
) -> str | None:  # fmt: skip
    """Log it, add it to the job's story, count it in the record. Return why the job has to be parked; None: not yet.

    Raises JournalFailed, LeaseLost.
    """
    log.error("%s: unexpected error", job, exc_info=error)
    what = masked(f"{type(error).__name__}: {error}".rstrip(": "))
    record = read()
    count = record.unexpected + 1
    save(replace(record, unexpected=count))
    trace = masked("".join(traceback.format_exception(error)).rstrip())
    log_event("error", f"unexpected error {count} of {LIMIT} ({what}); this is a bug in blockferry\n{trace}")
    if count < LIMIT:
        return None
    return f"an unexpected error came {count} times, the last was {what}. This is a bug; please report it."
