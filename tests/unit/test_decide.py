"""decide: tables of single decisions, and whole moves on a small host on which anything may happen at any time."""

from __future__ import annotations

import itertools
import random
from collections import deque
from dataclasses import replace

import pytest
from decide_support import DESTINATION, GONE, SOURCE, TRIES, Host, Refused, Unreachable, check_rules, make_plan
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.hosts.inventory import JobInfo, PowerState, Secret
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move import actions
from blockferry.storage_move.decide import PIVOT_ATTEMPTS, START_ATTEMPTS, allowed_pause_s, decide
from blockferry.storage_move.disk_plan import LuksPlan
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.firmware.plan import NvramPlan
from blockferry.storage_move.home.record import HomeRecord
from blockferry.storage_move.observation import DiskJob, DiskSide, DiskView, Observation
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import Method
from blockferry.storage_move.switch.graph_proof import PROVEN, GraphView
from blockferry.storage_move.switch.record import ConfigurationRecord, GraphRecord, SwitchRecord
from blockferry.storage_move.verify.record import BackupExport

QUIET_TURNS = 250
RUNNING, PAUSED, OFF, ABSENT = PowerState.RUNNING, PowerState.PAUSED, PowerState.OFF, PowerState.ABSENT

# ---------------------------------------------------------------- single decisions

ONE, TWO, RACY = make_plan(1), make_plan(2), make_plan(2, suspended_start=True)
AS_IS = replace(
    ONE,
    disks=(replace(ONE.disks[0], copy=replace(ONE.disks[0].copy, as_is=True)),),
    domain=replace(ONE.domain, snapshots=("s1",)),
)
UEFI = replace(ONE, firmware=replace(ONE.firmware, nvram=NvramPlan("/a/vars", "/b/vars", 1)))
READY = JobInfo(40, 40, 0)
SUSPENDED, SWITCHING = SwitchRecord(suspended=True), SwitchRecord(suspended=True, begun=True)
MIXED, DONE = SwitchRecord(begun=True), SwitchRecord(done=True)
WRITTEN = ConfigurationRecord(marked=True, written=True)
DOUBTED = GraphRecord(doubt="no answer")
COLD, SETTLED = {"vda": DiskRecord(cold_copied="f")}, {"vda": DiskRecord(settled=True)}
BEGUN = Record(created=("/b/vda",), configuration=ConfigurationRecord(marked=True), home=HomeRecord(copied=True))
AFTER = replace(BEGUN, switch=SwitchRecord(done=True), graph=GraphRecord(proven=True))


def disk(
    target: str = "vda", live: DiskSide | None = SOURCE, config: DiskSide | None = SOURCE, **more: object
) -> DiskView:
    return DiskView(target, live, config, **more)  # type: ignore[arg-type]


def copying(target: str = "vda", live: DiskSide = SOURCE, **more: object) -> DiskView:
    return disk(target, live, live, job=DiskJob.OURS, info=JobInfo(10, 40, 0), **more)


def in_step(target: str = "vda", live: DiskSide = SOURCE) -> DiskView:
    return disk(target, live, live, job=DiskJob.OURS, ready=True, info=READY)


def off(target: str = "vda", config: DiskSide = SOURCE, fingerprint: str = "f") -> DiskView:
    return disk(target, None, config, fingerprint=fingerprint)


def across(target: str = "vda", **more: object) -> DiskView:
    return disk(target, DESTINATION, DESTINATION, **more)


def stages(stage: Stage, *targets: str, incarnation: int = 1, **more: object) -> dict[str, DiskRecord]:
    copy = Copy(stage, incarnation, **more)  # type: ignore[arg-type]
    return {target: DiskRecord(copy=copy) for target in targets or ("vda",)}


def seen(state: PowerState, *disks: DiskView, record: Record = BEGUN, **more: object) -> Observation:
    values: dict[str, object] = {
        "persistent": True,
        "incarnation": 1,
        "mark": "m1",
        "config_agrees": False,
        "graph": PROVEN,
        **more,
    }
    return Observation(state, disks=disks, record=record, **values)  # type: ignore[arg-type]


def after(**more: object) -> Record:
    """Switched, and QEMU has said so."""
    return replace(AFTER, **more)  # type: ignore[arg-type]


def begun(**more: object) -> Record:
    return replace(BEGUN, **more)  # type: ignore[arg-type]


