"""What an old file may not go without: QEMU's own word that the new image was in use."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest
from decide_support import make_plan

from blockferry.hosts.inventory import PowerState
from blockferry.storage_move.context import Context
from blockferry.storage_move.destination import release
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.lost_vm import effects as lost_vm_effects
from blockferry.storage_move.lost_vm.record import LostVm
from blockferry.storage_move.observation import DiskSide, DiskView, Observation
from blockferry.storage_move.record import Record
from blockferry.storage_move.switch.record import ConfigurationRecord, SwitchRecord

PLAN = make_plan(1)
OFF = DiskView("vda", None, DiskSide.DESTINATION, config_path="/b/vda")
RUNS = replace(OFF, live=DiskSide.DESTINATION)
SWITCHED = Record(
    switch=SwitchRecord(done=True),
    configuration=ConfigurationRecord(written=True),
    disks={"vda": DiskRecord(copy=Copy(Stage.CLEAN, 1))},
)
PROVEN = replace(SWITCHED, graph=replace(SWITCHED.graph, proven=True))
COLD = replace(SWITCHED, disks={"vda": DiskRecord(cold_copied="f")})


@pytest.mark.parametrize(
    ("view", "record", "kept"),
    [
        (OFF, SWITCHED, True),  # it went off right at the switch, or an older version has switched it
        (
            OFF,
            replace(SWITCHED, disks={"vda": DiskRecord(copy=Copy(Stage.CLEAN, 1), cold_copied="f")}),
            True,
        ),  # a live copy came after the cold one
        (RUNS, COLD, True),
        (OFF, PROVEN, False),
        (RUNS, PROVEN, False),
        (OFF, COLD, False),
    ],
)
def test_no_old_file_goes_without_the_proof_of_the_graph(view: DiskView, record: Record, kept: bool) -> None:
    state = PowerState.OFF if view.live is None else PowerState.RUNNING
    seen = Observation(state, True, (view,), record)
    assert (release._unasked("vda", seen) is not None) is kept
    if kept:
        disk = PLAN.disk("vda")
        assert (
            "QEMU was asked" in str(release.reason_to_keep(cast(Context, None), disk, disk.source.path, seen))
            or view.live
        )


@pytest.mark.parametrize(
    ("said", "proven"), [({"vda": "/b/vda"}, True), ({"vda": "/a/vda"}, False), ({}, False)]
)  # fmt: skip
def test_the_last_word_of_a_qemu_that_was_lost_is_that_proof(said: dict[str, str], proven: bool) -> None:
    noted: list[Record] = []
    context = SimpleNamespace(plan=PLAN, save=noted.append, log_event=lambda *_said: None)
    record = replace(
        SWITCHED, lost=LostVm(run="r", current=said), switch=replace(SWITCHED.switch, done=False, begun=True)
    )
    lost_vm_effects.note_found(cast(Context, context), Observation(PowerState.OFF, True, (OFF,), record))
    assert noted[-1].graph.proven is proven
