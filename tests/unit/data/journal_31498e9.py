"""Writes the journal of `journal-31498e9.sqlite.sql`, with moves under way in it. Run once, by that version's own code.

The dump is never edited and never made anew: it is what version 31498e9 (schema 0003, flat plans of version 8, records
of form 2) has written. `python journal_31498e9.py URL`, then `sqlite3 FILE .dump`. Every field of a plan is set in one
of the moves, so that a field that the reader forgets is seen.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from blockferry.base.units import GiB, KiB, MiB
from blockferry.hosts.datastore_id import DatastoreId, Directory, SpaceId, SpaceKind
from blockferry.hosts.fencing import Fencing
from blockferry.hosts.inventory import PowerState, Secret
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move.disk_record import Copy, DiskRecord, Stage
from blockferry.storage_move.firmware.record import NvramRecord
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.overlays.record import OverlayState
from blockferry.storage_move.plan import (
    DiskPlan,
    HangPlan,
    HomeFile,
    HomePlan,
    LayerPlan,
    LuksPlan,
    ManagedSavePlan,
    NvramPlan,
    Plan,
    ReusedLayer,
    StayingFile,
)
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import (
    ChainPolicy,
    IfNotConverging,
    LatencyContract,
    Method,
    OnBreak,
    SourcePolicy,
)
from blockferry.storage_move.summary import DiskProgress, Progress, Report
from blockferry.storage_move.switch.record import SwitchRecord
from blockferry.store import Owner

HOST = "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"
OTHER = "6f0c1d9e-aaaa-4bbb-8ccc-000000000002"
NAS = SpaceId(SpaceKind.NETWORK, "nas", "/vol")
LOCAL = SpaceId(SpaceKind.BLOCK, "0b5a1c2d-3333-4444-8555-000000000003", "", HOST)
DIRECTORIES = {
    "ssd": Directory("/ssd", DatastoreId(NAS, "/fast")),
    "old-san": Directory("/old-san", DatastoreId(LOCAL, "/images")),
}


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
    )


def plan(move: str, vm: str, *disks: DiskPlan) -> Plan:
    return Plan(
        move=move,
        uri="qemu:///system",
        vm=vm,
        uuid=f"0000{vm[-2:]}00-1111-4222-8333-444444444444",
        method=Method.CHANGED_BLOCKS,
        method_reason="for the test",
        disks=disks or (disk(vm),),
        home=None,
        persistent=True,
        was=PowerState.RUNNING,
        source=SourcePolicy(),
        host=HOST,
        host_name="kvm1",
        directories=DIRECTORIES,
    )


def layered(vm: str) -> DiskPlan:
    """A disk with a chain, of which one layer is copied, and a template below."""
    template = ReusedLayer(
        "/old-san/t.raw", "/ssd/t.raw", "raw", 2 * GiB, GiB, {"/ssd/t.raw": "1:2:3"}, {"/old-san/t.raw": "4:5:6"}, 7.5
    )
    return replace(
        disk(vm),
        thick=True,
        layers=(LayerPlan("/old-san/b.qcow2", "qcow2", "/ssd/b.qcow2", "qcow2", 2 * GiB, GiB, 512 * MiB, 600 * MiB),),
        backing=("/ssd/b.qcow2", "qcow2"),
        stays_below=("/ssd/t.raw", "raw"),
        old_files=(f"/old-san/{vm}/vda.qcow2", "/old-san/b.qcow2", "/old-san/b.dat"),
        old_parts=("/old-san/b.dat",),
        suspended_start=False,
        cache="none",
        cluster_size=64 * KiB,
        has_bitmaps=True,
        granularity=64 * KiB,
        resumable=True,
        source_overlay=f"/old-san/{vm}/vda.o.qcow2",
        dest_overlay=f"/ssd/{vm}/vda.n.qcow2",
        overlay_suspended_start=False,
        start_pause_s=0.25,
        overlay_first=True,
        preallocation="metadata",
        extended_l2=True,
        parts=(f"/old-san/{vm}/vda.dat",),
        source_volume="old-san/vda.qcow2",
        data=2 * GiB,
        required=2 * GiB + MiB,
        reused=template,
    )


def sealed(vm: str) -> DiskPlan:
    return replace(
        disk(vm, "vdb"),
        source_format="raw",
        source_kind="block",
        dest_format="raw",
        source_datastore=None,
        as_is=True,
        sealed=True,
        luks=LuksPlan(2 * MiB, Secret("uuid", "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f")),
    )


def whole(move: str, vm: str) -> Plan:
    """A plan of which every field says something of its own."""
    saved = ManagedSavePlan(f"/var/lib/libvirt/qemu/save/{vm}.save", GiB, 1e8, 11.0)
    iso = HomeFile(f"/old-san/{vm}/a.iso", f"/ssd/{vm}/a.iso", "iso", 5, "sda")
    home = HomePlan("ssd", f"/ssd/{vm}", f"/old-san/{vm}", (iso,), (StayingFile(f"/old-san/{vm}/x", "it is a pipe"),))
    return replace(
        plan(move, vm, layered(vm), sealed(vm)),
        home=home,
        persistent=False,
        was=PowerState.PAUSED,
        source=SourcePolicy(delete=False, keep_s=3600.0, explicit=True, shared="others use it"),
        chain=ChainPolicy.KEEP,
        bandwidth=50 * MiB,
        verify=True,
        background_only=True,
        on_break=OnBreak.KEEP,
        contract=LatencyContract(latency_s=0.02, slowdown=3.0),
        if_not_converging=IfNotConverging.THROTTLE,
        snapshots=("before-update",),
        checkpoints=("bf-1",),
        nvram=NvramPlan(f"/old-san/{vm}/nvram.fd", f"/ssd/{vm}/nvram.fd", 131072, saved),
        hang=HangPlan(Fencing(), "the guest waits for 10 s at most"),
        vtpm="/var/lib/libvirt/swtpm/x",
        buffer=4 * MiB,
        resume_after=True,
        trim=True,
    )


def ends(journal: MoveJournal, one: Plan, record: Record, outcome: Outcome) -> None:
    journal.add(one, Record(), "{}", "bob")
    journal.finish(journal.claim(one.move, Owner.here()), replace(record, outcome=outcome), Report(outcome, 12.5))


def write(journal: MoveJournal) -> None:
    kept = Kept("/old-san/web09/vda.qcow2", "d0000006", "web09", "old-san", None, 3 * GiB, "as asked", HOST)
    journal.add_kept(replace(kept, since=1.7e9, format="qcow2", fingerprint=KeptFingerprint(7, 3 * GiB, 17)))
    journal.add_kept(replace(kept, path="/old-san/web08/vda.qcow2", host=OTHER, move="d0000005", vm="web08"))
    journal.add(whole("d0000001", "web01"), Record(bandwidth=50 * MiB), "{}", "alice")
    lease = journal.claim("d0000001", Owner.here())
    copying = DiskRecord(copy=Copy(Stage.CLEAN, 7, 1), source_overlay=OverlayState.USED)
    journal.write(lease, Record(bandwidth=50 * MiB, created=("/ssd/web01/vda.qcow2",), disks={"vda": copying}))
    journal.progress(lease, Progress("copying", 1.8e9, disks=(DiskProgress("vda", "copying", 4 * GiB, GiB),)))
    going_on = replace(disk("web02"), partial_of="d0000005", partial_bytes=GiB)
    journal.add(replace(plan("d0000002", "web02", going_on), uri="qemu+ssh://kvm2/system"), Record(), "{}", "alice")
    lease = journal.claim("d0000002", Owner.here())
    journal.write(lease, Record(switch=SwitchRecord(done=True)))
    journal.release(lease)
    cloned = replace(disk("web03"), clone=True, source_overlay="/old-san/web03/o.qcow2")
    journal.add(replace(plan("d0000003", "web03", cloned), method=Method.CLONE), Record(), "{}", "bob")
    waiting = replace(plan("d0000004", "web04"), nvram=NvramPlan("/old-san/web04/n.fd", "/ssd/web04/n.fd", 131072))
    journal.add(waiting, Record(), "{}", "bob")
    lease = journal.claim("d0000004", Owner.here())
    journal.follow(lease, Record(switch=SwitchRecord(done=True), nvram=NvramRecord(True)), Report(Outcome.MOVED, 3.0))
    journal.release(lease)
    ends(journal, plan("d0000005", "web05"), Record(kept=("/ssd/web05/vda.qcow2",)), Outcome.FAILED)
    known = ReusedLayer("/old-san/t", "/ssd/t", "raw", 1, 1, {"/ssd/t": "1:1:1"}, {"/old-san/t": "2:2:2"}, known=True)
    ends(journal, plan("d0000006", "web06", replace(disk("web06"), reused=known)), Record(), Outcome.MOVED)


if __name__ == "__main__":
    journal = MoveJournal.open(sys.argv[1])
    write(journal)
    journal.close()
