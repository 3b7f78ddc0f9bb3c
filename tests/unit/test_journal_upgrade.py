"""Journals that version 8c15fb9 wrote (schema 0002, plans of version 4), with moves under way: read, and gone on."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from journal_support import disk_plan, make_plan

from blockferry.base.units import GiB, MiB
from blockferry.hosts import identity
from blockferry.hosts.identity import HostId, VmTrace
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.facts import Partial
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import ReusedLayer
from blockferry.storage_move.record import OverlayState, Record, Stage
from blockferry.storage_move.summary import Report
from blockferry.store import Owner

pytest_plugins = ("journal_plugin",)

DATA = Path(__file__).parent / "data"
HOST = "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"
WEB = "0000{}00-1111-4222-8333-444444444444"
RECENT = 10_000
BROKEN = Partial("b0000002", "qcow2", 4 * GiB, 0, "vda")


@pytest.fixture
def old(url: str) -> str:
    """The URL of a journal as 8c15fb9 left it, in both databases as their own tools have dumped it."""
    kind = url.partition(":")[0].partition("+")[0]
    text = (DATA / f"journal-8c15fb9.{kind}.sql").read_text()
    if kind == "sqlite":
        path = Path(url.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, mode=0o700)
        with closing(sqlite3.connect(path)) as raw:
            raw.executescript(text)
    else:
        lines = [line for line in text.splitlines() if not line.startswith("\\")]  # psql's own words
        with changing(url) as connection:
            connection.execution_options(no_parameters=True).exec_driver_sql("\n".join(lines))
    return url


def changing(url: str) -> Any:
    return sa.create_engine(url, poolclass=sa.NullPool).begin()


@pytest.fixture
def upgraded(old: str) -> Iterator[MoveJournal]:
    with closing(MoveJournal.open(old)) as journal:
        yield journal


def test_what_is_under_way_is_listed_as_it_was(upgraded: MoveJournal) -> None:
    assert [(one.id, one.state) for one in upgraded.unfinished()] == [
        ("a0000001", "interrupted"),
        ("a0000002", "interrupted"),
        ("a0000003", "waiting"),
        ("a0000004", "parked"),
    ]
    copying, snapshot, waiting, parked = upgraded.unfinished()
    assert copying.record.copies["vda"].stage is Stage.CLEAN
    assert (copying.record.bandwidth, copying.progress.done) == (50 * MiB, 3 * GiB)
    assert snapshot.record.source_layers == {"vda": OverlayState.USED}
    assert waiting.plan.nvram is not None
    assert parked.record.wanted is Wanted.CANCEL
    assert [one.text for one in upgraded.events("a0000001")] == ["planned: changed-blocks, for the test"]
    assert [(one.id, one.state) for one in upgraded.finished(RECENT)] == [
        ("b0000006", "failed"),
        ("b0000005", "moved"),
        ("b0000004", "moved"),
        ("b0000003", "failed"),
        ("b0000002", "cancelled"),
        ("b0000001", "failed"),
    ]
    assert [(one.path, one.host) for one in upgraded.kept_sources()] == [("/old-san/db06/vda.qcow2", HOST)]


def test_broken_copies_are_found_without_reading_every_move(upgraded: MoveJournal) -> None:
    """The latest move that left a copy counts; one that has become a disk of its VM is none any more."""
    assert upgraded.partials(WEB.format("05"), HOST) == {"/ssd/db05/vda.qcow2": BROKEN}
    assert upgraded.partials(WEB.format("06"), HOST) == {}
    assert upgraded.partials(WEB.format("05"), "") == {"/ssd/db05/vda.qcow2": BROKEN}  # libvirt tells no UUID
    assert upgraded.partial_paths() == {"/ssd/db05/vda.qcow2", "/ssd/db08/vda.qcow2"}
    assert upgraded.same_images(HOST) == frozenset()  # of a host that is not known: compared anew


def test_moves_under_way_are_taken_up_where_they_were_planned(upgraded: MoveJournal) -> None:
    here = HostId("qemu:///system", HOST, "kvm1")
    there = HostId("qemu+ssh://kvm2/system", "other", "kvm2")
    for one in upgraded.unfinished():
        mark = VmTrace(True, one.id, upgraded.identity())
        local = one.id != "a0000004"
        for host, mine in ((here, local), (there, not local)):
            taken = identity.belongs(one.plan, host, VmTrace(), "j", local_journal=True, asked=False)
            assert taken is mine, f"{one.id} on {host}"
        assert identity.belongs(one.plan, here, mark, upgraded.identity(), local_journal=False, asked=False) is True
    lease = upgraded.claim("a0000001", Owner.here())
    done = Record(switched=True, outcome=Outcome.FAILED, kept=("/ssd/web01/vda.qcow2",))
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
        plan = make_plan(move, "vm", disks=(replace(disk_plan(), reused=reused),))
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
    journal.forget_partial("/ssd/vda.raw", HOST)
    assert journal.partial_paths() == frozenset()
