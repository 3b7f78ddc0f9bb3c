"""Which old disks may be written into, on real files."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from journal_support import disk_plan, make_plan

from blockferry.base.errors import KeptTaken
from blockferry.hosts.datastore_id import FileId
from blockferry.hosts.helper import files
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move.destination import kept_files
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.overlays.plan import PartialPlan
from blockferry.storage_move.record import Record

pytest_plugins = ("journal_plugin",)


def plain_row() -> Kept:
    why = "kept as asked; nothing here uses it"
    return Kept("/ssd/vda", "m1", "web01", "ssd", None, 20, why, "host", 5.0, "qcow2", KeptFingerprint(7, 20, 1))


@pytest.fixture
def old(tmp_path: Path) -> Kept:
    path = tmp_path / "vda.qcow2"
    path.write_bytes(b"what the guest wrote")
    stat = path.stat()
    as_kept = KeptFingerprint(stat.st_ino, stat.st_size, stat.st_mtime_ns)
    why = "kept as asked; nothing here uses it"
    return Kept(str(path), "m1", "web01", "ssd", None, 20, why, "host", 5.0, "qcow2", as_kept)


def why_unlike(row: Kept) -> str | None:
    runner = LocalRunner()
    return kept_files.why_unlike(runner, row, files.stat_one(runner, row.path))


def test_an_old_disk_as_it_was_kept_may_be_written_to(old: Kept) -> None:
    assert why_unlike(old) is None
    assert why_unlike(replace(old, why="kept because it lies on nfs4; nothing here uses it")) is None


@pytest.mark.parametrize(
    "why",
    [
        "the VM went off before QEMU was asked whether it used the new images, so this one may hold newer data",
        "VM web02 refers to it",
        "the copy differs from it",
        "put aside when web01 was restored from quarantine",
        "kept as asked",
    ],
)
def test_a_file_that_is_kept_for_a_doubt_may_hold_the_only_good_copy(old: Kept, why: str) -> None:
    """`--use-kept` wrote over such files: only the fingerprint and today's users counted."""
    assert why_unlike(replace(old, why=why)) == f"it is more than an old disk ({why})"


def test_a_backup_by_hard_links_would_be_written_over(old: Kept) -> None:
    os.link(old.path, old.path + ".backup")
    assert why_unlike(old) == "the file has 2 names (hard links), and one of them may be a backup"


def test_another_name_or_another_file_is_none(old: Kept, tmp_path: Path) -> None:
    link = tmp_path / "link.qcow2"
    link.symlink_to(old.path)
    assert why_unlike(replace(old, path=str(link))) == f"it is a symbolic link to {old.path}"
    Path(old.path).write_bytes(b"what the guest WROTE")
    assert why_unlike(old) == "it has been changed since it was kept, or that cannot be told"
    assert why_unlike(replace(old, fingerprint=None)) == "it has been changed since it was kept, or that cannot be told"
    Path(old.path).unlink()
    assert why_unlike(old) == "it is gone"


def test_the_row_that_is_given_back_is_the_one_that_was_taken(journal: MoveJournal) -> None:
    """It lies in the plan meanwhile. Another row of the file, kept anew since it was looked at, is not taken."""
    disk, row = disk_plan(), replace(plain_row(), file=FileId("fs ext4 0b5a1c2d -", "/vda.raw"))
    row = replace(row, path=disk.dest.path)
    plan = make_plan("m2", disks=(replace(disk, partial=PartialPlan(row.move, 20, row)),))
    anew = replace(row, since=6.0)
    journal.add_kept(anew)
    with pytest.raises(KeptTaken):
        journal.add(plan, Record(), "{}", "alice", taken=(row,))
    assert journal.kept_sources() == (anew,)
    journal.add_kept(row)
    summary = journal.add(plan, Record(), "{}", "alice", taken=(row,))
    assert journal.kept_sources() == ()
    read = summary.plan.disk(disk.target).partial.old
    assert read == row
    journal.add_kept(read)
    journal.add_kept(read)
    assert journal.kept_sources() == (row,)
