"""Two hosts in one journal: one path with two storages mixes nothing, and one storage under two paths is one."""

from __future__ import annotations

import posixpath
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from journal_support import changing, disk_plan, load_dump, make_plan

from blockferry.hosts.datastore_id import Directory, FileId, Mounted, file_at, of_mount, on_host
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.jobs.outcome import Outcome
from blockferry.safety.proof import Claims
from blockferry.storage_move import claims
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.move_kind import by_file, pair
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import Report
from blockferry.storage_move.templates import effects as templates_effects
from blockferry.storage_move.templates.plan import ChainPlan, ReusedLayer
from blockferry.store import Owner

pytest_plugins = ("journal_plugin",)

A, B = "6f0c1d9e-aaaa-4bbb-8ccc-00000000000a", "6f0c1d9e-aaaa-4bbb-8ccc-00000000000b"
LOCAL = "qemu:///system"
SHARED = Mounted("nfs4", "nas:/vol", "/")


def local(uuid: str = "0b5a1c2d-3333-4444-8555-000000000003") -> Mounted:
    return Mounted("ext4", "/dev/vda1", "/srv/ssd", uuid)


def directory(host: str, path: str, mounted: Mounted) -> Directory:
    return Directory(path, of_mount(mounted, host, "pool"))


def kept(host: str, path: str, mounted: Mounted | None, **more: Any) -> Kept:
    """A row as a host writes it: what is mounted there tells which file it is."""
    file = None if mounted is None else file_at(mounted, host, path)
    return replace(Kept(path, f"m-{host[-1]}", f"vm-{host[-1]}", "ssd", None, 1, "as asked", host, file=file), **more)


def plan_on(host: str, move: str, root: str, mounted: Mounted) -> Plan:
    disk = disk_plan()
    disk = replace(disk, dest=replace(disk.dest, path=f"{root}/vda.raw"))
    plan = make_plan(move, disks=(disk,))
    return replace(plan, host=host, directories={"ssd": directory(host, root, mounted)})


def end(journal: MoveJournal, plan: Plan, outcome: Outcome, *, kept_copy: bool = False) -> None:
    journal.add(plan, Record(), "{}", "alice")
    copies = (plan.disks[0].dest.path,) if kept_copy else ()
    record = Record(outcome=outcome, kept=copies)
    journal.finish(journal.claim(plan.move, Owner.here()), record, Report(outcome, 1.0))


# ------------------------------------------------------------ what a file is


def test_the_same_uuid_on_two_machines_is_no_proof() -> None:
    """A machine that was copied has the UUIDs of the one that it was copied from."""
    path = "/ssd/vda.raw"
    assert file_at(local(), A, path) != file_at(local(), B, path)
    assert file_at(local(), "", path) == on_host("", path), "hosts without a UUID cannot be told apart"
    assert file_at(Mounted("tmpfs", "tmpfs", "/"), A, path) == on_host(A, path)
    assert file_at(None, A, path) == on_host(A, path)
    assert not on_host(A, path).known


def test_one_export_is_one_under_whatever_path_and_host() -> None:
    shared = file_at(SHARED, A, "/ssd/vda.raw")
    assert shared == file_at(SHARED, B, "/mnt/fast/vda.raw")
    assert shared.shared
    assert not file_at(local(), A, "/ssd/vda.raw").shared
    assert not file_at(Mounted("nfs4", "localhost:/vol", "/"), A, "/ssd/vda.raw").shared
    for source in ("root@localhost:/vol", "a@b@127.0.0.1:/vol", "root@[::1]:/vol"):
        assert not file_at(Mounted("fuse.sshfs", source, "/"), A, "/ssd/vda.raw").shared, source


