"""Many moves that belong together: who is let in beside whom, how many run at a time, and what becomes of each."""

from __future__ import annotations

import dataclasses
import io
import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import cli_fake
import pytest
from click.testing import CliRunner
from rich.console import Console
from test_host_move_decide import PLAN as HOST_PLAN

from blockferry import batch
from blockferry.base.errors import BlockferryError, DatastoreNotFound, HostUnreachable, JournalFailed
from blockferry.base.host_entries import HostEntry
from blockferry.batch import Batch, BatchEnd, BatchVm
from blockferry.cli import batch_view, main
from blockferry.cli.app import App
from blockferry.client import (
    AnyRequest,
    CheckResult,
    Config,
    HostCheckResult,
    MoveSummary,
    Outcome,
    SpaceEstimate,
    UsageError,
    VmListing,
    Wanted,
)
from blockferry.fleet.fleet_inventory import FleetInventory
from blockferry.hosts.datastore_id import DatastoreId, Directory, SpaceId, SpaceKind
from blockferry.storage_move.precheck.finding import finding

MIB, GIB = 1 << 20, 1 << 30


def host_vm(name: str, *, memory: int = 0, space: int = 0) -> BatchVm:
    """A VM that may go to a host with 4 GiB of memory and 10 GiB of space."""
    estimate = SpaceEstimate("ssd", 10 * GIB, 10 * GIB - space, space, 10 * GIB)
    plan = dataclasses.replace(HOST_PLAN, vm=name)
    return BatchVm(name, "", HostCheckResult(name, (), plan, (), (estimate,), 1.0, memory, 4 * GIB))


def codes(vms: tuple[BatchVm, ...]) -> list[list[str]]:
    return [[reason.code for reason in one.reasons] for one in vms]


def test_all_are_let_in_that_fit_together() -> None:
    assert codes(batch.admitted([host_vm("a", memory=GIB), host_vm("b", memory=GIB), host_vm("c")])) == [[], [], []]


def test_memory_counts_for_all_together_and_a_smaller_one_fits_after_a_big_one() -> None:
    vms = [host_vm("a", memory=2 * GIB), host_vm("b", memory=2 * GIB), host_vm("c", memory=GIB)]
    assert codes(batch.admitted(vms)) == [[], ["MEMORY_SHORT"], []]


def test_space_counts_for_all_together() -> None:
    vms = batch.admitted([host_vm("a", space=6 * GIB), host_vm("b", space=6 * GIB), host_vm("c", space=2 * GIB)])
    assert codes(vms) == [[], ["DESTINATION_FULL"], []]
    assert vms[1].refused
    assert vms[1].check is not None
    assert vms[1].check.plan is None


def test_datastores_of_one_name_on_two_hosts_have_each_their_own_space() -> None:
    """The same for VMs that go from one datastore to another on the host of each."""
    vms = [dataclasses.replace(host_vm("a", space=6 * GIB), host=host) for host in ("kvm1", "kvm2", "kvm2")]
    assert codes(batch.admitted(vms)) == [[], [], ["DESTINATION_FULL"]]


def test_one_storage_has_one_space_whatever_hosts_call_it() -> None:
    """VMs of two hosts go to a datastore that both have, by one name or by two."""
    nfs = Directory("/srv/nfs", DatastoreId(SpaceId(SpaceKind.NETWORK, "server", "/export")))
    vms = []
    for host, datastore in (("kvm1", "nfs"), ("kvm2", "nfs"), ("kvm2", "the-same")):
        estimate = SpaceEstimate(datastore, 10 * GIB, 4 * GIB, 6 * GIB, 10 * GIB)
        plan = dataclasses.replace(HOST_PLAN, vm="a", dest_datastores={datastore: nfs})
        vms.append(BatchVm("a", host, HostCheckResult("a", (), plan, (), (estimate,), 1.0, 0, 4 * GIB)))
    assert codes(batch.admitted(vms)) == [[], ["DESTINATION_FULL"], ["DESTINATION_FULL"]]


def test_checks_run_side_by_side_and_are_told_in_order() -> None:
    client = ManyMoves(slow_checks=True)
    planned = client.plan_all("old-san", to="ssd")
    assert 1 < client.most_checking <= batch.CHECKS
    assert [one.vm for one in planned.vms] == sorted(one.vm for one in planned.vms)


