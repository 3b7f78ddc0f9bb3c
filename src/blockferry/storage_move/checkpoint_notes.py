"""What a move says of the VM's checkpoints: they do not tell closely any more what has changed."""

from __future__ import annotations

from collections.abc import Sequence

from blockferry.jobs.outcome import Outcome


def before_move(checkpoints: Sequence[str], vm: str) -> str:
    """What the plan of a move says of the VM's checkpoints."""
    names = ", ".join(checkpoints)
    return (
        f"The points and checkpoints {names} of {vm} do not tell closely any more what has changed, once it is moved."
    )


def after_move(checkpoints: Sequence[str], outcome: Outcome) -> tuple[str, ...]:
    """What the report of a move says of them."""
    if not checkpoints or outcome is not Outcome.MOVED:
        return ()
    return (
        f"points of blockferry among {', '.join(checkpoints)} are void (`blockferry cbt point` makes a new one); in "
        "the bitmaps of others' checkpoints, which were carried, everything that was copied counts as changed",
    )