MOUNTS = st.builds(
    Mounted,
    st.sampled_from(["nfs4", "cifs", "ceph", "ext4", "xfs", "gfs2", "tmpfs", "fuse.sshfs", "9p", "overlay"]),
    st.sampled_from(["nas:/vol", "nas:/vol/a", "localhost:/vol", "//nas/share", "me@1.fs=/x", "/dev/vda1", "none", ""]),
    st.sampled_from(["/", "/a", "/vol"]),
    st.sampled_from(["", "0b5a1c2d-3333-4444-8555-000000000003"]),
)


@given(MOUNTS, MOUNTS, st.sampled_from(["/ssd/x", "/ssd/y"]), st.sampled_from(["/ssd/x", "/mnt/x"]))
def test_two_hosts_mean_one_file_by_a_shared_file_system_only(
    first: Mounted, second: Mounted, here: str, there: str
) -> None:
    file, elsewhere = file_at(first, A, here), file_at(second, B, there)
    if file == elsewhere:
        assert file.known
        assert file.shared
        assert posixpath.basename(here) == posixpath.basename(there)
        assert not first.source.startswith("localhost")
    if file.known and not file.shared:
        assert file.place.endswith(A)
    assert file_at(first, A, here) != file_at(first, "", here) or file.shared, "a host without a UUID is no other host"


# ------------------------------------------------------------ quarantine


def test_one_path_on_two_storages_is_kept_twice(journal: MoveJournal) -> None:
    rows = (kept(A, "/ssd/vda.raw", local()), kept(B, "/ssd/vda.raw", local()))
    for row in rows:
        journal.add_kept(row)
    assert set(journal.kept_sources()) == set(rows)
    assert claims.kept_here(journal, LOCAL, A) == (rows[0],)
    assert claims.kept_here(journal, LOCAL, B) == (rows[1],)
    journal.remove_kept("/ssd/vda.raw", A)
    assert journal.kept_sources() == (rows[1],)


def test_one_path_of_which_nothing_is_known_is_kept_twice(journal: MoveJournal) -> None:
    rows = (kept(A, "/ssd/vda.raw", None), kept(B, "/ssd/vda.raw", None))
    for row in rows:
        journal.add_kept(row)
    assert set(journal.kept_sources()) == set(rows)
    assert [row.identity for row in journal.kept_sources()] == [on_host(A, "/ssd/vda.raw"), on_host(B, "/ssd/vda.raw")]


def test_one_file_is_kept_once_whichever_host_says_so(journal: MoveJournal) -> None:
    """Two rows of one file would each keep it from being removed by the other one's host."""
    journal.add_kept(kept(A, "/ssd/vda.raw", SHARED, fingerprint=KeptFingerprint(7, 1, 1)))
    later = kept(B, "/mnt/fast/vda.raw", SHARED, fingerprint=KeptFingerprint(7, 2, 2))
    journal.add_kept(later)
    assert journal.kept_sources() == (later,)


@pytest.mark.parametrize("inodes", [(7, 8), (7, None), (None, 8), (None, None)])
def test_two_servers_of_one_name_are_two_rows(journal: MoveJournal, inodes: tuple[int | None, int | None]) -> None:
    """The name of a server is a name: two sites may have a "nas" each. With its row a file loses its protection."""
    prints = [None if inode is None else KeptFingerprint(inode, 1, 1) for inode in inodes]
    rows = [
        kept(host, "/mnt/vda.raw", SHARED, fingerprint=fingerprint)
        for host, fingerprint in zip((A, B), prints, strict=True)
    ]
    for row in rows:
        journal.add_kept(row)
    assert set(journal.kept_sources()) == set(rows)


def test_a_snapshot_mounted_beside_its_file_system_is_a_row_of_its_own(journal: MoveJournal) -> None:
    """It has the UUID, the paths and the inodes of what it was taken of."""
    mark = KeptFingerprint(7, 1, 1)
    rows = [kept(A, path, local(), fingerprint=mark) for path in ("/ssd/vda.raw", "/snapshot/vda.raw")]
    assert rows[0].file == rows[1].file
    for row in rows:
        journal.add_kept(row)
    assert set(journal.kept_sources()) == set(rows)


