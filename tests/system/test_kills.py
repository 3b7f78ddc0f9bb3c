"""kill -9 at every named point of a move, for one disk and two, both live methods, going on and cancelling.

After each kill: the VM runs again by itself (the guard), the next command finishes the move or takes it back as
the user last asked, and the judge finds every write. One VM goes to and fro, so that a point costs seconds.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blockferry.storage_move.points import point as move_point
from lab import Datastore, Disk, Guest, Host, Lab
from lab.process import wait_until
from tests.system.voyage import Line, assert_clean, assert_whole, other, side

pytestmark = pytest.mark.lab

COLD = ("cold-copying", "cold-copied")
START = ("suspending-to-start", "suspended-to-start", "resuming-from-start")
BACK = ("aborting", "abort-asked", "removing-destination", "destination-removed")
VERIFY = ("view-prepared", "taking-view", "view-taken", "verifying", "verified", "ending-view", "view-ended")
"""Passed with --verify only: test_verify.py kills there."""
HANGING = ("leaving-synchronous", "cut-off-noted")
"""Passed when the destination hangs only: test_destination_hangs.py kills there."""
COURSE = ("going-synchronous", "throttling", "throttled", "unthrottled")
"""Passed when the guest outruns its copy only: test_pace.py kills there."""
OVERLAYS = (
    *("overlay-named", "overlay-made", "overlay-taken", "syncing-base", "base-synced"),
    *(
        "commit-starting",
        "commit-called",
        "commit-started",
        "commit-pivoting",
        "commit-pivoted",
        "committing-off",
        "committed-off",
    ),
    *("checkpoint-suspending", "checkpoint-suspended"),
)
"""Passed by the method snapshot, and with copies large enough for checkpoints: test_resume.py kills there."""
FIRMWARE = (
    *("following", "nvram-named", "nvram-copied", "nvram-pointed", "releasing-nvram", "nvram-released"),
    *("saving", "vm-saved", "saved-noted", "restoring", "restored", "let-go"),
)
"""Passed with UEFI variables only: test_firmware.py kills there."""
TRIM = ("trimming", "trimmed", "trimming-again", "trimmed-again")
"""Passed with --trim only: test_trim.py kills there."""
SNAPSHOTS = ("snapshots-written",)
"""Passed with snapshots only: test_snapshots.py kills there."""
CHAIN = ("layer-named", "layer-copied")
"""Passed with layers that are copied as layers only: test_templates.py kills there."""
CLONE = ("cloning", "cloned")
"""Passed by the method clone only: test_clone.py kills there."""
LOST = ("lost-running", "lost-noted", "lost-pointed", "lost-barred", "lost-ended", "found-noted")
"""Passed when libvirt has lost the VM only: test_lost.py kills there."""
GRAPH = ("graph-noted", "truth-named")
"""Passed with overlays, or when QEMU has not made the switch: test_resume.py and test_block_graph.py kill there."""
PAUSED = ("guest-resumed",)
"""Passed by a VM that was paused for want of room only: test_odd_disks.py kills there."""
HOME = ("releasing-home-file", "home-file-aside")
"""Passed with files in the home only: test_home.py kills there."""
OLD_DISKS = ("taking-old-disk", "old-disk-taken", "old-disk-given-back")
"""Passed with --use-kept only: test_way_back.py kills there."""
ELSEWHERE = (
    *(*GRAPH, *PAUSED, *HOME, *OLD_DISKS),
    *(*COLD, *START, *BACK, *VERIFY, *HANGING, *COURSE, *OVERLAYS, *FIRMWARE),
    *(*TRIM, *CLONE, *SNAPSHOTS, *CHAIN, *LOST),
)
LIVE = tuple(name for name in move_point.names if name not in ELSEWHERE)


@pytest.fixture(scope="module")
def guests(lab_session: Lab, lab_host: Host, old_san: Datastore) -> Iterator[dict[int, Guest]]:
    """A VM with one disk and one with two (qcow2 in its home, raw flat), both written to."""
    one = lab_session.guest(lab_host, "killone", [Disk("vda", old_san, size="64MiB", fill="16MiB")], start=True)
    disks = [
        Disk("vda", old_san, size="64MiB", fill="16MiB"),
        Disk("vdb", old_san, size="64MiB", fill="16MiB", format="raw", layout="flat"),
    ]
    two = lab_session.guest(lab_host, "killtwo", disks, start=True)
    yield {1: one, 2: two}
    for guest in (one, two):
        lab_session.remove_guest(guest)
        for store in lab_session.datastores.values():
            store.clear_vm(guest.name)


def kill_and_go_on(
    line: Line, guest: Guest, point: str, words: tuple[str, ...], cancel: bool, suspended_start: bool | None = None
) -> str:
    """Move to the other datastore, die at the point, take it up again; the outcome."""
    guest.judge.start(rate=100)
    before = side(guest, line.stores)
    to = ("move", guest.name, "--to", other(before), *words)
    said = line.do(*to, point=f"{point}:kill", suspended_start=suspended_start)
    wait_until(lambda: guest.state() == "running", "the VM to run again without any command", timeout=30)
    if said.killed:
        move = line.move_of(guest.name)
        assert move is not None, f"killed at {point}, but no move is unfinished"
        line.do("cancel" if cancel else "resume", move, suspended_start=suspended_start)
    done = line.wait_finished_of(guest.name)
    outcome = str(done["record"]["outcome"])
    assert outcome in ("moved", "cancelled"), str(done["record"])
    assert side(guest, line.stores) == (other(before) if outcome == "moved" else before)
    assert_clean(line, guest)
    assert_whole(guest)
    assert said.killed or outcome == "moved", str(said)
    return outcome if said.killed else "not passed"


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize("point", LIVE)
def test_killed_at_a_point_of_a_live_move(long_line: Line, guests: dict[int, Guest], point: str) -> None:
    passed = 0
    for number, (disks, method) in enumerate(
        ((1, "mirror"), (2, "changed-blocks"), (1, "changed-blocks"), (2, "mirror"))
    ):
        cancel = number >= 2
        words = ("--method", method, *(("--guest-latency", "1s") if point == "measured" else ()))
        outcome = kill_and_go_on(long_line, guests[disks], point, words, cancel)
        passed += outcome != "not passed"
        if not cancel:
            assert outcome in ("moved", "not passed")
    assert passed, f"no move passed the point {point}: a check that cannot fail"


@pytest.mark.parametrize("point", START)
def test_killed_in_the_suspension_at_the_start(long_line: Line, guests: dict[int, Guest], point: str) -> None:
    for cancel in (False, True):
        outcome = kill_and_go_on(long_line, guests[2], point, (), cancel, suspended_start=True)
        assert outcome == ("cancelled" if cancel else "moved")


@pytest.mark.parametrize("point", BACK)
def test_killed_on_the_way_back(long_line: Line, guests: dict[int, Guest], point: str) -> None:
    """The move is cancelled while it copies slowly; the process that takes it back dies, another goes on."""
    line, guest = long_line, guests[2]
    guest.judge.start(rate=50)
    before = side(guest, line.stores)
    process = line.start("move", guest.name, "--to", other(before), "--bandwidth", "2MiB/s", point=f"{point}:kill")
    wait_until(lambda: "<mirror" in guest.xml(), "the copy", timeout=120, report=line.stories)
    move = line.move_of(guest.name)
    assert move is not None
    line.do("cancel", move, "--no-wait")
    assert line.end(process).status != 0
    assert guest.state() == "running"
    line.do("vms")
    assert line.wait_finished_of(guest.name)["record"]["outcome"] == "cancelled"
    assert side(guest, line.stores) == before
    assert_clean(line, guest)
    assert_whole(guest)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("point", [*COLD, "config-written", "switched-noted", "settled", "source-released"])
def test_killed_at_a_point_of_a_cold_move(long_line: Line, lab_session: Lab, old_san: Datastore, point: str) -> None:
    disks = [Disk(target, old_san, size="64MiB", fill="24MiB") for target in ("vda", "vdb")]
    line, guest = long_line, lab_session.guest(long_line.host, f"cold-{point}", disks)
    try:
        for cancel in (False, True):
            before = side(guest, line.stores)
            said = line.do("move", guest.name, "--to", other(before), point=f"{point}:kill")
            assert said.killed, str(said)
            move = line.move_of(guest.name)
            assert move is not None
            line.do("cancel" if cancel else "resume", move)
            outcome = line.wait_finished_of(guest.name)["record"]["outcome"]
            assert outcome == ("cancelled" if cancel and point in COLD else "moved")
            assert side(guest, line.stores) == (other(before) if outcome == "moved" else before)
            assert_clean(line, guest)
        for target, path in guest.sources().items():
            verdict = guest.judge.check_image(target, path, "qcow2")
            assert verdict.ok, str(verdict)
        guest.start()
        guest.wait_ready()
        guest.judge.start(rate=100)
        guest.judge.wait_writes(20)
        assert_whole(guest)
    finally:
        lab_session.remove_guest(guest)
        for store in lab_session.datastores.values():
            store.clear_vm(guest.name)
