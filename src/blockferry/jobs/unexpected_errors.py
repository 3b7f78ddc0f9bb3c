"""Errors that nobody has foreseen: a bug of ours, or of a library. Told with their traceback, counted, then parked.

Without a count such a move would be released in good order, taken up by the next command, and fail again for ever.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from dataclasses import replace

from blockferry.base.log import masked
from blockferry.storage_move.record import Record

LIMIT = 3
"""So many of them, over all processes that ran the move since its user last looked, and it is parked."""

log = logging.getLogger(__name__)


def note(
    move: str, error: Exception, read: Callable[[], Record], write: Callable[[Record], None],
    tell: Callable[[str, str], None],
) -> str | None:  # fmt: skip
    """Log it, tell it in the move's story, count it in the record; why the move has to be parked, None when not yet.

    Raises JournalFailed, LeaseLost.
    """
    log.error("move %s: unexpected error", move, exc_info=error)
    what = masked(f"{type(error).__name__}: {error}".rstrip(": "))
    record = read()
    count = record.unexpected + 1
    write(replace(record, unexpected=count))
    trace = masked("".join(traceback.format_exception(error)).rstrip())
    tell("error", f"unexpected error {count} of {LIMIT} ({what}); this is a bug in blockferry\n{trace}")
    if count < LIMIT:
        return None
    return f"an unexpected error came {count} times, the last was {what}. This is a bug; please report it."