CLEAN2 = stages(Stage.CLEAN, "vda", "vdb")
HALF = (across("vda"), in_step("vdb"))
RESUMED = replace(ONE, domain=replace(ONE.domain, resume_after=True))
SEALED = replace(TWO, disks=tuple(replace(one, encryption=replace(one.encryption, sealed=True)) for one in TWO.disks))
LUKS = replace(
    SEALED,
    disks=tuple(
        replace(one, encryption=replace(one.encryption, luks=LuksPlan(1, Secret("uuid", "u")))) for one in SEALED.disks
    ),
)
DECISIONS: dict[str, tuple[Plan, Observation, actions.Action | type]] = {
    "an encrypted disk is never copied by a running QEMU": (
        SEALED, seen(RUNNING, disk(), disk("vdb")), actions.Fail,
    ),
    "an encrypted disk is copied by a running QEMU that can encrypt": (
        LUKS, seen(RUNNING, disk(), disk("vdb")), actions.CreateImage("vda"),
    ),
    "a copy of an encrypted disk that libvirt does not encrypt is given up": (
        LUKS, seen(RUNNING, in_step(), in_step("vdb"), record=begun(disks=CLEAN2)), actions.Fail,
    ),
    "an encrypted one is switched to": (
        LUKS, seen(RUNNING, *(replace(disk_view, encrypted=True) for disk_view in (in_step(), in_step("vdb"))),
                   record=begun(disks=CLEAN2)), actions.FlushDestination(),
    ),
    "an encrypted disk is copied as it is while the VM is off": (
        SEALED, seen(OFF, off(), off("vdb")), actions.ColdCopy("vda"),
    ),
    "an encrypted disk on either side of a running VM is nothing to go on with, forward or back": (
        SEALED, seen(RUNNING, across(), disk("vdb"), record=begun(failure="x")), actions.Park,
    ),
    "back from a move of an encrypted disk whose VM was started": (
        SEALED, seen(RUNNING, disk(), disk("vdb"), record=begun(failure="x")), actions.RemoveDestination(),
    ),
    "the first thing is our mark, so that a sweep knows whose all the rest is": (
        ONE, seen(RUNNING, disk(), record=Record(), mark=None), actions.Mark(),
    ),
    "killed between the mark and its note: not marked twice": (
        ONE, seen(RUNNING, disk(), record=Record()), actions.CopyHome(),
    ),
    "the mark of another does not stop us, and is not ours to change": (
        ONE, seen(RUNNING, disk(), record=Record(), mark="m2"), actions.CopyHome(),
    ),
    "metadata before the bulk": (ONE,
        seen(RUNNING, disk(), record=Record(configuration=ConfigurationRecord(marked=True))), actions.CopyHome()),
    "lower layers before the image that stands on them": (
        make_plan(1, layers=True), seen(RUNNING, disk()), actions.CopyLayers("vda"),
    ),
    "an image before its job": (ONE, seen(RUNNING, disk()), actions.CreateImage("vda")),
    "all images before the first job, for a short suspension": (
        RACY, seen(RUNNING, disk("vda"), disk("vdb"), record=begun(disks=stages(Stage.IMAGE))),
        actions.CreateImage("vdb"),
    ),
    "no start race: no suspension at the start": (
        ONE, seen(RUNNING, disk(), record=begun(disks=stages(Stage.IMAGE))), actions.StartCopy("vda"),
    ),
    "start race: the guest stands still while copies start": (
        RACY,
        seen(RUNNING, disk("vda"), disk("vdb"), record=begun(disks=stages(Stage.IMAGE, "vda", "vdb"))),
        actions.Suspend(switch=False),
    ),
    "start race, and its owner has paused the VM: it stands still already": (
        RACY,
        seen(PAUSED, disk("vda"), disk("vdb"), record=begun(disks=stages(Stage.IMAGE, "vda", "vdb"))),
        actions.StartCopy("vda"),
    ),
    "suspended for the start: the guest runs when every job has looked at its disk": (
        RACY,
        seen(PAUSED, copying("vda"), copying("vdb"),
             record=begun(disks=stages(Stage.STARTED, "vda", "vdb"), switch=SUSPENDED)),
        actions.Resume(clean=("vda", "vdb")),
    ),
    "and not before": (
        RACY,
        seen(PAUSED, copying("vda"), disk("vdb", job=DiskJob.OURS, info=JobInfo(0, 1, 0)),
             record=begun(disks=stages(Stage.STARTED, "vda", "vdb"), switch=SUSPENDED)),
        actions.Await("initialise", 0.002),
    ),
    "the guard let the guest run before that: the copy may have missed a write": (
        RACY,
        seen(RUNNING, copying("vda"), disk("vdb"), record=begun(disks=stages(Stage.STARTED, "vda"))),
        actions.AbortCopy("vda"),
    ),
    "no race: a job that is under way counts as soon as it has looked": (
        ONE, seen(RUNNING, copying(), record=begun(disks=stages(Stage.STARTED))), actions.SaveClean(("vda",)),
    ),
    "killed at the call, and no job came of it: again": (
        ONE, seen(RUNNING, disk(), record=begun(disks=stages(Stage.STARTING, attempts=1))), actions.ForgetCopy("vda"),
    ),
    "killed at the call, and the job is there: it is ours": (
        ONE, seen(RUNNING, copying(), record=begun(disks=stages(Stage.STARTING, attempts=1))),
        actions.SaveClean(("vda",)),
    ),
    "no start for ever": (
        ONE, seen(RUNNING, disk(), record=begun(disks=stages(Stage.STARTING, attempts=START_ATTEMPTS))), actions.Fail,
    ),
    "a job of which the record knows nothing is ended before its image is made anew": (
        ONE, seen(RUNNING, copying()), actions.AbortCopy("vda"),
    ),
    "somebody else's job is left alone, and we go": (
        ONE, seen(RUNNING, disk(job=DiskJob.FOREIGN, foreign="backup"), record=Record()),
        actions.Fail("somebody else runs a block job on vda (backup)"),
    ),
    "a copy that ended early is a failure": (
        ONE, seen(RUNNING, disk(), record=begun(disks=stages(Stage.CLEAN))),
        actions.Fail("the copy of vda ended before the switch", "vda"),
    ),
    "but when the VM was off in between, a job could not live: begun anew": (
        ONE, seen(RUNNING, disk(), record=begun(disks=stages(Stage.CLEAN)), incarnation=2), actions.ForgetCopy("vda"),
    ),
    "not in step: wait": (
        ONE, seen(RUNNING, copying(), record=begun(disks=stages(Stage.CLEAN))), actions.Await("copy", 0.25),
    ),
    "one of two in step: wait": (
        TWO, seen(RUNNING, in_step(), copying("vdb"), record=begun(disks=CLEAN2)), actions.Await("copy", 0.25),
    ),
    "too much is left for a short suspension: wait for a better moment": (
        ONE, seen(RUNNING, in_step(), record=begun(disks=stages(Stage.CLEAN)), expected_drain_s=0.02),
        actions.Await("copy", 0.05),
    ),
    "pass after pass leaves as much: a longer suspension is allowed": (
        ONE, seen(RUNNING, in_step(), record=begun(disks=stages(Stage.CLEAN)), expected_drain_s=0.02, passes=8),
        actions.FlushDestination(),
    ),
    "flushed before, not in, the suspension": (
        ONE, seen(RUNNING, in_step(), record=begun(disks=stages(Stage.CLEAN))), actions.FlushDestination(),
    ),
    "one suspension for all disks": (
        TWO, seen(RUNNING, in_step(), in_step("vdb"), record=begun(disks=CLEAN2), flushed=True),
        actions.Suspend(switch=True),
    ),
    "a switch that could not be made just now: the guest has its turn first": (
        TWO, seen(RUNNING, in_step(), in_step("vdb"), record=begun(disks=CLEAN2), flushed=True, retry_s=3.0),
        actions.Await("retry", 0.25),
    ),
    "suspended and equal: all at once": (
        TWO, seen(PAUSED, in_step(), in_step("vdb"), record=begun(disks=CLEAN2, switch=SWITCHING)),
        actions.Pivot(("vda", "vdb")),
    ),
    "suspended, something is left: a moment": (
        ONE,
        seen(PAUSED, disk(job=DiskJob.OURS, ready=True, info=JobInfo(39, 40, 0)),
             record=begun(disks=stages(Stage.CLEAN), switch=SWITCHING)),
        actions.Await("drain", 0.001),
    ),
    "the moment was too long: the VM runs on, the copy stays": (
        ONE,
        seen(PAUSED, disk(job=DiskJob.OURS, ready=True, info=JobInfo(39, 40, 0)), suspended_s=1.1,
             record=begun(disks=stages(Stage.CLEAN), switch=SWITCHING)),
        actions.Resume(switch_failed=True),
    ),
    "QEMU refuses: the VM runs on, the copy stays": (
        ONE,
        seen(PAUSED, in_step(), pivot_failures=PIVOT_ATTEMPTS,
             record=begun(disks=stages(Stage.CLEAN), switch=SWITCHING)),
        actions.Resume(switch_failed=True),
    ),
    "paused by its owner: a switch without a suspension, and without a resume": (
        ONE, seen(PAUSED, in_step(), record=begun(disks=stages(Stage.CLEAN)), flushed=True), actions.Pivot(("vda",)),
    ),
    "half a switch, suspended: the rest": (
        TWO, seen(PAUSED, *HALF, record=begun(disks=CLEAN2, switch=SWITCHING)), actions.Pivot(("vdb",)),
    ),
    "half a switch, the guard let the VM run: the rest in another suspension": (
        TWO, seen(RUNNING, *HALF, record=begun(disks=CLEAN2, switch=MIXED), flushed=True),
        actions.Suspend(switch=True),
    ),
    "half a switch: too late to cancel": (
        TWO, seen(RUNNING, *HALF, record=begun(disks=CLEAN2, wanted=Wanted.CANCEL), flushed=True),
        actions.Suspend(switch=True),
    ),
    "half a switch, the other copy is lost: the way is back": (
        TWO, seen(PAUSED, across(), disk("vdb"), record=begun(disks=CLEAN2, switch=SWITCHING)),
        actions.Fail,
    ),
    "the way back: the disk that is across is copied back": (
        TWO, seen(RUNNING, across(), disk("vdb"), record=begun(disks=CLEAN2, failure="it broke")),
        actions.StartCopy("vda", reverse=True),
    ),
    "back in step: suspend, to switch back": (
        TWO,
        seen(RUNNING, in_step("vda", DESTINATION), disk("vdb"),
             record=begun(failure="it broke", disks=stages(Stage.CLEAN, reverse=True))),
        actions.Suspend(switch=True),
    ),
    "suspended and equal: back": (
        TWO,
        seen(PAUSED, in_step("vda", DESTINATION), disk("vdb"),
             record=begun(failure="it broke", disks=stages(Stage.CLEAN, reverse=True), switch=SWITCHING)),
        actions.Pivot(("vda",)),
    ),
    "not brought back after three attempts: stand still, whole on both sides": (
        TWO,
        seen(RUNNING, across(), disk("vdb"),
             record=begun(failure="it broke", disks=stages(Stage.STARTED, attempts=3, reverse=True))),
        actions.Park,
    ),
    "half a switch and the VM is off: the rest is copied cold": (
        TWO, seen(OFF, off("vda", DESTINATION), off("vdb"), record=begun(disks=CLEAN2, switch=MIXED)),
        actions.ColdCopy("vdb"),
    ),
    "half a switch, a failure, and the VM is off: nothing is guessed": (
        TWO, seen(OFF, off("vda", DESTINATION), off("vdb"), record=begun(disks=CLEAN2, failure="it broke")),
        actions.Park,
    ),
    "a pivot or abort that is under way is waited for": (
        ONE, seen(PAUSED, in_step(), replace(in_step("vdb"), ending=True),
                  record=begun(switch=SWITCHING)), actions.Await("settle", 0.002),
    ),
    "cancelled: the guest runs first": (
        ONE,
        seen(PAUSED, in_step(), record=begun(wanted=Wanted.CANCEL, disks=stages(Stage.CLEAN), switch=SUSPENDED)),
        actions.Resume(),
    ),
    "cancelled: then the job ends": (
        ONE, seen(RUNNING, in_step(), record=begun(wanted=Wanted.CANCEL, disks=stages(Stage.CLEAN))),
        actions.AbortCopy("vda"),
    ),
    "cancelled: then what we made goes": (
        ONE, seen(RUNNING, disk(), record=begun(wanted=Wanted.CANCEL)), actions.RemoveDestination(),
    ),
    "cancelled: then our mark": (
        ONE, seen(RUNNING, disk(), record=begun(wanted=Wanted.CANCEL, created=())), actions.Unmark(),
    ),
    "cancelled: the mark of another is not ours to take": (
        ONE, seen(RUNNING, disk(), record=begun(wanted=Wanted.CANCEL, created=()), mark="m2"),
        actions.Finish(Outcome.CANCELLED),
    ),
    "cancelled, and a failure as well: the failure is told": (
        ONE, seen(RUNNING, disk(), record=begun(wanted=Wanted.CANCEL, created=(), failure="full"), mark=None),
        actions.Finish(Outcome.FAILED, "full"),
    ),
    "cancelled while the configuration names the new disks: that goes back first": (
        ONE, seen(RUNNING, disk(config=DESTINATION), record=begun(wanted=Wanted.CANCEL)), actions.RevertConfig(),
    ),
    "off: copied cold, whatever the method was": (ONE, seen(OFF, off()), actions.ColdCopy("vda")),
    "off with a saved state, which names the old disks: nothing is copied until it was started": (
        ONE, seen(OFF, off(), saved=True), actions.Park,
    ),
    "a state that was saved after the switch names the new ones": (
        ONE, seen(OFF, off(config=DESTINATION), saved=True, record=begun(switch=MIXED)), actions.SaveSwitched(),
    ),
    "nor does it hold up the way back": (
        ONE, seen(OFF, off(), saved=True, record=begun(wanted=Wanted.CANCEL)), actions.RemoveDestination(),
    ),
    "a cold copy of what was there before the VM ran once more does not count": (
        ONE, seen(OFF, off(fingerprint="g"), record=begun(disks=COLD)), actions.ColdCopy("vda"),
    ),
    "all copied cold: one write of the configuration for all disks": (
        TWO, seen(OFF, off(), off("vdb"),
            record=begun(disks={"vda": DiskRecord(cold_copied="f"), "vdb": DiskRecord(cold_copied="f")})),
                actions.WriteConfig(),
    ),
    "configuration written, still off, nobody wrote to the old disk: switched": (
        ONE, seen(OFF, off(config=DESTINATION), record=begun(disks=COLD)), actions.SaveSwitched(),
    ),
    "configuration written, but the old disk was written to after its copy: not switched": (
        ONE, seen(OFF, off(config=DESTINATION, fingerprint="g"), record=begun(disks=COLD)), actions.Park,
    ),
    "went off after a live switch that could not be noted: the intent is proof enough": (
        ONE, seen(OFF, off(config=DESTINATION), record=begun(disks=stages(Stage.CLEAN), switch=MIXED)),
        actions.SaveSwitched(),
    ),
    "started on the old disks while the configuration was written: that goes back before anything is copied": (
        ONE, seen(RUNNING, disk(config=DESTINATION), record=begun(disks=COLD)), actions.RevertConfig(),
    ),
    "started while a file with internal snapshots is copied: a live copy would lose them": (
        AS_IS, seen(RUNNING, disk(), record=begun(disks=COLD)), actions.Fail,
    ),
    "the same when the configuration was written already: then that goes back": (
        AS_IS, seen(RUNNING, disk(config=DESTINATION), record=begun(failure="started", disks=COLD)),
        actions.RevertConfig(),
    ),
    "after the configuration, before any old file goes: the snapshots' metadata": (
        AS_IS, seen(OFF, off(config=DESTINATION), config_agrees=True,
                    record=begun(switch=DONE, graph=GraphRecord(proven=True), configuration=WRITTEN,
                        disks={"vda": DiskRecord(cold_copied="f", settled=True)})),
        actions.WriteSnapshots(),
    ),
    "a frozen view is held: libvirt takes no snapshots' metadata before it is given up": (
        replace(AS_IS, verify=True),
            seen(RUNNING, across(), config_agrees=True, incarnation=3,
                record=begun(switch=DONE, graph=GraphRecord(proven=True), configuration=WRITTEN,
                    export=replace(BEGUN.export, state=BackupExport.READY, incarnation=3), disks=SETTLED)),
                        actions.Verify("vda"),
    ),
    "the view is given up: now the snapshots' metadata": (
        replace(AS_IS, verify=True),
            seen(RUNNING, across(), config_agrees=True, incarnation=3,
                record=begun(switch=DONE, graph=GraphRecord(proven=True), configuration=WRITTEN,
                    export=replace(BEGUN.export, state=BackupExport.ENDED),
                        disks={"vda": DiskRecord(settled=True, verified=True)})), actions.WriteSnapshots(),
    ),
    "nothing but the UEFI variables left": (
        UEFI, seen(RUNNING, across(), mark=None, config_agrees=True,
            record=begun(released=("/a/vda", "home"), switch=DONE, graph=GraphRecord(proven=True),
                configuration=WRITTEN, disks=SETTLED)), actions.Follow(),
    ),
    "all across: the guest runs first": (
        ONE, seen(PAUSED, across(), record=begun(switch=SWITCHING)), actions.Resume(),
    ),
    "QEMU is asked before that is believed": (ONE, seen(RUNNING, across(), graph=None), actions.Await("graph", 0.05)),
    "after a doubt it is not waited for QEMU any more": (
        ONE, seen(RUNNING, across(), graph=None, record=begun(switch=DONE, graph=DOUBTED)),
        actions.WriteConfig(),
    ),
    "what is wrong counts also after a doubt": (
        ONE, seen(RUNNING, disk("vda", DESTINATION, SOURCE), graph=GraphView(wrong={"vda": "/a/vda"}),
                  record=begun(switch=DONE, graph=DOUBTED)), actions.Park,
    ),
    "QEMU could not be asked: noted all the same, as a doubt": (
        ONE, seen(RUNNING, across(), graph=GraphView(doubt="no answer")), actions.SaveSwitched(),
    ),
    "QEMU still writes to the old image: the configuration names it again": (
        TWO, seen(RUNNING, across(), across("vdb"), graph=GraphView(wrong={"vdb": "/a/vdb"})),
        actions.PointAtTruth(("vdb",)),
    ),
    "and then nothing more is done": (
        TWO, seen(RUNNING, across(), disk("vdb", DESTINATION, SOURCE), graph=GraphView(wrong={"vdb": "/a/vdb"})),
        actions.Park,
    ),
    "a transient VM has no configuration": (
        ONE, seen(RUNNING, disk("vda", DESTINATION, None), persistent=False, graph=GraphView(wrong={"vda": "/a/vda"})),
        actions.Park,
    ),
    "QEMU writes to a file that is neither: nothing is done": (
        ONE, seen(RUNNING, across(), graph=GraphView(wrong={"vda": "/x/vda"})), actions.Park,
    ),
    "off, the old image that QEMU wrote to is copied": (
        TWO, seen(OFF, off(config=DESTINATION), off("vdb"), record=begun(switch=MIXED)), actions.ColdCopy("vdb"),
    ),
    "switched by an older version: asked before the rest": (
        ONE, seen(RUNNING, across(), record=begun(switch=DONE)), actions.SaveGraph(),
    ),
    "switched by an older version, and wrong": (
        ONE, seen(RUNNING, across(), record=begun(switch=DONE), graph=GraphView(wrong={"vda": "/a/vda"})),
        actions.PointAtTruth(("vda",)),
    ),
    "switched, and off by now: there is no QEMU to ask": (
        ONE, seen(OFF, off(config=DESTINATION), record=begun(switch=DONE, configuration=WRITTEN), config_agrees=True),
        actions.Settle("vda"),
    ),
    "a running VM with copy_on_read is not copied": (
        ONE, seen(RUNNING, disk(copy_on_read=True), record=begun(disks=stages(Stage.IMAGE))), actions.Fail,
    ),
    "paused because its storage failed: runs again at the new place, if that was asked": (
        RESUMED, seen(PAUSED, across(), record=after(configuration=WRITTEN), config_agrees=True,
                                              pause_reason="ioerror"), actions.ResumeGuest(),
    ),
    "not before the configuration is written": (
        RESUMED, seen(PAUSED, across(), record=after(), pause_reason="ioerror"),
        actions.WriteConfig(),
    ),
    "once": (
        RESUMED,
            seen(PAUSED, across(), record=after(configuration=WRITTEN, switch=replace(AFTER.switch, let_run=True)),
                                              config_agrees=True, pause_reason="ioerror"), actions.Settle("vda"),
    ),
    "paused by its owner meanwhile: it stays so": (
        RESUMED, seen(PAUSED, across(), record=after(configuration=WRITTEN),
                                              config_agrees=True, pause_reason="user"), actions.Settle("vda"),
    ),
    "and if nothing was asked": (
        ONE, seen(PAUSED, across(), record=after(configuration=WRITTEN), config_agrees=True, pause_reason="ioerror"),
        actions.Settle("vda"),
    ),
    "one that is off is": (ONE, seen(OFF, off()), actions.ColdCopy("vda")),
    "all across: noted before anything else": (ONE, seen(RUNNING, across()), actions.SaveSwitched()),
    "all across: a wish to cancel comes too late": (
        ONE, seen(RUNNING, across(), record=begun(wanted=Wanted.CANCEL)), actions.SaveSwitched(),
    ),
    "all across: a failure of before is over": (
        ONE, seen(RUNNING, across(), record=begun(failure="it broke")), actions.SaveSwitched(),
    ),
    "after the switch: a copy back that was begun is ended": (
        ONE, seen(RUNNING, in_step("vda", DESTINATION), record=after()), actions.AbortCopy("vda"),
    ),
    "after the switch: the ISO in the drive follows": (
        ONE, seen(RUNNING, across(), record=after(), media=("sda",)), actions.MoveMedium("sda"),
    ),
    "after the switch: the configuration, seen to agree, before any source": (
        ONE, seen(RUNNING, across(), record=after(configuration=WRITTEN), config_agrees=False),
        actions.WriteConfig(),
    ),
    "after the switch of a transient VM: there is no configuration": (
        ONE, seen(RUNNING, disk(live=DESTINATION, config=None), record=after(), persistent=False),
        actions.Settle("vda"),
    ),
    "after the switch: the new image is safe before the old one goes": (
        ONE, seen(RUNNING, across(), record=after(configuration=WRITTEN), config_agrees=True),
        actions.Settle("vda"),
    ),
    "settled: the source may go": (
        ONE,
        seen(RUNNING, across(), record=after(configuration=WRITTEN, disks=SETTLED),
             config_agrees=True),
        actions.ReleaseSource("/a/vda"),
    ),
    "then the old home": (
        ONE,
        seen(RUNNING, across(), config_agrees=True,
             record=after(released=("/a/vda",), configuration=WRITTEN, disks=SETTLED)),
        actions.ReleaseHome(),
    ),
    "then our mark; then it is over": (
        ONE,
        seen(RUNNING, across(), config_agrees=True, mark=None,
             record=after(released=("/a/vda", "home"), configuration=WRITTEN, disks=SETTLED)),
        actions.Finish(Outcome.MOVED),
    ),
    "over is over": (ONE, seen(OFF, off(), record=Record(outcome=Outcome.MOVED)), actions.Done(Outcome.MOVED)),
    "somebody's snapshot in the moment of our copy: nothing of ours is in their way": (
        ONE, seen(RUNNING, disk(live=DiskSide.ELSEWHERE, job=DiskJob.OURS)), actions.AbortCopy("vda"),
    ),
    "somebody pointed the disk elsewhere: stand still": (
        ONE, seen(RUNNING, disk(live=DiskSide.ELSEWHERE)), actions.Park,
    ),
    "but the guest runs first, if it was us who stopped it": (
        ONE, seen(PAUSED, disk(live=DiskSide.ELSEWHERE), record=begun(switch=SUSPENDED)), actions.Resume(),
    ),
    "after the switch the VM is seen at the source: nothing is copied over the newer content": (
        ONE, seen(OFF, off(), record=after(disks=COLD)), actions.Park,
    ),
    "nor removed, when the user asks to cancel": (
        ONE, seen(RUNNING, disk(), record=after(wanted=Wanted.CANCEL)), actions.Park,
    ),
    "a transient VM went off before the switch: what we made goes": (
        ONE, seen(ABSENT, disk(live=None, config=None), record=begun(disks=stages(Stage.CLEAN))),
        actions.RemoveDestination(),
    ),
    "and then it is a failure": (
        ONE, seen(ABSENT, disk(live=None, config=None), record=begun(created=())), actions.Fail,
    ),
    "a transient VM went off in the middle of the switch: both sides are kept": (
        ONE, seen(ABSENT, disk(live=None, config=None), record=begun(switch=MIXED)), actions.Park,
    ),
    "a transient VM went off after the switch: moved, the old disks are kept": (
        ONE, seen(ABSENT, disk(live=None, config=None), record=after()), actions.Finish,
    ),
}  # fmt: skip