def test_vms_of_one_uuid_on_two_hosts_have_each_its_own_move() -> None:
    """A clone that is off has its UUID yet; only the other one is on its way."""
    client = OnHosts(moving={("kvm2", "web01"): "77aa"})
    for host in client.hosts_.values():
        host.journal["77aa"] = cli_fake.summary("77aa", "web01", owner="another")
    planned = client.plan_all("old-san", to="ssd")
    assert [(one.host, one.move) for one in planned.vms] == [("kvm1", ""), ("kvm2", "77aa")]


@pytest.mark.parametrize(
    ("statuses", "worst"), [((), 0), ((0, 0), 0), ((0, 4), 4), ((4, 6), 6), ((6, 5, 4), 5), ((130, 4), 4), ((5, 1), 1)]
)
def test_the_worst_status(statuses: tuple[int, ...], worst: int) -> None:
    assert batch.worst_status(BatchEnd("a", "x", exit_status=status) for status in statuses) == worst


@dataclass
class ManyMoves(cli_fake.FakeClient):
    """Each move is over `looks` looks after it was started."""

    looks: int = 3
    left: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # VM -> how its move ends
    refuses: frozenset[str] = frozenset()
    most: int = 0  # so many ran at the same time
    poll_s: float = 0.001
    moving: dict[tuple[str, str], str] = field(default_factory=dict)  # (host, VM) -> its move, as that host tells
    checking: int = 0
    most_checking: int = 0
    slow_checks: bool = False
    counting: threading.Lock = field(default_factory=threading.Lock)

    def vms(self) -> tuple[VmListing, ...]:
        known = {summary.plan.vm: move for move, summary in self.journal.items()}
        return tuple(dataclasses.replace(listing, move=known.get(listing.vm.name)) for listing in super().vms())

    def _check(self, request: AnyRequest) -> CheckResult | HostCheckResult:
        with self.counting:
            self.checking += 1
            self.most_checking = max(self.most_checking, self.checking)
        time.sleep(0.2 if self.slow_checks else 0)
        with self.counting:
            self.checking -= 1
        if request.vm in self.refuses:
            return CheckResult(request.vm, (finding("SHARED_DISK", "vda is shareable."),), None)
        return super()._check(request)

    def _plan(self, request: AnyRequest) -> MoveSummary:
        move = f"move-of-{request.vm}"
        self.journal[move] = cli_fake.summary(move, request.vm)
        return self.journal[move]

    def start(self, move_id: str) -> bool:
        self._note(f"start {move_id}")
        self.left[move_id] = self.looks
        self.journal[move_id] = dataclasses.replace(self.journal[move_id], owner="a worker", owner_alive=True)
        self.most = max(self.most, len(self.left))
        return True

    def show(self, move: str) -> tuple[MoveSummary, tuple[Any, ...]]:
        if move in self.left:
            self.left[move] -= 1
            if self.left[move] <= 0:
                del self.left[move]
                now = self.journal[move]
                cancelled = now.record.wanted is Wanted.CANCEL
                outcome = self.outcomes.get(now.plan.vm, Outcome.MOVED)
                self.journal[move] = self._ended(move, Outcome.CANCELLED if cancelled else outcome)
        return self.journal[move], ()


@dataclass
class OnHosts(ManyMoves):
    """Two hosts, each with a web01 of its own."""

    hosts_: dict[str, ManyMoves] = field(default_factory=lambda: {"kvm1": OneHost("kvm1"), "kvm2": OneHost("kvm2")})
    silent: tuple[tuple[str, BlockferryError], ...] = ()

    @property
    def config(self) -> Config:
        return Config(hosts=tuple(HostEntry(name, f"qemu+ssh://{name}/system") for name in ("kvm1", "kvm2", "kvm3")))

    def _fleet_inventory(self) -> FleetInventory:
        return dataclasses.replace(super()._fleet_inventory(), place="the hosts kvm1, kvm2", silent=self.silent)

    def vms(self) -> tuple[VmListing, ...]:
        return tuple(
            dataclasses.replace(cli_fake.vm("web01"), host=name, move=self.moving.get((name, "web01")))
            for name in self.hosts_
        )

    def _at_host(self, name: str) -> ManyMoves:
        return self.hosts_[name]


