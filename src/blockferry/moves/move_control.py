"""What a user wants of a move that is under way: cancel it, set its speed. Whoever runs the move obeys."""

from __future__ import annotations

from blockferry.base.errors import TooLateToCancel
from blockferry.base.units import format_rate
from blockferry.jobs.outcome import Wanted
from blockferry.moves import kinds
from blockferry.moves.environment import Environment, acting_user
from blockferry.moves.kinds import AnyMove


def cancel(env: Environment, move: str, *, here: bool = False) -> AnyMove:
    """Write the wish down; whoever runs the move obeys. Raises TooLateToCancel after the switch.

    `here`: the user says that a move whose plan names no host was planned on this one.
    """
    summary = env.every_move.get(move)
    its = kinds.of(summary)
    if here:
        summary = its.adopt(env, summary)
    if summary.too_late_to_cancel:
        raise TooLateToCancel(summary.id, summary.plan.vm, summary.plan.destination, summary.kind)
    if summary.finished is None:
        if not summary.owner_alive:
            its.reach(env, summary)  # somebody has to run it for that, from here
        its.journal(env).want(summary.id, Wanted.CANCEL)
        env.journal.event(summary.id, "user", f"{acting_user()} asked to cancel")
    return env.every_move.get(summary.id)


def set_speed(env: Environment, move: str, bandwidth: int) -> AnyMove:
    """Limit the copy to `bandwidth` bytes/s over all disks, 0 for no limit; obeyed while it runs."""
    summary = env.every_move.get(move)
    if summary.finished is None:
        kinds.of(summary).journal(env).set_bandwidth(summary.id, bandwidth)
        rate = format_rate(bandwidth) if bandwidth else "no limit"
        env.journal.event(summary.id, "user", f"{acting_user()} set the bandwidth to {rate}")
    return env.every_move.get(summary.id)