@pytest.mark.parametrize("reason", DECISIONS)
def test_one_decision(reason: str) -> None:
    plan, observation, expected = DECISIONS[reason]
    action = decide(plan, observation)
    if isinstance(expected, type):
        assert isinstance(action, expected), action
    else:
        assert action == expected


def test_the_allowed_pause_grows_slowly_and_has_an_end() -> None:
    pauses = [allowed_pause_s(passes) for passes in range(200)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[8], pauses[-1]) == (0.01, 0.02, 0.5)


# ---------------------------------------------------------------- every combination has an answer

VIEWS = [
    DiskView("vda", live, config, job, ready=ready, ending=ending, info=info, fingerprint="f")
    for live, config, job, ready, ending, info in itertools.product(
        (None, *DiskSide), (None, *DiskSide), DiskJob, (False, True), (False, True), (None, JobInfo(0, 1, 0), READY)
    )
]
COPIES = [Copy(stage, incarnation, 1) for stage in Stage for incarnation in (1, 2)]


def random_record(chance: random.Random, targets: tuple[str, ...]) -> Record:
    def some() -> bool:
        return chance.random() < 0.5

    layers_copied, settled = some(), some()
    return Record(
        wanted=chance.choice(list(Wanted)),
        created=chance.choice([(), ("/b/vda",)]),
        disks={
            target: DiskRecord(
                copy=replace(chance.choice(COPIES), attempts=chance.randrange(5), reverse=some()),
                layers_copied=layers_copied,
                cold_copied=chance.choice("fg") if some() else None,
                settled=settled,
            )
            for target in targets
            if chance.random() < 0.9
        },
        released=chance.choice([(), ("/a/vda",), ("/a/vda", "/a/vdb", "/a/vdc", "home")]),
        failure=chance.choice([None, "it failed"]),
        outcome=chance.choice([None] * 9 + list(Outcome)),
        configuration=ConfigurationRecord(marked=some(), written=some(), media_tried=chance.choice([(), ("sda",)])),
        home=HomeRecord(copied=chance.random() < 0.9),
        switch=SwitchRecord(suspended=some(), begun=some(), done=chance.random() < 0.3),
        graph=GraphRecord(proven=some(), doubt=chance.choice(["", "", "no answer"])),
    )


