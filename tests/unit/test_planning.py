"""What the pre-check says of moves under way, old disks in quarantine, and what a format cannot hold: tables."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from blockferry.base.units import GiB, MiB
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, Mirror, PowerState, Vm
from blockferry.hosts.kept import Kept
from blockferry.storage_move.facts import Facts, KeptDisk, Measured, Partial
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.finding import Finding
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import ChainPolicy, Method, MoveRequest
from blockferry.storage_move.summary import DiskProgress, MoveSummary, Progress
from blockferry.storage_move.switch.record import SwitchRecord

TOP = "/ssd/web01/vda.qcow2"
OLD = "/old/web01/vda.qcow2"
TO = MoveRequest("web01", "old")
RUNNING, OFF = PowerState.RUNNING, PowerState.OFF


def facts(state: PowerState = OFF, image: Image | None = None, **more: object) -> Facts:
    source = DiskSource("file", TOP, "qcow2")
    disk = Disk("vda", "disk", "virtio", source if state.active else None, source)
    top = image or Image(TOP, "qcow2", GiB, 200 * MiB, compat="1.1")
    known = Facts(
        "qemu:///system", Vm("web01", "u", state, True, (disk,)),
        (
            Datastore("old", "u1", "dir", True, "/old", 100 * GiB, 50 * GiB),
            Datastore("ssd", "u2", "dir", True, "/ssd", 100 * GiB, 50 * GiB),
        ),
        (9, 0, 0), (7, 2, 22), {"vda": (top,)}, available={"old": 50 * GiB}, home_source="/ssd/web01",
    )  # fmt: skip
    return replace(known, **more)  # type: ignore[arg-type]


def check(request: MoveRequest, known: Facts) -> tuple[dict[str, Finding], Plan | None]:
    found, plan = precheck(request, known, "0123abcd")
    return {finding.code: finding for finding in found}, plan


KEPT = KeptDisk(OLD, "vda", "cafe0001", 5.0, "qcow2", 190 * MiB)
ROW = Kept(OLD, "cafe0001", "web01", "old", None, 190 * MiB, "kept as asked; nothing here uses it", since=5.0)
COPY = Partial("cafe0001", "qcow2", GiB, 190 * MiB, "vda", row=ROW)
HERE: dict[str, Any] = {"existing": frozenset({OLD}), "kept": {OLD: KEPT}}
USED: dict[str, Any] = {**HERE, "partials": {OLD: COPY}}
ASKED = replace(TO, use_kept=True)


@pytest.mark.parametrize(
    ("request_", "known", "code", "dest"),
    [
        (TO, facts(**HERE), "KEPT_HERE", "/old/web01/web01-vda.qcow2"),
        (ASKED, facts(**USED), "KEPT_USED", OLD),
        (ASKED, facts(RUNNING, **USED), "KEPT_USED", OLD),
        (ASKED, facts(), None, OLD),
        (ASKED, facts(**{**HERE, "kept": {OLD: replace(KEPT, problem="it was changed")}}), "KEPT_UNUSED", None),
        (ASKED, facts(**{**USED, "partials": {OLD: replace(COPY, virtual_size=2 * GiB)}}), "KEPT_UNUSED", None),
        (replace(ASKED, format="raw"), facts(**USED), "KEPT_UNUSED", "/old/web01/vda.raw"),
        (replace(ASKED, method=Method.MIRROR), facts(RUNNING, **USED), "KEPT_UNUSED", None),
        (ASKED, facts(compare_problem="no libnbd", **USED), "KEPT_UNUSED", None),
        (ASKED, facts(image=Image(TOP, "qcow2", GiB, MiB, bitmaps=("b",), compat="1.1"), **USED), "KEPT_UNUSED", None),
    ],
)
def test_an_old_disk_is_used_only_where_asked_and_never_replaced(
    request_: MoveRequest, known: Facts, code: str | None, dest: str | None
) -> None:
    codes, plan = check(request_, known)
    if plan is None:  # an error besides (libnbd)
        assert known.compare_problem
        return
    said = {one for one in codes if one.startswith("KEPT")}
    assert said == ({code} if code else set())
    disk = plan.disks[0]
    if dest is not None:
        assert disk.dest.path == dest
    if known.existing:
        assert (disk.dest.path == OLD) is (code == "KEPT_USED"), "what is not gone on with would be replaced"
    assert (disk.partial.move == "cafe0001") is (code == "KEPT_USED")


def summary(**more: object) -> MoveSummary:
    _, plan = check(replace(TO), facts(RUNNING))
    assert plan is not None
    progress = Progress("copy", disks=(DiskProgress("vda", "copying", 200, 52),))
    move_summary = MoveSummary("ef44813f", plan, Record(), progress, 0.0, None, "root@kvm1 pid 1", True)
    return replace(move_summary, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("move", "text", "remedy"),
    [
        (
            summary(),
            "web01 is already being moved to old (ef44813f, 26 %).",
            "Follow: `blockferry watch web01`. Stop: `blockferry cancel web01`.",
        ),
        (
            summary(record=Record(switch=SwitchRecord(done=True))),
            "web01 is already being moved to old (ef44813f, 26 %).",
            "Follow: `blockferry watch web01`.",
        ),
        (
            summary(parked="disk vda is elsewhere."),
            "The move ef44813f of web01 to old is parked: disk vda is elsewhere.",
            "Go on: `blockferry resume web01`. Stop: `blockferry cancel web01`.",
        ),
        (
            summary(progress=Progress()),
            "web01 is already being moved to old (ef44813f).",
            "Follow: `blockferry watch web01`. Stop: `blockferry cancel web01`.",
        ),
    ],
)
def test_a_move_under_way_is_all_that_is_said(move: MoveSummary, text: str, remedy: str) -> None:
    known = facts(RUNNING, other_move=move.id, under_way=move, chains={}, problems={"vda": "locked"})
    found, plan = precheck(TO, known, "0123abcd")
    assert plan is None
    [finding] = found
    assert (finding.code, finding.text, finding.remedy) == ("MOVE_UNDER_WAY", text, remedy)


def test_that_libvirt_has_lost_a_vm_is_said_before_the_move_that_has_it() -> None:
    """Of another journal's move nothing else is known here; it said MOVE_UNDER_WAY only, as if the VM were off."""
    cases: list[dict[str, Any]] = [
        {"other_move": "cafe0001"}, {"other_move": "ef44813f", "under_way": summary(parked="lost.")},
    ]  # fmt: skip
    for more in cases:
        found, plan = precheck(TO, facts(lost_process=4711, **more), "0123abcd")
        assert plan is None
        assert [finding.code for finding in found] == ["VM_LOST", "MOVE_UNDER_WAY"]
        assert "process 4711" in found[0].text
    found, _ = precheck(TO, facts(off_doubt="no grep", other_move="cafe0001"), "0123abcd")
    assert [finding.code for finding in found] == ["POWER_UNSURE", "MOVE_UNDER_WAY"]


