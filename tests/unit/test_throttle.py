"""Slowing a guest and putting its limits back: against libvirt's and QEMU's own rules for limits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from loop_support import make_loop
from test_decide import ONE, RUNNING, begun, copying, seen, stages

from blockferry.base.errors import HostUnreachable, JournalFailed, LibvirtFailed
from blockferry.base.units import MiB
from blockferry.hosts.disk_counters import Counters
from blockferry.hosts.inventory import JobInfo, PowerState
from blockferry.hosts.libvirt.domain import Control
from blockferry.jobs import loop as jobs_loop
from blockferry.safety import guard
from blockferry.safety.guard import Guard
from blockferry.storage_move import actions, old_record
from blockferry.storage_move.context import Context
from blockferry.storage_move.decide import decide
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.observe import Memory
from blockferry.storage_move.overlays.convergence import Divergence
from blockferry.storage_move.pace import throttle, throttle_rules
from blockferry.storage_move.pace.plan import PacePlan
from blockferry.storage_move.pace.record import Throttle
from blockferry.storage_move.pace.throttle_rules import LEAST, limited
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import IfNotConverging

Limits = dict[str, int | str]

KINDS = ("total", "read", "write")
FAMILIES = {
    **{f"{one}_{what}_sec{more}": f"{what}{more}"
       for one in KINDS for what in ("bytes", "iops") for more in ("", "_max", "_max_length")},
    "size_iops_sec": "size", "group_name": "group",
}  # fmt: skip
NONE: Limits = {name: "" if name == "group_name" else 0 for name in FAMILIES}


@dataclass
class Host:
    """A running VM's limits as libvirt 9 and QEMU 7.2 treat them.

    libvirt: qemu_driver.c, `qemuDomainSetBlockIoTune` (families that are not sent stay; a length that is taken back
    becomes 1) and qemu_monitor_json.c (a length of 0 is not sent on). QEMU: util/throttle.c, `throttle_is_valid`;
    block/throttle-groups.c: the disks of a group have one set of limits.
    """

    disks: dict[str, Limits]  # as libvirt remembers them
    incarnation: int = 1
    calls: list[str] = field(default_factory=list)
    rate: float = 100.0 * MiB  # what the guest writes to each disk in a second

    @classmethod
    def with_disks(cls, **disks: Limits) -> Host:
        host = cls({target: dict(NONE) for target in disks})
        for target, own in disks.items():
            host.set_limits(target, own)
        host.calls.clear()
        return host

    def look(self, _targets: tuple[str, ...]) -> SimpleNamespace:
        return SimpleNamespace(incarnation=self.incarnation)

    def counters(self, targets: Iterable[str]) -> dict[str, Counters]:
        now = time.monotonic()
        return {target: Counters(now, int(now * 1000), int(now * 1e9), int(now * self.rate)) for target in targets}

    def limits(self, target: str) -> Limits:
        """As QEMU tells them: a length only where there is a burst."""
        kept = self.disks[target]
        gone = {f"{name}_length" for name in kept if name.endswith("_max") and not kept[name]}
        return {**kept, **dict.fromkeys(gone, 0)}

    def set_limits(self, target: str, values: Mapping[str, int | str]) -> None:
        old = self.disks[target]
        sent = {FAMILIES[name] for name in values}
        new: Limits = {name: values.get(name, NONE[name]) if FAMILIES[name] in sent else old[name] for name in NONE}
        for what in ("bytes_sec", "iops_sec", "bytes_sec_max", "iops_sec_max"):
            both = values.get(f"total_{what}") and (values.get(f"read_{what}") or values.get(f"write_{what}"))
            self._demand(not both, "total and read/write cannot be set at the same time")
        rates = [name for name in NONE if name.endswith("_sec") and name != "size_iops_sec"]
        for lengths in (f"{name}_max_length" for name in rates):
            name = lengths.removesuffix("_max_length")
            if FAMILIES[lengths] in sent and old[lengths] and not new[lengths]:
                new[lengths] = 1 if new[name] or new[f"{name}_max"] else 0
        if not any(value for name, value in new.items() if name != "group_name"):
            new["group_name"] = ""
        for name in rates:
            burst, length = int(new[f"{name}_max"]), int(new[f"{name}_max_length"])
            self._demand(not burst or bool(new[name]), "cannot reset a limit when its burst is set")
            self._demand(not burst or burst >= int(new[name]), "a burst cannot be smaller than its limit")
            self._demand(length <= 1 or burst > 0, "burst length set without burst rate")
        group = new["group_name"]
        for one in (target, *(one for one, kept in self.disks.items() if group and kept["group_name"] == group)):
            self.disks[one] = dict(new)
        self.calls.append(target)

    @staticmethod
    def _demand(fine: bool, why: str) -> None:
        if not fine:
            raise LibvirtFailed("set the limits", why, "VIR_ERR_INVALID_ARG")


OWN: list[tuple[Limits, Limits]] = [
    ({}, {"write_bytes_sec": 1000}),
    ({"write_bytes_sec": 5000}, {"write_bytes_sec": 1000}),
    ({"write_bytes_sec": 300}, {"write_bytes_sec": 300}),
    ({"read_bytes_sec": 70, "write_bytes_sec": 5000}, {"read_bytes_sec": 70, "write_bytes_sec": 1000}),
    ({"total_bytes_sec": 9000}, {"read_bytes_sec": 9000, "write_bytes_sec": 1000}),
    ({"total_bytes_sec": 200}, {"read_bytes_sec": 200, "write_bytes_sec": 200}),
    ({"write_bytes_sec": 5000, "write_bytes_sec_max": 9000}, {"write_bytes_sec": 1000}),
    (
        {"write_bytes_sec": 5000, "write_bytes_sec_max": 9000, "write_bytes_sec_max_length": 60},
        {"write_bytes_sec": 1000},
    ),
    (
        {"total_bytes_sec": 5000, "total_bytes_sec_max": 9000, "total_bytes_sec_max_length": 60},
        {"read_bytes_sec": 5000, "write_bytes_sec": 1000},
    ),
    (
        {"total_iops_sec": 40, "total_iops_sec_max": 90, "total_iops_sec_max_length": 5, "size_iops_sec": 4096},
        {"total_iops_sec": 40, "total_iops_sec_max": 90, "total_iops_sec_max_length": 5, "size_iops_sec": 4096,
         "write_bytes_sec": 1000},
    ),
    ({"write_bytes_sec": 5000, "group_name": "g"}, {"write_bytes_sec": 1000, "group_name": "g"}),
]  # fmt: skip


@pytest.mark.parametrize(("own", "expected"), OWN)
def test_never_more_than_the_owner_allows_nothing_that_is_refused_and_all_of_it_comes_back(
    own: Limits, expected: Limits
) -> None:
    host = Host.with_disks(vda=own)
    before = host.limits("vda")
    noted = Throttle(1000, 1, before)
    host.set_limits("vda", limited(before, 1000))
    assert {name: value for name, value in host.limits("vda").items() if value} == expected
    assert throttle_rules.standing(noted, host.limits("vda")) is throttle_rules.LimitOwner.OURS
    host.set_limits("vda", throttle_rules.own(before))
    assert host.limits("vda") == before


# ---------------------------------------------------------------- the effects


class Move:
    """A move under the policy `throttle`; `guards`: whether there is a guard to be had."""

    def __init__(self, host: Host, record: Record | None = None, guards: bool = True) -> None:
        self.host = host
        self.record = record or Record()
        self.told: list[str] = []
        self.known: dict[str, Throttle] = {}
        found = SimpleNamespace(
            plan=replace(ONE, disks=tuple(
                replace(ONE.disks[0], target=target) for target in host.disks),
                pace=PacePlan(if_not_converging=IfNotConverging.THROTTLE)),
            control=host,
            guard=SimpleNamespace(
                restore_limits=lambda target, noted: guards and self.known.update({target: noted}) is None,
                limits_are_back=self.known.clear,
            ),
            save=self._note,
            log_event=lambda _kind, text: self.told.append(text),
            memory=Memory(),
            throttle_seen_at=0.0,
            unguarded=False,
        )  # fmt: skip
        self.context = cast(Context, found)

    def _note(self, record: Record) -> None:
        self.record = record

    @property
    def seen(self) -> Observation:
        disks = tuple(
            DiskView(disk, DiskSide.SOURCE, DiskSide.SOURCE, DiskJob.OURS, info=JobInfo(1, 2, 0))
            for disk in self.host.disks
        )
        return Observation(
            PowerState.RUNNING, persistent=True, disks=disks, record=self.record, incarnation=self.host.incarnation
        )

    def wrote(self, *looks: tuple[float, int]) -> Move:
        """What was counted of every disk: (seconds ago, bytes that were written until then)."""
        now = time.monotonic()
        for target in self.host.disks:
            self.context.memory.written[target] = tuple(Counters(now - ago, 0, 0, total) for ago, total in looks)
        return self

    def slow(self, target: str, share: float = 0.5, least: int = LEAST) -> Move:
        if target not in self.context.memory.written:
            now = time.monotonic() - 4
            self.wrote((4.0, int(now * self.host.rate)))
        throttle.throttle(self.context, actions.ThrottleGuest(target, share, "it is outrun", least), self.seen)
        return self

    def look_after(self) -> list[str]:
        """What is set again when the limits are looked after."""
        self.host.calls.clear()
        self.context.throttle_seen_at = 0.0
        throttle.see_to_it(self.context, self.seen)
        return list(self.host.calls)

    def let_go(self) -> Move:
        throttle.unthrottle(self.context, self.seen)
        assert self.record.throttled == {}
        assert self.known == {}
        return self

    def writes(self, target: str = "vda") -> int:
        return int(self.host.limits(target)["write_bytes_sec"])


GROUP: Limits = {"write_bytes_sec": 500 * MiB, "group_name": "g"}


def test_disks_of_a_group_are_slowed_as_one_and_have_their_limit_back() -> None:
    host = Host.with_disks(vda=GROUP, vdb=GROUP, vdc={"write_bytes_sec": 7 * MiB})
    before = {target: host.limits(target) for target in host.disks}
    move = Move(host).slow("vda")
    assert move.writes("vdb") == pytest.approx(50 * MiB, rel=0.01)  # the fact that this is about
    once = move.writes()
    host.rate = once / 2
    move.slow("vdb")
    assert move.writes() == once  # it is seen first what that has done
    assert move.look_after() == move.look_after() == []
    move.slow("vdb")
    assert move.writes() == once // 2
    assert move.look_after() == []
    move.slow("vda")
    assert move.writes() == once // 2 // 2
    host.calls.clear()
    move.let_go()
    assert {target: host.limits(target) for target in host.disks} == before
    assert host.calls == ["vda"]
    assert sum("as they were before" in one for one in move.told) == 2


def test_a_guard_puts_the_limit_of_a_group_back_too() -> None:
    host = Host.with_disks(vda=GROUP, vdb=GROUP)
    before = host.limits("vda")
    move = Move(host).slow("vda").slow("vdb").slow("vdb")
    assert move.look_after() == []
    assert set(move.known) == {"vda", "vdb"}
    guard._put_back(cast(Control, host), move.known)
    assert host.limits("vda") == host.limits("vdb") == before


@pytest.mark.parametrize(("one", "other"), [("vda", "vdb"), ("vdb", "vda")])
def test_a_record_of_before_in_which_each_disk_of_a_group_stands_for_itself(one: str, other: str) -> None:
    """What the disk that was slowed first has found, is its owner's; not what the first by name has."""
    host = Host.with_disks(vda=GROUP, vdb=GROUP)
    before = host.limits(one)
    first, second = limited(before, 50 * MiB), limited(before, 40 * MiB)
    host.set_limits(one, first)
    spoilt = host.limits(other)  # was taken for the owner's
    host.set_limits(other, second)
    told = {one: Throttle(50 * MiB, 1, before), other: Throttle(40 * MiB, 1, spoilt)}
    flat = b'{"throttled":' + msgspec.json.encode(told).replace(b',"earlier":[]', b"") + b"}"
    move = Move(host, old_record.read(flat.decode()))
    assert move.look_after() == []
    assert move.writes() == 40 * MiB
    move.let_go()
    assert host.limits("vda") == host.limits("vdb") == before


