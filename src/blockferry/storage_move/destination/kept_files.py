"""Old disks that become copies: taken over right before the first write, or given back to the quarantine.

With the plan an old disk leaves the quarantine, in one transaction, and is claimed by the move. It is not ours to write
to yet: the move may be killed, and taken up days later, when somebody else may have changed or used the file. So all
that was proven for the plan is proven once more right before the first write (or removal), and noted as intent
(`DiskRecord.taken_over`). A move that turns back before that gives the file back as it found it; after it the file is
a copy of this move like any other. docs/design/old-disks.md
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from blockferry.base.errors import OldDiskInDoubt
from blockferry.hosts.helper import files
from blockferry.hosts.kept import Kept
from blockferry.hosts.runner import Runner
from blockferry.safety import proof
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import mount_check
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.points import point
from blockferry.storage_move.record import Record


def why_unlike(runner: Runner, row: Kept, stat: files.FileStat | None) -> str | None:
    """Why nothing may be written into an old disk, a clause; None when it is the file that was kept, and as it was."""
    if not row.needless:
        return f"it is more than an old disk ({row.why})"
    if stat is None:
        return "it is gone"
    if stat.kind != "file" or row.fingerprint is None or proof.fingerprint(stat) != row.fingerprint:
        return "it has been changed since it was kept, or that cannot be told"
    if stat.names > 1:
        return f"the file has {stat.names} names (hard links), and one of them may be a backup"
    if behind := files.link_chain(runner, row.path)[1:]:
        return f"it is a symbolic link to {behind[-1]}"
    return None


def untaken(record: Record, disk: DiskPlan) -> Kept | None:
    """The row of an old disk that this move was planned with and has not written to; None: there is none."""
    return None if record.disk(disk.target).taken_over else disk.partial.old


def take_over(context: Context, record: Record, disk: DiskPlan) -> Record:
    """Prove once more that the old disk is as it was kept and nothing needs it; from here on it is written to.

    Raises OldDiskInDoubt, with nothing written; DestinationGone while its file system is not mounted.
    """
    row = untaken(record, disk)
    if row is None:
        return record
    mount_check.check(context, record.mounts)
    doubt = why_unlike(context.runner, row, files.stat_one(context.runner, row.path))
    doubt = doubt or proof.blocker(context.site, row.path, context.claims())
    if doubt is not None:
        raise OldDiskInDoubt(row.path, context.plan.vm, doubt)
    point("taking-old-disk")
    record = record.with_disk(disk.target, replace(record.disk(disk.target), taken_over=True))
    context.save(record)
    point("old-disk-taken")
    return record


def take_over_all(context: Context, record: Record, paths: Iterable[str]) -> Record:
    """The same for those of these paths, which are about to be removed or replaced, that are old disks."""
    for path in paths:
        for disk in context.plan.disks:
            if disk.dest.path == path:
                record = take_over(context, record, disk)
    return record


def give_back(context: Context, record: Record) -> Record:
    """The move turns back: old disks that it has not written to are in quarantine again, as they were.

    May be repeated: the row is there before the record says that the file is none of the move's any more.
    """
    for disk in context.plan.disks:
        row = untaken(record, disk)
        if row is None or row.path not in record.created:
            continue
        context.check()
        context.keep_again(row)
        point("old-disk-given-back")
        record = replace(record, created=tuple(path for path in record.created if path != row.path))
        record = record.with_disk(disk.target, replace(record.disk(disk.target), partial=False))
        context.save(record)
        text = f"{row.path} is in quarantine again: nothing was written to it"
        context.notes.append(text)
        context.log_event("action", text)
    return record
