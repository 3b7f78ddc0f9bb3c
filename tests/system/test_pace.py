"""A guest's latency contract, and a guest that outruns its copy: on real guests, under the judge.

No time is asserted. What a test needs to be slow is made slow by a limit: the owner's on the guest's disk, or ours.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab import FLAT_OUT, Datastore, Disk, Guest
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage

pytestmark = pytest.mark.lab

MIB = 1024 * 1024
OUTRUN = ("--method", "changed-blocks", "--bandwidth", "3MiB/s")
"""A guest that writes flat out changes more than that, all over its small disk."""

Sail = Callable[..., tuple[Voyage, Guest]]


@pytest.fixture
def sail(make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore) -> Sail:
    def make(size: str, rate: int = 300, kind: str = "qcow2") -> tuple[Voyage, Guest]:
        disk = Disk("vda", old_san, kind, size=size, fill="16MiB" if kind == "qcow2" else size)
        guest = make_guest([disk], start=True)
        voyage = Voyage(guest, line, stores)
        voyage.write(rate)
        return voyage, guest

    return make


def limits(guest: Guest, target: str = "vda") -> dict[str, str]:
    """A disk's limits, by virsh."""
    rows = guest.host.virsh("blkdeviotune", guest.name, target).splitlines()
    return {name.strip(): value.strip() for name, colon, value in (row.partition(":") for row in rows) if colon}


def write_limit(guest: Guest, target: str = "vda") -> int:
    """What the guest may write in a second; 0 for no limit."""
    return int(limits(guest, target)["write_bytes_sec"])


def set_write_limit(guest: Guest, bytes_per_s: int) -> None:
    guest.host.virsh("blkdeviotune", guest.name, "vda", "--write-bytes-sec", str(bytes_per_s), "--live")


def job_speed(guest: Guest) -> int | None:
    """Bytes/s that libvirt says of the copy of vda; None without one."""
    said = guest.host.virsh("blockjob", guest.name, "vda", "--info", "--raw", "--bytes", check=False)
    values = dict(row.strip().split("=", 1) for row in said.splitlines() if "=" in row)
    return int(values["bandwidth"]) if "bandwidth" in values else None


def test_a_contract_is_kept_and_reported(sail: Sail, line: Line, ssd: Datastore) -> None:
    voyage, _guest = sail("256MiB", kind="raw")
    said = line.must("move", voyage.name, "--to", "ssd", "--guest-latency", "500ms")
    voyage.moved_all(ssd)
    voyage.assert_well()
    plan, told = said.move["plan"], said.move["report"]["guest"]
    assert plan["method"] == "changed-blocks"
    assert "contract" in plan["method_reason"]
    assert told["limit_s"] == 0.5
    assert told["before"]["writes"] > 0
    assert told["during"]["writes"] > 0
    assert 0 < told["before"]["p50_s"] <= told["before"]["p99_s"]
    assert any("before the copy:" in row for row in line.story(said.move["id"]))
    voyage.power_cycle()


def test_a_guest_that_is_slow_by_itself_has_the_copy_go_at_its_least_until_it_is_not(
    sail: Sail, line: Line, ssd: Datastore
) -> None:
    """Its owner lets it write 200 KB/s, so its writes wait in QEMU's queue: longer than any contract."""
    voyage, guest = sail("256MiB", FLAT_OUT, kind="raw")
    set_write_limit(guest, 200_000)
    process = line.start("move", voyage.name, "--to", "ssd", "--guest-latency", "20ms")
    move = line.wait_unfinished()
    line.wait_story(move, "slower than the contract already")
    wait_until(lambda: job_speed(guest) == 4 * MIB, "the least speed", timeout=120, step=0.05, report=line.stories)
    wait_until(lambda: "at its least" in line.progress(move)["pace"], "the reason", timeout=60, report=line.stories)
    guest.judge.stop()
    set_write_limit(guest, 0)
    wait_until(
        lambda: (job_speed(guest) or 0) > 8 * MIB or not line.unfinished(),
        "a higher speed", timeout=120, step=0.02, report=line.stories,
    )  # fmt: skip
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    assert said.move["report"]["guest"]["within"] < 1
    voyage.moved_all(ssd)
    voyage.assert_configured()
    voyage.assert_nothing_left()