def test_a_guest_runs_free_while_the_journal_is_away_and_is_slowed_again_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It stayed slowed for as long as that lasted. libvirt's first answer fails here."""
    monkeypatch.setattr(jobs_loop, "JOURNAL_S", 0.001)
    host = Host.with_disks(vda={"write_bytes_sec": 80 * MiB}, vdb=GROUP, vdc=GROUP)
    before = {target: host.limits(target) for target in host.disks}
    move = Move(host).slow("vda").slow("vdb").slow("vdc")
    slowed = {target: host.limits(target) for target in host.disks}
    move.context.stop = threading.Event()
    loop = make_loop(move.context, lambda: move.record)
    loop._known = move.record
    away = JournalFailed("j", "locked", passing=True)
    rounds, answers = iter([away, away, away, None]), iter([False, True])
    look = host.look

    def answering(targets: tuple[str, ...]) -> SimpleNamespace:
        if not next(answers):
            raise HostUnreachable("qemu:///system", "no answer")
        return look(targets)

    def regain() -> None:
        if (error := next(rounds)) is not None:
            raise error
        assert {target: host.limits(target) for target in host.disks} == before

    monkeypatch.setattr(host, "look", answering)
    monkeypatch.setattr(loop.job, "regain", regain)
    loop._await_journal(away)
    assert sum("not slowed while the journal is away" in one for one in move.told) == 1
    assert set(move.record.throttled) == set(host.disks)  # nothing could be noted
    monkeypatch.setattr(host, "look", look)
    guard._put_back(cast(Control, host), move.known)  # had we died meanwhile: nothing is left to put back
    assert {target: host.limits(target) for target in host.disks} == before
    assert move.look_after() == ["vda", "vdb"]
    assert {target: host.limits(target) for target in host.disks} == slowed
    move.let_go()
    assert {target: host.limits(target) for target in host.disks} == before


