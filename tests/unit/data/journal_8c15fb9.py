"""Writes the journal of `journal-8c15fb9.*.sql`, with moves under way in it. Run once, by that version's own code.

The dumps are never edited and never made anew: they are what version 8c15fb9 (schema 0002, plans of version 4) has
written. `python journal_8c15fb9.py URL`, then `sqlite3 FILE .dump` and `pg_dump --inserts --no-owner`.
"""

from __future__ import annotations

import sys
from dataclasses import replace

from blockferry.base.units import GiB, MiB
from blockferry.hosts.inventory import PowerState
from blockferry.hosts.kept import Kept, KeptFingerprint
from blockferry.jobs.outcome import Outcome, Wanted
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.plan import DiskPlan, HomeFile, HomePlan, LayerPlan, NvramPlan, Plan, ReusedLayer
from blockferry.storage_move.record import ComparedBase, Copy, OverlayState, Record, Stage
from blockferry.storage_move.request import Method, OnBreak, SourcePolicy
from blockferry.storage_move.summary import DiskProgress, Progress, Report
from blockferry.store import Owner

HOST = "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"


def disk(vm: str, target: str = "vda", store: str = "ssd") -> DiskPlan:
    return DiskPlan(
        target=target,
        source=f"/old-san/{vm}/{target}.qcow2",
        source_format="qcow2",
        source_kind="file",
        dest=f"/{store}/{vm}/{target}.qcow2",
        dest_format="qcow2",
        datastore=store,
        source_datastore="old-san",
        virtual_size=4 * GiB,
        allocation=3 * GiB,
        old_files=(f"/old-san/{vm}/{target}.qcow2",),
        resumable=True,
    )


def plan(move: str, vm: str, *disks: DiskPlan, uri: str = "qemu:///system", home: HomePlan | None = None) -> Plan:
    return Plan(
        move=move,
        uri=uri,
        vm=vm,
        uuid=f"0000{vm[-2:]}00-1111-4222-8333-444444444444",
        method=Method.CHANGED_BLOCKS,
        method_reason="for the test",
        disks=disks or (disk(vm),),
        home=home,
        persistent=True,
        was=PowerState.RUNNING,
        source=SourcePolicy(),
        on_break=OnBreak.KEEP,
    )


def finished(journal: MoveJournal, one: Plan, record: Record, outcome: Outcome) -> None:
    journal.add(one, record, "{}", "alice")
    lease = journal.claim(one.move, Owner.here())
    journal.finish(lease, replace(record, outcome=outcome), Report(outcome, 12.5, bulk_bytes=3 * GiB))


def write(journal: MoveJournal) -> None:
    layer = LayerPlan("/old-san/base.raw", "raw", "/ssd/base.raw", "raw", GiB, GiB // 2)
    template = ReusedLayer(
        "/old-san/t.raw", "/ssd/t.raw", "raw", GiB, GiB, {"/ssd/t.raw": "1:2:3"}, {"/old-san/t.raw": "4:5:6"}
    )
    copying = plan(
        "a0000001", "web01", replace(disk("web01"), layers=(layer,)), replace(disk("web01", "vdb"), reused=template)
    )
    journal.add(copying, Record(bandwidth=50 * MiB), '{"vm":"web01","to":"ssd"}', "alice")
    lease = journal.claim("a0000001", Owner.here())
    copies = {"vda": Copy(Stage.CLEAN, 7, 1), "vdb": Copy(Stage.STARTED, 7, 2)}
    journal.write(lease, Record(marked=True, created=("/ssd/web01/vda.qcow2",), copies=copies))
    done = DiskProgress("vda", "copying", 4 * GiB, 3 * GiB, 3 * GiB)
    journal.progress(lease, Progress("copying", disks=(done,), updated=1.8e9))
    journal.event("a0000001", "phase", "planned: changed-blocks, for the test")

    overlaid = replace(disk("web02"), source_overlay="/old-san/web02/o.qcow2", dest_overlay="/ssd/web02/n.qcow2")
    snapshot = replace(plan("a0000002", "web02", overlaid), method=Method.SNAPSHOT)
    journal.add(snapshot, Record(), "{}", "alice")
    lease = journal.claim("a0000002", Owner.here())
    record = Record(
        marked=True, source_layers={"vda": OverlayState.USED}, synced={"vda": ComparedBase("f", 1, 2, 3, 4.0)}
    )
    journal.write(lease, replace(record, switched=True))

    nvram = NvramPlan("/old-san/web03/nvram.fd", "/ssd/web03/nvram.fd", 131072)
    home = HomePlan(
        "ssd", "/ssd/web03", "/old-san/web03", (HomeFile("/old-san/web03/a.iso", "/ssd/web03/a.iso", "iso", 5),)
    )
    waiting = replace(plan("a0000003", "web03", home=home), nvram=nvram)
    journal.add(waiting, Record(), "{}", "bob")
    lease = journal.claim("a0000003", Owner.here())
    journal.follow(lease, Record(switched=True, following=True), Report(Outcome.MOVED, 3.0))
    journal.release(lease)

    journal.add(plan("a0000004", "web04", uri="qemu+ssh://kvm2/system"), Record(), "{}", "bob")
    lease = journal.claim("a0000004", Owner.here())
    journal.park(lease, "no space left on ssd")
    journal.release(lease)
    journal.want("a0000004", Wanted.CANCEL)

    broken = Record(kept=("/ssd/db05/vda.qcow2",))
    finished(journal, plan("b0000001", "db05"), broken, Outcome.FAILED)
    finished(journal, plan("b0000002", "db05"), broken, Outcome.CANCELLED)
    finished(journal, plan("b0000003", "db06"), Record(kept=("/ssd/db06/vda.qcow2",)), Outcome.FAILED)
    gone_on = plan("b0000004", "db06", replace(disk("db06"), partial_of="b0000003", partial_bytes=GiB))
    finished(journal, gone_on, Record(created=("/ssd/db06/vda.qcow2",)), Outcome.MOVED)
    templated = plan("b0000005", "db07", replace(disk("db07"), reused=template))
    finished(journal, templated, Record(), Outcome.MOVED)
    remote = plan("b0000006", "db08", uri="qemu+ssh://kvm2/system")
    finished(journal, remote, Record(kept=("/ssd/db08/vda.qcow2",)), Outcome.FAILED)
    fingerprint = KeptFingerprint(17, 3 * GiB, 1_700_000_000_000_000_000)
    old = Kept(
        "/old-san/db06/vda.qcow2",
        "b0000004",
        "db06",
        "old-san",
        1.9e9,
        3 * GiB,
        "kept as asked",
        HOST,
        1.8e9,
        "qcow2",
        fingerprint,
    )
    journal.add_kept(old)


if __name__ == "__main__":
    journal = MoveJournal.open(sys.argv[1])
    write(journal)
    journal.close()
