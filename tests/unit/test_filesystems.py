"""What becomes of old files on file systems that other hosts may use."""

from __future__ import annotations

import pytest

from blockferry.model import filesystems
from blockferry.model.request import SourcePolicy


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "ceph", "gfs2", "ocfs2", "fuse.glusterfs", "fuse")),
        *((kind, True) for kind in ("fuse.sshfs", "fuseblk", "virtiofs", "9p", "lustre")),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "vfat", "")),
    ],
)
def test_which_file_systems_other_hosts_may_use(kind: str, shared: bool) -> None:
    assert filesystems.is_shared(kind) is shared


def test_why_old_files_are_kept() -> None:
    assert SourcePolicy(delete=False).why_kept == "as asked"
    assert SourcePolicy(delete=False, shared="/a lies on nfs4").why_kept == "because /a lies on nfs4"