def test_what_somebody_else_has_set_stays_while_the_journal_is_away() -> None:
    host = Host.with_disks(vda={})
    move = Move(host).slow("vda")
    host.set_limits("vda", {"write_bytes_sec": 9 * MiB})
    throttle.free(move.context, move.record.throttled)
    assert move.writes() == 9 * MiB
    host.incarnation = 2  # another run of the VM
    host.set_limits("vda", limited(move.record.throttled["vda"].before, move.record.throttled["vda"].bytes_per_s))
    host.calls.clear()
    throttle.free(move.context, move.record.throttled)
    assert host.calls == []


def test_a_limit_that_somebody_else_sets_meanwhile_stays() -> None:
    host = Host.with_disks(vda={})
    move = Move(host).slow("vda")
    host.set_limits("vda", {"write_bytes_sec": 9 * MiB})
    assert move.look_after() == []
    guard._put_back(cast(Control, host), move.known)
    move.let_go()
    assert move.writes() == 9 * MiB
    assert "changed by somebody else" in move.told[-1]


def test_a_limit_that_somebody_else_sets_is_what_comes_back_if_the_guest_has_to_be_slowed_again() -> None:
    host = Host.with_disks(vda={"write_bytes_sec": 80 * MiB})
    move = Move(host).slow("vda")
    host.set_limits("vda", {"write_bytes_sec": 90 * MiB})
    move.slow("vda", share=0.25)
    assert move.writes() == pytest.approx(25 * MiB, rel=0.01)
    move.let_go()
    assert move.writes() == 90 * MiB


