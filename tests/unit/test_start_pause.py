"""How long a guest stands still for the start of its copies, and which disks go by way of an overlay for it."""

from __future__ import annotations

import pytest

from blockferry.base.units import GiB
from blockferry.hosts.defects import Version
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Vm
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck import rules as precheck_rules
from blockferry.storage_move.precheck.finding import Finding, Severity
from blockferry.storage_move.request import IfNotConverging, LatencyContract, Method, MoveRequest, OnBreak

AFFECTED: Version = (8, 2, 2)
STORES = (
    Datastore("old", "u1", "dir", True, "/old", 9000 * GiB, 9000 * GiB),
    Datastore("ssd", "u2", "dir", True, "/ssd", 9000 * GiB, 9000 * GiB),
)


def planned(
    size: int,
    *,
    qemu: Version = AFFECTED,
    discard: str | None = "unmap",
    insisted: bool | None = None,
    persistent: bool = True,
    format: str = "qcow2",
    free: int = 9000 * GiB,
    **asked: object,
) -> tuple[dict[str, Finding], Plan | None]:
    """A VM with one disk of that size, an eighth of it in use: what is said, and the plan."""
    path = f"/old/web01/vda.{format}"
    source = DiskSource("file", path, format)
    disk = Disk("vda", "disk", "virtio", source, source, discard=discard)
    facts = Facts(
        uri="qemu:///system",
        vm=Vm("web01", "uuid", PowerState.RUNNING, persistent, (disk,)),
        datastores=STORES,
        libvirt=(10, 0, 0),
        qemu=qemu,
        chains={"vda": (Image(path, format, size, size // 8),)},
        available={"ssd": 9000 * GiB},
        source_free={"vda": free},
        suspended_start=insisted,
    )
    request = MoveRequest("web01", "ssd", **asked)  # type: ignore[arg-type]
    found, plan = precheck_rules.precheck(request, facts, "abcd")
    return {finding.code: finding for finding in found}, plan


def checked(size: int, **more: object) -> tuple[dict[str, Finding], DiskPlan | None]:
    """The same, with the plan of the only disk."""
    said, plan = planned(size, **more)  # type: ignore[arg-type]
    return said, None if plan is None else plan.disks[0]


@pytest.mark.parametrize("method", [Method.AUTO, Method.CHANGED_BLOCKS])
@pytest.mark.parametrize("size", [100 * GiB, 1024 * GiB, 16 * 1024 * GiB])
def test_a_large_disk_that_is_discarded_goes_by_way_of_an_overlay(method: Method, size: int) -> None:
    said, disk = checked(size, method=method)
    assert disk is not None
    assert disk.overlays.first
    assert "START_OVERLAY" in said
    assert "START_PAUSE" not in said


@pytest.mark.parametrize(
    ("size", "other"),
    [
        (4 * GiB, {}),
        (1024 * GiB, {"discard": None}),  # QEMU marks all of it in one step
        (1024 * GiB, {"format": "raw"}),
        (1024 * GiB, {"qemu": (7, 2, 22)}),
        (1024 * GiB, {"qemu": (10, 0, 13)}),
        (1024 * GiB, {"insisted": False}),
    ],
)
def test_a_start_that_is_short_stays_as_it_is(size: int, other: dict[str, object]) -> None:
    said, disk = checked(size, **other)
    assert disk is not None
    assert not disk.overlays.first
    assert not {"START_OVERLAY", "START_PAUSE"} & set(said)


def test_an_affected_version_can_be_simulated() -> None:
    _, disk = checked(1024 * GiB, qemu=(7, 2, 22), insisted=True)
    assert disk is not None
    assert disk.start.suspended
    assert disk.overlays.first


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ({"method": Method.MIRROR}, "a mirror never goes by way of an overlay"),
        ({"persistent": False}, "web01 is transient"),
        ({"contract": LatencyContract(latency_s=0.02)}, "minds no latency contract"),
        ({"if_not_converging": IfNotConverging.MIRROR}, "may have to go over to a mirror"),
    ],
)
def test_without_an_overlay_the_pause_is_said_and_refused_if_it_is_long(other: dict[str, object], reason: str) -> None:
    said, disk = checked(60 * GiB, **other)
    assert disk is not None
    assert not disk.overlays.first
    assert said["START_PAUSE"].severity is Severity.WARNING
    assert reason in said["START_PAUSE"].text
    assert disk.start.pause_s == pytest.approx(0.55, abs=0.1)
    said, disk = checked(1024 * GiB, **other)
    assert disk is None
    assert said["START_PAUSE"].severity is Severity.ERROR
    assert "for about 8" in said["START_PAUSE"].text


def test_a_copy_by_way_of_an_overlay_never_goes_over_to_a_mirror() -> None:
    for discard, policy in ((None, IfNotConverging.MIRROR), ("unmap", IfNotConverging.WAIT)):
        plan = planned(1024 * GiB, discard=discard)[1]
        assert plan is not None
        assert plan.pace.if_not_converging is policy


@pytest.mark.parametrize(
    ("size", "asked", "said"),
    [
        (16 * GiB, {}, True),
        (4 * GiB, {}, False),  # 512 MiB of data: it is over before a checkpoint is due
        (4 * GiB, {"on_break": OnBreak.KEEP}, True),
        (16 * GiB, {"on_break": OnBreak.REMOVE}, False),
        (16 * GiB, {"method": Method.SNAPSHOT}, False),
        (16 * GiB, {"method": Method.MIRROR}, False),
        (16 * GiB, {"contract": LatencyContract(latency_s=0.02)}, False),
        (16 * GiB, {"format": "raw"}, False),
        (1024 * GiB, {"qemu": AFFECTED}, False),  # it goes by way of an overlay
    ],
)
def test_the_pauses_of_checkpoints_are_told(size: int, asked: dict[str, object], said: bool) -> None:
    found, plan = planned(size, **{"qemu": (10, 0, 13), **asked})  # type: ignore[arg-type]
    assert plan is not None
    assert ("CHECKPOINT_PAUSES" in found) is said


@pytest.mark.parametrize(("size", "by_overlay"), [(50 * GiB, False), (1024 * GiB, True)])
def test_a_short_pause_is_better_than_an_overlay_on_a_nearly_full_datastore(size: int, by_overlay: bool) -> None:
    """A full datastore is what people move away from; an overlay that fills it stops the guest."""
    said, disk = checked(size, free=size // 20)
    assert disk is not None
    assert disk.overlays.first is by_overlay
    assert ("START_PAUSE" in said) is not by_overlay
