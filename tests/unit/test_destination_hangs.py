"""decide() while the destination does not answer; and commands of ours that do not end."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from test_decide import (
    CLEAN2,
    DECISIONS,
    HALF,
    ONE,
    PAUSED,
    RUNNING,
    TWO,
    across,
    begun,
    copying,
    disk,
    in_step,
    seen,
    stages,
)

from blockferry.base.errors import HostCommandFailed, Interrupted, NoAnswer
from blockferry.hosts import waiting_runner
from blockferry.hosts.fencing import DestinationHealth, Fencing
from blockferry.hosts.runner import LocalRunner
from blockferry.hosts.waiting_runner import WaitingRunner
from blockferry.jobs.outcome import Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.decide import decide
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.observation import DiskSide, Observation
from blockferry.storage_move.plan import HangPlan, OutagePlan, Plan
from blockferry.storage_move.request import IfNotConverging, Method

HANGS = DestinationHealth(seconds=3.0, directory="/b", times=1, longest=3.0)
CUT = DestinationHealth(directory="/b", times=1, longest=5.0, fenced="/b", fenced_after=5.0)
HUNG = DestinationHealth(times=1, longest=3.0)  # for more than half the limit; answers again
BRIEFLY = DestinationHealth(times=1, longest=2.0)
TWICE = DestinationHealth(times=2, longest=1.6)

MIRROR = replace(TWO, method=Method.MIRROR, outage=replace(TWO.outage, hang=HangPlan(Fencing(), "")))
BOTH = (copying("vda"), copying("vdb"))
SYNCHRONOUS = begun(disks=stages(Stage.CLEAN, "vda", "vdb", synchronous=True))
LEFT = replace(SYNCHRONOUS, mirror=replace(SYNCHRONOUS.mirror, forbidden=True))

DURING: dict[str, tuple[Plan, Observation, actions.Action | type]] = {
    "a copy that hangs is waited for": (MIRROR, seen(RUNNING, *BOTH, record=SYNCHRONOUS, health=HANGS), actions.Await),
    "never aborted, not even by a wish to cancel": (
        MIRROR, seen(RUNNING, *BOTH, record=replace(SYNCHRONOUS, wanted=Wanted.CANCEL), health=HANGS),
        actions.Await("hang", 0.25),
    ),
    "nor after a failure": (
        MIRROR, seen(RUNNING, *BOTH, record=replace(SYNCHRONOUS, failure="x"), health=HANGS),
        actions.Await("hang", 0.25),
    ),
    "not suspended for, although both sides are equal": (
        MIRROR, seen(RUNNING, in_step("vda"), in_step("vdb"), record=SYNCHRONOUS, flushed=True, health=HANGS),
        actions.Await("hang", 0.25),
    ),
    "suspended for the switch: the guest runs on": (
        MIRROR, seen(PAUSED, in_step("vda"), in_step("vdb"), health=HANGS,
                     record=replace(SYNCHRONOUS, switch=replace(SYNCHRONOUS.switch, suspended=True, begun=True))),
                         actions.Resume(switch_failed=True),
    ),
    "paused by its owner: no switch either": (
        MIRROR, seen(PAUSED, in_step("vda"), in_step("vdb"), record=SYNCHRONOUS, flushed=True, health=HANGS),
        actions.Await("hang", 0.25),
    ),
    "no copy is begun there": (
        MIRROR, seen(RUNNING, disk("vda"), disk("vdb"), record=begun(disks=stages(Stage.IMAGE, "vda", "vdb")),
                     health=HANGS), actions.Await("hang", 0.25),
    ),
    "after the switch it is the VM's own storage": (
        MIRROR, seen(RUNNING, across("vda"), across("vdb"), health=HANGS), actions.SaveSwitched(),
    ),
    "half a switch: the other half waits": (
        MIRROR, seen(RUNNING, *HALF, record=begun(disks=CLEAN2), flushed=True, health=HANGS),
        actions.Await("hang", 0.25),
    ),
    "fenced: the way is back, and first it is written down": (
        MIRROR, seen(RUNNING, *BOTH, record=SYNCHRONOUS, health=CUT), actions.SaveFenced("/b", 5.0),
    ),
    "fenced while suspended: first the guest runs": (
        MIRROR, seen(PAUSED, in_step("vda"), in_step("vdb"), health=CUT,
                     record=replace(SYNCHRONOUS, switch=replace(SYNCHRONOUS.switch, suspended=True, begun=True))),
                         actions.Resume(switch_failed=True),
    ),
    "fenced and written down: the other jobs can be ended now": (
        MIRROR, seen(RUNNING, disk("vda"), copying("vdb"), health=CUT,
                     record=replace(SYNCHRONOUS, failure="fenced",
                         fencing=replace(SYNCHRONOUS.fencing, fenced="/b"))), actions.AbortCopy("vdb"),
    ),
    "a short hang is forgiven once": (MIRROR, seen(RUNNING, *BOTH, record=SYNCHRONOUS, health=BRIEFLY), actions.Await),
    "not a long one": (MIRROR, seen(RUNNING, *BOTH, record=SYNCHRONOUS, health=HUNG), actions.LeaveSynchronous),
    "nor a second one": (MIRROR, seen(RUNNING, *BOTH, record=SYNCHRONOUS, health=TWICE), actions.LeaveSynchronous),
    "copies that are in step are switched instead": (
        MIRROR, seen(RUNNING, in_step("vda"), in_step("vdb"), record=SYNCHRONOUS, flushed=True, health=TWICE),
        actions.Suspend(switch=True),
    ),
    "a copy in the background has nothing to leave": (
        replace(TWO, outage=MIRROR.outage),
        seen(RUNNING, *BOTH, record=begun(disks=CLEAN2), health=TWICE), actions.Await,
    ),
    "left: the synchronous copies are ended": (
        MIRROR, seen(RUNNING, *BOTH, record=LEFT, health=TWICE), actions.AbortCopy("vda"),
    ),
    "left: the copies in the background stay": (
        MIRROR, seen(RUNNING, *BOTH, record=replace(LEFT, disks=CLEAN2), health=TWICE), actions.Await,
    ),
    "left: it is not gone back to": (
        replace(MIRROR, pace=replace(MIRROR.pace, if_not_converging=IfNotConverging.MIRROR)),
        seen(RUNNING, *BOTH, record=replace(LEFT, disks=CLEAN2), health=TWICE), actions.Await,
    ),
    "a move of before there were watches": (
        replace(MIRROR, outage=OutagePlan()),
        seen(RUNNING, *BOTH, record=SYNCHRONOUS, health=TWICE), actions.Await,
    ),
    "a copy of one disk": (ONE, seen(RUNNING, copying(), record=begun(disks=stages(Stage.CLEAN))), actions.Await),
}  # fmt: skip


@pytest.mark.parametrize("name", DURING)
def test_while_it_hangs_and_after(name: str) -> None:
    plan, observation, wanted = DURING[name]
    found = decide(plan, observation)
    assert isinstance(found, wanted) if isinstance(wanted, type) else found == wanted, found


@pytest.mark.parametrize("name", DECISIONS)
def test_whatever_would_be_done_waits_for_a_destination_that_hangs(name: str) -> None:
    """Every known situation of a running VM, with a destination that does not answer."""
    plan, observation, _ = DECISIONS[name]
    found = decide(plan, replace(observation, health=HANGS))
    switched = all(view.side is DiskSide.DESTINATION for view in observation.disks)
    assert not observation.state.active or switched or not found.waits_for_destination, found


# ---------------------------------------------------------------- commands that do not end


def patient(told: list[str], leave: threading.Event) -> WaitingRunner:
    return WaitingRunner(LocalRunner(), told.append, leave.is_set)


def test_a_command_that_ends_is_as_before() -> None:
    told: list[str] = []
    runner = patient(told, threading.Event())
    assert runner.run(["cat"], stdin=b"x").text == "x"
    assert runner.run(["false"], check=False).status == 1
    with pytest.raises(HostCommandFailed):
        runner.run(["false"])
    assert told == []


def test_a_command_that_does_not_end_is_told_of_and_can_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_runner, "SILENT_S", 0.2)
    monkeypatch.setattr(waiting_runner, "LOOK_S", 0.05)
    told: list[str] = []
    leave = threading.Event()
    runner = patient(told, leave)
    assert runner.run(["sleep", "0.6"]).status == 0  # told of, and it goes on when the command returns
    assert len(told) == 1
    assert "sleep" in told[0]
    leave.set()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        runner.run(["sleep", "20"])
    assert time.monotonic() - began < 15


def test_a_call_that_does_not_end_is_told_of_and_can_be_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(waiting_runner, "SILENT_S", 0.2)
    monkeypatch.setattr(waiting_runner, "LOOK_S", 0.05)
    os.mkfifo(tmp_path / "hangs")
    told: list[str] = []
    leave = threading.Event()
    runner = patient(told, leave)
    assert runner.call("files.there", path=str(tmp_path)) is True
    told.clear()  # on a busy machine the helper's start is slow, too
    with pytest.raises(NoAnswer):
        runner.call("files.read", path=str(tmp_path / "hangs"), timeout_s=0.1)
    leave.set()
    with pytest.raises(Interrupted):
        runner.call("files.read", path=str(tmp_path / "hangs"))
    assert len(told) == 1
    assert "hangs" in told[0]
