"""A suspension that libvirt does not answer for: the VM may stand still all the same."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from decide_support import make_plan
from loop_support import make_loop

from blockferry.base.errors import HostUnreachable, JournalFailed, LibvirtFailed, MoveParked
from blockferry.hosts.fencing import ANSWERING
from blockferry.hosts.helper import host_guard
from blockferry.hosts.inventory import JobInfo, PowerState
from blockferry.jobs.loop import TRIES
from blockferry.safety import lost_qemu
from blockferry.storage_move import actions, destination_watchdog
from blockferry.storage_move.context import Context
from blockferry.storage_move.decide import decide
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.move_loop import MoveLoop
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.observe import Memory, Observer
from blockferry.storage_move.overlays import effects as overlays_effects
from blockferry.storage_move.record import Record
from blockferry.storage_move.switch import effects as switch_effects
from blockferry.storage_move.switch.record import ConfigurationRecord, SwitchRecord

NO_ANSWER = LibvirtFailed("suspend VM web01", "no answer", "VIR_ERR_OPERATION_TIMEOUT")
SEEN = Observation(PowerState.RUNNING, True, (DiskView("vda", DiskSide.SOURCE, DiskSide.SOURCE),), Record())


class Vm:
    """Its control and its guard."""

    def __init__(self, answer: bool | LibvirtFailed) -> None:
        self.answer = answer
        self.armed = False

    def suspend(self) -> bool:
        if isinstance(self.answer, LibvirtFailed):
            raise self.answer
        return self.answer

    def arm(self, _seconds: float) -> bool:
        self.armed = True
        return True

    def name_suspension(self) -> str:
        return "s1"

    def host_problem(self) -> str:
        return ""

    def disarm(self) -> None:
        self.armed = False


@pytest.mark.parametrize("answer", [True, False, NO_ANSWER])
def test_only_a_vm_that_stood_still_before_needs_no_guard(
    monkeypatch: pytest.MonkeyPatch, answer: bool | LibvirtFailed
) -> None:
    monkeypatch.setattr(destination_watchdog, "arm", lambda _context: None)
    noted: list[Record] = []
    vm, memory = Vm(answer), Memory()
    context = SimpleNamespace(control=vm, guard=vm, memory=memory, save=noted.append, log_event=lambda *_said: None)
    try:
        switch_effects.suspend(cast(Context, context), actions.Suspend(switch=True), SEEN)
    except LibvirtFailed:
        assert answer is NO_ANSWER
    assert vm.armed is (answer is not False)
    assert (memory.suspended_at is not None) is (answer is not False)
    assert noted[-1].switch.suspended is (answer is not False)


@pytest.mark.parametrize("state", [PowerState.PAUSED, PowerState.OFF, PowerState.RUNNING])
def test_what_came_of_it_is_looked_at(state: PowerState) -> None:
    """It stands still, or has gone off meanwhile: then the move has not failed."""
    nothing: Any = lambda *_words: None  # noqa: E731
    context = SimpleNamespace(
        memory=Memory(suspended_at=1.0), control=None, save=nothing, stop=threading.Event(), plan=make_plan(1)
    )
    loop = make_loop(context)
    observer = SimpleNamespace(look=lambda *_words: replace(SEEN, state=state))
    loop.observer = cast(Observer, observer)
    found = loop._vm_changed(SEEN, actions.Suspend(switch=True))
    assert found is (state is not PowerState.RUNNING)
    assert not loop._vm_changed(SEEN, actions.Pivot(("vda",))), "the guest's time is not for looks"


@pytest.mark.parametrize(
    ("action", "remedy"),
    [(actions.Resume(), "`virsh resume web01` lets it run"), (actions.LetLostRun(), ""), (actions.SaveLost(), None)],
)
def test_that_a_guest_could_not_be_let_run_is_said_when_the_move_is_parked(
    action: actions.Action, remedy: str | None
) -> None:
    nothing: Any = lambda *_words: None  # noqa: E731
    context = SimpleNamespace(
        memory=Memory(suspended_at=1.0), control=None, save=nothing, log_event=nothing, stop=threading.Event(),
        plan=make_plan(1),
    )  # fmt: skip
    loop = make_loop(context)
    loop.tries = TRIES
    with pytest.raises(MoveParked) as parked:
        loop._stumble(
            action,
            replace(SEEN, state=PowerState.PAUSED, record=Record(switch=SwitchRecord(suspended=True))),
            NO_ANSWER,
        )
    said = parked.value.problem
    assert NO_ANSWER.sentence.rstrip(".") in said
    assert ("The guest of web01 may stand still: the move had suspended it" in said) is (remedy is not None)
    assert (remedy or "") in said


class Away:
    """A journal that has a record, and then goes away."""

    def __init__(self) -> None:
        self.record, self.away = Record(), False

    def note(self, record: Record) -> None:
        if self.away:
            raise JournalFailed("j", "no answer", passing=True)
        self.record = record


class Paused(Vm):
    """A VM that its owner has paused, without a guard that remembers: it would let it run."""

    def __init__(self, answer: bool) -> None:
        super().__init__(answer)
        self.resumed = 0

    def arm(self, seconds: float) -> bool:
        self.journal.away = True
        return super().arm(seconds)

    journal: Away

    def let_run(self) -> bool | None:
        return None

    def resume(self) -> bool:
        self.resumed += 1
        return True


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("what", ["switch", "checkpoint"])
def test_an_owners_pause_after_ours_is_the_owners_though_the_journal_could_not_be_told(
    monkeypatch: pytest.MonkeyPatch, what: str, ours: bool
) -> None:
    """The journal went away while we had the VM suspended; its owner pauses it, and then the journal is back.

    `ours`: whether we had suspended it; else its owner was quicker. The journal still says that the pause is ours.
    """
    monkeypatch.setattr(destination_watchdog, "arm", lambda _context: None)
    monkeypatch.setattr(lost_qemu, "may_stand", lambda _control, _runner: False)
    nothing: Any = lambda *_words: None  # noqa: E731
    vm = Paused(ours)
    vm.journal = journal = Away()
    found = SimpleNamespace(
        control=vm, guard=vm, runner=None, memory=Memory(), save=journal.note, log_event=nothing,
        stop=threading.Event(), plan=make_plan(1), stalls={},
    )  # fmt: skip
    context = cast(Context, found)
    loop = make_loop(context, lambda: journal.record)
    with contextlib.suppress(JournalFailed):
        if what == "switch":
            switch_effects.suspend(context, actions.Suspend(switch=True), SEEN)
        else:
            overlays_effects._hold_for_flush(context, Record(), 1.0)
    loop.let_go()
    assert journal.record.switch.suspended, "the journal could not be told that it is over"
    assert vm.resumed == (1 if ours else 0)
    journal.away = False
    assert not loop._record().switch.suspended
    stands = replace(SEEN, state=PowerState.PAUSED, record=loop._record())
    assert not isinstance(decide(make_plan(1), stands), actions.Resume)
    assert not loop.read().switch.suspended  # and so in whatever is noted next
    vm.answer = True
    switch_effects.suspend(context, actions.Suspend(switch=True), SEEN)
    journal.away = False
    context.memory.suspended_at = None
    assert loop._record().switch.suspended, "another suspension of ours"


@pytest.mark.parametrize("ours", [True, False], ids=["our own suspension", "one that was found"])
def test_what_was_begun_counts_as_clean_only_in_a_suspension_of_this_process(
    ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever takes over cannot know whether the guest has run in between: its guards may have let it."""
    monkeypatch.setattr(lost_qemu, "may_stand", lambda _control, _runner: False)
    noted: list[Record] = []
    nothing: Any = lambda *_words: None  # noqa: E731
    vm = Paused(True)
    memory = Memory(suspended_at=1.0 if ours else None)
    found = SimpleNamespace(
        control=vm, guard=vm, runner=None, memory=memory, save=noted.append, log_event=nothing, stop=threading.Event(),
        plan=make_plan(1), stalls={},
    )  # fmt: skip
    record = Record(
        switch=SwitchRecord(suspended=True),
        disks={"vda": DiskRecord(commit=Stage.STARTED), "vdb": DiskRecord(commit=Stage.STARTED)},
    )
    seen = replace(SEEN, state=PowerState.PAUSED, record=record)
    switch_effects.resume(cast(Context, found), actions.Resume(clean=("vda",), commits=("vda",)), seen)
    assert (noted[-1].copy("vda").stage is Stage.CLEAN) is ours
    commits = [noted[-1].disk(target).commit for target in ("vda", "vdb")]
    assert commits == [Stage.CLEAN if ours else None, None], "what was given up is not known any more"
    assert memory.resumed


