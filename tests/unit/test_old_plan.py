"""Flat plans, as versions up to 8 wrote them and as `--json` shows them: read whole, and shown as they were."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import msgspec
import pytest
import sqlalchemy as sa
from effort import examples
from hypothesis import given, settings
from hypothesis import strategies as st
from journal_support import changing, disk_plan, load_dump, make_plan

from blockferry.base.units import GiB, KiB, MiB
from blockferry.client import MoveSummary, from_json, to_json
from blockferry.hosts.datastore_id import DatastoreId, Directory, SpaceId, SpaceKind
from blockferry.hosts.fencing import Fencing
from blockferry.hosts.inventory import PowerState, Secret
from blockferry.jobs.outcome import Outcome
from blockferry.storage_move import old_plan
from blockferry.storage_move.destination.plan import DestinationImage, ReleasePlan
from blockferry.storage_move.disk_plan import (
    CopyPlan,
    DiskPlan,
    DiskSizes,
    EncryptionPlan,
    LuksPlan,
    SourceImage,
    StartPlan,
)
from blockferry.storage_move.disk_record import Stage
from blockferry.storage_move.firmware.plan import FirmwarePlan, ManagedSavePlan, NvramPlan
from blockferry.storage_move.home.plan import HomeFile, HomePlan, StayingFile
from blockferry.storage_move.move_journal import MoveJournal
from blockferry.storage_move.move_kind import MoveKind
from blockferry.storage_move.overlays.plan import OverlaysPlan, PartialPlan
from blockferry.storage_move.pace.plan import PacePlan
from blockferry.storage_move.plan import PLAN_VERSION, DomainPlan, HangPlan, OutagePlan, Plan
from blockferry.storage_move.record import Record
from blockferry.storage_move.request import (
    ChainPolicy,
    IfNotConverging,
    LatencyContract,
    Method,
    OnBreak,
    SourcePolicy,
)
from blockferry.storage_move.summary import Report
from blockferry.storage_move.templates.plan import ChainPlan, LayerPlan, ReusedLayer
from blockferry.store import Owner

pytest_plugins = ("journal_plugin",)

HOST = "6f0c1d9e-aaaa-4bbb-8ccc-000000000001"
LOCAL = SpaceId(SpaceKind.BLOCK, "0b5a1c2d-3333-4444-8555-000000000003", "", HOST)
MOVES = ["d0000001", "d0000002", "d0000003", "d0000004", "d0000005", "d0000006"]

LAYERED = DiskPlan(
    "vda",
    SourceImage(
        "/old-san/web01/vda.qcow2",
        "qcow2",
        "file",
        "old-san",
        "old-san/vda.qcow2",
        ("/old-san/web01/vda.dat",),
        has_bitmaps=True,
    ),
    DestinationImage(
        "/ssd/web01/vda.qcow2",
        "qcow2",
        "ssd",
        thick=True,
        preallocation="metadata",
        cluster_size=64 * KiB,
        extended_l2=True,
    ),
    DiskSizes(4 * GiB, 3 * GiB, 2 * GiB, 2 * GiB + MiB),
    ChainPlan(
        (LayerPlan("/old-san/b.qcow2", "qcow2", "/ssd/b.qcow2", "qcow2", 2 * GiB, GiB, 512 * MiB, 600 * MiB),),
        ("/ssd/b.qcow2", "qcow2"),
        ("/ssd/t.raw", "raw"),
        ReusedLayer(
            "/old-san/t.raw",
            "/ssd/t.raw",
            "raw",
            2 * GiB,
            GiB,
            {"/ssd/t.raw": "1:2:3"},
            {"/old-san/t.raw": "4:5:6"},
            7.5,
        ),
    ),
    ReleasePlan(("/old-san/web01/vda.qcow2", "/old-san/b.qcow2", "/old-san/b.dat"), ("/old-san/b.dat",)),
    CopyPlan(resumable=True, granularity=64 * KiB, cache="none"),
    StartPlan(suspended=False, pause_s=0.25, overlay_suspended=False),
    OverlaysPlan("/old-san/web01/vda.o.qcow2", "/ssd/web01/vda.n.qcow2", first=True),
)
SEALED = DiskPlan(
    "vdb",
    SourceImage("/old-san/web01/vdb.qcow2", "raw", "block", None),
    DestinationImage("/ssd/web01/vdb.qcow2", "raw", "ssd"),
    DiskSizes(4 * GiB, 3 * GiB),
    release=ReleasePlan(("/old-san/web01/vdb.qcow2",)),
    copy=CopyPlan(as_is=True),
    encryption=EncryptionPlan(
        sealed=True, luks=LuksPlan(2 * MiB, Secret("uuid", "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"))
    ),
)
WHOLE = Plan(
    move="d0000001",
    uri="qemu:///system",
    vm="web01",
    uuid="00000100-1111-4222-8333-444444444444",
    method=Method.CHANGED_BLOCKS,
    method_reason="for the test",
    disks=(LAYERED, SEALED),
    domain=DomainPlan(
        persistent=False, was=PowerState.PAUSED, resume_after=True, snapshots=("before-update",), checkpoints=("bf-1",)
    ),
    source=SourcePolicy(delete=False, keep_s=3600.0, explicit=True, shared="others use it"),
    home=HomePlan(
        "ssd",
        "/ssd/web01",
        "/old-san/web01",
        (HomeFile("/old-san/web01/a.iso", "/ssd/web01/a.iso", "iso", 5, "sda"),),
        (StayingFile("/old-san/web01/x", "it is a pipe"),),
    ),
    version=8,
    host=HOST,
    host_name="kvm1",
    chain=ChainPolicy.KEEP,
    verify=True,
    trim=True,
    pace=PacePlan(
        50 * MiB,
        4 * MiB,
        LatencyContract(latency_s=0.02, slowdown=3.0),
        IfNotConverging.THROTTLE,
        background_only=True,
    ),
    firmware=FirmwarePlan(
        NvramPlan(
            "/old-san/web01/nvram.fd",
            "/ssd/web01/nvram.fd",
            131072,
            ManagedSavePlan("/var/lib/libvirt/qemu/save/web01.save", GiB, 1e8, 11.0),
        ),
        "/var/lib/libvirt/swtpm/x",
    ),
    outage=OutagePlan(OnBreak.KEEP, HangPlan(Fencing(), "the guest waits for 10 s at most")),
    directories={
        "ssd": Directory("/ssd", DatastoreId(SpaceId(SpaceKind.NETWORK, "nas", "/vol"), "/fast")),
        "old-san": Directory("/old-san", DatastoreId(LOCAL, "/images")),
    },
)


@pytest.fixture
def upgraded(url: str) -> Iterator[MoveJournal]:
    """The journal that version 31498e9 has left, in both databases."""
    load_dump(url, "31498e9")
    with closing(MoveJournal.open(url)) as journal:
        yield journal


def test_a_flat_plan_is_read_whole(upgraded: MoveJournal) -> None:
    assert upgraded.get("d0000001").plan == WHOLE
    going_on, cloned, waiting = (upgraded.get(move).plan for move in MOVES[1:4])
    assert going_on.disk("vda").partial == PartialPlan("d0000005", GiB)
    assert cloned.disk("vda").copy == CopyPlan(clone=True)
    assert waiting.firmware == FirmwarePlan(NvramPlan("/old-san/web04/n.fd", "/ssd/web04/n.fd", 131072))
    reused = upgraded.get("d0000006").plan.disk("vda").chain.reused
    assert reused is not None
    assert reused.known


def test_moves_under_way_go_on(upgraded: MoveJournal) -> None:
    assert [(move_summary.id, move_summary.state) for move_summary in upgraded.unfinished()] == [
        ("d0000001", "interrupted"),
        ("d0000002", "interrupted"),
        ("d0000003", "interrupted"),
        ("d0000004", "waiting"),
    ]
    assert upgraded.get("d0000001").record.disk("vda").copy.stage is Stage.CLEAN
    assert upgraded.get("d0000002").record.switch.done
    lease = upgraded.claim("d0000001", Owner.here())
    upgraded.finish(lease, Record(outcome=Outcome.FAILED, kept=("/ssd/web01/vda.qcow2",)), Report(Outcome.FAILED, 1.0))
    assert upgraded.partials(WHOLE.uuid, HOST)["/ssd/web01/vda.qcow2"].move == "d0000001"


def test_what_json_shows_is_what_it_showed(upgraded: MoveJournal, url: str) -> None:
    """The plan's own text, as version 8 wrote and showed it, of every move."""
    kind = MoveKind()
    with changing(url) as connection:
        rows = connection.execute(sa.text("SELECT id, plan FROM moves ORDER BY id")).all()
    assert [row.id for row in rows] == MOVES
    for move, text in rows:
        plan = kind.read_plan(text)
        shown = json.loads(json.dumps(to_json(plan)))
        assert [disk.pop("partial_old") for disk in shown["disks"]] == [None] * len(plan.disks), "new since"
        assert shown == json.loads(text), move
        assert from_json(Plan, to_json(plan)) == plan, move


@settings(max_examples=examples(100))
@given(st.from_type(old_plan.FlatPlan))
def test_no_field_is_lost_on_the_way(flat: old_plan.FlatPlan) -> None:
    assert old_plan.flat(old_plan.today(flat)) == flat


@settings(max_examples=examples(100))
@given(st.from_type(Plan))
def test_nor_on_the_way_back(plan: Plan) -> None:
    assert old_plan.today(old_plan.flat(plan)) == plan


def test_a_plan_of_today_is_written_in_parts(upgraded: MoveJournal) -> None:
    """An older version cannot read it, and says so by its name."""
    plan = make_plan("e1", disks=(disk_plan(),))
    summary = upgraded.add(plan, Record(), "{}", "alice")
    assert (summary.plan, summary.plan.version) == (plan, PLAN_VERSION)
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(plan), type=old_plan.FlatPlan)
    assert from_json(MoveSummary, to_json(summary)) == summary
