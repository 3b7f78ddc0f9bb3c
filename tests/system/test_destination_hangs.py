"""A destination that stops answering under a mirror: the guest waits no longer than the limit, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from lab import Datastore, Guest, Host, Lab
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, small_disks

pytestmark = pytest.mark.lab

MIRROR = ("--method", "mirror", "--bandwidth", "3MiB/s")
"""Slow enough that a test finds the copy under way."""

BOUND_S = 3.5
MARGIN_S = 6.5
"""Of the limit of 2 s, and for an emulated machine that others load too."""


@pytest.fixture(scope="module")
def flaky(lab_session: Lab, lab_host: Host) -> Iterator[Datastore]:
    store = lab_session.datastore("hanging", fs="xfs", size="512MiB", failing=True)
    lab_host.attach(store)
    yield store
    store.device.fence()
    store.umount()


@pytest.fixture
def stores(old_san: Datastore, flaky: Datastore) -> tuple[Datastore, ...]:
    return old_san, flaky


@pytest.fixture
def sail(make_guest: MakeGuest, line: Line, old_san: Datastore, flaky: Datastore) -> Iterator[Callable[[], Voyage]]:
    """A running guest on old-san that writes; the datastore answers before and after."""

    def make() -> Voyage:
        voyage = Voyage(make_guest(small_disks(old_san, 1, "qcow2"), start=True), line, line.stores)
        voyage.write()
        return voyage

    yield make
    if flaky.device.serves():
        flaky.device.go_on()


def hang_in_the_copy(guest: Guest, line: Line, flaky: Datastore) -> tuple[str, int]:
    """(the move's id, when it began to hang)."""
    move = line.wait_unfinished()
    wait_until(lambda: "<mirror" in guest.xml(), "the copy", timeout=120, report=line.stories)
    guest.judge.wait_writes(20)
    began = time.monotonic_ns()
    flaky.device.hang(at_most_s=60)
    return move, began


def test_it_is_cut_off_in_time_and_not_counted_as_removed(
    sail: Callable[[], Voyage], line: Line, old_san: Datastore, flaky: Datastore
) -> None:
    voyage = sail()
    guest = voyage.guest
    plan = line.must("check", guest.name, "--to", flaky.name, *MIRROR, "--hang-limit", "2s").document["check"]["plan"]
    assert "at most 3.5" in plan["hang"]["bound"]
    plan = line.must("check", guest.name, "--to", flaky.name).document["check"]["plan"]
    assert (plan["method"], plan["if_not_converging"]) == ("changed-blocks", "mirror")  # it can be fenced
    words = ("move", guest.name, "--to", flaky.name, *MIRROR, "--hang-limit", "2s")
    process = line.start(*words, point="cut-off-noted:kill")
    move, began = hang_in_the_copy(guest, line, flaky)
    assert line.end(process).killed
    guest.judge.wait_writes(50)
    silence = guest.judge.longest_gap(began, time.monotonic_ns(), target="vda")
    assert silence < BOUND_S + MARGIN_S, f"a write of the guest waited for {silence:.1f} s"
    said = line.do("resume", move)
    assert (said.status, said.code) == (9, "MOVE_PARKED"), str(said)
    assert "CUT_OFF" in str(said), str(said)
    flaky.device.fence()
    flaky.power_on()
    said = line.do("resume", move)
    assert (said.status, said.code) == (5, "MOVE_FAILED"), str(said)
    assert "fenced" in said.document["message"]
    voyage.moved_all(old_san)
    voyage.assert_well()
    voyage.power_off()


def test_after_a_long_hang_the_guest_waits_for_it_no_more(
    sail: Callable[[], Voyage], line: Line, flaky: Datastore
) -> None:
    """It answers again before the limit: the move goes on, in the background, and ends well."""
    voyage = sail()
    guest = voyage.guest
    words = ("move", guest.name, "--to", flaky.name, *MIRROR, "--hang-limit", "6s")
    process = line.start(*words, point="leaving-synchronous:kill")
    move, _began = hang_in_the_copy(guest, line, flaky)
    time.sleep(4)
    flaky.device.go_on()
    assert line.end(process).killed, line.stories()
    line.must("speed", move, "0")  # any command takes the move up in the background
    line.wait_finished()
    assert any("made anew in the background" in text for text in line.stories().splitlines()), line.stories()
    voyage.moved_all(flaky)
    voyage.assert_well()
    voyage.power_off()
