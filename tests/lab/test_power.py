"""Guests and hosts that die and come back: what was promised is there, and the judge goes on."""

from __future__ import annotations

import signal
import time

import pytest

from lab import Datastore, Disk, Guest, Lab
from lab.pytest_plugin import MakeGuest

pytestmark = pytest.mark.lab


@pytest.fixture
def guest(make_guest: MakeGuest, ssd: Datastore) -> Guest:
    guest = make_guest([Disk("vda", ssd, size="96MiB", fs="32MiB", fill="8MiB")], start=True)
    write(guest)
    return guest


def write(guest: Guest) -> None:
    guest.judge.start(rate=300, writers=2, zero_every=20)
    guest.database.start()
    guest.database.wait_commits(10)
    guest.judge.wait_writes(300)


def assert_all_there(guest: Guest, *, flushed_only: bool = False) -> None:
    verdict = guest.judge.check_image("vda", guest.disk("vda").path, "qcow2", flushed_only=flushed_only)
    assert verdict.ok, str(verdict)
    assert verdict.must_be_there > 100


def assert_goes_on(guest: Guest) -> None:
    committed = guest.judge.ledger().committed
    write(guest)
    assert guest.database.check().ok
    assert guest.judge.ledger().committed > committed
    verdict = guest.judge.verify_live()
    assert verdict.ok, verdict.text
    guest.judge.stop()
    guest.poweroff()
    assert_all_there(guest)


def test_power_cut_of_the_guest(guest: Guest) -> None:
    guest.host.kill_qemu(guest.name)
    guest.wait_state("shut off")
    assert_all_there(guest, flushed_only=True)
    guest.start()
    database = guest.database.check()
    assert database.ok, str(database)
    assert_goes_on(guest)


def test_reboot_from_inside(guest: Guest) -> None:
    guest.reboot()
    assert guest.database.check().ok
    assert_goes_on(guest)


def test_power_button(guest: Guest) -> None:
    guest.shutdown()
    assert_all_there(guest)
    assert guest.state() == "shut off"


def test_libvirtd_and_virtlogd_die_and_the_guest_does_not_notice(guest: Guest) -> None:
    host = guest.host
    since = guest.judge.now()
    host.restart_libvirtd(signal.SIGKILL)
    host.restart_virtlogd(signal.SIGKILL)
    guest.judge.wait_writes(200)
    assert guest.state() == "running"
    assert guest.judge.longest_gap(since) < 5
    assert guest.judge.ledger().boots == 1
    assert_goes_on(guest)


def test_power_loss_of_the_host(lab_session: Lab, ssd: Datastore) -> None:
    host = lab_session.host("kvm-dark")
    host.attach(ssd)
    guest = lab_session.guest(host, "dark01", [Disk("vda", ssd, size="96MiB", fs="32MiB")], start=True)
    write(guest)
    sleeper = host.popen(["sleep", "1000"])
    host.power_loss()
    assert not host.up()
    assert sleeper.wait(timeout=10) != 0
    assert_all_there(guest, flushed_only=True)
    host.boot()
    assert guest.state() == "shut off"
    assert host.virsh("pool-info", "ssd").split("State:")[1].split()[0] == "running"
    guest.start()
    assert guest.database.check().ok
    assert_goes_on(guest)
    lab_session.remove_guest(guest)


def test_transient_guest(make_guest: MakeGuest, old_san: Datastore) -> None:
    guest = make_guest([Disk("vda", old_san, size="32MiB")], persistent=False, start=True)
    assert guest.host.virsh("dominfo", guest.name).split("Persistent:")[1].split()[0] == "no"
    guest.poweroff()
    assert guest.state() == "absent"
    guest.start()
    assert guest.sh("echo here").strip() == "here"


def test_signals_reach_the_command_on_the_host(guest: Guest) -> None:
    process = guest.host.popen(["sleep", "1000"])
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait(timeout=5) == -signal.SIGKILL
    assert guest.host.find_process(lambda argv: argv[:2] == ["sleep", "1000"]) is None
