"""One journal for several hosts: a move is taken up, counted and ended only on the host on which it was planned."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from blockferry.storage_move import old_plan
from blockferry.storage_move.plan import Plan
from lab import Datastore, Host, Lab
from tests.system.bare import bare
from tests.system.postgres import Postgres, PostgresLine, postgres
from tests.system.voyage import Line

pytestmark = pytest.mark.lab

Lines = tuple[PostgresLine, PostgresLine]


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with postgres() as one:
        yield one


@pytest.fixture(scope="module")
def other_host(lab_session: Lab, lab_host: Host, old_san: Datastore, ssd: Datastore) -> Host:
    host = lab_session.host("kvm-b")
    for store in (old_san, ssd):
        host.attach(store)
    return host


@pytest.fixture
def lines(server: Postgres, lab_host: Host, other_host: Host, tmp_path: Path, stores: tuple[Datastore, ...]) -> Lines:
    found = []
    for host in (lab_host, other_host):
        (tmp_path / host.name).mkdir()
        line = PostgresLine(host, tmp_path / host.name, stores)
        line.url = server.url
        found.append(line)
    return found[0], found[1]


def state(server: Postgres, move: str) -> tuple[object, ...]:
    [row] = server.run("SELECT finished IS NOT NULL, parked, wanted, owner IS NULL FROM moves WHERE id = %s", move)
    return row


def killed_while_it_copies(server: Postgres, line: PostgresLine, vm: str) -> tuple[str, str]:
    """A move that was planned and begun, and whose process has died: its id, and its plan's text."""
    assert line.do("move", vm, "--to", "ssd", point="copy-started:kill").killed
    [(move, plan)] = server.run("SELECT id, plan FROM moves WHERE vm = %s", vm)
    assert isinstance(move, str)
    assert isinstance(plan, str)
    return move, plan


def of_version_4(plan: str) -> str:
    """The same plan as version 4 wrote it: one flat form, and no host."""
    flat = json.loads(msgspec.json.encode(old_plan.flat(msgspec.json.decode(plan, type=Plan))))
    older = {key: value for key, value in flat.items() if key not in ("host", "host_name")}
    return json.dumps({**older, "version": 4})


def test_another_host_neither_takes_up_nor_ends_a_move(
    server: Postgres,
    lines: tuple[PostgresLine, PostgresLine],
    lab_host: Host,
    other_host: Host,
    old_san: Datastore,
    ssd: Datastore,
) -> None:
    here, there = lines
    with bare(lab_host, old_san, "shared1") as vm:
        move, plan = killed_while_it_copies(server, here, vm.name)
        uuid = lab_host.virsh("capabilities").split("<uuid>")[1].split("<")[0]
        assert json.loads(plan)["host"] == uuid
        assert json.loads(plan)["uri"] == "qemu:///system"
        server.run("UPDATE moves SET lease_expires = 0")  # the time after which another manager may take it up
        before = state(server, move)
        assert before[:3] == (False, None, "go")

        # The mere command, which takes up the interrupted moves of its host.
        said = there.must("moves")
        assert [one["id"] for one in said.document["moves"]] == [move]
        assert "goes on in the background" not in said.err
        assert there.must("resume").document["moves"] == []
        for words in (("resume", move), ("cancel", move), ("watch", move)):
            said = there.do(*words)
            assert (said.status, said.code) == (9, "OTHER_HOST"), str(said)
            assert uuid in said.document["message"]
            assert lab_host.name in said.document["message"]
        # Also one that has the same VM, as the second host of a pair with common storage has.
        xml = lab_host.virsh("dumpxml", vm.name, "--inactive")
        other_host.virsh("define", "/dev/stdin", stdin=xml)
        assert there.do("resume", move).code == "OTHER_HOST"
        other_host.virsh("undefine", vm.name)
        assert move not in there.do("doctor").out
        assert state(server, move) == before

        # A move of an older version, which noted no host: nobody can tell, so another host leaves it alone.
        server.run("UPDATE moves SET plan = %s WHERE id = %s", of_version_4(plan), move)
        there.must("moves")
        assert there.do("resume", move).code == "OTHER_HOST"
        assert state(server, move) == before

        # Its own host takes it up, by the mark that the VM bears there; by whatever URI.
        uri = "qemu+unix:///system?socket=/run/libvirt/libvirt-sock"
        here.must("--uri", uri, "resume", move)
        assert vm.source() == str(ssd.home(vm.name) / "vda.raw")
        assert state(server, move)[0] is True


def test_a_move_of_an_older_version_whose_vm_is_gone_can_be_ended(
    server: Postgres,
    lines: tuple[PostgresLine, PostgresLine],
    lab_host: Host,
    old_san: Datastore,
    ssd: Datastore,
) -> None:
    """Its plan names no host, and no VM bears its mark any more: it was listed as interrupted for ever."""
    here, there = lines
    with bare(lab_host, old_san, "shared3") as vm:
        move, plan = killed_while_it_copies(server, here, vm.name)
        server.run("UPDATE moves SET plan = %s, lease_expires = 0 WHERE id = %s", of_version_4(plan), move)
        lab_host.virsh("destroy", vm.name)
        lab_host.virsh("undefine", vm.name)
        made = ssd.home(vm.name) / vm.path.name
        assert made.exists()
        for line in lines:
            for words in (("resume", move), ("cancel", move)):
                said = line.do(*words)
                assert (said.status, said.code) == (9, "OTHER_HOST"), str(said)
                assert f"`blockferry cancel {move} --here`" in said.document["hint"]
                assert "older blockferry" in said.document["message"]
        assert state(server, move)[:3] == (False, None, "go")
        assert made.exists()
        here.must("cancel", move, "--here")
        assert state(server, move)[0] is True
        assert not made.exists()
        assert vm.path.exists(), "the old disk is nobody's to remove"
        assert there.must("moves").document["moves"] == []


def test_two_uris_to_one_host_are_one_host(line: Line, lab_host: Host, old_san: Datastore, ssd: Datastore) -> None:
    """A move that was begun by one URI is taken up by the next command of that host, whatever URI that one has."""
    with bare(lab_host, old_san, "shared2") as vm:
        assert line.do("move", vm.name, "--to", "ssd", point="copy-started:kill").killed
        said = line.must("--uri", "qemu+unix:///system?socket=/run/libvirt/libvirt-sock", "moves")
        assert "goes on in the background" in said.err, str(said)
        assert line.wait_finished_of(vm.name)["state"] == "moved"
        assert vm.source() == str(ssd.home(vm.name) / "vda.raw")
