"""Whether a move fits: what images, home files and other moves take; two moves that count on the same room."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockferry.base.units import GiB, KiB, MiB
from blockferry.hosts.helper import paths
from blockferry.hosts.images import qemu_img
from blockferry.hosts.inventory import Datastore, Disk, DiskSource, Image, PowerState, Vm
from blockferry.hosts.runner import LocalRunner
from blockferry.storage_move.disk_plan import DiskPlan
from blockferry.storage_move.facts import Facts, Measured, SmallFile
from blockferry.storage_move.overlays.passes import CopyProgress
from blockferry.storage_move.plan import Plan
from blockferry.storage_move.precheck import space
from blockferry.storage_move.precheck.rules import precheck
from blockferry.storage_move.request import Method, MoveRequest, Provision

R = LocalRunner()
TO = MoveRequest("web01", "ssd")


def facts(
    data: int = 600 * MiB,
    allocation: int = 2 * MiB,
    state: PowerState = PowerState.OFF,
    source_format: str = "qcow2",
    free: int = 10 * GiB,
    **more: object,
) -> Facts:
    """A disk of 1 GiB; by default a compressed qcow2: 2 MiB in the file, 600 MiB in a copy."""
    source = DiskSource("file", "/old/web01/vda.img", source_format)
    disk = Disk("vda", "disk", "virtio", source if state.active else None, source)
    stores = (
        Datastore("old", "u1", "dir", True, "/old", 100 * GiB, 50 * GiB),
        Datastore("ssd", "u2", "dir", True, "/ssd", 100 * GiB, free, file_system="8:1"),
        Datastore("iso", "u3", "dir", True, "/iso", 100 * GiB, free, file_system="8:1"),
    )
    tables = 2 * MiB
    known = Facts(
        "qemu:///system", Vm("web01", "u", state, True, (disk,)), stores, (9, 0, 0), (7, 2, 22),
        {"vda": (Image("/old/web01/vda.img", source_format, GiB, allocation, compat="1.1"),)},
        measured={"vda": Measured(data, data + tables, GiB + tables)},
        available={"ssd": free, "iso": free, "old": 50 * GiB},
    )  # fmt: skip
    return replace(known, **more)  # type: ignore[arg-type]


def check(request: MoveRequest, known: Facts) -> tuple[set[str], Plan | None]:
    found, plan = precheck(request, known, "0123abcd")
    return {finding.code for finding in found}, plan


def one_disk(request: MoveRequest, known: Facts) -> DiskPlan:
    codes, plan = check(request, known)
    assert plan is not None, codes
    return plan.disks[0]


RUNNING = PowerState.RUNNING


@pytest.mark.parametrize(
    ("request_", "known", "copied", "taken"),
    [
        (TO, facts(), 600, 603),  # compressed: what it holds, not what the file takes
        (replace(TO, format="raw"), facts(), 600, 601),
        (replace(TO, format="vmdk"), facts(), 600, 602),
        (replace(TO, provision=Provision.THICK), facts(), 600, 1027),
        (replace(TO, provision=Provision.THICK, format="raw"), facts(), 600, 1025),
        (replace(TO, format="raw"), facts(state=RUNNING, no_holes=frozenset({"ssd"})), 600, 1025),
        (replace(TO, format="raw"), facts(no_holes=frozenset({"ssd"})), 600, 601),
        (TO, facts(state=RUNNING, no_holes=frozenset({"ssd"})), 600, 603),
        (TO, facts(measured={}, allocation=5 * MiB), 5, 6),  # not measured: what is allocated
    ],
)
def test_what_a_disk_takes(request_: MoveRequest, known: Facts, copied: int, taken: int) -> None:
    disk = one_disk(request_, known)
    assert disk.copy_bytes == copied * MiB
    assert space.needed(disk) // MiB == taken


def test_a_compressed_image_that_does_not_fit_is_refused() -> None:
    codes, plan = check(TO, facts(free=300 * MiB))
    assert plan is None
    assert "DESTINATION_FULL" in codes


def test_home_files_count() -> None:
    iso = SmallFile("/old/web01/install.iso", 250 * MiB)
    known = facts(free=700 * MiB, home_files=(iso,), home_source="/old/web01")
    codes, plan = check(TO, known)
    assert plan is None
    assert "DESTINATION_FULL" in codes
    elsewhere, plan = check(replace(TO, home="old"), replace(known, home_source="/iso/web01"))
    assert plan is not None, elsewhere
    assert space.needs(plan.disks, plan.home, plan.firmware.nvram)["old"] == 250 * MiB


def test_pools_on_one_file_system_share_its_room() -> None:
    promised = facts(free=700 * MiB, reserved={"iso": 200 * MiB})
    codes, plan = check(TO, promised)
    assert plan is None
    assert "DESTINATION_FULL" in codes
    assert check(TO, facts(free=700 * MiB, reserved={"old": 200 * MiB}))[1] is not None


def test_an_overlay_needs_room_beside_the_source() -> None:
    known = facts(state=RUNNING, source_free={"vda": 4 * MiB})
    codes, plan = check(replace(TO, method=Method.SNAPSHOT), known)
    assert plan is None
    assert "OVERLAY_SPACE" in codes
    assert check(replace(TO, method=Method.CHANGED_BLOCKS), known)[1] is not None
    little = facts(state=RUNNING, source_free={"vda": 50 * MiB})
    codes, plan = check(replace(TO, method=Method.SNAPSHOT), little)
    assert plan is not None
    assert "OVERLAY_SPACE" in codes


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["ssd", "iso", "old"]), st.integers(0, 100)), max_size=6),
    st.integers(0, 300),
)
def test_newcomers_fit_or_are_told(others: list[tuple[str, int]], left: int) -> None:
    room = space.NeededSpace(
        {"ssd": left}, {"ssd": ("ssd", "iso")}, frozenset(), 0.0, dict.fromkeys(("ssd", "iso", "old"))
    )
    taken = sum(size for store, size in others if store in ("ssd", "iso"))
    promises = [space.Promise(store, size) for store, size in others]
    assert (room.overdrawn(promises) == "ssd") is (taken > left)


def test_what_a_job_counts_is_shown_as_what_is_copied() -> None:
    """QEMU goes over all of a raw disk: 600 MiB of data in 1 GiB. The total neither shrinks nor grows by that."""
    progress = CopyProgress()
    for now_s, cur in enumerate((0, 256, 512, 1024)):
        progress = progress.sample(float(now_s), cur * MiB, GiB)
        shown = progress.planned_as(600 * MiB)
        assert shown.end == 600 * MiB
        assert shown.cur == cur * MiB * 600 // 1024
    more = progress.sample(4.0, GiB, GiB + 10 * MiB).planned_as(600 * MiB)
    assert (more.end, more.cur) == (610 * MiB, 600 * MiB), "what the guest changed is counted as it is"
    exact = CopyProgress().sample(0.0, 0, 500 * MiB).planned_as(600 * MiB)
    assert exact.end == 500 * MiB


def test_what_is_measured_is_what_a_copy_takes(tmp_path: Path) -> None:
    """The second opinion: an image is really converted."""
    plain, packed = tmp_path / "plain.raw", tmp_path / "packed.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "raw", plain, "64M"], check=True)
    words = ["qemu-io", "-f", "raw", "-c", "write -q -P 7 1M 8M", "-c", "write -q -P 9 40M 3M", str(plain)]
    subprocess.run(words, check=True, capture_output=True)
    subprocess.run(["qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", plain, packed], check=True)
    assert packed.stat().st_size < MiB
    for source, kind in ((plain, "raw"), (packed, "qcow2")):
        for cluster in (64 * KiB, 4 * KiB):
            found = qemu_img.measure(R, str(source), kind, [f"cluster_size={cluster}"])
            assert 11 * MiB <= found.data(64 * MiB, cluster) <= 11 * MiB + 128 * KiB  # holes are of whole blocks
            copy = tmp_path / "copy.qcow2"
            options = f"cluster_size={cluster}"
            words = ["qemu-img", "convert", "-f", kind, "-O", "qcow2", "-o", options, str(source), str(copy)]
            subprocess.run(words, check=True)
            taken = copy.stat().st_blocks * 512
            assert taken <= found.required
            assert taken > found.required - 2 * MiB


def test_whether_files_can_have_holes(tmp_path: Path) -> None:
    assert paths.holes(R, [str(tmp_path), "/proc/no-such"]) == {str(tmp_path): True, "/proc/no-such": None}
    assert list(tmp_path.iterdir()) == []
