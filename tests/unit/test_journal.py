"""The journal: moves, the user's columns, the story, what is kept; on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import msgspec
import pytest
import sqlalchemy as sa
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_support import disk_plan, make_plan

from blockferry.base.errors import DestinationTaken, JournalFailed, MoveBusy, MoveNotFound, UsageError
from blockferry.base.units import GiB, MiB
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.firmware.record import NvramRecord
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import PLAN_VERSION
from blockferry.storage_move.precheck import space
from blockferry.storage_move.record import Record
from blockferry.storage_move.summary import DiskProgress, Progress, Report
from blockferry.storage_move.switch.record import ConfigurationRecord, SwitchRecord
from blockferry.storage_move.templates.plan import ChainPlan, LayerPlan
from blockferry.store import Owner, codec, schema

pytest_plugins = ("journal_plugin",)
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)  # the database plays no part in these

RICH = Record(
    created=("/ssd/web01/vda.raw", "/ssd/größe \x00 😀"),
    failure="first\nsecond",
    configuration=ConfigurationRecord(marked=True),
    disks={"vda": DiskRecord(copy=Copy(Stage.CLEAN, 7, 1)), "vdb": DiskRecord(cold_copied="fingerprint")},
)
MOVED = Report(Outcome.MOVED, 61.5, {"copy": 60.0}, bulk_bytes=GiB, sources=("/old-san/vda.raw was removed",))


def finish(journal: MoveJournal, move: str) -> None:
    journal.finish(journal.claim(move, Owner.here()), Record(outcome=Outcome.MOVED), MOVED)


def test_a_move_is_remembered(journal: MoveJournal, url: str) -> None:
    plan = make_plan("3fa1", disks=(disk_plan(),))
    added = journal.add(plan, RICH, '{"vm": "web01"}', "alice")
    assert (added.id, added.plan, added.record, added.state) == ("3fa1", plan, RICH, "interrupted")
    with closing(MoveJournal.open(url)) as again:
        assert again.get("3fa1") == added
        assert again.unfinished() == (added,)
        assert again.finished(10) == ()


def test_ids_may_be_shortened(journal: MoveJournal) -> None:
    for move in ("3fa1", "3fb2", "3fb2c", "9c00"):
        journal.add(make_plan(move), Record(), "{}", "alice")
    assert journal.get("9").id == "9c00"
    assert journal.get("3fb2").id == "3fb2"  # exact, though another begins so
    with pytest.raises(UsageError, match="3fa1, 3fb2, 3fb2c"):
        journal.get("3f")
    with pytest.raises(MoveNotFound) as missing:
        journal.get("9c01")
    assert missing.value.nearest == ("9c00",)
    for word in ("%", "_", "\\", "9c00x"):
        with pytest.raises(MoveNotFound):
            journal.get(word)
    with pytest.raises(UsageError):
        journal.get("")


def test_a_move_is_found_by_what_a_person_types(journal: MoveJournal) -> None:
    """Ids are hexadecimal and may look like a VM's name: the whole name counts before the beginning of an id."""
    for move, uuid, vm in (("a1", "u1", "web01"), ("a2", "u2", "web02"), ("b300", "u3", "b3"), ("b3c4", "u4", "db01")):
        journal.add(replace(make_plan(move, uuid), vm=vm), Record(), "{}", "alice")
    assert journal.find("web01").id == "a1"
    assert journal.find("u2").id == "a2"
    assert journal.find("b3").id == "b300"
    assert journal.find("b3c").id == "b3c4"
    assert journal.find("db").id == "b3c4"
    for word in ("web", "a", None):
        with pytest.raises(UsageError, match=r"a1 \(web01\)"):
            journal.find(word)
    finish(journal, "a1")
    assert journal.find("web").id == "a2"  # the other is over
    assert journal.find("web01").state == "moved"
    journal.add(replace(make_plan("a5", "u1"), vm="web01"), Record(), "{}", "alice")
    assert journal.find("web01").id == "a5"
    finish(journal, "a5")
    assert journal.find("web01").id == "a5"  # the latest
    for word in ("%", "nope"):
        with pytest.raises(MoveNotFound):
            journal.find(word)
    with pytest.raises(UsageError):
        journal.find("")