def as_it_can_be(view: DiskView, state: PowerState, persistent: bool) -> DiskView:
    config = (view.config or SOURCE) if persistent else None
    if state.active:
        return replace(view, live=view.live or SOURCE, config=config)
    return replace(view, live=None, config=config, job=DiskJob.NONE, ready=False, ending=False, info=None)


def random_look(chance: random.Random, plan: Plan) -> Observation:
    targets = tuple(disk.target for disk in plan.disks)
    alike = chance.choice(VIEWS)  # so that disks often agree
    views = (alike if chance.random() < 0.5 else chance.choice(VIEWS) for _target in targets)
    state, persistent = chance.choice(list(PowerState)), chance.random() < 0.7
    if chance.random() < 0.9:
        persistent = state is OFF or (persistent and state is not ABSENT)
        views = (as_it_can_be(view, state, persistent) for view in views)
    return Observation(
        state=state,
        persistent=persistent,
        disks=tuple(replace(view, target=target) for view, target in zip(views, targets, strict=True)),
        record=random_record(chance, targets),
        incarnation=1,
        mark=chance.choice([None, "m1", "m2"]),
        media=chance.choice([(), ("sda",)]),
        config_agrees=chance.random() < 0.5,
        suspended_s=chance.choice([0.0, 2.0]),
        expected_drain_s=chance.choice([0.0, 9.0, float("inf")]),
        passes=chance.choice([0, 100]),
        pivot_failures=chance.choice([0, 3]),
        flushed=chance.random() < 0.5,
        graph=chance.choice([None, PROVEN, GraphView(doubt="no answer"), GraphView(wrong={"vda": "/a/vda"})]),
    )


