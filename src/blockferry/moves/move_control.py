"""What a user wants of a move that is under way: cancel it, set its speed. Whoever runs the move obeys."""

from __future__ import annotations

from blockferry.base.errors import TooLateToCancel
from blockferry.base.units import format_rate
from blockferry.jobs.outcome import Wanted
from blockferry.moves import move_host
from blockferry.moves.environment import Environment, acting_user
from blockferry.storage_move.summary import MoveSummary


def cancel(env: Environment, move: str, *, here: bool = False) -> MoveSummary:
    """Write the wish down; whoever runs the move obeys. Raises TooLateToCancel after the switch.

    `here`: the user says that a move whose plan names no host was planned on this one.
    """
    summary = env.journal.get(move)
    if here and not summary.plan.host and summary.finished is None and not summary.owner_alive:
        summary = move_host.adopt(env, summary)
    if summary.too_late_to_cancel:
        raise TooLateToCancel(summary.id, summary.plan.vm, summary.plan.destination)
    if summary.finished is None:
        if not summary.owner_alive:
            env.release(move_host.site_of(env, summary))  # somebody has to run it for that, here
        env.journal.want(summary.id, Wanted.CANCEL)
        env.journal.event(summary.id, "user", f"{acting_user()} asked to cancel")
    return env.journal.get(summary.id)


def set_speed(env: Environment, move: str, bandwidth: int) -> MoveSummary:
    """Limit the copy to `bandwidth` bytes/s over all disks, 0 for no limit; obeyed while it runs."""
    summary = env.journal.get(move)
    if summary.finished is None:
        env.journal.set_bandwidth(summary.id, bandwidth)
        rate = format_rate(bandwidth) if bandwidth else "no limit"
        env.journal.event(summary.id, "user", f"{acting_user()} set the bandwidth to {rate}")
    return env.journal.get(summary.id)
