"""Writes the journal of `journal-1e6bc71.sqlite.sql`, with moves under way in it. Run once, by that version's own code.

The dump is never edited and never made anew: it is what version 1e6bc71 (schema 0003, plans of version 7, records of
one flat form) has written. `python journal_1e6bc71.py URL`, then `sqlite3 FILE .dump`. Nearly every field of a record
is set in one of the moves, so that a field that the reader forgets is seen.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from blockferry.base.units import GiB, MiB
from blockferry.hosts.fencing import Fencing, Guarded
from blockferry.hosts.inventory import PowerState
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.pace.latency import GuestLatency
from blockferry.storage_move.plan import DiskPlan, HangPlan, HomeFile, HomePlan, ManagedSavePlan, NvramPlan, Plan
from blockferry.storage_move.record import (
    BackupExport,
    ComparedBase,
    Copy,
    LostVm,
    ManagedSave,
    OverlayState,
    Record,
    Stage,
    Throttle,
)
from blockferry.storage_move.request import IfNotConverging, LatencyContract, Method, OnBreak, SourcePolicy
from blockferry.storage_move.summary import Report
from blockferry.store import Owner

HOST = "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"


def disk(vm: str, target: str = "vda") -> DiskPlan:
    return DiskPlan(
        target=target,
        source=f"/old-san/{vm}/{target}.qcow2",
        source_format="qcow2",
        source_kind="file",
        dest=f"/ssd/{vm}/{target}.qcow2",
        dest_format="qcow2",
        datastore="ssd",
        source_datastore="old-san",
        virtual_size=4 * GiB,
        allocation=3 * GiB,
        old_files=(f"/old-san/{vm}/{target}.qcow2",),
        resumable=True,
        source_overlay=f"/old-san/{vm}/{target}.o.qcow2",
        dest_overlay=f"/ssd/{vm}/{target}.n.qcow2",
    )


def plan(move: str, vm: str, *disks: DiskPlan) -> Plan:
    nvram = NvramPlan(
        f"/old-san/{vm}/nvram.fd",
        f"/ssd/{vm}/nvram.fd",
        131072,
        ManagedSavePlan(f"/var/lib/libvirt/qemu/save/{vm}.save", GiB, 1e8, 11.0),
    )
    home = HomePlan(
        "ssd", f"/ssd/{vm}", f"/old-san/{vm}", (HomeFile(f"/old-san/{vm}/a.iso", f"/ssd/{vm}/a.iso", "iso", 5),)
    )
    return Plan(
        move=move,
        uri="qemu:///system",
        vm=vm,
        uuid=f"0000{vm[-2:]}00-1111-4222-8333-444444444444",
        method=Method.CHANGED_BLOCKS,
        method_reason="for the test",
        disks=disks or (disk(vm), disk(vm, "vdb")),
        home=home,
        persistent=True,
        was=PowerState.RUNNING,
        source=SourcePolicy(),
        verify=True,
        on_break=OnBreak.KEEP,
        contract=LatencyContract(latency_s=0.02),
        if_not_converging=IfNotConverging.THROTTLE,
        snapshots=("before-update",),
        nvram=nvram,
        hang=HangPlan(Fencing(), "the guest waits for 10 s at most"),
        trim=True,
        host=HOST,
        host_name="kvm1",
    )


COPYING = Record(
    bandwidth=50 * MiB,
    unexpected=2,
    marked=True,
    mounts={"/ssd": "/dev/sdb1 on /ssd"},
    home_copied=True,
    home_prints={"/old-san/web01/a.iso": "5:1700000000000000000"},
    home_made={"/old-san/web01/a.iso": "5:1700000000000000001"},
    home_left={"/old-san/web01/b": "it is a pipe"},
    home_kept={"/old-san/web01/c": "its copy is in use"},
    bare=True,
    created=("/ssd/web01/vda.qcow2", "/ssd/web01/vdb.qcow2", "/ssd/web01/vdb.n.qcow2"),
    layers_copied=("vda", "vdb"),
    copies={"vda": Copy(Stage.CLEAN, 7, 1, synchronous=True), "vdb": Copy(Stage.STARTED, 7, 2, reverse=True)},
    cold_copied={"vda": "17:3221225472:1700000000000000000"},
    suspended=True,
    switching=True,
    switch_attempts=3,
    guest_before=GuestLatency(0.001, 0.004, 300, 30.0),
    measured=True,
    trimmed={"vda": MiB},
    synchronous=True,
    background=True,
    guarded=Guarded((), (("/old-san/web01/vda.qcow2", "/ssd/web01/vda.qcow2"),), ("/ssd/web01/vda.qcow2",)),
    throttled={"vdb": Throttle(20 * MiB, 7, {"write_bytes_sec": 0}, (40 * MiB,))},
    partial=("vdb",),
    source_layers={"vdb": OverlayState.USED},
    dest_layers={"vdb": OverlayState.NAMED},
    folded_as={"/old-san/web01/vda.o.qcow2": "18:100:1700000000000000000"},
    synced={"vdb": ComparedBase("19:3221225472:1700000000000000000", 1, 2, 3, 4.0)},
    fold_attempts=1,
    folds={"vdb": Stage.STARTING},
    lost=LostVm("boot:17:99", {"vda": "/old-san/web01/vda.qcow2"}, {"vdb": "/nowhere"}, autostart=True),
    disks_before={"vda": "<disk/>"},
)
SWITCHED = Record(
    marked=True,
    switched=True,
    let_run=True,
    graph_proven=True,
    graph_folded=True,
    graph_doubt="QEMU was asked in vain",
    config_written=True,
    snapshots_written=True,
    settled=("vda",),
    view=BackupExport.HELD,
    view_of=7,
    view_socket="/run/blockferry.sock",
    verified=("vda",),
    differences={"vdb": (0, 4096)},
    media_tried=("sda",),
    released=("/old-san/web02/vda.qcow2",),
    trimmed={},
    trimmed_again={"vda": 2 * MiB},
    copies={"vda": Copy(Stage.CLEAN, 7, 1)},
)
PENDING = Record(
    switched=True,
    following=True,
    nvram_copied="20:131072:1700000000000000000",
    nvram_made="21:131072:1700000000000000001",
    held=ManagedSave.SAVED,
    held_of=7,
    held_at=1.8e9,
    held_running=False,
    held_print="100:1700000000000000000",
    hold_attempts=2,
    hold_failed="there was no space for its memory",
    hold_s=12.5,
    unverified={"vda": "it was cancelled"},
)
BROKEN = Record(failure="the destination hung", cut_off="/ssd", kept=("/ssd/web04/vda.qcow2",), outcome=Outcome.FAILED)


def write(journal: MoveJournal) -> None:
    for move, vm, record in (("c0000001", "web01", COPYING), ("c0000002", "web02", SWITCHED)):
        journal.add(plan(move, vm), Record(bandwidth=record.bandwidth), "{}", "alice")
        lease = journal.claim(move, Owner.here())
        journal.write(lease, record)
    journal.want("c0000001", Wanted.CANCEL)
    journal.add(plan("c0000003", "web03"), Record(), "{}", "bob")
    lease = journal.claim("c0000003", Owner.here())
    journal.follow(lease, PENDING, Report(Outcome.MOVED, 3.0))
    journal.release(lease)
    journal.add(plan("c0000004", "web04", replace(disk("web04"), overlay_first=True)), Record(), "{}", "bob")
    lease = journal.claim("c0000004", Owner.here())
    journal.finish(lease, BROKEN, Report(Outcome.FAILED, 12.5, bulk_bytes=3 * GiB))


if __name__ == "__main__":
    journal = MoveJournal.open(sys.argv[1])
    write(journal)
    journal.close()
