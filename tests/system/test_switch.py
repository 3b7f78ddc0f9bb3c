"""What happens in the middle: switches that break, guests and people that act during the copy, frozen processes."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from lab import Datastore, Guest
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage, disk_sources, small_disks

pytestmark = pytest.mark.lab

SLOWLY = ("--bandwidth", "3MiB/s")
"""Slow enough that a test finds the copy under way; with a guest that writes it takes for ever, until told to hurry."""


@pytest.fixture
def sail(
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], old_san: Datastore
) -> Callable[..., tuple[Voyage, Guest]]:
    """A running guest on old-san that writes."""

    def make(count: int = 2, kind: str = "qcow2", **options: Any) -> tuple[Voyage, Guest]:
        guest = make_guest(small_disks(old_san, count, kind), start=True, **options)
        voyage = Voyage(guest, line, stores, persistent=bool(options.get("persistent", True)))
        voyage.write()
        return voyage, guest

    return make


def wait_copying(guest: Guest, line: Line, count: int = 2) -> str:
    """Until the copies of all disks are under way; the move's id."""
    move = line.wait_unfinished()
    wait_until(lambda: guest.xml().count("<mirror") == count, "the copies", timeout=120, report=line.stories)
    return move


def is_across(guest: Guest, target: str, store: Datastore) -> bool:
    return disk_sources(guest.xml())[target].startswith(str(store.path))


