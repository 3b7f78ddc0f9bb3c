"""Two hosts and one file system, with real files: what one keeps or has left half made, as the other one sees it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from journal_support import disk_plan, make_plan
from paper_host import HOST, PaperSite

from blockferry.hosts import file_identity
from blockferry.hosts.datastore_id import DatastoreId, Directory, FileId, SpaceId, SpaceKind, of_mount, on_host
from blockferry.hosts.helper import paths
from blockferry.hosts.kept import Kept
from blockferry.jobs.outcome import Outcome
from blockferry.leftovers import orphans, quarantine
from blockferry.safety import proof
from blockferry.storage_move import claims
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import Orphan, Report
from blockferry.store import Owner

OTHER = "99999999-2222-3333-4444-555555555555"


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """An XFS on a loop device: a file system that is known by its UUID. Stands in for one that two hosts have."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    image, point = tmp_path / "image", tmp_path / "volume"
    point.mkdir()
    with image.open("wb") as raw:
        raw.truncate(320 * 1024**2)
    try:
        subprocess.run(["mkfs.xfs", "-q", str(image)], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount here: {error}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PaperSite]:
    paper = PaperSite(tmp_path)
    yield paper
    paper.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[MoveJournal]:
    journal = MoveJournal.open(f"sqlite:///{tmp_path}/journal.db")
    yield journal
    journal.close()


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(path), "1M"], check=True)
    return path


def file_of(site: PaperSite, path: Path) -> FileId:
    """The file as both hosts know it."""
    file = file_identity.files_at(site.runner, HOST, [str(path)])[str(path)]
    assert file.known
    return file


def kept_by_other(path: str, file: FileId | None, **more: object) -> Kept:
    row = Kept(path, "abcd", "db01", "ssd", None, 1, "as asked", OTHER, time.time(), "raw", file=file)
    return replace(row, **more)  # type: ignore[arg-type]


def test_a_file_is_known_by_links_as_well(site: PaperSite, volume: Path, tmp_path: Path) -> None:
    """A home may be a link: then the file is where the link leads, not where the path seems to lead."""
    path = image(volume / "web01" / "vda.qcow2")
    (tmp_path / "link").symlink_to(volume / "web01")
    by_link = str(tmp_path / "link" / "vda.qcow2")
    assert file_identity.files_at(site.runner, HOST, [by_link])[by_link] == file_of(site, path)
    gone = str(tmp_path / "nowhere" / "vda.qcow2")
    assert file_identity.files_at(site.runner, HOST, [gone])[gone] == on_host(HOST, gone)


def test_what_another_host_keeps_is_not_removed(site: PaperSite, journal: MoveJournal, volume: Path) -> None:
    """Its path there is another one; nothing but the file tells."""
    path = image(volume / "vda.qcow2")
    row = kept_by_other("/mnt/fast/vda.qcow2", file_of(site, path))
    journal.add_kept(row)

    def doubt() -> str | None:
        return proof.blocker(site, str(path), claims.claims(journal, site.uri, HOST), patience_s=0)

    assert "quarantine keeps it, an old file of db01" in (doubt() or "")
    journal.add_kept(replace(row, expires=time.time() - 1))
    assert doubt() is None, "its time is over there"
    journal.add_kept(replace(row, file=None, path=str(path)))
    assert doubt() is None, "another host's file of the same path"