@dataclass
class OneHost(ManyMoves):
    name: str = ""
    cannot_cancel: BlockferryError | None = None

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _plan(self, request: AnyRequest) -> MoveSummary:
        move = f"move-on-{self.name}"
        self.journal[move] = cli_fake.summary(move, request.vm)
        return self.journal[move]

    def cancel(self, move: str, *, here: bool = False) -> MoveSummary:
        if self.cannot_cancel is not None:
            self.log.append(f"cannot cancel {move}")
            raise self.cannot_cancel
        return super().cancel(move, here=here)


ON_OLD_SAN = ("db01", "the-rather-long-name-of-a-database-server-01.prod.example.com", "web01")


def states(ends: tuple[BatchEnd, ...]) -> dict[str, str]:
    return {end.vm[:5]: end.state for end in ends}


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_all_vms_with_a_disk_there_go_so_many_at_a_time(parallel: int) -> None:
    client = ManyMoves()
    planned = client.plan_all("old-san", to="ssd")
    assert tuple(one.vm for one in planned.vms) == ON_OLD_SAN
    assert states(planned.run(parallel=parallel)) == {"db01": "moved", "the-r": "moved", "web01": "moved"}
    assert client.most == parallel


def test_a_failure_does_not_stop_the_others() -> None:
    client = ManyMoves(outcomes={"db01": Outcome.FAILED})
    ends = client.plan_all("old-san", to="ssd").run(parallel=1)
    assert states(ends) == {"db01": "failed", "the-r": "moved", "web01": "moved"}
    assert batch.worst_status(ends) == 5


@dataclass
class Interrupting(ManyMoves):
    """The process of db01's move ends, and its move cannot be begun again."""

    def start(self, move_id: str) -> bool:
        if move_id == "move-of-db01" and f"start {move_id}" in self.log:
            raise HostUnreachable("qemu+ssh://kvm1/system", "no route to host")
        return super().start(move_id)

    def show(self, move: str) -> tuple[MoveSummary, tuple[Any, ...]]:
        if move == "move-of-db01":
            return dataclasses.replace(self.journal[move], owner_alive=False), ()
        return super().show(move)


@pytest.mark.parametrize("parallel", [1, 3])
def test_a_move_that_cannot_be_begun_again_does_not_stop_the_others(
    parallel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "START_AGAIN_S", 0.0)
    ends = Interrupting().plan_all("old-san", to="ssd").run(parallel=parallel)
    assert states(ends) == {"db01": "failed", "the-r": "moved", "web01": "moved"}
    failed = next(end for end in ends if end.vm == "db01")
    assert (failed.move, failed.code) == ("move-of-db01", HostUnreachable.code)
    assert "no route to host" in failed.text


def test_cancelled_no_more_are_begun() -> None:
    client = ManyMoves()

    def cancel(running: Batch, _ends: tuple[BatchEnd, ...]) -> None:
        running.cancel()

    ends = client.plan_all("old-san", to="ssd").run(parallel=1, on_look=cancel)
    assert states(ends) == {"db01": "cancelled", "the-r": "not begun", "web01": "not begun"}
    assert batch.worst_status(ends) == 6


def test_left_alone_the_running_ones_go_on() -> None:
    client = ManyMoves()

    def leave(running: Batch, _ends: tuple[BatchEnd, ...]) -> None:
        running.leave()

    ends = client.plan_all("old-san", to="ssd").run(parallel=2, on_look=leave)
    assert states(ends) == {"db01": "running", "the-r": "running", "web01": "not begun"}
    assert batch.worst_status(ends) == 130
    assert not [line for line in client.log if line.startswith("cancel")]


