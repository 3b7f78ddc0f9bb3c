"""What a call raises when it cannot be done for a reason that is no error number."""

from __future__ import annotations


class CallRefused(Exception):
    """A clause for people."""
