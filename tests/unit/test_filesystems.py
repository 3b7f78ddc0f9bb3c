"""What becomes of old files on file systems that other hosts may use."""

from __future__ import annotations

import pytest

from blockferry.hosts import filesystem_types
from blockferry.hosts.inventory import PowerState, Vm
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.firmware.plan import NvramPlan
from blockferry.storage_move.precheck import source_filesystem as filesystems
from blockferry.storage_move.request import SourcePolicy


@pytest.mark.parametrize(
    ("kind", "shared"),
    [
        *((kind, True) for kind in ("nfs", "nfs4", "cifs", "smb3", "ceph", "gfs2", "ocfs2", "fuse.glusterfs", "fuse")),
        *((kind, True) for kind in ("fuse.sshfs", "fuseblk", "virtiofs", "9p", "lustre")),
        *((kind, True) for kind in ("afs", "panfs", "gpfs", "wekafs", "vmfs", "fuse.mergerfs", "ecryptfs", "EXT4", "")),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "vfat", "devtmpfs")),
    ],
)
def test_which_file_systems_other_hosts_may_use(kind: str, shared: bool) -> None:
    assert filesystem_types.is_shared(kind) is shared


@pytest.mark.parametrize(
    ("known", "kept"),
    [
        ({"/old/vars.fd": "ext4"}, ""),
        ({"/old/vars.fd": "panfs"}, "panfs"),
        ({"/old/vars.fd": ""}, "not known"),
        ({"/old/vars.fd": filesystem_types.EXPORTED}, "exports that part by NFS"),
        ({}, "not known"),
    ],
)
def test_old_files_on_what_is_not_known_to_be_local(known: dict[str, str], kept: str) -> None:
    seen = Facts(
        "qemu:///system", Vm("web01", "u", PowerState.OFF, True, ()), (), (9, 0, 0), (7, 2, 0), {}, filesystems=known
    )
    policy, _ = filesystems.source_policy(SourcePolicy(), seen, (), None, NvramPlan("/old/vars.fd", "/new/vars.fd", 1))
    assert policy.delete is not bool(kept)
    assert kept in policy.shared


def test_why_old_files_are_kept() -> None:
    assert SourcePolicy(delete=False).why_kept == "as asked"
    assert SourcePolicy(delete=False, shared="/a lies on nfs4").why_kept == "because /a lies on nfs4"


@pytest.mark.parametrize("kind", ["nfs4", "gfs2", "fuse.sshfs", "", "vfat", "exfat", "ntfs3", "udf", "nilfs2"])
def test_what_is_no_proof_that_another_host_has_not_got_the_file(kind: str) -> None:
    """A medium may be carried there; to keep its old files without being asked would be too much, though."""
    assert not filesystem_types.is_of_one_host(kind)


def test_a_file_system_of_one_host_is_never_a_shared_one() -> None:
    kinds = ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "zfs")
    assert all(filesystem_types.is_of_one_host(kind) and not filesystem_types.is_shared(kind) for kind in kinds)
