"""What a destination does when it hangs, and how it would be fenced: the kernel's facts as data."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockferry.hosts import fencing
from blockferry.hosts.fencing import BlockFact, FenceStep, Fencing, MountFact, PathFact, Storage, StorageFacts
from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.precheck import method
from blockferry.storage_move.request import IfNotConverging, Method

SDB = {"8:17": BlockFact("sdb1", ("8:16",), partition=True), "8:16": BlockFact("sdb", scsi=True, timeout="30")}
ISCSI = {"8:32": BlockFact("sdc", scsi=True, transport="iSCSI", timeout="30")}
NFS = MountFact("nfs4", "filer:/vms", "/srv/nfs", "rw,hard,proto=tcp")
MPATH = BlockFact("dm-3", ("8:32", "8:48"), dm_name="mpatha", dm_uuid="mpath-3600")
UMOUNT = FenceStep("umount", "/srv/nfs", again=True)
ABORT = FenceStep("write", "/sys/fs/fuse/connections/47/abort", "1")
QUEUE = FenceStep("run", argv=("dmsetup", "message", "mpatha", "0", "fail_if_no_path"))
OFFLINE = FenceStep("write", "/sys/block/sdc/device/state", "offline")

Case = tuple[str, dict[str, MountFact], dict[str, BlockFact], tuple[str, ...], bool, tuple[FenceStep, ...]]
CASES: dict[str, Case] = {
    # device of the directory, mounts, blocks, FUSE connections -> may hang for ever, steps
    "a hard NFS mount": ("0:52", {"0:52": NFS}, {}, (), True, (UMOUNT,)),
    "a soft NFS mount ends its requests by itself": (
        "0:52", {"0:52": MountFact("nfs", "filer:/vms", "/srv/nfs", "rw,soft")}, {}, (), False, (UMOUNT,),
    ),
    "CIFS": ("0:52", {"0:52": MountFact("cifs", "//nas/vms", "/srv/nfs")}, {}, (), True, (UMOUNT,)),
    "FUSE": ("0:47", {"0:47": MountFact("fuse.sshfs", "x:/", "/mnt")}, {}, ("47",), True, (ABORT,)),
    "FUSE whose control file system is not mounted": (
        "0:47", {"0:47": MountFact("fuse.sshfs", "x:/", "/mnt")}, {}, (), True, (FenceStep("umount", "/mnt"),),
    ),
    "a file system on a loop device on a FUSE that is mounted in another namespace": (
        "7:6", {"7:6": MountFact("xfs", "/dev/loop6", "/srv")}, {"7:6": BlockFact("loop6", ("0:47",), loop=True)},
        ("47",), True, (ABORT,),
    ),
    "a loop device on NFS": (
        "7:1", {"7:1": MountFact("ext4", "/dev/loop1", "/srv"), "0:52": NFS},
        {"7:1": BlockFact("loop1", ("0:52",), loop=True)}, (), True, (UMOUNT,),
    ),
    "a loop device whose file cannot be told": (
        "7:1", {"7:1": MountFact("ext4", "/dev/loop1", "/srv")}, {"7:1": BlockFact("loop1", ("?",), loop=True)}, (),
        True, (),
    ),
    "a partition of a local disk: the kernel ends its requests": (
        "8:17", {"8:17": MountFact("xfs", "/dev/sdb1", "/srv")}, SDB, (), False, (),
    ),
    "an iSCSI disk": ("8:32", {"8:32": MountFact("xfs", "/dev/sdc", "/srv")}, ISCSI, (), False, (OFFLINE,)),
    "multipath queues for ever": (
        "253:3", {"253:3": MountFact("xfs", "/dev/mapper/mpatha", "/srv")}, {"253:3": MPATH, **ISCSI}, (), True,
        (QUEUE,),
    ),
    "a logical volume on a multipath device and a local disk: all or nothing": (
        "253:4", {"253:4": MountFact("xfs", "/dev/mapper/vg-lv", "/srv")},
        {"253:4": BlockFact("dm-4", ("253:3", "8:17"), dm_name="vg-lv", dm_uuid="LVM-x"), "253:3": MPATH, **SDB}, (),
        True, (),
    ),
    "btrfs stands on its members": (
        "0:60", {"0:60": MountFact("btrfs", "/dev/sdc", "/srv", members=("8:32",))}, ISCSI, (), False, (OFFLINE,),
    ),
    "NVMe": ("259:1", {"259:1": MountFact("xfs", "/dev/nvme0n1", "/srv")}, {"259:1": BlockFact("nvme0n1")}, (),
             False, ()),
    "network block devices set no time": (
        "43:0", {"43:0": MountFact("xfs", "/dev/nbd0", "/srv")}, {"43:0": BlockFact("nbd0")}, (), True, (),
    ),
    "memory": ("0:25", {"0:25": MountFact("tmpfs", "tmpfs", "/srv")}, {}, (), False, ()),
    "what is not known may hang": ("0:61", {"0:61": MountFact("zfs", "tank/vms", "/srv")}, {}, (), True, ()),
}  # fmt: skip


def facts(
    device: str, mounts: dict[str, MountFact], blocks: dict[str, BlockFact], fuse: tuple[str, ...]
) -> StorageFacts:
    point = mounts[device].point if device in mounts else "/"
    return StorageFacts({"/srv": PathFact("/srv", device, point)}, mounts, blocks, fuse)


@pytest.mark.parametrize("name", CASES)
def test_how_it_is_cut_off(name: str) -> None:
    device, mounts, blocks, fuse, endless, steps = CASES[name]
    found = fencing.storage(facts(device, mounts, blocks, fuse), "/srv", Fencing())
    assert (found.endless, found.steps) == (endless, steps), found
    assert bool(found.how) == bool(steps)
    assert set(found.cuts) <= set(found.chain)
    assert device in found.chain


def nfs(wanted: Fencing, root: bool = True) -> Storage:
    known = facts("0:52", {"0:52": NFS}, {}, ())
    return fencing.storage(StorageFacts(known.paths, known.mounts, known.blocks, (), root), "/srv", wanted)


@pytest.mark.parametrize(
    ("wanted", "root", "why"),
    [(Fencing(None), True, "as asked"), (Fencing(5.0, ("off",)), True, "as asked"), (Fencing(), False, "only root")],
)
def test_what_is_not_to_be_cut_off_is_not(wanted: Fencing, root: bool, why: str) -> None:
    found = nfs(wanted, root)
    assert found.steps == ()
    assert why in fencing.unbounded(found)
    assert "no bound" in fencing.bound(found, wanted, synchronous=True)


def test_an_administrators_program_is_given_names_and_no_shell() -> None:
    found = nfs(Fencing(5.0, ("/usr/local/sbin/cut", "{mount}", "--of={device}; rm -rf /")))
    assert found.steps == (FenceStep("run", argv=("/usr/local/sbin/cut", "/srv/nfs", "--of=filer:/vms; rm -rf /")),)
    assert found.anyway


def test_a_mirror_follows_by_itself_only_where_something_bounds_the_wait() -> None:
    free = nfs(Fencing())
    used = replace(free, others=("qemu-system-x86 (7) has /srv/nfs/db.qcow2 open",))
    assert fencing.unbounded(free) == ""
    assert "at most 6.5 s" in fencing.bound(free, Fencing(), synchronous=True)
    why = fencing.unbounded(used)
    assert "db.qcow2" in why
    chosen, reason = method.choose(Method.AUTO, PowerState.RUNNING, 0, keeps_chain=False, may_hang=why)
    assert chosen is Method.CHANGED_BLOCKS
    assert "db.qcow2" in reason
    assert method.choose(Method.MIRROR, PowerState.RUNNING, 0, keeps_chain=False, may_hang=why)[0] is Method.MIRROR
    assert method.choose(Method.AUTO, PowerState.RUNNING, 0, keeps_chain=False)[0] is Method.CHANGED_BLOCKS
    auto, changed = IfNotConverging.AUTO, Method.CHANGED_BLOCKS
    assert (
        method.if_not_converging(auto, Method.AUTO, changed, 0, can_be_synchronous=True, may_hang=True)
        is IfNotConverging.WAIT
    )
    assert method.if_not_converging(auto, Method.AUTO, changed, 0, can_be_synchronous=True) is IfNotConverging.MIRROR
