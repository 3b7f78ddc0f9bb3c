"""What can go wrong in the lab itself, as opposed to the thing under test."""

from __future__ import annotations


class LabError(Exception):
    """The lab could not do what was asked; the text carries the command's words and the tails of the logs."""


class GuestSilent(LabError):
    """The guest did not answer on its control channel in time."""


class GuestRefused(LabError):
    """The guest answered that it could not do what was asked."""