def test_a_row_that_names_no_host_goes_with_its_move_only(journal: MoveJournal) -> None:
    """The first version named no host: any host that used the path took its row away."""
    first = replace(kept(A, "/ssd/vda.raw", None), host="", move="m1")
    journal.add_kept(first)
    other = kept(B, "/ssd/vda.raw", local(), move="m2")
    journal.add_kept(other)
    assert set(journal.kept_sources()) == {first, other}
    journal.remove_kept("/ssd/vda.raw", B, "m2")
    assert journal.kept_sources() == (first,)
    journal.remove_kept("/ssd/vda.raw", A)
    assert journal.kept_sources() == (first,)
    journal.remove_kept("/ssd/vda.raw", A, "m1")
    assert journal.kept_sources() == ()


def test_another_host_s_quarantine_is_told_by_the_file(journal: MoveJournal) -> None:
    journal.add_kept(kept(A, "/ssd/shared.raw", SHARED))
    journal.add_kept(kept(A, "/ssd/own.raw", local()))
    said = claims.claims(journal, LOCAL, B)
    assert said.kept == ()
    assert file_at(SHARED, B, "/mnt/fast/shared.raw") in said.kept_files
    assert file_at(local(), B, "/ssd/own.raw") not in said.kept_files
    assert claims.claims(journal, LOCAL, A).kept_files == {}, "they are its own"


@pytest.mark.parametrize("longest", [None, 3.0])
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_rows_of_one_file_the_one_that_keeps_it_longest_counts(longest: float | None, *, turned: bool) -> None:
    """The last one won: one whose time was over hid one that was kept for ever."""
    over, kept_on = (kept(A, "/ssd/vda.raw", SHARED, expires=expires) for expires in (1.0, longest))
    rows = (kept_on, over) if turned else (over, kept_on)
    assert Claims(kept_elsewhere={A: rows}).kept_files == {kept_on.identity: kept_on}
    hosts = {host: (row,) for host, row in zip((A, B), rows, strict=True)}
    assert Claims(kept_elsewhere=hosts).kept_files == {kept_on.identity: kept_on}


# ------------------------------------------------------------ broken copies


def test_a_broken_copy_is_left_alone_by_whatever_path(journal: MoveJournal) -> None:
    """`orphans` of host B, which has the datastore at another path, took it for rubbish."""
    end(journal, plan_on(A, "m1", "/ssd", SHARED), Outcome.FAILED, kept_copy=True)
    partial = journal.partial_files()
    assert (file_at(SHARED, B, "/mnt/fast/vda.raw"), "/mnt/fast/vda.raw") in partial
    assert (file_at(SHARED, B, "/mnt/fast/other.raw"), "/mnt/fast/other.raw") not in partial


def test_a_file_at_the_path_of_another_host_s_copy_is_none(journal: MoveJournal) -> None:
    end(journal, plan_on(A, "m1", "/ssd", local()), Outcome.FAILED, kept_copy=True)
    partial = journal.partial_files()
    assert (file_at(local(), A, "/ssd/vda.raw"), "/ssd/vda.raw") in partial
    assert (file_at(local(), B, "/ssd/vda.raw"), "/ssd/vda.raw") not in partial
    journal.forget_partial(file_at(local(), B, "/ssd/vda.raw"), "/ssd/vda.raw", B)
    assert journal.partial_files() == partial, "what another host removes there is another file"
    journal.forget_partial(file_at(local(), A, "/ssd/vda.raw"), "/ssd/vda.raw", A)
    assert not journal.partial_files().files


def test_a_copy_of_which_nothing_is_known_is_left_alone_at_its_path(journal: MoveJournal) -> None:
    end(journal, replace(plan_on(A, "m1", "/ssd", SHARED), directories={}), Outcome.FAILED, kept_copy=True)
    assert (file_at(SHARED, B, "/ssd/vda.raw"), "/ssd/vda.raw") in journal.partial_files(), "a doubt keeps it"