def test_limits_of_operations_are_not_ours() -> None:
    host = Host.with_disks(vda={"write_bytes_sec": 80 * MiB, "total_iops_sec": 900})
    move = Move(host).slow("vda")
    host.set_limits("vda", {"total_iops_sec": 40})
    assert move.look_after() == []
    move.let_go()
    assert (move.writes(), host.limits("vda")["total_iops_sec"]) == (80 * MiB, 40)


def test_a_guard_leaves_another_run_of_the_vm_alone() -> None:
    host = Host.with_disks(vda={})
    move = Move(host).slow("vda")
    host.incarnation = 2
    host.calls.clear()
    guard._put_back(cast(Control, host), move.known)
    assert host.calls == []
    host.incarnation = 1
    guard._put_back(cast(Control, host), move.known)
    assert move.writes() == 0


def test_a_step_that_was_noted_and_never_made_is_undone_all_the_same() -> None:
    host = Host.with_disks(vda={"write_bytes_sec": 80 * MiB})
    move = Move(host).slow("vda")
    once = host.limits("vda")
    move.slow("vda")
    host.set_limits("vda", once)  # as if the process had died before it set the second limit
    guard._put_back(cast(Control, host), move.known)
    assert move.writes() == 80 * MiB
    assert move.look_after() == ["vda"]
    host.set_limits("vda", once)
    move.let_go()
    assert move.writes() == 80 * MiB


