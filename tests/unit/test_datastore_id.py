"""What a datastore stands on: two hosts mean the same by it, or do not; space, names and claims are counted by that."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from journal_support import disk_plan, make_plan

from blockferry.base.errors import DestinationTaken, RoomTaken
from blockferry.base.units import GiB
from blockferry.hosts.datastore_id import Directory, FileId, Mounted, SpaceId, SpaceKind, file_of, of_mount, paths_of
from blockferry.hosts.helper import paths as helper_paths
from blockferry.hosts.helper.program import path_calls
from blockferry.hosts.inventory import Datastore
from blockferry.hosts.runner import LocalRunner
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck import space
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import Report
from blockferry.store.process_identity import Owner

pytest_plugins = ("journal_plugin",)

A, B = "host-a", "host-b"
UUID = "2b1f6a0e-0000-4000-8000-000000000001"


def nfs(source: str, path: str = "/", kind: str = "nfs4") -> Mounted:
    return Mounted(kind, source, path)


@pytest.mark.parametrize(
    ("one", "host", "other", "other_host", "same_space", "same_directory"),
    [
        # One export, by any pool, mounted anywhere.
        (nfs("nas:/vol"), A, nfs("NAS:/vol/"), B, True, True),
        (nfs("nas:/vol", "/a"), A, nfs("nas:/vol", "/b"), B, True, False),
        (nfs("nas:/vol", "/sub"), A, nfs("nas:/vol/sub"), B, True, True),  # an export inside of the other
        (nfs("nas:/"), A, nfs("nas:/vol"), B, True, False),
        (nfs("nas:/vol"), A, nfs("nas:/vol2"), B, False, False),
        (nfs("nas:/vol"), A, nfs("other:/vol"), B, False, False),
        (nfs("[fe80::1]:/vol"), A, nfs("[fe80::1]:/vol"), B, True, True),
        (nfs("//nas/share", kind="cifs"), A, nfs("//nas/share", kind="cifs"), B, True, True),
        (nfs("nas:/gv0", kind="fuse.glusterfs"), A, nfs("nas:/gv0", kind="fuse.glusterfs"), B, True, True),
        (nfs("localhost:/vol"), A, nfs("localhost:/vol"), B, False, False),  # two machines
        (nfs("localhost:/vol"), A, nfs("localhost:/vol"), A, True, True),
        # A file system on a block device.
        (Mounted("xfs", "/dev/sda1", "/a", UUID), A, Mounted("xfs", "/dev/dm-3", "/a", UUID.upper()), A, True, True),
        (Mounted("xfs", "/dev/sda1", "/a", UUID), A, Mounted("xfs", "/dev/sda1", "/b", UUID), A, True, False),
        # Two machines that were copied from one image have one UUID on two file systems.
        (Mounted("ext4", "/dev/vda1", "/a", UUID), A, Mounted("ext4", "/dev/vda1", "/a", UUID), B, False, False),
        (Mounted("gfs2", "/dev/lun", "/a", UUID), A, Mounted("gfs2", "/dev/other", "/a", UUID), B, True, True),
        (Mounted("ceph", "me@f51d.fs=/x", "/y"), A, Mounted("ceph", "you@F51D.fs=/", "/x/y"), B, True, True),
        (Mounted("ceph", "me@f51d.fs=/", "/"), A, Mounted("ceph", "me@0000.fs=/", "/"), B, False, False),
        # Nothing better than the pool is known.
        (Mounted("tmpfs", "tmpfs", "/"), A, Mounted("tmpfs", "tmpfs", "/"), B, False, False),
        (Mounted("tmpfs", "tmpfs", "/"), A, Mounted("tmpfs", "tmpfs", "/"), A, True, True),
        (Mounted("9p", "tag", "/"), A, Mounted("9p", "tag", "/"), B, False, False),
    ],
)
def test_which_are_one(
    one: Mounted, host: str, other: Mounted, other_host: str, same_space: bool, same_directory: bool
) -> None:
    left, right = of_mount(one, host, "pool"), of_mount(other, other_host, "pool")
    assert left.space.shares_space(right.space) is same_space
    assert right.space.shares_space(left.space) is same_space
    assert left.same(right) is same_directory
    assert (left.file("vm/vda.raw") == right.file("vm/vda.raw")) is same_directory


def test_two_pools_without_any_identity_are_two() -> None:
    mount = Mounted("tmpfs", "tmpfs", "/")
    assert not of_mount(mount, A, "pool-1").space.shares_space(of_mount(mount, A, "pool-2").space)
    assert of_mount(mount, A, "pool-1").space.kind is SpaceKind.POOL


def test_a_file_is_found_by_the_innermost_directory() -> None:
    outer, inner = of_mount(nfs("nas:/vol"), A, ""), of_mount(nfs("nas:/fast"), A, "")
    directories = (Directory("/srv", outer), Directory("/srv/fast", inner))
    assert file_of("/srv/fast/vm/vda", directories) == inner.file("vm/vda")
    assert file_of("/srv/fastest", directories) == outer.file("fastest")
    assert file_of("/elsewhere", directories) is None
    there = (Directory("/mnt/x", of_mount(nfs("nas:/fast/vm"), B, "")),)
    assert paths_of({inner.file("vm/vda"): "why", inner.file("other"): "no"}, there) == {"/mnt/x/vda": "why"}


# ------------------------------------------------------------ the journal of several hosts


def on(host: str, move: str, directory: str, source: str, store: str = "ssd", size: int = GiB) -> Plan:
    """A move of a disk to a datastore on that host, which is `source`, mounted at `directory`."""
    disk = disk_plan(datastore=store, allocation=size)
    disk = replace(disk, dest=replace(disk.dest, path=f"{directory}/{move}.raw"))
    places = {store: Directory(directory, of_mount(nfs(source), host, "pool"))}
    return replace(make_plan(move, disks=(disk,)), host=host, directories=places)


def test_space_of_a_shared_datastore_is_counted_once_for_all_hosts(journal: MoveJournal) -> None:
    journal.add(on(A, "m1", "/ssd", "nas:/vol"), Record(), "{}", "admin")
    journal.add(on(B, "m2", "/mnt/fast", "nas:/vol", "fast"), Record(), "{}", "admin")
    journal.add(on(B, "m3", "/mnt/other", "nas2:/vol", "ssd"), Record(), "{}", "admin")
    plans = {move_summary.id: move_summary.plan for move_summary in journal.unfinished()}
    assert plans["m1"].directories == on(A, "m1", "/ssd", "nas:/vol").directories  # written and read again
    vol = of_mount(nfs("nas:/vol"), A, "").space
    other = of_mount(nfs("nas2:/vol"), B, "").space
    here = space.promised(journal.reservations("qemu:///system", A), {"ssd": vol, "again": vol, "local": None})
    assert set(here) == {"again", "ssd"}  # m1 by its own name, m2 by identity; both are one space (Facts.sharing)
    assert sum(here.values()) >= 2 * GiB
    there = space.promised(journal.reservations("qemu:///system", B), {"fast": vol, "ssd": other})
    assert there["fast"] == sum(here.values())  # host A's "ssd" is not host B's
    assert GiB <= there["ssd"] < 2 * GiB


def test_two_hosts_that_plan_at_once_share_the_room(journal: MoveJournal) -> None:
    first, second = on(A, "m1", "/ssd", "nas:/vol"), on(B, "m2", "/mnt/fast", "nas:/vol", "fast")
    journal.add(first, Record(), "{}", "admin")
    vol = of_mount(nfs("nas:/vol"), B, "").space
    room = space.NeededSpace({"fast": GiB // 2}, {"fast": ("fast",)}, frozenset(), 0.0, {"fast": vol})
    with pytest.raises(RoomTaken):
        journal.add(second, Record(), "{}", "admin", room=room)
    elsewhere = replace(room, stores={"fast": of_mount(nfs("nas2:/vol"), B, "").space})
    journal.add(second, Record(), "{}", "admin", room=elsewhere)


def test_one_name_on_a_shared_datastore_is_taken_for_all_hosts(journal: MoveJournal) -> None:
    journal.add(on(A, "m1", "/ssd", "nas:/vol"), Record(), "{}", "admin")
    same = on(B, "m2", "/mnt/fast", "nas:/vol")
    same = replace(same, disks=(replace(same.disks[0], dest=replace(same.disks[0].dest, path="/mnt/fast/m1.raw")),))
    with pytest.raises(DestinationTaken) as taken:
        journal.add(same, Record(), "{}", "admin")
    assert "/mnt/fast/m1.raw" in str(taken.value)
    other = on(B, "m2", "/ssd", "nas2:/vol")
    journal.add(
        replace(other, disks=(replace(other.disks[0], dest=replace(other.disks[0].dest, path="/ssd/m1.raw")),)),
        Record(),
        "{}",
        "admin",
    )


def test_what_a_server_stores_is_taken_for_all_hosts(journal: MoveJournal) -> None:
    """Two hosts, one LUN, by two portals: the second copy would go over the first VM's disk."""

    def to(host: str, move: str, url: str) -> Plan:
        plan = on(host, move, "/ssd", "nas:/vol")
        return replace(
            plan,
            disks=(replace(plan.disks[0], dest=replace(plan.disks[0].dest, path=url, datastore=url)),),
            directories={},
        )

    journal.add(to(A, "m1", "iscsi://store/iqn.2026-11.org.example:x/1"), Record(), "{}", "admin")
    with pytest.raises(DestinationTaken) as taken:
        journal.add(to(B, "m2", "iscsi://10.0.0.5/iqn.2026-11.org.example:x/1"), Record(), "{}", "admin")
    assert "iscsi://10.0.0.5/iqn.2026-11.org.example:x/1" in str(taken.value)
    journal.add(to(B, "m2", "iscsi://10.0.0.5/iqn.2026-11.org.example:x/2"), Record(), "{}", "admin")