def test_a_shared_copy_that_another_host_removes_is_forgotten(journal: MoveJournal) -> None:
    plan = plan_on(A, "m1", "/ssd", SHARED)
    end(journal, plan, Outcome.FAILED, kept_copy=True)
    copy = file_at(SHARED, B, "/mnt/fast/vda.raw")
    for move in ("", "m2"):
        journal.forget_partial(copy, "/mnt/fast/vda.raw", B, move)
        assert journal.partials(plan.uuid, A), "a server of that name may be another one"
    journal.forget_partial(copy, "/mnt/fast/vda.raw", B, "m1")  # its marker names the move
    assert journal.partials(plan.uuid, A) == {}


def test_a_copy_in_a_snapshot_that_goes_leaves_the_row_of_the_copy(journal: MoveJournal) -> None:
    plan = plan_on(A, "m1", "/ssd", local())
    end(journal, plan, Outcome.FAILED, kept_copy=True)
    journal.forget_partial(file_at(local(), A, "/snapshot/vda.raw"), "/snapshot/vda.raw", A, "m1")
    assert list(journal.partials(plan.uuid, A)) == ["/ssd/vda.raw"]


# ------------------------------------------------------------ templates


def templated(host: str, move: str, root: str, mounted: Mounted) -> Plan:
    """A move that has compared two templates of one datastore."""
    reused = ReusedLayer(
        f"{root}/old/t.raw", f"{root}/t.raw", "raw", 1, 1, {f"{root}/t.raw": "1:2:3"}, {f"{root}/old/t.raw": "4:5:6"}
    )
    plan = plan_on(host, move, root, mounted)
    return replace(plan, disks=(replace(plan.disks[0], chain=ChainPlan(reused=reused)),))


def knows(journal: MoveJournal, host: str, root: str, mounted: Mounted, mark: str = "1:2:3") -> bool:
    """Whether a host knows of its two images that they were compared."""
    images = pair({f"{root}/t.raw": mark}, {f"{root}/old/t.raw": "4:5:6"})
    known = templates_effects.known(journal, LOCAL, host).compared
    where = directory(host, root, mounted)
    return images in known or by_file(images, lambda path: where.file(path) or on_host(host, path)) in known


def test_templates_of_a_shared_datastore_are_compared_once_for_all_hosts(journal: MoveJournal) -> None:
    end(journal, templated(A, "m1", "/ssd", SHARED), Outcome.MOVED)
    assert knows(journal, A, "/ssd", SHARED)
    assert knows(journal, B, "/mnt/fast", SHARED)
    assert not knows(journal, B, "/mnt/fast", SHARED, mark="1:2:4"), "somebody wrote to it since"
    assert not knows(journal, B, "/ssd", replace(SHARED, source="nas2:/vol"))


def test_templates_at_one_path_of_two_hosts_are_two(journal: MoveJournal) -> None:
    """Copied machines: one path, one UUID, even one inode and time of writing."""
    end(journal, templated(A, "m1", "/ssd", local()), Outcome.MOVED)
    assert knows(journal, A, "/ssd", local())
    assert not knows(journal, B, "/ssd", local())


def test_nothing_is_built_on_what_another_host_is_about_to_remove(journal: MoveJournal) -> None:
    journal.add(plan_on(A, "m1", "/ssd", SHARED), Record(), "{}", "alice")
    journal.add_kept(kept(A, "/ssd/kept.raw", SHARED))
    known = templates_effects.known(journal, LOCAL, B)
    here, elsewhere = directory(B, "/mnt/fast", SHARED), directory(B, "/ssd", local())
    for name, word in (("vda.raw", "move m1"), ("kept.raw", "quarantine")):
        assert word in templates_effects._busy([f"/mnt/fast/{name}"], known, (here,))
        assert templates_effects._busy([f"/ssd/{name}"], known, (elsewhere,)) == ""