@pytest.mark.parametrize(
    ("disk", "command"),
    [
        ({"mirror": Mirror("copy", "/x", "raw", False)}, "virsh blockjob web01 vda --abort"),
        ({"other_job": "a block pull"}, "virsh blockjob web01 vda --abort"),
        ({"other_job": "a backup"}, "virsh domjobabort web01"),
    ],
)
def test_a_foreign_job_is_ended_by_the_command_that_is_named(disk: dict[str, object], command: str) -> None:
    known = facts(RUNNING)
    busy = replace(known.vm.disks[0], **disk)  # type: ignore[arg-type]
    codes, _ = check(TO, replace(known, vm=replace(known.vm, disks=(busy,))))
    assert command in codes["JOB_ON_DISK"].remedy


BITMAPS = Image(TOP, "qcow2", GiB, MiB, bitmaps=("b0",), compat="1.1")


@pytest.mark.parametrize(
    ("request_", "image", "measured", "codes"),
    [
        (replace(TO, format="raw"), BITMAPS, MiB, {"BITMAPS_LOST"}),
        (TO, BITMAPS, MiB, set()),
        (TO, Image(TOP, "qcow2", GiB, 2 * MiB, compat="1.1"), 600 * MiB, {"COMPRESSION_LOST"}),
        (TO, Image(TOP, "qcow2", GiB, 600 * MiB, compat="1.1"), 600 * MiB, set()),
    ],
)
def test_what_the_new_image_cannot_hold(request_: MoveRequest, image: Image, measured: int, codes: set[str]) -> None:
    known = facts(image=image, measured={"vda": Measured(measured, measured + MiB, GiB + MiB)})
    found, plan = check(request_, known)
    assert plan is not None
    assert {one for one in found if one.endswith("_LOST")} == codes
    lower = Image("/ssd/web01/base.qcow2", "qcow2", GiB, MiB, bitmaps=("deep",), compat="1.1")
    chain = (Image(TOP, "qcow2", GiB, MiB, backing_path=lower.path, compat="1.1"), lower)
    found, _ = check(TO, facts(chains={"vda": chain}))
    assert "deep" in found["BITMAPS_LOST"].text
    found, _ = check(replace(TO, chain=ChainPolicy.KEEP), facts(chains={"vda": chain}))
    assert "BITMAPS_LOST" not in found
