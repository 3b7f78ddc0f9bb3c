"""What the lab is for, by hand with virsh: a disk moves under a writing guest, and the judge says whether it did."""

from __future__ import annotations

import time

import pytest

from lab import Datastore, Disk
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest

pytestmark = pytest.mark.lab


def test_a_move_by_block_copy_is_judged(make_guest: MakeGuest, old_san: Datastore, ssd: Datastore) -> None:
    guest = make_guest([Disk("vda", old_san, size="128MiB", fs="32MiB", fill="64MiB")], start=True)
    guest.judge.start(rate=500, most_kib=16)
    guest.database.start(rate=20)
    destination = ssd.home(guest.name) / "vda.qcow2"
    destination.parent.mkdir()
    since = guest.judge.now()
    words = ["blockcopy", guest.name, "vda", str(destination), "--format", "qcow2", "--transient-job"]
    guest.host.virsh(*words)
    wait_until(lambda: "ready='yes'" in guest.xml(), "the mirror", timeout=300, step=0.1, report=guest.evidence)
    guest.judge.wait_writes(200)
    guest.suspend()
    source = guest.sources()["vda"]
    guest.host.virsh("blockjob", guest.name, "vda", "--pivot")
    guest.resume()
    resumed = guest.judge.now()
    assert guest.sources() == guest.sources(inactive=True) == {"vda": str(destination)}
    guest.judge.wait_writes(300)
    assert guest.judge.verify_live().ok
    assert guest.database.check().ok
    assert 0 < guest.judge.longest_gap(since, resumed + 10**9) < 30

    guest.judge.stop()
    guest.poweroff()
    verdict = guest.judge.check_image("vda", destination, "qcow2")
    assert verdict.ok, str(verdict)
    # The source was left behind at the switch: to the judge it must look like an image that lost writes.
    assert guest.judge.check_image("vda", source, "qcow2").lost_count > 0


def test_two_guests_are_not_taken_for_each_other(make_guest: MakeGuest, ssd: Datastore) -> None:
    one, two = (make_guest([Disk("vda", ssd, size="32MiB", fill="8MiB")], start=True) for _ in range(2))
    for guest in (one, two):
        guest.judge.start(rate=200)
        guest.judge.wait_writes(50)
        guest.judge.stop()
    time.sleep(0.1)
    one.poweroff()
    two.poweroff()
    verdict = one.judge.check_image("vda", two.disk("vda").path, "qcow2")
    assert verdict.lost_count > 0
    assert verdict.unexpected_count > 0