def test_the_contract_holds_for_the_verification_too(sail: Sail, line: Line, ssd: Datastore) -> None:
    voyage, guest = sail("256MiB", FLAT_OUT, kind="raw")
    process = line.start(
        "move", voyage.name, "--to", "ssd", "--guest-latency", "20ms", "--verify", point="verifying:sleep=3"
    )
    move = line.wait_unfinished()
    wait_until(
        lambda: line.record(move)["export"]["state"] == "held", "the view", timeout=300, report=line.stories, step=0.05
    )
    set_write_limit(guest, 200_000)

    def at_its_least() -> bool:
        now = line.progress(move)
        return now["phase"] == "verify" and "at its least" in now["pace"]

    wait_until(at_its_least, "the least speed", timeout=120, step=0.05, report=line.stories)
    guest.judge.stop()
    set_write_limit(guest, 0)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    assert len(said.move["report"]["verified"]) == 1
    voyage.moved_all(ssd)
    voyage.assert_configured()
    voyage.assert_nothing_left()


def test_a_guest_that_outruns_its_copy_gets_a_mirror(sail: Sail, line: Line, ssd: Datastore) -> None:
    voyage, _guest = sail("48MiB", FLAT_OUT)
    said = line.must("move", voyage.name, "--to", "ssd", *OUTRUN, "--if-not-converging", "mirror")
    assert any("made anew as a mirror" in row for row in line.story(said.move["id"])), line.stories()
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_cycle()


def test_a_guest_that_outruns_its_copy_stops_the_move(sail: Sail, line: Line) -> None:
    voyage, _guest = sail("48MiB", FLAT_OUT)
    said = line.do("move", voyage.name, "--to", "ssd", *OUTRUN, "--if-not-converging", "stop")
    assert (said.status, said.code) == (5, "MOVE_FAILED"), str(said)
    assert "does not get in step: the guest changes" in said.document["message"]
    voyage.assert_well()


def test_a_guest_that_outruns_its_copy_is_slowed_and_has_its_own_limit_back(
    sail: Sail, line: Line, ssd: Datastore
) -> None:
    voyage, guest = sail("48MiB", FLAT_OUT)
    burst = ("--write-bytes-sec-max", "400000000", "--write-bytes-sec-max-length", "60", "--total-iops-sec", "1000000")
    guest.host.virsh("blkdeviotune", guest.name, "vda", "--write-bytes-sec", "300000000", *burst, "--live")
    before = limits(guest)
    said = line.must("move", voyage.name, "--to", "ssd", *OUTRUN, "--if-not-converging", "throttle")
    story = line.story(said.move["id"])
    assert any("writes to vda are limited to" in row for row in story), line.stories()
    assert any("as they were before" in row for row in story)
    assert limits(guest) == before
    assert (before["write_bytes_sec"], before["write_bytes_sec_max_length"]) == ("300000000", "60")
    voyage.moved_all(ssd)
    voyage.assert_well()


def test_a_slowed_guest_is_let_go_when_the_process_dies_and_slowed_again_when_it_goes_on(
    sail: Sail, line: Line, ssd: Datastore
) -> None:
    voyage, guest = sail("48MiB", FLAT_OUT)
    words = ("move", voyage.name, "--to", "ssd", *OUTRUN, "--if-not-converging", "throttle")
    said = line.do(*words, point="throttled:kill")
    assert said.status in (-9, 137), str(said)
    [move] = line.unfinished()
    assert line.record(move)["disks"]["vda"]["throttle"]["bytes_per_s"] > 0
    wait_until(lambda: write_limit(guest) == 0, "the guard to let the guest write", timeout=60, report=line.stories)
    process = line.start("resume", move)
    wait_until(
        lambda: write_limit(guest) > 0 or not line.unfinished(), "the limit again", timeout=120, report=line.stories
    )
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    assert write_limit(guest) == 0
    voyage.moved_all(ssd)
    voyage.assert_well()


@pytest.mark.parametrize("point", ["throttling", "unthrottled", "going-synchronous"])
def test_dying_while_the_course_is_changed_harms_nothing(point: str, sail: Sail, line: Line, ssd: Datastore) -> None:
    voyage, guest = sail("48MiB", FLAT_OUT)
    policy = "mirror" if point == "going-synchronous" else "throttle"
    words = ("move", voyage.name, "--to", "ssd", *OUTRUN, "--if-not-converging", policy)
    said = line.do(*words, point=f"{point}:kill")
    assert said.status in (-9, 137), str(said)
    [move] = line.unfinished()
    line.must("resume", move)
    assert write_limit(guest) == 0
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_cycle()