def test_two_vms_of_one_name_are_two() -> None:
    client = OnHosts()
    seen: list[set[str]] = []
    planned = client.plan_all("old-san", to="ssd")
    assert [(batch_vm.host, batch_vm.vm) for batch_vm in planned.vms] == [("kvm1", "web01"), ("kvm2", "web01")]
    client.hosts_["kvm2"].outcomes["web01"] = Outcome.FAILED
    ends = planned.run(on_look=lambda running, _ends: seen.append({summary.id for summary in running.running}))
    assert seen[0] == {"move-on-kvm1", "move-on-kvm2"}
    assert [(end.host, end.move, end.state) for end in ends] == [
        ("kvm1", "move-on-kvm1", "moved"),
        ("kvm2", "move-on-kvm2", "failed"),
    ]
    assert batch.worst_status(ends) == 5


def test_an_error_does_not_keep_the_others_from_being_cancelled() -> None:
    client = OnHosts()
    client.hosts_["kvm1"].cannot_cancel = JournalFailed("the journal", "it is locked")  # type: ignore[attr-defined]
    raised: list[BlockferryError] = []

    def cancel(running: Batch, _ends: tuple[BatchEnd, ...]) -> None:
        if raised:
            return
        try:
            running.cancel()
        except BlockferryError as error:
            raised.append(error)

    ends = client.plan_all("old-san", to="ssd").run(on_look=cancel)
    assert [(end.host, end.state) for end in ends] == [("kvm1", "moved"), ("kvm2", "cancelled")]
    assert isinstance(raised[0], JournalFailed)


def test_where_several_hosts_are_concerned_each_row_names_its_own() -> None:
    result = call(OnHosts(), "move", "--all-on", "old-san", "--to", "ssd")
    assert result.exit_code == 0
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["HOST", "VM", "CHECK"] in rows
    assert ["kvm2", "web01", "moved", "move-on-kvm2"] in [row[:4] for row in rows]
    assert "HOST" not in call(ManyMoves(), "move", "--all-on", "old-san", "--to", "ssd").stdout


def test_a_move_that_is_under_way_to_there_goes_on() -> None:
    client = ManyMoves()
    client.journal["77aa"] = cli_fake.summary("77aa", "web01", owner="another")
    client.left["77aa"] = 2
    planned = client.plan_all("old-san", to="ssd")
    assert {one.vm[:5]: one.move for one in planned.vms} == {"db01": "", "the-r": "", "web01": "77aa"}
    assert states(planned.run()) == {"db01": "moved", "the-r": "moved", "web01": "moved"}
    assert "start 77aa" not in client.log


def test_a_move_to_another_place_is_no_part_of_it() -> None:
    client = ManyMoves()
    client.journal["77aa"] = cli_fake.summary("77aa", "web01", owner="another")
    assert {one.move for one in client.plan_all("old-san", to="archive").vms} == {""}


def test_a_datastore_that_does_not_exist() -> None:
    with pytest.raises(DatastoreNotFound) as caught:
        ManyMoves().plan_all("old-sam", to="ssd")
    assert "old-san" in caught.value.hint


AWAY = HostUnreachable("qemu+ssh://kvm3/system", "no route to host")


def test_a_mistyped_datastore_is_none_on_any_host() -> None:
    with pytest.raises(DatastoreNotFound) as caught:
        OnHosts().plan_all("old-sann", to="ssd")
    assert (caught.value.uri, caught.value.nearest[0]) == ("the hosts kvm1, kvm2", "old-san")
    result = call(OnHosts(), "move", "--all-on", "old-sann", "--to", "ssd")
    assert result.exit_code == 3
    with pytest.raises(HostUnreachable):  # it may have it
        OnHosts(silent=(("kvm3", AWAY),)).plan_all("old-sann", to="ssd")


@pytest.mark.parametrize("name", ["kvm1", "qemu+ssh://kvm3/system"])
def test_a_host_is_emptied_only_to_a_host(name: str) -> None:
    with pytest.raises(UsageError, match="is a host; add --to-host"):
        OnHosts(silent=(("kvm3", AWAY),)).plan_all(name, to="ssd")


def test_options_that_make_no_sense_are_told_before_a_host_is_asked() -> None:
    client = ManyMoves(raises=AssertionError("asked"))
    with pytest.raises(UsageError, match="--bandwidth"):
        client.plan_all("old-san", to="ssd", bandwidth="quick")
    with pytest.raises(UsageError, match="--downtime goes only with --to-host"):
        client.plan_all("old-san", to="ssd", downtime="1s")