@pytest.mark.parametrize("host", [A, B])
def test_a_template_that_one_move_needs_may_be_used_by_another(journal: MoveJournal, host: str) -> None:
    """It is only read. Nobody may remove it meanwhile."""
    journal.add(templated(A, "m1", "/ssd", SHARED), Record(), "{}", "alice")
    root = "/ssd" if host == A else "/mnt/fast"
    here, known = directory(host, root, SHARED), templates_effects.known(journal, LOCAL, host)
    assert templates_effects._busy([f"{root}/t.raw"], known, (here,)) == ""
    assert "move m1" in templates_effects._busy([f"{root}/vda.raw"], known, (here,)), "this one it writes to"
    said = claims.claims(journal, LOCAL, host)
    assert (said.moves if host == A else said.elsewhere)["/ssd/t.raw"] == "m1"
    if host == B:
        assert said.files[here.id.file("t.raw")] == "m1"


# ------------------------------------------------------------ the journals of older versions


def places(url: str, table: str) -> dict[str, tuple[str, str]]:
    """Path -> (place, path on it) of each row, as it stands in the database."""
    with changing(url) as connection:
        rows = connection.execute(sa.text(f"SELECT path, place, place_path FROM {table}"))
        return {row.path: (row.place, row.place_path) for row in rows}


HOST = "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"


def test_what_an_older_plan_says_of_its_datastores_tells_the_files(url: str) -> None:
    """Version 31498e9: the plan of a row's move, if it is of the row's host, says what the datastores stand on."""
    load_dump(url, "31498e9")
    with closing(MoveJournal.open(url)) as journal:
        assert places(url, "kept") == {
            "/old-san/web08/vda.qcow2": ("host 6f0c1d9e-aaaa-4bbb-8ccc-000000000002", "/old-san/web08/vda.qcow2"),
            "/old-san/web09/vda.qcow2": (
                f"block 0b5a1c2d-3333-4444-8555-000000000003 - {HOST}",
                "/images/web09/vda.qcow2",
            ),
        }
        copy = journal.get("d0000005").plan.file("/ssd/web05/vda.qcow2")
        assert places(url, "partial_copies") == {"/ssd/web05/vda.qcow2": (copy.place, copy.path)}
        assert copy == FileId("network nas - -", "/vol/fast/web05/vda.qcow2")
        assert (copy, "/mnt/web05/vda.qcow2") in journal.partial_files()


def test_rows_of_a_version_that_knew_no_datastores_are_their_host_s(url: str) -> None:
    load_dump(url, "8c15fb9")
    with closing(MoveJournal.open(url)) as journal:
        rows = journal.kept_sources()
        assert [row.identity for row in rows] == [on_host(HOST, row.path) for row in rows]
        assert rows
        for table in ("kept", "partial_copies"):
            for path, (place, place_path) in places(url, table).items():
                assert place.startswith("host ")
                assert place_path == path
        assert journal.partial_files().paths


def test_a_row_that_a_process_of_the_version_before_writes_is_its_host_s(journal: MoveJournal, url: str) -> None:
    """Migrations only add: it goes on with the SQL that it knows, and says nothing of the new columns."""
    journal.add_kept(kept(A, "/ssd/vda.raw", SHARED))
    with changing(url) as connection:
        columns = "path, host, move, vm, datastore, size, why"
        values = f"'/ssd/vda.raw', '{B}', 'm', 'v', '', 1, 'w'"
        connection.execute(sa.text(f"INSERT INTO kept ({columns}) VALUES ({values})"))
    other = next(row for row in journal.kept_sources() if row.host == B)
    assert other.identity == on_host(B, "/ssd/vda.raw")
    journal.add_kept(kept(A, "/ssd/vda.raw", SHARED))
    assert len(journal.kept_sources()) == 2