def test_one_move_per_vm_until_it_is_over(journal: MoveJournal) -> None:
    journal.add(make_plan("a1", "same"), Record(), "{}", "alice")
    with pytest.raises(MoveBusy) as busy:
        journal.add(make_plan("a2", "same"), Record(), "{}", "bob")
    assert busy.value.move == "a1"
    finish(journal, "a1")
    journal.add(make_plan("a2", "same"), Record(), "{}", "bob")
    assert [move_summary.id for move_summary in journal.unfinished()] == ["a2"]


def test_an_id_is_used_once(journal: MoveJournal) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    with pytest.raises(JournalFailed):
        journal.add(make_plan("a1", "another"), Record(), "{}", "alice")


def test_the_end(journal: MoveJournal) -> None:
    for move in ("a1", "a2", "a3"):
        journal.add(make_plan(move), Record(), "{}", "alice")
        finish(journal, move)
    done = journal.get("a1")
    assert (done.state, done.report, done.owner) == ("moved", MOVED, None)
    assert [move_summary.id for move_summary in journal.finished(2)] == ["a3", "a2"]
    assert journal.unfinished() == ()


def test_what_the_user_wants_is_never_overwritten(journal: MoveJournal, url: str) -> None:
    journal.add(make_plan("a1"), Record(bandwidth=10), "{}", "alice")
    lease = journal.claim("a1", Owner.here())
    mine = journal.read("a1")
    with closing(MoveJournal.open(url)) as other:
        assert other.want("a1", Wanted.CANCEL).record.wanted is Wanted.CANCEL
        assert other.set_bandwidth("a1", 5 * MiB).record.bandwidth == 5 * MiB
    journal.write(lease, replace(mine, configuration=replace(mine.configuration, marked=True)))
    assert journal.read("a1") == Record(Wanted.CANCEL, 5 * MiB, configuration=ConfigurationRecord(marked=True))
    journal.finish(lease, Record(outcome=Outcome.CANCELLED), Report(Outcome.CANCELLED, 1.0))
    assert journal.get("a1").record == Record(Wanted.CANCEL, 5 * MiB, outcome=Outcome.CANCELLED)


def test_wishes_after_the_end_change_nothing(journal: MoveJournal) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    finish(journal, "a1")
    before = journal.get("a1")
    assert journal.want("a1", Wanted.CANCEL) == before
    assert journal.set_bandwidth("a1", 7) == before


def test_unknown_moves_are_named(journal: MoveJournal) -> None:
    for call in (
        lambda: journal.want("nope", Wanted.CANCEL),
        lambda: journal.set_bandwidth("nope", 1),
        lambda: journal.read("nope"),
        lambda: journal.event("nope", "phase", "text"),
        lambda: journal.claim("nope", Owner.here()),
    ):
        with pytest.raises(MoveNotFound):
            call()
    assert journal.events("nope") == ()


@on_sqlite
@pytest.mark.parametrize("rate", [-1, 2**63])
def test_a_bandwidth_that_is_none(journal: MoveJournal, rate: int) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    with pytest.raises(UsageError):
        journal.set_bandwidth("a1", rate)


def reserved(journal: MoveJournal, exclude: str | None = None) -> dict[str, int]:
    promises = journal.reservations("qemu:///system", "", exclude)
    return space.promised(promises, dict.fromkeys(promise.datastore for promise in promises))


def test_reservations(journal: MoveJournal) -> None:
    journal.add(make_plan("a1", disks=(disk_plan("vda"), disk_plan("vdb", "archive"))), Record(), "{}", "alice")
    journal.add(make_plan("a2", disks=(disk_plan("vdc"),)), Record(), "{}", "alice")
    journal.add(make_plan("a3", disks=(disk_plan("vdd"),)), Record(), "{}", "alice")
    finish(journal, "a3")
    assert reserved(journal) == {"ssd": 2 * GiB, "archive": GiB}
    assert reserved(journal, "a1") == {"ssd": GiB}
    lease = journal.claim("a1", Owner.here())
    again = DiskProgress("vda", "copying", done=700 * MiB, changed=200 * MiB)  # 200 MiB were copied twice
    journal.progress(lease, Progress("copy", disks=(again, DiskProgress("vdb", "copying", done=9 * GiB))))
    assert reserved(journal) == {"ssd": 2 * GiB - 500 * MiB, "archive": 0}


