"""Journals that version 8c15fb9 wrote (schema 0002, plans of version 4), with moves under way: read, and gone on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa
from journal_support import DUMPS, changing, disk_plan, load_dump, make_plan

from blockferry.base.units import GiB, MiB
from blockferry.hosts import identity
from blockferry.hosts.datastore_id import on_host
from blockferry.hosts.identity import HostId, VmTrace
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import old_record
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.facts import Partial
from blockferry.storage_move.firmware.record import ManagedSave, ManagedSaveRecord, NvramRecord
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.overlays.record import CommitsRecord, ComparedBase, OverlayState
from blockferry.storage_move.pace.latency import GuestLatency
from blockferry.storage_move.pace.record import MeasuredRecord, Throttle
from blockferry.storage_move.record import RECORD_FORM, MirrorRecord, Record
from blockferry.storage_move.summary import Report
from blockferry.storage_move.switch.record import ConfigurationRecord, GraphRecord, SwitchRecord
from blockferry.storage_move.templates.plan import ChainPlan, ReusedLayer
from blockferry.storage_move.trim.record import TrimRecord
from blockferry.storage_move.verify.record import BackupExport, ExportRecord
from blockferry.store import Owner
from blockferry.store.listed import PartialFiles

pytest_plugins = ("journal_plugin",)

HOST = "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"
WEB = "0000{}00-1111-4222-8333-444444444444"
RECENT = 10_000
BROKEN = Partial("b0000002", "qcow2", 4 * GiB, 0, "vda")


@pytest.fixture
def old(url: str) -> str:
    """The URL of a journal as 8c15fb9 left it, in both databases as their own tools have dumped it."""
    load_dump(url, "8c15fb9")
    return url


@pytest.fixture
def upgraded(old: str) -> Iterator[MoveJournal]:
    with closing(MoveJournal.open(old)) as journal:
        yield journal


def test_what_is_under_way_is_listed_as_it_was(upgraded: MoveJournal) -> None:
    assert [(move_summary.id, move_summary.state) for move_summary in upgraded.unfinished()] == [
        ("a0000001", "interrupted"),
        ("a0000002", "interrupted"),
        ("a0000003", "waiting"),
        ("a0000004", "parked"),
    ]
    copying, snapshot, waiting, parked = upgraded.unfinished()
    assert copying.record.disk("vda").copy.stage is Stage.CLEAN
    assert (copying.record.bandwidth, copying.progress.done) == (50 * MiB, 3 * GiB)
    assert snapshot.record.disk("vda").source_overlay is OverlayState.USED
    assert waiting.plan.firmware.nvram is not None
    assert parked.record.wanted is Wanted.CANCEL
    assert [event.text for event in upgraded.events("a0000001")] == ["planned: changed-blocks, for the test"]
    assert [(move_summary.id, move_summary.state) for move_summary in upgraded.finished(RECENT)] == [
        ("b0000006", "failed"),
        ("b0000005", "moved"),
        ("b0000004", "moved"),
        ("b0000003", "failed"),
        ("b0000002", "cancelled"),
        ("b0000001", "failed"),
    ]
    assert [(kept_source.path, kept_source.host) for kept_source in upgraded.kept_sources()] == [
        ("/old-san/db06/vda.qcow2", HOST)
    ]


def test_broken_copies_are_found_without_reading_every_move(upgraded: MoveJournal) -> None:
    """The latest move that left a copy counts; one that has become a disk of its VM is none any more."""
    assert upgraded.partials(WEB.format("05"), HOST) == {"/ssd/db05/vda.qcow2": BROKEN}
    assert upgraded.partials(WEB.format("06"), HOST) == {}
    assert upgraded.partials(WEB.format("05"), "") == {"/ssd/db05/vda.qcow2": BROKEN}  # libvirt tells no UUID
    partial = upgraded.partial_files()
    assert not partial.files
    assert partial.paths == {"/ssd/db05/vda.qcow2", "/ssd/db08/vda.qcow2"}
    assert upgraded.same_images(HOST) == frozenset()  # of a host that is not known: compared anew


def test_moves_under_way_are_taken_up_where_they_were_planned(upgraded: MoveJournal) -> None:
    here = HostId("qemu:///system", HOST, "kvm1")
    there = HostId("qemu+ssh://kvm2/system", "other", "kvm2")
    for move_summary in upgraded.unfinished():
        mark = VmTrace(True, move_summary.id, upgraded.identity())
        local = move_summary.id != "a0000004"
        for host, mine in ((here, local), (there, not local)):
            taken = identity.belongs(move_summary.plan, host, VmTrace(), "j", local_journal=True, asked=False)
            assert taken is mine, f"{move_summary.id} on {host}"
        assert (
            identity.belongs(move_summary.plan, here, mark, upgraded.identity(), local_journal=False, asked=False)
            is True
        )
    lease = upgraded.claim("a0000001", Owner.here())
    done = Record(outcome=Outcome.FAILED, kept=("/ssd/web01/vda.qcow2",), switch=SwitchRecord(done=True))
    upgraded.finish(lease, done, Report(Outcome.FAILED, 1.0))
    assert upgraded.partials(WEB.format("01"), HOST)["/ssd/web01/vda.qcow2"].move == "a0000001"
    assert upgraded.get("a0000001").state == "failed"


def test_columns_say_what_the_json_says(old: str) -> None:
    """Also of plans that name their host, which versions after 8c15fb9 have written into schema 0002."""
    with changing(old) as connection:
        for move in ("b0000001", "b0000005"):
            text = connection.scalar(sa.text("SELECT plan FROM moves WHERE id = :move"), {"move": move})
            plan = {**json.loads(text), "host": HOST, "host_name": "kvm1", "version": 6}
            words = sa.text("UPDATE moves SET plan = :plan WHERE id = :move")
            connection.execute(words, {"plan": json.dumps(plan), "move": move})
    with closing(MoveJournal.open(old)) as journal, changing(old) as connection:
        rows = connection.execute(sa.text("SELECT id, kind, host, state FROM moves ORDER BY id")).all()
        assert [tuple(row) for row in rows][3:7] == [
            ("a0000004", "storage-move", "", "open"),
            ("b0000001", "storage-move", HOST, "failed"),
            ("b0000002", "storage-move", "", "cancelled"),
            ("b0000003", "storage-move", "", "failed"),
        ]
        places = connection.execute(
            sa.text("SELECT role, name FROM move_datastores WHERE move = 'a0000003' ORDER BY role")
        )
        assert [tuple(row) for row in places] == [("destination", "ssd"), ("source", "old-san")]
        addresses = connection.execute(sa.text("SELECT host, uri FROM host_addresses")).all()
        assert [tuple(row) for row in addresses] == [(HOST, "qemu:///system")]
        assert journal.same_images(HOST) == {((("/ssd/t.raw", "1:2:3"),), (("/old-san/t.raw", "4:5:6"),))}
        assert journal.same_images("another") == frozenset()
        assert journal.partials(WEB.format("05"), HOST)["/ssd/db05/vda.qcow2"].move == "b0000001"  # known to be here
        assert journal.partials(WEB.format("05"), "another")["/ssd/db05/vda.qcow2"].move == "b0000002"


def test_a_move_that_an_older_process_ends_after_the_upgrade_is_not_lost(journal: MoveJournal, url: str) -> None:
    """It writes `finished` and `record`, and knows nothing of the tables."""
    plan = make_plan("a1", disks=(disk_plan(),))
    journal.add(plan, Record(), "{}", "alice")
    with changing(url) as connection:
        words = sa.text("UPDATE moves SET finished = 1.0, record = :record WHERE id = 'a1'")
        connection.execute(words, {"record": '{"outcome":"failed","kept":["/ssd/vda.raw"]}'})
    assert list(journal.partials(plan.uuid, HOST)) == ["/ssd/vda.raw"]
    with changing(url) as connection:
        assert connection.scalar(sa.text("SELECT state FROM moves")) == "failed"


def test_a_broken_copy_that_is_gone_on_with_is_none_any_more(journal: MoveJournal) -> None:
    reused = ReusedLayer("/old/t", "/ssd/t", "raw", 1, 1, {"/ssd/t": "1"}, {"/old/t": "2"})

    def ends(move: str, outcome: Outcome, kept: tuple[str, ...]) -> None:
        plan = make_plan(move, "vm", disks=(replace(disk_plan(), chain=ChainPlan(reused=reused)),))
        journal.add(replace(plan, host=HOST), Record(), "{}", "alice")
        record = Record(outcome=outcome, kept=kept)
        journal.finish(journal.claim(move, Owner.here()), record, Report(outcome, 1.0))

    ends("a1", Outcome.FAILED, ("/ssd/vda.raw",))
    assert journal.partials("vm", HOST)["/ssd/vda.raw"].move == "a1"
    assert journal.partials("vm", "another") == {}
    assert journal.partials("another", HOST) == {}
    ends("a2", Outcome.FAILED, ("/ssd/vda.raw",))
    assert journal.partials("vm", HOST)["/ssd/vda.raw"].move == "a2"
    ends("a3", Outcome.CANCELLED, ())  # its marker tells whether it is still there
    assert list(journal.partials("vm", HOST)) == ["/ssd/vda.raw"]
    ends("a4", Outcome.MOVED, ())
    assert journal.partials("vm", HOST) == {}
    assert len(journal.same_images(HOST)) == 1  # once, not once a move
    ends("a5", Outcome.FAILED, ("/ssd/vda.raw",))
    journal.forget_partial(on_host(HOST, "/ssd/vda.raw"), "/ssd/vda.raw", HOST)
    assert journal.partial_files() == PartialFiles(frozenset(), frozenset())


@pytest.fixture
def flat(tmp_path: Path) -> Iterator[MoveJournal]:
    """The journal that version 1e6bc71 wrote: plans of version 7, records of one flat form."""
    path = tmp_path / "journal" / "journal.db"
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript((DUMPS / "journal-1e6bc71.sqlite.sql").read_text())
    with closing(MoveJournal.open(f"sqlite:///{path}")) as journal:
        yield journal


def test_a_flat_record_is_read_whole(flat: MoveJournal) -> None:
    record = flat.get("c0000001").record
    assert (record.wanted, record.bandwidth, record.unexpected) == (Wanted.CANCEL, 50 * MiB, 2)
    assert record.mounts == {"/ssd": "/dev/sdb1 on /ssd"}
    assert record.created == ("/ssd/web01/vda.qcow2", "/ssd/web01/vdb.qcow2", "/ssd/web01/vdb.n.qcow2")
    assert record.home == HomeRecord(
        True,
        {"/old-san/web01/a.iso": "5:1700000000000000000"},
        {"/old-san/web01/a.iso": "5:1700000000000000001"},
        {"/old-san/web01/b": "it is a pipe"},
        {"/old-san/web01/c": "its copy is in use"},
    )
    assert record.disks == {
        "vda": DiskRecord(
            copy=Copy(Stage.CLEAN, 7, 1, synchronous=True),
            layers_copied=True,
            cold_copied="17:3221225472:1700000000000000000",
            trimmed=MiB,
            xml_before="<disk/>",
        ),
        "vdb": DiskRecord(
            copy=Copy(Stage.STARTED, 7, 2, reverse=True),
            layers_copied=True,
            partial=True,
            synced=ComparedBase("19:3221225472:1700000000000000000", 1, 2, 3, 4.0),
            source_overlay=OverlayState.USED,
            dest_overlay=OverlayState.NAMED,
            commit=Stage.STARTING,
            throttle=Throttle(20 * MiB, 7, {"write_bytes_sec": 0}, (40 * MiB,)),
        ),
    }
    assert record.configuration == ConfigurationRecord(marked=True, bare=True)
    assert record.switch == SwitchRecord(suspended=True, begun=True, attempts=3)
    assert record.measured == MeasuredRecord(True, GuestLatency(0.001, 0.004, 300, 30.0))
    assert record.trim == TrimRecord(asked=True)
    assert record.mirror == MirrorRecord(wanted=True, forbidden=True)
    assert record.fencing.guarded is not None
    assert record.commits == CommitsRecord(1, {"/old-san/web01/vda.o.qcow2": "18:100:1700000000000000000"})
    lost = LostVm("boot:17:99", {"vda": "/old-san/web01/vda.qcow2"}, {"vdb": "/nowhere"}, autostart=True)
    assert record.lost == lost


def test_flat_records_of_moves_that_have_switched_and_ended(flat: MoveJournal) -> None:
    switched, pending, broken = (flat.get(f"c000000{number}").record for number in (2, 3, 4))
    assert switched.configuration == ConfigurationRecord(True, False, True, True, ("sda",))
    assert switched.switch == SwitchRecord(done=True, let_run=True)
    assert switched.graph == GraphRecord(True, True, "QEMU was asked in vain")
    assert switched.export == ExportRecord(BackupExport.READY, 7, "/run/blockferry.sock")
    assert switched.trim == TrimRecord(True, True)
    assert switched.released == ("/old-san/web02/vda.qcow2",)
    assert switched.disks == {
        "vda": DiskRecord(copy=Copy(Stage.CLEAN, 7, 1), settled=True, verified=True, trimmed_again=2 * MiB),
        "vdb": DiskRecord(differences=(0, 4096)),
    }
    assert pending.nvram == NvramRecord(True, "20:131072:1700000000000000000", "21:131072:1700000000000000001")
    assert pending.managed_save == ManagedSaveRecord(
        ManagedSave.SAVED, 7, 1.8e9, False, "100:1700000000000000000", 2, "there was no space for its memory", 12.5
    )
    assert pending.unverified == {"vda": "it was cancelled"}
    assert flat.get("c0000003").state == "interrupted"  # its VM is saved, and is to be restored at once
    assert (broken.failure, broken.fencing.fenced, broken.outcome) == ("the destination hung", "/ssd", Outcome.FAILED)
    assert broken.kept == ("/ssd/web04/vda.qcow2",)


def test_a_flat_move_goes_on_in_the_new_form(flat: MoveJournal) -> None:
    """What is read is written, and read again as it was; the version before it refuses the move by its name."""
    for move in ("c0000001", "c0000002", "c0000003"):
        before = flat.get(move).record
        lease = flat.claim(move, Owner.here())
        flat.write(lease, before)
        flat.release(lease)
        assert flat.get(move).record == before
        with pytest.raises(msgspec.ValidationError, match="measured"):
            msgspec.json.decode(msgspec.json.encode(before), type=old_record.FlatRecord)
    newer = msgspec.json.encode({"form": RECORD_FORM + 1}).decode()
    with pytest.raises(msgspec.ValidationError, match="form"):
        old_record.read(newer)
