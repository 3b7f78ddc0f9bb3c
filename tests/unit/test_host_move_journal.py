"""Moves to another host in the journal, beside storage moves: one job for each VM, no file made by two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from journal_support import disk_plan, make_plan
from test_host_move_decide import DISKS, PLAN

from blockferry.base.errors import DestinationTaken, MoveBusy, MoveNotFound
from blockferry.host_move import run_host_move
from blockferry.host_move.host_move_journal import HostMoveJournal
from blockferry.host_move.host_record import HostMoveRecord
from blockferry.hosts.migrating import MigrationStats
from blockferry.jobs.outcome import Wanted
from blockferry.storage_move import claims
from blockferry.storage_move.destination.plan import DestinationImage
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.record import Record
from blockferry.store import Owner

pytest_plugins = ("journal_plugin",)


@pytest.fixture
def journals(url: str) -> Iterator[tuple[HostMoveJournal, MoveJournal]]:
    with closing(HostMoveJournal.open(url)) as host_move_journal, closing(MoveJournal.open(url)) as other:
        yield host_move_journal, other


def test_it_is_read_as_it_was_written(journals: tuple[HostMoveJournal, MoveJournal]) -> None:
    record = HostMoveRecord(copied={"vda": "1 2 3"}, created=("/new/web01/",), stats=MigrationStats(memory_total=7))
    journals[0].add(PLAN, record, "{}", "alice")
    found = journals[0].get("m1")
    assert (found.plan, found.record, found.state) == (PLAN, record, "interrupted")
    assert journals[0].want("m1", Wanted.CANCEL).record.wanted is Wanted.CANCEL
    assert journals[1].unfinished() == ()


def test_unexpected_errors_are_forgiven_once_its_user_has_looked(
    journals: tuple[HostMoveJournal, MoveJournal],
) -> None:
    """One that was parked by its third was parked again by the first after `resume`."""
    journal, _ = journals
    journal.add(PLAN, HostMoveRecord(), "{}", "alice")
    lease = journal.claim("m1", Owner.here())
    journal.write(lease, HostMoveRecord(unexpected=3))
    journal.park(lease, "an unexpected error came 3 times")
    lease.release()
    before = journal.get("m1")
    assert before.parked is not None
    resumed = journal.claim("m1", Owner.here())
    assert run_host_move.take_up(journal, resumed, before).record.unexpected == 0
    assert journal.read("m1").unexpected == 0
    journal.write(resumed, HostMoveRecord(unexpected=1))
    assert run_host_move.take_up(journal, resumed, journal.get("m1")).record.unexpected == 1, "its user has not looked"


def test_one_job_for_each_vm_of_whichever_kind(journals: tuple[HostMoveJournal, MoveJournal]) -> None:
    hosts, storage = journals
    hosts.add(PLAN, HostMoveRecord(), "{}", "alice")
    with pytest.raises(MoveBusy):
        storage.add(make_plan("s1", PLAN.uuid), Record(), "{}", "alice")
    with pytest.raises(MoveBusy):
        hosts.add(replace(PLAN, move="m2"), HostMoveRecord(), "{}", "alice")
    storage.add(make_plan("s2", "u2"), Record(), "{}", "alice")
    with pytest.raises(MoveBusy):
        hosts.add(replace(PLAN, move="m3", uuid="u2", disks=(), state_files=()), HostMoveRecord(), "{}", "alice")


def test_no_file_is_made_by_two(journals: tuple[HostMoveJournal, MoveJournal]) -> None:
    hosts, storage = journals
    hosts.add(PLAN, HostMoveRecord(), "{}", "alice")
    same = replace(PLAN, move="m2", uuid="u2", vm="web02")
    with pytest.raises(DestinationTaken, match=DISKS[0].dest):
        hosts.add(same, HostMoveRecord(), "{}", "alice")
    hosts.add(replace(same, dest_host="h3"), HostMoveRecord(), "{}", "alice")
    made = replace(disk_plan("vda"), dest=DestinationImage(DISKS[0].dest, "raw", "ssd"))
    storage.add(replace(make_plan("s1", "u9", (made,)), host="h4"), Record(), "{}", "alice")
    for host in ("h4", "h5"):
        wish = replace(PLAN, move=f"m-{host}", uuid=f"u-{host}", dest_host=host)
        if host == "h5":
            hosts.add(wish, HostMoveRecord(), "{}", "alice")
            continue
        with pytest.raises(DestinationTaken, match="s1"):
            hosts.add(wish, HostMoveRecord(), "{}", "alice")


@pytest.fixture
def both(url: str) -> Iterator[MoveJournal]:
    """The journal as the commands open it: storage moves, with moves to another host beside them."""
    with closing(MoveJournal.open(url, others=(HostMoveJournal.kind,))) as journal:
        yield journal


def test_lists_and_names_are_of_all_kinds(both: MoveJournal) -> None:
    hosts = both.of_kind(HostMoveJournal)
    hosts.add(PLAN, HostMoveRecord(), "{}", "alice")
    both.add(make_plan("s1", "u9"), Record(), "{}", "alice")
    assert [(move.id, move.kind) for move in both.every.unfinished()] == [("m1", "host-move"), ("s1", "storage-move")]
    assert both.every.find(PLAN.vm).plan == PLAN
    assert both.every.get("s").kind == "storage-move"
    assert [move.id for move in both.unfinished()] == ["s1"]
    with pytest.raises(MoveNotFound):
        both.get("m1")


def test_a_storage_move_leaves_to_a_host_move_what_it_makes(both: MoveJournal) -> None:
    """On the host that the other one goes to, and only there."""
    both.of_kind(HostMoveJournal).add(PLAN, HostMoveRecord(), "{}", "alice")
    made = replace(disk_plan("vda"), dest=DestinationImage(DISKS[0].dest, "raw", "ssd"))
    plan = make_plan("s1", "u9", (made,))
    with pytest.raises(DestinationTaken, match="m1"):
        both.add(replace(plan, host=PLAN.dest_host), Record(), "{}", "alice")
    both.add(replace(plan, host=PLAN.host), Record(), "{}", "alice")


def test_what_a_host_move_has_yet_to_write_is_reserved_at_its_destination(both: MoveJournal) -> None:
    disks = tuple(replace(disk, required=7 << 20) for disk in DISKS)
    both.of_kind(HostMoveJournal).add(replace(PLAN, disks=disks), HostMoveRecord(), "{}", "alice")
    there = both.reservations(PLAN.dest_uri, PLAN.dest_host)
    assert [(promise.datastore, promise.size, promise.here) for promise in there] == [
        (DISKS[0].datastore, len(DISKS) * (7 << 20), True)
    ]
    assert not any(promise.here for promise in both.reservations(PLAN.uri, PLAN.host))
    assert both.reservations(PLAN.dest_uri, PLAN.dest_host, exclude="m1") == ()


def test_its_files_are_claimed_on_both_hosts(both: MoveJournal) -> None:
    """So no clean-up takes them, neither the old images nor the new ones."""
    both.of_kind(HostMoveJournal).add(PLAN, HostMoveRecord(), "{}", "alice")
    at_source = claims.claims(both, PLAN.uri, PLAN.host)
    at_destination = claims.claims(both, PLAN.dest_uri, PLAN.dest_host)
    for disk in DISKS:
        assert at_source.moves[disk.source] == "m1"
        assert disk.dest not in at_source.moves
        assert at_destination.moves[disk.dest] == "m1"
    assert not claims.claims(both, PLAN.uri, PLAN.host, "m1").moves