# -- a switch that breaks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
@pytest.mark.parametrize("halt", ["sleep=2.5", "stop"])
def test_a_switch_that_breaks_in_the_middle_is_taken_back(
    halt: str, method: str, sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """vda is switched, the copy of vdb is gone. With `stop` the guard has let the VM run on in between."""
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", "--method", method, point=f"pivoted-one:{halt}")
    wait_until(lambda: is_across(guest, "vda", ssd), "the first pivot", timeout=120, report=line.stories)
    if halt == "stop":
        voyage.wait_running()
        guest.judge.wait_writes(50)
    guest.host.virsh("blockjob", guest.name, "vdb", "--abort", "--async", check=False)
    if halt == "stop":
        wait_until(lambda: "<mirror" not in guest.xml(), "the end of the copy of vdb", timeout=60)
        process.send_signal(signal.SIGCONT)
    said = line.end(process)
    voyage.wait_running()
    if said.status == 0:
        # The second pivot was quicker than our abort.
        assert halt != "stop", str(said)
        voyage.moved_all(ssd)
    else:
        assert said.status == 5, str(said)
        assert said.code == "MOVE_FAILED"
        assert "switch" in said.document["message"]
    voyage.assert_well()
    voyage.power_cycle()


def test_a_process_that_freezes_in_the_middle_of_the_switch_goes_on_later(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", point="pivoted-one:stop")
    wait_until(lambda: is_across(guest, "vda", ssd), "the first pivot", timeout=120, report=line.stories)
    voyage.wait_running()
    guest.judge.wait_writes(50)
    process.send_signal(signal.SIGCONT)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()


@pytest.mark.parametrize("point", ["suspended-to-switch", "pivoting"])
def test_a_process_that_freezes_before_the_switch(
    point: str, sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """The guard lets the VM run; the process wakes up late, and must not act on what it saw before it froze."""
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", "--method", "changed-blocks", point=f"{point}:stop")
    wait_until(lambda: guest.state() == "paused", "the suspension", timeout=120, step=0.02, report=line.stories)
    voyage.wait_running()
    guest.judge.wait_writes(50)
    process.send_signal(signal.SIGCONT)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()


@pytest.mark.parametrize("method", ["mirror", "changed-blocks"])
def test_what_its_owner_has_paused_while_we_were_frozen_stays_paused(
    method: str, sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """The guard lets the VM run, its owner pauses it; the process wakes up and finds it paused, but not by itself."""
    voyage, guest = sail()
    words = ("move", guest.name, "--to", "ssd", "--method", method)
    process = line.start(*words, point="suspended-to-switch:stop")
    wait_until(lambda: guest.state() == "paused", "the suspension", timeout=120, step=0.02, report=line.stories)
    voyage.wait_running()
    guest.judge.wait_writes(50)
    guest.suspend()
    process.send_signal(signal.SIGCONT)
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_configured("paused")
    guest.resume()
    voyage.assert_well()
    voyage.power_off()


@pytest.mark.parametrize("point", ["suspended-to-switch", "suspended-to-start"])
def test_what_its_owner_has_paused_after_our_death_stays_paused(
    point: str, sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """The record says that a suspension is ours; the guard has ended it, and whoever takes over can know that."""
    voyage, guest = sail()
    start = True if "start" in point else None
    said = line.do("move", guest.name, "--to", "ssd", point=f"{point}:kill", suspended_start=start)
    assert said.killed, str(said)
    voyage.wait_running()
    guest.judge.wait_writes(50)
    guest.suspend()
    move = line.wait_unfinished()
    said = line.do("resume", move, suspended_start=start)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_configured("paused")
    guest.resume()
    voyage.assert_well()
    voyage.power_off()


def test_a_frozen_process_whose_move_was_taken_over_acts_no_more(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """A manager that was frozen for longer than its lease finds another one in its place."""
    voyage, guest = sail()
    frozen = line.start("move", guest.name, "--to", "ssd", point="suspended-to-switch:stop")
    wait_until(lambda: guest.state() == "paused", "the suspension", timeout=120, step=0.02, report=line.stories)
    voyage.wait_running()
    move = line.wait_unfinished()

    def taken_over() -> bool:
        return line.do("resume", move).status == 0

    wait_until(taken_over, "the lease to end", timeout=240, step=1, report=line.stories)
    voyage.moved_all(ssd)
    voyage.assert_configured()
    frozen.send_signal(signal.SIGCONT)
    said = line.end(frozen)
    assert said.status in (0, 8, 130), str(said)
    voyage.assert_well()
    voyage.power_off()


# -- the guest acts ------------------------------------------------------------------------------------------------


def test_the_guest_powers_off_during_the_copy(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    wait_copying(guest, line)
    guest.judge.stop()
    guest.poweroff()
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_configured("shut off")
    voyage.assert_nothing_left()
    voyage.assert_images()
    guest.start()
    voyage.write()
    voyage.assert_content()


def test_a_transient_guest_powers_off_during_the_copy(sail: Callable[..., tuple[Voyage, Guest]], line: Line) -> None:
    voyage, guest = sail(persistent=False)
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    wait_copying(guest, line)
    guest.judge.stop()
    guest.poweroff()
    said = line.end(process)
    assert said.status == 5, f"{said}\n{line.stories()}"
    assert guest.state() == "absent"
    voyage.assert_nothing_left()
    voyage.assert_images()


def test_the_guest_reboots_during_the_copy(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    move = wait_copying(guest, line)
    guest.judge.stop()
    guest.reboot()
    voyage.write()
    line.must("speed", move, "0")
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()


# -- people act ----------------------------------------------------------------------------------------------------


def test_somebody_pulls_the_plug_and_starts_it_again(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """The jobs are gone with their QEMU: all copies begin anew (or are finished cold, if it comes to that)."""
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    move = wait_copying(guest, line)
    guest.judge.stop()
    guest.destroy()
    while guest.host.run(["virsh", "-q", "start", guest.name], check=False).returncode != 0:
        # A cold copy that has begun in the meantime holds the image's lock; it is over soon.
        assert line.unfinished() == [move] or guest.state() == "shut off", line.stories()
    guest.wait_ready()
    voyage.write()
    if line.unfinished():
        line.do("speed", move, "0")
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()


def test_somebody_suspends_the_vm_during_the_copy(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """It is moved, and stays as its owner left it."""
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    wait_copying(guest, line)
    guest.suspend()
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_configured("paused")
    voyage.assert_nothing_left()
    guest.resume()
    voyage.assert_content()
    voyage.power_off()


def test_somebody_ends_our_copy(sail: Callable[..., tuple[Voyage, Guest]], line: Line) -> None:
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    wait_copying(guest, line)
    guest.host.virsh("blockjob", guest.name, "vda", "--abort")
    said = line.end(process)
    assert said.status == 5, f"{said}\n{line.stories()}"
    assert "vda" in said.document["message"]
    voyage.assert_well()
    voyage.power_off()


def test_somebody_switches_one_of_our_copies_by_hand(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    """Each disk is whole on its side; so the rest follows."""
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", "--method", "mirror", point="in-step:sleep=3")
    wait_until(lambda: guest.xml().count("ready='yes'") == 2, "the copies", timeout=120, report=line.stories)
    guest.host.virsh("blockjob", guest.name, "vda", "--pivot")
    said = line.end(process)
    assert said.status == 0, f"{said}\n{line.stories()}"
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()


@pytest.mark.parametrize("way", ["command", "signal"])
def test_cancel(way: str, sail: Callable[..., tuple[Voyage, Guest]], line: Line) -> None:
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    move = wait_copying(guest, line)
    if way == "command":
        assert line.must("cancel", move).move["state"] == "cancelled"
    else:
        process.send_signal(signal.SIGINT)
    said = line.end(process)
    assert said.status == 6, f"{said}\n{line.stories()}"
    assert said.code == "MOVE_CANCELLED"
    voyage.assert_well()
    voyage.power_off()


def test_detach_watch_speed(sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore) -> None:
    """In the background so slowly that it would take hours, until it is told to hurry."""
    voyage, guest = sail()
    started = line.must("move", guest.name, "--to", "ssd", "--detach", "--bandwidth", "64KiB/s")
    move = started.move["id"]
    wait_copying(guest, line)
    watching = line.start("watch", move)
    [running] = line.must("moves").document["moves"]
    assert (running["id"], running["state"]) == (move, "running")
    assert line.do("move", guest.name, "--to", "ssd").status in (4, 9), "one move of a VM at a time"
    line.must("speed", move, "0")
    said = line.end(watching)
    assert said.status == 0, f"{said}\n{line.stories()}"
    assert said.move["state"] == "moved"
    voyage.moved_all(ssd)
    voyage.assert_well()
    shown = line.must("show", move).document
    assert any("bandwidth" in event["text"] for event in shown["events"] if event["kind"] == "user")
    assert [item["id"] for item in line.must("history").document["moves"]] == [move]
    voyage.power_off()


def test_a_closed_terminal_leaves_the_move_to_the_background(
    sail: Callable[..., tuple[Voyage, Guest]], line: Line, ssd: Datastore
) -> None:
    voyage, guest = sail()
    process = line.start("move", guest.name, "--to", "ssd", *SLOWLY)
    move = wait_copying(guest, line)
    process.send_signal(signal.SIGHUP)
    said = line.end(process)
    assert said.status == 130, str(said)
    assert line.unfinished() == [move]
    line.must("speed", move, "0")
    line.wait_finished()
    voyage.moved_all(ssd)
    voyage.assert_well()
    voyage.power_off()
