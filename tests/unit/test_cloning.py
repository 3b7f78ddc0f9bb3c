"""Which disks are cloned: what `auto` makes of it, what is refused by name, and what must never be cloned live."""

from __future__ import annotations

from dataclasses import replace

import pytest

from blockferry.base.units import GiB, MiB
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Secret, Vm
from blockferry.storage_move.facts import Facts
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.request import LatencyContract, Method, MoveRequest, Preallocation, Provision, SourcePolicy

STORE = Datastore("ssd", "u", "dir", True, "/ssd", 100 * GiB, 100 * GiB)
RAW = Image("/san/vda.raw", "raw", 8 * MiB, 4 * MiB)
QCOW2 = Image("/san/vda.qcow2", "qcow2", 8 * MiB, 4 * MiB, cluster_size=64 << 10, compat="1.1")
TO = MoveRequest("web01", "ssd")
RUNNING, OFF = PowerState.RUNNING, PowerState.OFF


def facts(
    image: Image = QCOW2, state: PowerState = RUNNING, why_not: str = "", free: int = 100 * GiB, **more: object
) -> Facts:
    source = DiskSource("file", image.path, image.format)
    disk = Disk("vda", "disk", "virtio", source if state.active else None, source)
    facts = Facts(
        "qemu:///system", Vm("web01", "u", state, True, (disk,)), (STORE,), (9, 0, 0), (7, 2, 0), {"vda": (image,)},
        available={"ssd": free}, clones={"vda": why_not}, filesystems={image.path: "xfs"},
    )  # fmt: skip
    return replace(facts, **more)  # type: ignore[arg-type]


def planned(request: MoveRequest, seen: Facts) -> tuple[set[str], Plan | None]:
    findings, plan = precheck(request, seen, "abcd")
    return {found.code for found in findings}, plan


def method(request: MoveRequest, seen: Facts) -> Method:
    _, plan = planned(request, seen)
    assert plan is not None
    assert plan.disks[0].copy.clone == (
        plan.method is Method.CLONE or (plan.method is Method.COLD and not seen.clones["vda"])
    )
    return plan.method


@pytest.mark.parametrize("image", [RAW, QCOW2])
def test_auto_clones_where_the_file_system_can(image: Image) -> None:
    assert method(TO, facts(image)) is Method.CLONE
    assert method(TO, facts(image, OFF)) is Method.COLD
    assert method(TO, facts(image, why_not="they are on two file systems")) is Method.CHANGED_BLOCKS


def test_a_disk_larger_than_the_free_space_is_cloned() -> None:
    codes, plan = planned(TO, facts(replace(QCOW2, allocation=8 * GiB, virtual_size=8 * GiB), free=GiB))
    assert plan is not None
    assert "CLONE_SHARES" in codes
    assert "DESTINATION_FULL" in planned(replace(TO, method=Method.MIRROR), facts(replace(QCOW2, allocation=8 * GiB, virtual_size=8 * GiB), free=GiB))[0]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    "more",
    [
        {"format": "raw"},
        {"provision": Provision.THICK},
        {"preallocation": Preallocation.METADATA},
        {"cluster_size": 2 << 20},
        {"contract": LatencyContract(latency_s=0.02)},
    ],
)
def test_what_is_to_change_on_the_way_is_not_cloned(more: dict[str, object]) -> None:
    request = replace(TO, **more)  # type: ignore[arg-type]
    assert method(request, facts()) is not Method.CLONE
    codes, plan = planned(replace(request, method=Method.CLONE), facts())
    assert plan is None
    assert "METHOD_CLONE" in codes


def test_what_has_bitmaps_is_not_cloned_while_it_runs() -> None:
    """An overlay would inherit them, and the clone's would miss what the guest writes meanwhile."""
    seen = facts()
    with_checkpoint = replace(seen, vm=replace(seen.vm, checkpoints=("monday",)))
    assert method(TO, with_checkpoint) is Method.CHANGED_BLOCKS
    assert "METHOD_CLONE" in planned(replace(TO, method=Method.CLONE), with_checkpoint)[0]


def test_an_encrypted_disk_of_a_running_vm_is_never_cloned() -> None:
    """The overlay above it would hold in the clear what the guest writes."""
    seen = facts(RAW, luks_headers={"vda": 2 * MiB})
    (disk,) = seen.vm.disks
    sealed = replace(disk, encrypted=True, secret=Secret("uuid", "0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"))
    seen = replace(seen, vm=replace(seen.vm, disks=(sealed,)))
    _, plan = planned(TO, seen)
    assert plan is not None
    assert plan.method is Method.CHANGED_BLOCKS
    assert not plan.disks[0].copy.clone
    assert not plan.disks[0].overlays.source
    codes, plan = planned(replace(TO, method=Method.CLONE), seen)
    assert plan is None
    assert "METHOD_CLONE" in codes


def test_a_kept_disk_that_could_fill_the_datastore_is_a_warning() -> None:
    keep = replace(TO, source=SourcePolicy(delete=False))
    for request, free, severity in ((keep, MiB, "warning"), (keep, GiB, "info"), (TO, MiB, "info")):
        findings, _ = precheck(
            request, facts(free=free + 20 * MiB, image=replace(QCOW2, virtual_size=64 * MiB)), "abcd"
        )
        assert [finding.severity.value for finding in findings if finding.code == "CLONE_SHARES"] == [severity]
