"""A VM that libvirt takes for off while its QEMU lives: seen by its process, asked by its monitor, decided by a table.

With a real QEMU, started as libvirt starts it; libvirt is not needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from decide_support import make_plan

from blockferry.base.errors import HostCommandFailed
from blockferry.hosts import qemu_process
from blockferry.hosts.helper import image_users, qemu_monitor
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.libvirt.domain import Control, DomainView
from blockferry.hosts.process import Completed
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move import actions
from blockferry.storage_move.decide import decide
from blockferry.storage_move.disk_record import DiskRecord
from blockferry.storage_move.lost_vm import past_libvirt
from blockferry.storage_move.lost_vm import rules as lost_vm_rules
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.observation import DiskSide, DiskView, LostView, Observation
from blockferry.storage_move.overlays.plan import OverlaysPlan
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.pace.record import Throttle
from blockferry.storage_move.record import Record
from blockferry.storage_move.switch.record import SwitchRecord

QEMU = shutil.which("qemu-system-x86_64") or "/usr/libexec/qemu-kvm"
URI = "qemu:///system"

needs_qemu = pytest.mark.skipif(not os.path.exists(QEMU), reason="there is no QEMU")


class Vm:
    """A QEMU whose guest stands still, with one disk."""

    def __init__(self, directory: Path) -> None:
        self.uuid = str(uuid4())
        self.image = directory / "vda.raw"
        self.image.write_bytes(bytes(1 << 20))
        self.socket = directory / "monitor.sock"
        words = [QEMU, "-S", "-machine", "none", "-display", "none", "-nodefaults", "-no-shutdown", "-uuid", self.uuid]
        words += ["-chardev", f"socket,id=charmonitor,path={self.socket},server=on,wait=off"]
        words += ["-mon", "chardev=charmonitor,id=monitor,mode=control"]
        words += ["-blockdev", f"driver=file,node-name=s,filename={self.image}", "-blockdev", "raw,node-name=f,file=s"]
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while not self.socket.exists() and time.monotonic() < until:
            time.sleep(0.02)


@pytest.fixture
def vm(tmp_path: Path) -> Iterator[Vm]:
    vm = Vm(tmp_path)
    yield vm
    vm.process.kill()
    vm.process.wait()


RUNNER = LocalRunner(URI)


@needs_qemu
def test_its_process_is_seen_by_its_uuid(vm: Vm) -> None:
    found = qemu_process.remains(RUNNER, URI, vm.uuid)
    assert (found.pid, found.doubt) == (vm.process.pid, "")
    assert found.run.split("/")[1] == str(vm.process.pid)
    assert qemu_process.remains(RUNNER, URI, str(uuid4())) == qemu_process.QemuPresence()
    vm.process.kill()
    vm.process.wait()
    assert qemu_process.remains(RUNNER, URI, vm.uuid) == qemu_process.QemuPresence()


def test_programs_that_name_the_uuid_are_no_qemu(tmp_path: Path) -> None:
    uuid = str(uuid4())
    with subprocess.Popen(["sh", "-c", "read x", uuid, "-uuid"], stdin=subprocess.PIPE) as process:
        assert qemu_process.remains(RUNNER, URI, uuid) == qemu_process.QemuPresence()
        process.communicate(b"\n")


class NoGrep(LocalRunner):
    """A host whose grep does not work."""

    def run(self, argv: object, **options: object) -> Completed:
        raise HostCommandFailed("sh", 1, "")


def test_what_cannot_be_looked_at_is_a_doubt() -> None:
    found = qemu_process.remains(NoGrep(URI), URI, str(uuid4()))
    assert found.pid is None
    assert "cannot be looked at" in found.doubt


@needs_qemu
def test_who_writes_to_an_image_is_seen(vm: Vm) -> None:
    until = time.monotonic() + 30
    while not (found := image_users.writing_qemus(RUNNER, [str(vm.image), "/nowhere"])) and time.monotonic() < until:
        time.sleep(0.05)
    assert found == ((vm.process.pid, str(vm.image)),)
    with vm.image.open("r+b"):
        vm.process.kill()
        vm.process.wait()
        assert image_users.writing_qemus(RUNNER, [str(vm.image)]) == (), "we are no QEMU"


@needs_qemu
def test_its_monitor_is_asked_and_does_only_what_its_status_asks_for(vm: Vm) -> None:
    pid = vm.process.pid
    before = qemu_monitor.ask(RUNNER, pid, vm.uuid)
    assert (before.problem, before.did, before.status) == ("", False, "prelaunch")
    assert before.graph is not None
    assert [node.path for node in before.graph.loose] == [str(vm.image)]
    for wish in ("cont", "quit"):  # neither paused nor powered off
        assert not qemu_monitor.ask(RUNNER, pid, vm.uuid, wish).did
    assert vm.process.poll() is None
    other = qemu_monitor.ask(RUNNER, pid, str(uuid4()))
    assert "not its QEMU" in other.problem
    assert not other.gone
    assert qemu_monitor.alive(RUNNER, pid, vm.uuid)
    vm.socket.unlink()
    last = qemu_monitor.ask(RUNNER, pid, vm.uuid)
    assert "cannot be connected to" in last.problem
    assert last.gone


# -- decisions ------------------------------------------------------------------------------------------------------

PLAN = make_plan(2)
OVER = replace(
    PLAN, disks=(replace(PLAN.disks[0], overlays=OverlaysPlan("/a/o", "/b/o")), PLAN.disks[1])
)  # fmt: skip


def look(state: PowerState, record: Record, lost_view: LostView | None = None, **more: Any) -> Observation:
    views = tuple(DiskView(disk.target, None, DiskSide.SOURCE, config_path=disk.source.path) for disk in PLAN.disks)
    return replace(Observation(state, True, views, record, lost=lost_view), **more)


ACROSS = {"vda": "/b/vda", "vdb": "/b/vdb"}
NOTED = Record(lost=LostVm(run="r", current=ACROSS))
BARRED = Record(lost=LostVm(run="r"), switch=SwitchRecord(suspended=True))


@pytest.mark.parametrize(
    ("seen", "action"),
    [
        (
            look(PowerState.LOST, Record(switch=SwitchRecord(suspended=True)), LostView(1, "r", "paused")),
            actions.LetLostRun,
        ),
        (look(PowerState.LOST, Record(), LostView(1, "r", "paused", current=ACROSS)), actions.SaveLost),
        (look(PowerState.LOST, NOTED, LostView(1, "r", "running", current=ACROSS)), actions.PointToCurrent),
        (look(PowerState.LOST, NOTED, LostView(1, "r", "shutdown", current=ACROSS)), actions.PointToCurrent),
        (look(PowerState.LOST, Record(lost=LostVm(run="r")), LostView(1, "r", problem="gone")), actions.BarStart),
        (look(PowerState.LOST, NOTED, LostView(1, "other", "running", current=ACROSS)), actions.SaveLost),
        (look(PowerState.LOST, NOTED, LostView(1, "r", "running", current=ACROSS), persistent=False), actions.Park),
        (look(PowerState.LOST, NOTED, LostView(1, "r", "shutdown", current=ACROSS), persistent=False), actions.EndLost),
        (look(PowerState.OFF, Record(), off_doubt="no grep", off_doubt_s=200.0), actions.Park),
        (look(PowerState.ABSENT, Record(created=("/b/vda",)), off_doubt="no grep", off_doubt_s=200.0), actions.Park),
        (look(PowerState.OFF, Record(), off_doubt="no grep"), actions.Await),  # one bad look parks nothing
        (look(PowerState.LOST, BARRED, LostView(1, "r", problem="gone"), persistent=False), actions.Await),
        (
            look(PowerState.LOST, BARRED, LostView(1, "r", problem="gone", since_s=200.0), persistent=False),
            actions.Park,
        ),
        (look(PowerState.LOST, BARRED, LostView(1, "r", problem="gone", gone=True), persistent=False), actions.Park),
        (look(PowerState.OFF, NOTED), actions.Park),  # its configuration names other images than QEMU wrote to
        (look(PowerState.OFF, Record(lost=LostVm(run="r"))), actions.SaveFound),
    ],
)
def test_one_decision(seen: Observation, action: type[actions.Action]) -> None:
    assert isinstance(decide(PLAN, seen), action)


def test_a_guest_that_we_suspended_runs_again_before_anything_is_parked() -> None:
    """libvirt knows the VM again and names other images: it was parked with its guest standing still."""
    noted = replace(NOTED, switch=replace(NOTED.switch, suspended=True))
    stands = look(PowerState.PAUSED, noted, same_run=True)
    assert isinstance(decide(PLAN, stands), actions.Resume)
    assert isinstance(decide(PLAN, replace(stands, record=NOTED)), actions.Park)  # its owner's pause, or it runs by now
    assert isinstance(decide(PLAN, replace(stands, state=PowerState.RUNNING)), actions.Park)
    assert isinstance(decide(PLAN, replace(stands, same_run=False)), actions.SaveFound)  # another QEMU: not our pause


def test_a_doubt_is_timed_until_it_can_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter(
        [qemu_process.QemuPresence(doubt="no fork")] * 2
        + [qemu_process.QemuPresence()]
        + [qemu_process.QemuPresence(doubt="no fork")]
    )
    monkeypatch.setattr(qemu_process, "remains", lambda *_words: next(found))
    monkeypatch.setattr(image_users, "writing_qemus", lambda *_words: ())
    off = DomainView(PowerState.OFF, None, True, -1, (), {}, None, None, None)
    control = cast(Control, SimpleNamespace(look=lambda _targets: off))
    eyes = past_libvirt.PastLibvirt(PLAN, RUNNER)
    seen = [eyes.look(control, off, Record(), now_s)[1].doubt_s for now_s in (100.0, 130.0, 140.0, 150.0)]
    assert seen == [0.0, 30.0, 0.0, 0.0]


def test_the_report_is_plain_and_true() -> None:
    seen = look(PowerState.LOST, NOTED, LostView(7, "r", "running", current=ACROSS), persistent=False)
    found = decide(PLAN, seen)
    assert isinstance(found, actions.Park)
    for words in ("Its guest runs", "/b/vda (vda), /b/vdb (vdb)", "from inside the guest", "blockferry resume m1"):
        assert words in found.problem
    assert "went off" not in found.problem


def test_what_qemu_says_settles_the_record() -> None:
    record = Record(
        switch=SwitchRecord(begun=True),
        disks={
            "vda": DiskRecord(
                dest_overlay=OverlayState.PIVOTING, source_overlay=OverlayState.USED, throttle=Throttle(1, 1)
            )
        },
    )
    base = lost_vm_rules.settle(OVER, record, ACROSS)
    assert (base.switch.done, base.switch.begun, base.disk("vda").dest_overlay) == (True, False, OverlayState.COMMITTED)
    overlay = lost_vm_rules.settle(OVER, record, {"vda": "/b/o", "vdb": "/b/vdb"})
    assert overlay.disk("vda").dest_overlay is OverlayState.USED
    half = lost_vm_rules.settle(
        OVER, replace(record, switch=replace(record.switch, begun=False)), {"vda": "/b/o", "vdb": "/a/vdb"}
    )
    assert (half.switch.done, half.switch.begun) == (False, True)
    back = lost_vm_rules.settle(OVER, record, {"vda": "/a/o", "vdb": "/a/vdb"})
    assert (back.switch.done, back.switch.begun) == (False, False)
    assert base.throttled["vda"].incarnation == -1, "libvirt counts its domain ids anew"