@pytest.fixture
def by_fuse(tmp_path: Path) -> Iterator[Path]:
    """A directory of which nobody can tell whether other hosts have it, too."""
    point, below = tmp_path / "fuse", tmp_path / "below"
    for path in (point, below):
        path.mkdir()
    try:
        subprocess.run(["bindfs", str(below), str(point)], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount here: {error}")
    try:
        yield point
    finally:
        subprocess.run(["umount", str(point)], check=True)


def test_what_another_host_keeps_at_that_path_is_a_doubt(
    site: PaperSite, journal: MoveJournal, by_fuse: Path, tmp_path: Path
) -> None:
    """Its row says no more than the path: rows of older versions, and file systems that are not known."""

    def doubt(path: Path) -> str | None:
        return proof.blocker(site, str(path), claims.claims(journal, site.uri, HOST), patience_s=0)

    path, local = image(by_fuse / "vda.qcow2"), image(tmp_path / "local" / "vda.qcow2")
    assert "quarantine" not in (doubt(path) or "")
    for kept_path in (f"{by_fuse}//vda.qcow2", str(local)):
        journal.add_kept(kept_by_other(kept_path, None))
    assert "quarantine keeps it (or a file of that path there), an old file of db01," in (doubt(path) or "")
    assert doubt(local) is None, "no other host has that file system"
    journal.add_kept(kept_by_other(f"{by_fuse}//vda.qcow2", None, expires=time.time() - 1))
    assert "quarantine" not in (doubt(path) or "")


def test_a_purge_here_leaves_the_other_host_s_row_of_that_path(
    site: PaperSite, journal: MoveJournal, volume: Path
) -> None:
    path = image(volume / "web01" / "vda.qcow2")
    journal.add(make_plan("m1", disks=(disk_plan(),)), Record(), "{}", "alice")
    mine = quarantine.row(site, journal.get("m1").plan, str(path), "ssd", 1, "as asked", "qcow2")
    other = kept_by_other(str(path), None)
    for row in (mine, other):
        journal.add_kept(row)
    assert mine.file == file_of(site, path)
    journal.finish(journal.claim("m1", Owner.here()), Record(outcome=Outcome.MOVED), Report(Outcome.MOVED, 1.0))
    assert [kept_file.kept for kept_file in quarantine.listing(site, journal)] == [mine]
    (purged,) = quarantine.purge(site, journal, [str(path)], now=True)
    assert purged.gone, purged.text
    assert not path.exists()
    assert journal.kept_sources() == (other,)


def marker(path: Path, journal: MoveJournal, **words: str) -> None:
    said = {"what": "x", "move": "m1", "vm": "web01", "by": "root@kvm2", "journal": journal.identity(), **words}
    path.with_name(f"{path.name}.blockferry").write_text(json.dumps(said))


def listed(site: PaperSite, journal: MoveJournal) -> Orphan:
    (orphan,) = orphans.find(site, journal).left
    return orphan


def test_a_broken_copy_of_another_host_is_told_by_the_file(site: PaperSite, journal: MoveJournal, volume: Path) -> None:
    """`orphans --remove-all` leaves it alone: the other host's next move goes on from it."""
    site.pool("ssd", volume / "ssd")
    path = image(volume / "ssd" / "web01" / "vda.qcow2")
    marker(path, journal, inode=str(path.stat().st_ino), move="m0")
    assert listed(site, journal).kind == "copy"
    there = "/mnt/fast/web01/vda.qcow2"
    disk = disk_plan()
    disk = replace(disk, dest=replace(disk.dest, path=there))
    plan = replace(make_plan("m1", disks=(disk,)), host=OTHER)
    mounted = paths.look(site.runner, [str(volume / "ssd")], mounted=True)[str(volume / "ssd")].mounted
    assert mounted is not None
    known = {"fast": Directory("/mnt/fast", of_mount(mounted, HOST, "pool"))}
    for move, directories, kind in (("m1", {}, "copy"), ("m2", known, "partial")):
        journal.add(replace(plan, move=move, directories=directories), Record(), "{}", "alice")
        ended = Record(outcome=Outcome.FAILED, kept=(there,))
        journal.finish(journal.claim(move, Owner.here()), ended, Report(Outcome.FAILED, 1.0))
        assert listed(site, journal).kind == kind, "by that host's path alone it is no file of this one"
    assert "removed" in orphans.remove(site, journal, listed(site, journal))
    assert list(journal.partials(plan.uuid, OTHER)) == [there], "a file system of that UUID may be another one there"


@pytest.mark.parametrize("identity", ["network nas - -", f"pool - 0b5a1c2d-0000-4444-8555-000000000003 {HOST}"])
@pytest.mark.parametrize("where", ["its path", "another path"])
def test_a_broken_copy_is_left_alone_whatever_its_identity_reads(
    site: PaperSite, journal: MoveJournal, tmp_path: Path, identity: str, where: str
) -> None:
    """The server is mounted by its address now, the pool was defined anew: hours of copying were "a half-made copy"."""
    site.pool("ssd", tmp_path / "ssd")
    path = image(tmp_path / "ssd" / "web01" / "vda.qcow2")
    planned = str(path) if where == "its path" else "/mnt/before/web01/vda.qcow2"
    disk = disk_plan()
    disk = replace(disk, dest=replace(disk.dest, path=planned))
    kind, of, part, host = ("" if word == "-" else word for word in identity.split(" "))
    space = SpaceId(SpaceKind(kind), of, part, host)
    directory = Directory(str(Path(planned).parents[1]), DatastoreId(space))
    plan = replace(make_plan("m1", disks=(disk,)), host=HOST, directories={"ssd": directory})
    journal.add(plan, Record(), "{}", "alice")
    ended = Record(outcome=Outcome.FAILED, kept=(planned,))
    journal.finish(journal.claim("m1", Owner.here()), ended, Report(Outcome.FAILED, 1.0))
    words = {"inode": str(path.stat().st_ino)}
    marker(path, journal, **words)
    assert listed(site, journal).kind == "partial"
    if where == "another path":
        marker(path, journal, **words, move="m2")
        assert listed(site, journal).kind == "copy", "another move has left it"


def test_a_marker_that_another_host_wrote_proves_nothing_against_a_file(
    site: PaperSite, journal: MoveJournal, volume: Path
) -> None:
    """Over CIFS and FUSE a file has another inode number to each host: it is not taken for somebody else's."""
    site.pool("ssd", volume / "ssd")
    path = image(volume / "ssd" / "web01" / "vda.qcow2")
    marker(path, journal, inode="1", host=OTHER)
    orphan = listed(site, journal)
    assert (orphan.kind, orphan.removable) == ("copy", False)
    assert "another host has" in orphan.why
    marker(path, journal, inode="1", host=HOST)
    assert listed(site, journal).kind == "marker", "its own marker says that it is another file"
    marker(path, journal, inode=str(path.stat().st_ino), host=OTHER)
    assert listed(site, journal).removable