PLANS = [
    make_plan(disks, suspended_start=racy, layers=layers)
    for disks, racy, layers in itertools.product((1, 2, 3), (False, True), (False, True))
]


@pytest.mark.slow
def test_every_view_of_a_disk_has_an_answer_in_every_state() -> None:
    chance = random.Random(0)
    for view, state in itertools.product(VIEWS, PowerState):
        for copy in COPIES:
            look = random_look(chance, ONE)
            persistent = state is OFF or (look.persistent and state is not ABSENT)
            view = as_it_can_be(view, state, persistent)
            look = replace(look, state=state, persistent=persistent, disks=(view,))
            record = replace(
                look.record,
                outcome=None,
                disks={**look.record.disks, "vda": replace(look.record.disk("vda"), copy=copy)},
            )
            look = replace(look, record=record)
            check_rules(look, decide(ONE, look))


@settings(max_examples=examples(600), deadline=None)
@given(seed=st.integers(0, 2**48))
def test_everything_has_an_answer_that_keeps_the_rules(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(30):
        plan = chance.choice(PLANS)
        look = random_look(chance, plan)
        check_rules(look, decide(plan, look))


# ---------------------------------------------------------------- whole moves

FORWARD_ONLY = (
    actions.Mark, actions.CopyHome, actions.CopyLayers, actions.CreateImage, actions.StartCopy, actions.Suspend,
    actions.ColdCopy, actions.FlushDestination, actions.Await,
)  # fmt: skip
"""As in jobs/loop.py: when one of these fails before the switch, the way is back."""

KILLS = {"kill": "at once", "kill, guard late": "late", "kill, guard dead": "never"}
EVENTS = (
    *KILLS, "unreachable", "tick", "cancel", "job lost", "pivot refused", "pivot breaks", "foreign job",
    "foreign job ends", "guard", "pause", "resume", "crash", "power off", "power on",
)  # fmt: skip

Incident = tuple[int, str, int]  # so many gaps later, this happens, to that disk


class Killed(Exception):
    """The process that ran the move is gone."""


class Run:
    """Drives one move to its end as jobs/loop.py does, through a list of incidents."""

    def __init__(self, host: Host, incidents: list[Incident]) -> None:
        self.host = host
        self.incidents = deque(incidents)
        self.wait = incidents[0][0] if incidents else 0
        self.tries = 0
        self.actions: list[actions.Action] = []

    def gap(self) -> None:
        """Between two steps anything may happen."""
        self.host.check()
        while self.incidents and self.wait <= 0:
            _wait, event, number = self.incidents.popleft()
            self.wait = self.incidents[0][0] if self.incidents else 0
            if event in KILLS:
                raise Killed(KILLS[event])
            if event == "unreachable":
                raise Unreachable
            self.host.happens(event, number)
            self.host.check()
        self.wait -= 1

    def to_the_end(self) -> actions.Action:
        quiet = 0
        while quiet < QUIET_TURNS:
            quiet += not self.incidents
            end = self.turn()
            if end is not None:
                return end
        raise AssertionError(f"no end in sight: {self.actions[-12:]}")

    def turn(self) -> actions.Action | None:
        host = self.host
        action, look = None, None
        try:
            self.gap()
            look = host.look()
            action = decide(host.plan, look)
            self.actions.append(action)
            check_rules(look, action)
            if isinstance(action, (actions.Done, actions.Park)):
                return action
            host.announcing = isinstance(action, actions.Suspend)
            self.gap()
            for _ in host.effects(action, look):
                self.gap()
            self.tries = self.tries if isinstance(action, actions.Await) else 0
        except Killed as death:
            host.process_dies(str(death))
        except Unreachable:
            host.suspended, host.cold_copying = False, False
        except Refused as problem:
            return self.stumble(action, look, str(problem))
        return None

    def stumble(self, action: actions.Action | None, look: Observation | None, problem: str) -> actions.Action | None:
        assert action is not None
        assert look is not None
        self.tries += 1
        self.host.cold_copying = False
        now = situation(self.host.look())
        if not self.host.suspended and not isinstance(action, actions.ColdCopy) and now != situation(look):
            return None  # the VM has overtaken the effect
        before = not any(view.side is DESTINATION for view in look.disks)
        if before and isinstance(action, FORWARD_ONLY) and look.record.failure is None:
            self.host.note(replace(self.host.record, failure=problem))
        elif self.tries >= TRIES:
            return actions.Park(problem)
        return None


def situation(look: Observation) -> object:
    return look.state, look.incarnation, [(view.side, view.job, view.ending) for view in look.disks]


def settled(host: Host) -> None:
    """What was asked of the host, and a guard that is late, come to their end."""
    if host.guard_armed:
        host.guard_resumes()
    host.tick()
    host.check()


def check_end(run: Run, end: actions.Action) -> None:
    host = run.host
    settled(host)
    assert host.state is not PAUSED or host.owner_paused, "the VM was left suspended"
    used = host.sides()
    if isinstance(end, actions.Park):
        return  # and nothing is lost: settled() has looked
    if host.state is not ABSENT:
        for target, side in used.items():
            assert host.held[target, side] == host.written[target], f"{target} is not whole where the VM has it"
    assert isinstance(end, actions.Done)
    ours = [target for target, job in host.jobs.items() if not job.foreign]
    assert not ours, "a job of ours was left"
    assert host.mark is None
    moved = end.outcome is Outcome.MOVED
    if host.state is ABSENT:
        truth = DESTINATION if moved else SOURCE
        assert all(host.held[target, truth] == host.written[target] for target in host.targets)
        return
    truth = DESTINATION if moved else SOURCE
    assert set(used.values()) == {truth}
    if host.plan.domain.persistent:
        assert set(host.config.values()) == {truth}, "live and persistent configuration differ"
    other = SOURCE if moved else DESTINATION
    assert all(host.held[target, other] == GONE for target in host.targets), "something was left on the other side"
    if not moved:
        assert not host.record.created


hosts = st.builds(
    lambda plan, state, idle: Host(
        plan,
        state=state if plan.domain.persistent or state.active else RUNNING,
        owner_paused=state is PAUSED,
        idle=frozenset(idle),
    ),
    st.builds(
        make_plan,
        st.integers(1, 3),
        suspended_start=st.booleans(),
        persistent=st.sampled_from([True, True, False]),
        method=st.sampled_from([Method.MIRROR, Method.CHANGED_BLOCKS]),
        layers=st.booleans(),
    ),
    st.sampled_from([RUNNING, RUNNING, PAUSED, OFF]),
    st.sets(st.sampled_from(["vda", "vdb", "vdc"])),
)
incidents = st.lists(st.tuples(st.integers(0, 25), st.sampled_from(EVENTS), st.integers(0, 2)), max_size=8)


@settings(max_examples=examples(600), deadline=None)
@given(host=hosts, happening=incidents)
def test_every_move_ends_right(host: Host, happening: list[Incident]) -> None:
    run = Run(host, happening)
    check_end(run, run.to_the_end())


@pytest.mark.parametrize("state", [RUNNING, PAUSED, OFF])
@pytest.mark.parametrize("racy", [False, True])
@pytest.mark.parametrize("disks", [1, 2, 3])
def test_a_quiet_move(disks: int, racy: bool, state: PowerState) -> None:
    host = Host(make_plan(disks, suspended_start=racy), state=state, owner_paused=state is PAUSED)
    run = Run(host, [])
    end = run.to_the_end()
    check_end(run, end)
    assert end == actions.Done(Outcome.MOVED)
    assert host.state is state
    suspensions = [action for action in run.actions if isinstance(action, actions.Suspend)]
    expected = [actions.Suspend(switch=False)] * racy + [actions.Suspend(switch=True)] if state is RUNNING else []
    assert suspensions == expected


@pytest.mark.slow
@pytest.mark.parametrize("event", ["kill", "kill, guard late", "kill, guard dead", "unreachable"])
@pytest.mark.parametrize("cancel", [False, True])
@pytest.mark.parametrize("state", [RUNNING, OFF])
def test_interrupted_once_in_every_gap(state: PowerState, cancel: bool, event: str) -> None:
    """And at each of them the user may have changed their mind."""
    for racy in (False, True):
        for gap in itertools.count():
            host = Host(make_plan(2, suspended_start=racy), state=state)
            wish: list[Incident] = [(0, "cancel", 0)] if cancel else []
            run = Run(host, [*wish, (gap, event, 0)])
            end = run.to_the_end()
            check_end(run, end)
            assert isinstance(end, actions.Done)
            assert end.outcome in ((Outcome.CANCELLED,) if cancel else (Outcome.MOVED,)) or host.record.failure
            if run.incidents:  # it was over before
                break


@pytest.mark.slow
@pytest.mark.parametrize("event", ["power off", "job lost", "foreign job", "pause", "crash", "guard", "pivot breaks"])
def test_something_happens_in_every_gap(event: str) -> None:
    for racy, number in itertools.product((False, True), (0, 1)):
        for gap in range(60):
            host = Host(make_plan(2, suspended_start=racy))
            run = Run(host, [(gap, event, number)])
            check_end(run, run.to_the_end())


# ---------------------------------------------------------------- libvirt loses it


def to_the_end_of_a_lost_one(run: Run) -> actions.Action:
    """Whenever the move is parked, what its report asks for is done, and `blockferry resume` follows."""
    host = run.host
    for _again in range(6):
        end = run.to_the_end()
        if isinstance(end, actions.Done):
            return end
        assert isinstance(end, actions.Park)
        settled(host)
        if host.state is PowerState.LOST:
            assert not host.standing or host.owner_paused or not host.reachable, "the guest was left standing still"
            assert host.next_start_is_right(), "the next start would use stale images"
            assert host.reachable or not host.autostart or not host.plan.domain.persistent
            host.happens("guest off" if host.reachable and not host.standing else "qemu ends", 0)
        elif host.state is OFF and DiskSide.ELSEWHERE in host.config.values():
            host.owner_names_the_right_images()
        else:
            return end
    raise AssertionError(f"no end in sight: {run.actions[-12:]}")


def check_lost_end(run: Run, end: actions.Action) -> None:
    check_end(run, end)
    if isinstance(end, actions.Done) and run.host.state is not ABSENT:
        assert run.host.autostart, "its autostart was not put back"


LOST_EVENTS = (*EVENTS, "lost", "lost", "lost", "monitor gone", "guest off", "qemu ends")
lost_incidents = st.lists(st.tuples(st.integers(0, 25), st.sampled_from(LOST_EVENTS), st.integers(0, 2)), max_size=8)


@settings(max_examples=examples(600), deadline=None)
@given(host=hosts, happening=lost_incidents)
def test_every_move_of_a_vm_that_libvirt_loses_ends_right(host: Host, happening: list[Incident]) -> None:
    run = Run(host, happening)
    check_lost_end(run, to_the_end_of_a_lost_one(run))


@pytest.mark.slow
@pytest.mark.parametrize("event", [None, "kill", "kill, guard dead", "monitor gone", "cancel"])
@pytest.mark.parametrize("persistent", [True, False])
def test_lost_in_every_gap(event: str | None, persistent: bool) -> None:
    for racy, disks in ((False, 1), (True, 2)):
        for gap in range(5, 75, 1 if event is None else 2):
            host = Host(make_plan(disks, suspended_start=racy, persistent=persistent))
            more: list[Incident] = [(0, event, 0)] if event else []
            run = Run(host, [(gap, "lost", 0), *more])
            check_lost_end(run, to_the_end_of_a_lost_one(run))


# ---------------------------------------------------------------- what was found, each once lost data


@pytest.mark.parametrize("gap", range(45))
def test_a_pivot_without_a_suspension_of_ours_is_known_afterwards(gap: int) -> None:
    """A transient VM that its owner had paused: it was gone after the pivot, and the newer disks were removed."""
    host = Host(make_plan(1, persistent=False), state=PAUSED, owner_paused=True)
    run = Run(host, [(gap, "kill", 0), (0, "tick", 0), (0, "resume", 0), (0, "power off", 0)])
    check_end(run, run.to_the_end())


@pytest.mark.parametrize("gap", range(25))
def test_a_cold_copy_that_was_replaced_does_not_count(gap: int) -> None:
    """A data disk that the guest did not write to: its fingerprint agreed, but its copy was an empty image by then."""
    for later in range(12):
        host = Host(make_plan(2), state=OFF, idle=frozenset({"vdb"}))
        run = Run(host, [(gap, "power on", 0), (later, "power off", 0)])
        check_end(run, run.to_the_end())


@pytest.mark.parametrize("gap", range(25))
def test_started_while_the_configuration_is_written(gap: int) -> None:
    """The VM ran on its old disks, the configuration named the new ones; off again it counted as switched."""
    for later in range(20):
        host = Host(make_plan(1), state=OFF)
        run = Run(host, [(gap, "power on", 0), (later, "power off", 0)])
        check_end(run, run.to_the_end())


def test_an_old_definition_after_the_switch() -> None:
    """Somebody defines the VM from an old XML: ColdCopy, CreateImage and RemoveDestination hit the newer content."""
    for gap, cancel, event in itertools.product(range(120), (False, True), ("tick", "power off")):
        host = Host(make_plan(2))
        run = Run(host, [(gap, event, 0)])
        while not host.record.switch.done or run.incidents:
            if run.turn() is not None:
                return  # it was over before
        host.config = dict.fromkeys(host.targets, SOURCE)
        if cancel:
            host.record = replace(host.record, wanted=Wanted.CANCEL)
        run.to_the_end()
        host.check()


@pytest.mark.parametrize("stuck", [{"vda"}, {"vdb"}, {"vda", "vdb"}])
@pytest.mark.parametrize("racy", [False, True])
def test_a_switch_that_qemu_has_not_made_loses_nothing(stuck: set[str], racy: bool) -> None:
    """libvirt names the new image, QEMU writes to the old one: parked, whole at the next start, and then moved."""
    host = Host(make_plan(2, suspended_start=racy), stuck=set(stuck))
    run = Run(host, [])
    end = run.to_the_end()
    assert isinstance(end, actions.Park), end
    assert "ALARM" in end.problem
    assert {target for target in host.targets if host.config[target] is SOURCE} == stuck
    assert not host.record.released
    again = Run(host, []).to_the_end()  # `blockferry resume` while it runs: QEMU is asked again
    assert isinstance(again, actions.Park)
    host.tick()
    host.goes_off()
    for target in host.targets:
        assert host.held[target, host.config[target]] == host.written[target], "the next start would use a stale image"
    check_end(last := Run(host, []), last.to_the_end())
    assert host.record.outcome is Outcome.MOVED
    host.check()