def test_a_guest_that_writes_in_bursts_is_slowed_by_what_it_writes_on_average() -> None:
    """Seen in a quiet second, after it has flushed for a second."""
    host = Host.with_disks(vda={})
    host.rate = 0.0
    move = Move(host).wrote((4.0, -400 * MiB), (3.0, 0), (2.5, 0)).slow("vda")
    assert move.writes() == pytest.approx(50 * MiB, rel=0.05)


def test_a_guest_that_was_silent_all_the_time_is_not_brought_to_a_stand() -> None:
    host = Host.with_disks(vda={})
    host.rate = 0.0
    assert Move(host).slow("vda", least=3 * MiB).writes() == 3 * MiB


def test_it_is_not_slowed_by_a_guess() -> None:
    host = Host.with_disks(vda={})
    assert Move(host).wrote((0.4, 0)).slow("vda").record.throttled == {}
    assert host.calls == []


def test_what_the_guest_writes_is_counted_for_as_long_as_the_copy_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    move = Move(Host.with_disks(vda={}, vdb={}))
    clock = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _look in range(100):
        clock[0] += 0.1
        throttle.count(move.context)
    looks = move.context.memory.written["vdb"]
    assert 3.0 < looks[-1].at_s - looks[0].at_s <= 4.0
    assert len(looks) < 10

    def refuses(_targets: Iterable[str]) -> dict[str, Counters]:
        raise LibvirtFailed("read the statistics", "timed out", "VIR_ERR_OPERATION_TIMEOUT")

    clock[0] += 1.0
    monkeypatch.setattr(move.host, "counters", refuses)
    throttle.count(move.context)  # the copy goes on
    assert move.context.memory.written["vdb"] == looks
    waits = replace(move.context.plan, pace=replace(move.context.plan.pace, if_not_converging=IfNotConverging.WAIT))
    other = Move(move.host)
    cast(SimpleNamespace, other.context).plan = waits
    throttle.count(other.context)
    assert other.context.memory.written == {}


def test_the_least_of_a_first_step_is_what_no_copy_is_outrun_by() -> None:
    outrun = seen(
        RUNNING, copying(), record=begun(disks=stages(Stage.CLEAN)),
        diverging=(Divergence("vda", 640 * MiB, 320 * MiB, sure=True),),
    )  # fmt: skip
    action = decide(replace(ONE, pace=replace(ONE.pace, if_not_converging=IfNotConverging.THROTTLE)), outrun)
    assert isinstance(action, actions.ThrottleGuest)
    assert (action.share, action.least) == (0.25, 10 * MiB)


def test_without_a_guard_the_guest_is_not_slowed() -> None:
    host = Host.with_disks(vda={})
    move = Move(host, guards=False).slow("vda").slow("vda")
    assert host.calls == []
    assert move.record.throttled == {}
    assert len(move.told) == 1
    assert "the guest is not slowed" in move.told[0]
    assert "no guard" in move.told[0]


def test_a_guard_that_cannot_be_had_takes_no_limits() -> None:
    for program in ("/bin/false", "/nonexistent"):
        one = Guard("test:///default", "0" * 32, "test")
        one._argv = [program]
        with one:
            assert not one.restore_limits("vda", Throttle(1, 1))
            assert not one.restore_limits("vda", Throttle(1, 1))  # asked again, not taken for known
            assert not one.arm(1.0)