class ToldHost:
    """What the host says of a suspension, to a process that takes over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ended: bool | HostUnreachable) -> None:
        self.ended, self.asked = ended, 0
        monkeypatch.setattr(host_guard, "has_ended", self.has_ended)

    def has_ended(self, _runner: object, _uuid: str, name: str) -> bool:
        assert name == "s1"
        self.asked += 1
        if isinstance(self.ended, HostUnreachable):
            raise self.ended
        return self.ended


def taking_over(record: Record, state: PowerState) -> MoveLoop:
    nothing: Any = lambda *_words: None  # noqa: E731
    context = SimpleNamespace(
        memory=Memory(), control=None, runner=None, save=nothing, log_event=nothing, stop=threading.Event(),
        plan=make_plan(1, suspended_start=True),
    )  # fmt: skip
    loop = make_loop(context)
    seen = replace(SEEN, state=state, record=record)
    loop.observer = cast(Observer, SimpleNamespace(look=lambda *_words: seen))
    loop._subscribe = nothing  # type: ignore[method-assign]
    return loop


OURS = Record(
    switch=SwitchRecord(suspended=True, name="s1"), disks={"vda": DiskRecord(copy=Copy(Stage.STARTED, attempts=1))}
)


def test_a_pause_after_the_guards_resume_is_the_owners_for_who_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """blockferry was killed in a suspension, its guard resumed the VM, its owner paused it: that was ended."""
    host = ToldHost(monkeypatch, True)
    monkeypatch.setattr(destination_watchdog, "health", lambda _context: ANSWERING)
    loop = taking_over(OURS, PowerState.PAUSED)
    for _look in range(2):
        record = loop.observe(OURS, 1.0).record
        assert not record.switch.suspended
        assert record.copy("vda").missed, "the guest ran: the copy is begun anew"
    assert host.asked == 1


@pytest.mark.parametrize(
    ("record", "state"),
    [
        (replace(OURS, switch=SwitchRecord(suspended=True)), PowerState.PAUSED),  # an older version's
        (OURS, PowerState.RUNNING),
        (replace(OURS, switch=SwitchRecord(name="s1")), PowerState.PAUSED),
    ],
)
def test_the_host_is_asked_only_where_it_matters(
    monkeypatch: pytest.MonkeyPatch, record: Record, state: PowerState
) -> None:
    host = ToldHost(monkeypatch, True)
    monkeypatch.setattr(destination_watchdog, "health", lambda _context: ANSWERING)
    assert taking_over(record, state).observe(record, 1.0).record == record
    assert host.asked == 0


def test_a_suspension_that_no_guard_has_ended_is_ours_and_unasked_it_is_a_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(destination_watchdog, "health", lambda _context: ANSWERING)
    ToldHost(monkeypatch, False)
    assert taking_over(OURS, PowerState.PAUSED).observe(OURS, 1.0).record.switch.suspended
    ToldHost(monkeypatch, HostUnreachable("qemu+ssh://far/system", "the link is cut"))
    with pytest.raises(HostUnreachable):
        taking_over(OURS, PowerState.PAUSED).observe(OURS, 1.0)


def test_a_copy_that_was_given_up_is_not_taken_for_clean_when_its_owner_pauses_the_vm() -> None:
    """The look took too long, the VM was resumed, and paused by its owner before the copy was seen to be aborted."""
    plan = make_plan(1, suspended_start=True)
    view = DiskView("vda", DiskSide.SOURCE, DiskSide.SOURCE, job=DiskJob.OURS, info=JobInfo(10, 40, 0))
    seen = replace(SEEN, state=PowerState.PAUSED, disks=(view,), mark=plan.move)
    record = replace(
        OURS, configuration=ConfigurationRecord(marked=True), home=HomeRecord(copied=True)
    ).suspension_over()
    assert decide(plan, replace(seen, record=record)) == actions.AbortCopy("vda")
