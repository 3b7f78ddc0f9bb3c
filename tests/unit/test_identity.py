"""Which host a move belongs to: by libvirt's UUID of the host, never by a URI that every machine has."""

from __future__ import annotations

from dataclasses import replace

import pytest
from journal_support import disk_plan, make_plan

from blockferry.base.errors import DestinationTaken, OtherHost
from blockferry.hosts.identity import HostId, VmTrace, belongs, may_be_here, names_another_machine, same_host, where
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck import space
from blockferry.storage_move.record import Record

pytest_plugins = ("journal_plugin",)

LOCAL, REMOTE = "qemu:///system", "qemu+ssh://kvm2/system"
MARKED = VmTrace(True, "m1", "the-journal")


def plan(uri: str = LOCAL, host: str = "", name: str = "") -> Plan:
    return replace(make_plan("m1"), uri=uri, host=host, host_name=name)


@pytest.mark.parametrize(
    ("planned", "uri", "uuid", "answer"),
    [
        (plan(LOCAL, "A"), LOCAL, "A", True),
        (plan(LOCAL, "A"), REMOTE, "A", True),
        (plan(LOCAL, "A"), LOCAL, "B", False),
        (plan(REMOTE, "A"), REMOTE, "B", False),
        (plan(LOCAL), LOCAL, "A", None),
        (plan("qemu+unix:///system?socket=/x"), "qemu+unix:///system?socket=/x", "A", None),
        (plan(REMOTE), REMOTE, "A", True),
        (plan(REMOTE), LOCAL, "A", None),
        (plan(LOCAL, "A"), LOCAL, "", None),
    ],
)
def test_the_uuid_decides_and_a_local_uri_proves_nothing(
    planned: Plan, uri: str, uuid: str, answer: bool | None
) -> None:
    assert same_host(planned, uri, uuid) is answer
    assert may_be_here(planned, uri, uuid) is (answer is not False)


@pytest.mark.parametrize(
    ("planned", "here", "trace", "local_journal", "asked", "answer"),
    [
        # Another host with the same URI: never, though its VM has the same UUID, and even the same mark.
        (plan(LOCAL, "A", "kvm1"), HostId(LOCAL, "B", "kvm2"), VmTrace(), True, True, False),
        (plan(LOCAL, "A", "kvm1"), HostId(LOCAL, "B", "kvm2"), VmTrace(True), True, True, False),
        (plan(LOCAL, "A", "kvm1"), HostId(LOCAL, "B", "kvm2"), MARKED, False, True, False),
        # A host whose UUID libvirt makes up anew at each start: its name, URI and our mark on the VM are the proof.
        (plan(LOCAL, "A", "kvm1"), HostId(LOCAL, "B", "kvm1"), MARKED, False, False, True),
        (plan(LOCAL, "A", "kvm1"), HostId(LOCAL, "B", "kvm1"), VmTrace(True), False, True, False),
        # A plan without a UUID, in a journal that several machines may share.
        (plan(), HostId(LOCAL, "B"), VmTrace(), False, True, False),
        (plan(), HostId(LOCAL, "B"), VmTrace(True), False, False, False),
        (plan(), HostId(LOCAL, "B"), VmTrace(True, "m1", "another-journal"), False, False, False),
        (plan(), HostId(LOCAL, "B"), VmTrace(True), False, True, True),
        (plan(), HostId(LOCAL, "B"), MARKED, False, False, True),
        # The same in a file of this machine: the URI meant this machine.
        (plan(), HostId(LOCAL, "B"), VmTrace(), True, False, True),
        (plan(), HostId(REMOTE, "B"), VmTrace(), True, False, False),
    ],
)
def test_a_move_is_taken_up_only_where_it_was_planned(
    planned: Plan, here: HostId, trace: VmTrace, local_journal: bool, asked: bool, answer: bool
) -> None:
    found = belongs(planned, here, trace, "the-journal", local_journal=local_journal, asked=asked)
    assert found is answer


def test_a_move_without_a_host_gets_one_by_its_users_word(journal: MoveJournal) -> None:
    journal.add(plan(), Record(), "{}", "admin")
    journal.add(replace(make_plan("m2"), uuid="u2", host="B"), Record(), "{}", "admin")
    assert journal.adopt("m1", "A", "kvm1")
    found = journal.get("m1").plan
    assert (found.host, found.host_name) == ("A", "kvm1")
    assert replace(found, host="", host_name="") == plan()
    assert not journal.adopt("m1", "C", "kvm3"), "it is known"
    assert not journal.adopt("m2", "A", "kvm1")
    assert not journal.adopt("m9", "A", "kvm1")
    assert [journal.get(one).plan.host for one in ("m1", "m2")] == ["A", "B"]
    assert belongs(found, HostId(LOCAL, "A"), VmTrace(), "j", local_journal=False, asked=False)
    assert not belongs(found, HostId(LOCAL, "B"), VmTrace(), "j", local_journal=False, asked=True)


def test_the_way_to_end_such_a_move_is_named() -> None:
    told = OtherHost("m1", "web01", where(plan()), "kvm2 (UUID B)", noted=False)
    assert "`blockferry cancel m1 --here`" in told.hint
    assert "cancel" not in OtherHost("m1", "web01", where(plan(host="A")), "kvm2 (UUID B)").hint


def test_space_of_another_host_is_not_counted_and_that_of_an_unknown_one_is(journal: MoveJournal) -> None:
    for number, host in enumerate(("A", "B", "")):
        one = replace(make_plan(f"m{number}", disks=(disk_plan(allocation=1000),)), host=host)
        disk = replace(
            one.disks[0],
            dest=replace(one.disks[0].dest, path=f"/ssd/{number}.raw"),
            sizes=replace(one.disks[0].sizes, allocation=1000 * (number + 1)),
        )
        journal.add(replace(one, disks=(disk,)), Record(), "{}", "admin")
    everything = sum(reservation.size for reservation in journal.reservations(LOCAL, ""))
    here = space.promised(journal.reservations(LOCAL, "A"), {"ssd": None})["ssd"]
    there = space.promised(journal.reservations(LOCAL, "B"), {"ssd": None})["ssd"]
    assert there - here == 1000  # 2000 + 3000 against 1000 + 3000
    assert here < everything > there


def test_the_same_path_on_another_host_is_another_file(journal: MoveJournal) -> None:
    journal.add(replace(make_plan("m1", disks=(disk_plan(),)), host="A"), Record(), "{}", "admin")
    journal.add(replace(make_plan("m2", disks=(disk_plan(),)), host="B"), Record(), "{}", "admin")
    with pytest.raises(DestinationTaken):  # two URIs to one host are one host
        journal.add(replace(make_plan("m3", disks=(disk_plan(),)), host="A", uri=REMOTE), Record(), "{}", "admin")
    with pytest.raises(DestinationTaken):  # of an older version: it may be the same host
        journal.add(make_plan("m4", disks=(disk_plan(),)), Record(), "{}", "admin")


def test_a_move_of_another_machine_is_not_adopted_here() -> None:
    """`cancel --here` gave it to this host, found nothing, and called it cancelled; its copy went on over there."""
    assert names_another_machine("qemu+ssh://kvm9/system", "qemu:///system")
    assert names_another_machine("qemu+ssh://kvm9/system", "qemu+ssh://kvm8/system")
    assert not names_another_machine("qemu+ssh://kvm9/system", "qemu+ssh://kvm9/system")
    assert not names_another_machine("qemu:///system", "qemu+ssh://kvm9/system")
