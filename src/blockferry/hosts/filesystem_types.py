"""Types of file systems, as the kernel names them: whether other hosts may have one mounted, too. One list for all."""

from __future__ import annotations

_OF_ONE_HOST = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "jfs", "reiserfs", "tmpfs", "ramfs"),
        # What is removed there goes from its upper directory only, which the kernel lets no second mount use.
        "overlay",
    }
)
"""Types as in /proc/self/mountinfo that one host alone mounts for writing. What is not in it may be a network or
cluster file system that we do not know; what lies behind FUSE cannot be told: sshfs, GlusterFS, S3, or a local disk."""

_SELDOM = frozenset(
    {
        *("bcachefs", "nilfs2", "vfat", "exfat", "ntfs3", "erofs", "squashfs", "iso9660", "udf"),
        *("devtmpfs", "hugetlbfs"),
    }
)
"""The same, but of media that are carried from one host to the other, or seldom where images lie. They are taken for
local where it is only about keeping an old file, which the user can say otherwise; for a proof they are not."""

_PSEUDO = frozenset(
    {
        *("proc", "sysfs", "devtmpfs", "devpts", "cgroup", "cgroup2", "securityfs", "debugfs", "tracefs", "configfs"),
        *("pstore", "bpf", "mqueue", "hugetlbfs", "fusectl", "binfmt_misc", "autofs", "rpc_pipefs", "nsfs", "nfsd"),
        *("efivarfs", "selinuxfs"),
    }
)
"""Types that hold no files of anybody's."""

EXPORTED = "a file system of which this host exports that part by NFS"
"""In place of a type: whatever it is, other hosts may use what lies there. NFS before version 4 does not tell the
server which files its clients have open."""


def is_shared(kind: str) -> bool:
    """Whether other hosts may use a file system of this type: true unless it is known to be local. "": not known."""
    return kind not in _OF_ONE_HOST and kind not in _SELDOM


def is_of_one_host(kind: str) -> bool:
    """Whether it is proven that no other host has a file of this file system, by whatever path."""
    return kind in _OF_ONE_HOST


def holds_files(kind: str) -> bool:
    """Whether it is a file system of files, and none by which the kernel shows something."""
    return kind not in _PSEUDO