def test_the_story(journal: MoveJournal) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    told = ["planned", "größe 😀\nsecond line", "bad \udcff and \0"]
    for text in told:
        journal.event("a1", "action", text)
    story = journal.events("a1")
    assert [event.text for event in story] == [*told[:2], "bad \\udcff and \\x00"]
    assert story[0].at <= story[1].at <= story[2].at


def test_what_is_kept(journal: MoveJournal) -> None:
    first = Kept("/old/b", "a1", "web01", "old-san", None, 5, "as asked", "kvm1", 12.5, "raw", KeptFingerprint(1, 2, 3))
    busy = Kept("/old/a", "a1", "web01", "old-san", 17.5, 2**40, "in use by qemu", "kvm1")
    again = replace(first, move="a2", expires=99.0, fingerprint=KeptFingerprint(2**63 - 1, 2**62, 2**62))
    for kept in (first, busy, again):
        journal.add_kept(kept)
    assert journal.kept_sources() == (busy, again)
    journal.remove_kept("/old/a", "kvm1")
    journal.remove_kept("/old/a", "kvm1")
    assert [kept_source.path for kept_source in journal.kept_sources()] == ["/old/b"]


def test_what_is_kept_belongs_to_a_host(journal: MoveJournal) -> None:
    """Two hosts of one journal keep files at the same path."""
    here = Kept("/old/a", "a1", "web01", "old-san", None, 5, "as asked", "kvm1")
    there = Kept("/old/a", "a2", "db01", "old-san", None, 6, "as asked", "kvm2")
    for kept in (here, there):
        journal.add_kept(kept)
    assert journal.kept_sources() == (here, there)
    journal.remove_kept("/old/a", "kvm1")
    assert journal.kept_sources() == (there,)


def test_a_fingerprint_that_cannot_be_read_is_none(journal: MoveJournal, url: str) -> None:
    journal.add_kept(Kept("/old/a", "a1", "web01", "", None, 5, "x", "kvm1", 1.0, "raw", KeptFingerprint(1, 2, 3)))
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE kept SET fingerprint = 'of another kind'"))
    assert journal.kept_sources()[0].fingerprint is None


def test_a_journal_has_an_identity(journal: MoveJournal, url: str) -> None:
    with closing(MoveJournal.open(url)) as again:
        assert journal.identity() == again.identity()
    assert len(journal.identity()) == 36


def test_an_inspection_finds_nothing(journal: MoveJournal) -> None:
    found = journal.inspect()
    assert found.faults == ()
    assert abs(found.clock_offset_s) < 2
    assert found.version == schema.VERSION


# ------------------------------------------------------------ JSON


@settings(max_examples=examples(80), deadline=None)
@given(
    st.builds(Record, bandwidth=st.integers(0, 2**62), switch=st.builds(SwitchRecord, attempts=st.integers(0, 2**31)))
)
def test_a_record_survives_its_json(record: Record) -> None:
    assert msgspec.json.decode(codec.encode(record), type=Record) == record