def test_a_pool_that_was_defined_anew_keeps_what_is_promised_there() -> None:
    """Where nothing better is known than libvirt's UUID of the pool, another UUID is no other file system."""
    old, new = (SpaceId(SpaceKind.POOL, "", pool, A) for pool in ("1", "2"))
    assert space.promised([space.Promise("ssd", 5, old, True)], {"ssd": new}) == {"ssd": 5}


def test_a_broken_copy_is_kept_whichever_host_made_it(journal: MoveJournal) -> None:
    """`orphans --remove-all` on another host that reaches the datastore took it for rubbish."""
    plan = on(A, "m1", "/ssd", "nas:/vol")
    journal.add(plan, Record(), "{}", "admin")
    record = Record(outcome=Outcome.FAILED, kept=("/ssd/m1.raw",))
    journal.finish(journal.claim("m1", Owner.here()), record, Report(Outcome.FAILED, 1.0))
    assert journal.partial_files().files == {plan.file("/ssd/m1.raw")}
    assert journal.partials(plan.uuid, B) == {}, "but it is gone on with on its own host only"


def test_a_name_that_means_another_file_system_by_now_takes_nothing_there() -> None:
    old, new = of_mount(nfs("nas:/old"), A, "").space, of_mount(nfs("nas:/new"), A, "").space
    assert space.promised([space.Promise("ssd", 5, old, True)], {"ssd": new}) == {}
    assert space.promised([space.Promise("ssd", 5, None, True)], {"ssd": new}) == {"ssd": 5}  # of an older version
    assert space.promised([space.Promise("ssd", 5, old, True)], {"ssd": None}) == {"ssd": 5}  # not looked at now
    assert space.promised([space.Promise("ssd", 5, None, False)], {"ssd": new}) == {}