def test_an_unanswered_question_is_no_empty_datastore() -> None:
    client = OnHosts(silent=(("kvm3", AWAY),))
    planned = client.plan_all("old-san", to="ssd")
    assert [(host.host, host.code) for host in planned.silent] == [("kvm3", "HOST_UNREACHABLE")]
    asked = ("move", "--all-on", "old-san", "--to", "ssd")
    result = call(client, *asked)
    assert result.exit_code == 7
    assert "Host kvm3 has not answered" in result.stdout
    assert "Nothing was begun." in result.stderr
    assert not any(host.journal for host in client.hosts_.values())
    assert call(client, *asked, "--dry-run").exit_code == 7
    result = call(client, *asked, "--skip-refused", "--json")
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert documents[0]["refused"] is True
    assert [host["host"] for host in documents[0]["silent"]] == ["kvm3"]
    assert [end["state"] for end in documents[-1]["ends"]] == ["moved", "moved"]
    assert result.exit_code == 7, "what is on kvm3 is still there"
    client.hosts_["kvm1"].refuses = frozenset({"web01"})
    assert call(client, *asked).exit_code == 7, "the worst"


def test_at_least_one_has_to_run() -> None:
    with pytest.raises(UsageError, match="--parallel 0"):
        ManyMoves().plan_all("old-san", to="ssd").run(parallel=0)


def call(client: cli_fake.FakeClient, *words: str) -> Any:
    return CliRunner().invoke(main.root, list(words), obj=App(opener=lambda _uri, _journal: client, poll_s=0.001))


def test_nothing_is_begun_while_one_is_refused() -> None:
    client = ManyMoves(refuses=frozenset({"web01"}))
    result = call(client, "move", "--all-on", "old-san", "--to", "ssd")
    assert result.exit_code == 4
    assert "web01 cannot go" in result.stdout
    assert "SHARED_DISK" in result.stdout
    assert not client.journal
    result = call(client, "move", "--all-on", "old-san", "--to", "ssd", "--skip-refused", "--json")
    assert result.exit_code == 4
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert (documents[0]["kind"], documents[-1]["kind"]) == ("batch", "batch-end")
    assert [end["state"] for end in documents[-1]["ends"]] == ["moved", "moved", "refused"]


def test_the_table_on_a_terminal() -> None:
    """A row for each VM that goes: waiting, under way, over; and one for all."""
    console = Console(width=120, color_system=None, record=True, file=io.StringIO())
    frames: list[str] = []

    def look(seen: Batch, ends: tuple[BatchEnd, ...]) -> None:
        console.print(batch_view.view(seen, ends, 120))
        frames.append(console.export_text())

    planned = ManyMoves(outcomes={"db01": Outcome.FAILED}).plan_all("old-san", to="ssd")
    planned.run(parallel=1, on_look=look)
    rows = [{line.split()[0]: line for line in frame.splitlines() if line.strip()} for frame in frames]
    assert all("db01" in row and "web01" in row for row in rows)
    assert "waits" in rows[0]["web01"]
    assert "waits" not in rows[0]["db01"]
    assert "failed" in rows[-1]["db01"]
    assert "0 of 3 VMs moved, 1 under way, 2 waiting" in frames[0]
    assert "1 of 3 VMs moved, 1 under way" in frames[-1]


def test_a_dry_run_begins_nothing() -> None:
    client = ManyMoves()
    assert call(client, "move", "--all-on", "old-san", "--to", "ssd", "--dry-run").exit_code == 0
    assert not client.journal


@pytest.mark.parametrize(
    "words",
    [
        ("move", "web01", "--all-on", "old-san", "--to", "ssd"),
        ("move", "--all-on", "old-san", "--to", "ssd", "--detach"),
        ("move", "--to", "ssd"),
        ("move", "web01", "--to", "ssd", "--parallel", "2"),
        ("move", "web01", "--to", "ssd", "--skip-refused"),
        ("move", "--all-on", "old-san", "--to", "ssd", "--parallel", "0"),
    ],
)
def test_what_makes_no_sense(words: tuple[str, ...]) -> None:
    assert call(ManyMoves(), *words).exit_code == 2