def tamper(url: str, column: str, text: str) -> None:
    """Write into the database what another version might have written."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text(f"UPDATE moves SET {column} = :text"), {"text": text})


@on_sqlite
def test_fields_of_the_future_are_ignored(journal: MoveJournal, url: str) -> None:
    before = journal.add(make_plan("a1", disks=(disk_plan(),)), RICH, "{}", "alice")
    for column, value in (("plan", before.plan), ("record", before.record), ("progress", before.progress)):
        known = json.loads(codec.encode(value))
        known["invented_later"] = {"a": [1, None]}
        if column == "plan":
            known["disks"][0]["colour"] = "blue"
        tamper(url, column, json.dumps(known))
    assert journal.get("a1") == before


@on_sqlite
def test_fields_of_the_past_take_their_defaults(journal: MoveJournal, url: str) -> None:
    journal.add(make_plan("a1"), RICH, "{}", "alice")
    tamper(url, "record", "{}")
    assert journal.read("a1") == Record()


@on_sqlite
@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("record", '{"outcome": "teleported"}'),
        ("record", "not json"),
        ("wanted", "pause"),
        ("plan", "{}"),
        ("plan", codec.encode(replace(make_plan("a1"), version=PLAN_VERSION + 1))),
    ],
)
def test_what_cannot_be_understood_is_said(journal: MoveJournal, url: str, column: str, text: str) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    tamper(url, column, text)
    with pytest.raises(JournalFailed, match=r"move a1 .* newer blockferry"):
        journal.get("a1")


@on_sqlite
def test_progress_is_only_for_show(journal: MoveJournal, url: str) -> None:
    journal.add(make_plan("a1"), Record(), "{}", "alice")
    lease = journal.claim("a1", Owner.here())
    journal.progress(lease, Progress("copy", disks=(DiskProgress("vda", "copying", rate=float("nan")),)))
    assert journal.get("a1").progress == Progress()  # JSON knows no NaN
    journal.progress(lease, Progress("copy", note="waits"))
    assert journal.get("a1").progress.note == "waits"


def following(journal: MoveJournal, move: str, uuid: str) -> None:
    """A move of which only the UEFI variables are left, and that nobody runs."""
    journal.add(make_plan(move, uuid, (disk_plan(),)), Record(), "{}", "alice")
    lease = journal.claim(move, Owner.here())
    journal.save_interim(lease, Record(nvram=NvramRecord(pending=True)), MOVED)
    journal.release(lease)


def test_a_move_waits_with_its_report(journal: MoveJournal) -> None:
    following(journal, "3fa1", "u")
    found = journal.get("3fa1")
    assert (found.state, found.finished, found.report) == ("waiting", None, MOVED)
    assert reserved(journal) == {}, "what is copied takes no more room"
    lease = journal.claim("3fa1", Owner.here())
    assert journal.get("3fa1").state == "running"
    journal.finish(lease, Record(outcome=Outcome.MOVED, nvram=NvramRecord(pending=True)), MOVED)
    assert journal.get("3fa1").state == "moved"


def test_a_new_move_takes_over_from_one_that_waits(journal: MoveJournal) -> None:
    following(journal, "3fa1", "u")
    waiting = journal.get("3fa1")
    journal.add(make_plan("9c00", "u"), Record(), "{}", "alice", waiting)
    assert [move_summary.id for move_summary in journal.unfinished()] == ["9c00"]
    old = journal.get("3fa1")
    assert (old.state, old.report) == ("moved", MOVED)
    assert "move 9c00" in journal.events("3fa1")[-1].text


def test_a_new_move_takes_over_from_nobody_who_runs(journal: MoveJournal) -> None:
    following(journal, "3fa1", "u")
    waiting = journal.get("3fa1")
    lease = journal.claim("3fa1", Owner.here())  # the VM went off this moment
    with pytest.raises(MoveBusy):
        journal.add(make_plan("9c00", "u"), Record(), "{}", "alice", waiting)
    journal.write(lease, Record(nvram=NvramRecord(pending=True)))
    assert [move_summary.id for move_summary in journal.unfinished()] == ["3fa1"]


def test_two_moves_never_make_one_file(journal: MoveJournal) -> None:
    """The later one would take away, and on its way back remove, what the other one has made."""
    base = LayerPlan("/san/golden.qcow2", "qcow2", "/ssd/golden.qcow2", "qcow2", 1, 1)
    one, other = (
        make_plan(move, disks=(replace(disk_plan(move), chain=ChainPlan(layers=(base,))),)) for move in ("a1", "b2")
    )
    journal.add(one, Record(), "{}", "alice")
    with pytest.raises(DestinationTaken) as taken:
        journal.add(other, Record(), "{}", "bob")
    assert (taken.value.path, taken.value.move, taken.value.other) == ("/ssd/golden.qcow2", "a1", "vm-a1")
    assert [found.id for found in journal.unfinished()] == ["a1"]
    journal.add(replace(other, uri="qemu+ssh://kvm2/system"), Record(), "{}", "bob")  # another host's files
    finish(journal, "a1")
    journal.add(replace(other, move="c3", uuid="u3"), Record(), "{}", "carol")
