"""Which file systems other hosts may have mounted, too, by the type that the kernel names; what follows for old files.

A network or cluster file system shows us one side only: a file that no VM of this host needs may be in use by a VM of
another one, and only QEMU's locks would tell, where the file system carries them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from blockferry.storage_move.facts import Facts
from blockferry.storage_move.plan import DiskPlan, HomePlan, NvramPlan
from blockferry.storage_move.precheck.finding import Finding, finding
from blockferry.storage_move.request import SourcePolicy

_LOCAL = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "nilfs2"),
        *("vfat", "exfat", "ntfs3", "erofs", "squashfs", "iso9660", "udf"),
        *("tmpfs", "ramfs", "devtmpfs", "hugetlbfs"),
        # What is removed there goes from its upper directory only, which the kernel lets no second mount use.
        "overlay",
    }
)
"""Types as in /proc/self/mountinfo that one host alone mounts for writing. What is not in it may be a network or
cluster file system that we do not know; what lies behind FUSE cannot be told: sshfs, GlusterFS, S3, or a local disk."""


EXPORTED = "a file system of which this host exports that part by NFS"
"""In place of a type: whatever it is, other hosts may use what lies there. NFS before version 4 does not tell the
server which files its clients have open."""


def is_shared(kind: str) -> bool:
    """Whether other hosts may use a file system of this type: true unless it is known to be local. "": not known."""
    return kind not in _LOCAL


def source_policy(
    asked: SourcePolicy, facts: Facts, disks: Iterable[DiskPlan], home: HomePlan | None, nvram: NvramPlan | None
) -> tuple[SourcePolicy, list[Finding]]:
    """What becomes of the old files, and what `check` says of it.

    Without the user's word they are kept when one of them lies where other hosts may use it.
    """
    old = [path for disk in disks for path in disk.old_files]
    old += [one.source for one in home.files] if home is not None else []
    old += [nvram.source] if nvram is not None else []
    shared = {path: kind for path in old if path.startswith("/") and is_shared(kind := facts.filesystems.get(path, ""))}
    if not shared or not asked.delete:
        return asked, []
    path, kind = next(iter(shared.items()))
    kind = kind or "a file system of a type that is not known"
    if asked.explicit:
        text = f"{path} lies on {kind}, which other hosts may use. It is deleted all the same, as you said."
        return asked, [finding("SOURCE_SHARED", text)]
    why = f"{path} lies on {kind}, which other hosts may use, too"
    text = f"The old files of {facts.vm.name} are kept: {why}."
    return replace(asked, delete=False, keep_s=None, shared=why), [finding("SOURCE_SHARED", text)]
