"""Arming the guards before a suspension, and what the move's story says of a guard that could not be had."""

from __future__ import annotations

from blockferry.storage_move.context import Context


def arm(context: Context, seconds: float) -> None:
    """Have the VM resumed if we are not back within `seconds`. Called before each suspension, while the guest runs."""
    if not context.guard.arm(seconds):
        context.log_event("warning", "no guard could be started; if blockferry dies now, the VM stays suspended")
    elif problem := context.guard.host_problem():
        text = "no guard on the VM's host: if the link is cut in a suspension, the VM stays suspended until it is back"
        context.log_event("warning", f"{text} ({problem})")