def test_one_export_mounted_twice_shares_its_room() -> None:
    datastore = Datastore(
        "one", "1", "netfs", True, "/a", file_system="0:50", id=of_mount(nfs("nas:/vol", "/a"), A, "1")
    )
    two = Datastore("two", "2", "netfs", True, "/b", file_system="0:51", id=of_mount(nfs("nas:/vol", "/b"), A, "2"))
    assert datastore.shares_space(two)
    assert not datastore.shares_space(replace(two, id=of_mount(nfs("nas2:/vol"), A, "2")))
    assert datastore.shares_space(replace(two, id=None, file_system="0:50"))


# ------------------------------------------------------------ looking


def test_what_a_directory_is_mounted_from(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "pool")
    (tmp_path / "file").touch()
    paths = [str(tmp_path / name) for name in ("pool", "link", "file", "absent")]
    looks = helper_paths.look(LocalRunner(), paths, mounted=True)
    told = subprocess.run(
        ["findmnt", "-nro", "FSTYPE,SOURCE,UUID", "-T", str(tmp_path)], capture_output=True, text=True, check=True
    )
    kind, source, *found = told.stdout.split()
    pool = looks[paths[0]].mounted
    assert pool is not None
    assert (pool.kind, pool.source) == (kind, source.partition("[")[0])
    assert pool.path.endswith("/pool")
    assert looks[paths[1]].mounted == pool  # by any path
    assert looks[paths[2]].mounted is looks[paths[3]].mounted is None
    if found:
        assert pool.uuid == found[0]
    assert helper_paths.look(LocalRunner(), paths)[paths[0]].mounted is None


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An XFS on a loop device, mounted at two places, the second of which shows one of its directories."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    image, path, two = tmp_path / "image", tmp_path / "one", tmp_path / "two"
    with image.open("wb") as raw:
        raw.truncate(320 * 1024**2)
    told = str(uuid.uuid4())
    try:
        subprocess.run(["mkfs.xfs", "-q", "-m", f"uuid={told}", str(image)], check=True, capture_output=True)
        for place in (path, two):
            place.mkdir()
        subprocess.run(["mount", "-o", "loop", str(image), str(path)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount here: {error}")
    try:
        (path / "inner").mkdir()
        subprocess.run(["mount", "--bind", str(path / "inner"), str(two)], check=True)
        yield tmp_path, told
        subprocess.run(["umount", str(two)], check=True)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_a_file_system_is_known_by_its_uuid_and_a_directory_by_its_place_on_it(mounted: tuple[Path, str]) -> None:
    place, told = mounted
    names = [str(place / name) for name in ("one", "one/inner", "two")]
    looks = [helper_paths.look(LocalRunner(), names, mounted=True)[name].mounted for name in names]
    datastore_id, inner, two = (of_mount(look, A, "pool") for look in looks if look is not None)
    assert datastore_id.space == SpaceId(SpaceKind.BLOCK, told, "", A)
    assert inner.same(two)
    assert not datastore_id.same(two)
    assert (
        datastore_id.file("inner/vda.raw") == two.file("vda.raw") == FileId(datastore_id.space.text, "/inner/vda.raw")
    )


def test_a_uuid_is_found_by_udevs_link(tmp_path: Path) -> None:
    (tmp_path / "sdz1").touch()
    links = tmp_path / "by-uuid"
    links.mkdir()
    (links / UUID).symlink_to("../sdz1")
    (links / "dangling").symlink_to("../gone")
    assert path_calls.uuid_by_link(str(tmp_path / "sdz1"), str(links)) == UUID
    assert path_calls.uuid_by_link(str(tmp_path / "sdz2"), str(links)) == ""
    assert path_calls.uuid_by_link(str(tmp_path / "sdz2"), str(tmp_path / "none")) == ""
