"""What a move makes at the other host: copied once although the link is cut, and owned as the old images are."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host
from lab.process import wait_until
from tests.system.test_host_move import LIMIT_S, Crossing, crossing, line
from tests.system.test_host_move_guards import whole

__all__ = ["crossing", "line", "whole"]

pytestmark = pytest.mark.lab

MIB = 1 << 20
DATA = {"vda": 192 * MIB, "vdb": 96 * MIB}


def received(host: Host) -> int:
    """Bytes that have come to a host over its link since its boot."""
    return int(host.run(["cat", "/sys/class/net/eth0/statistics/rx_bytes"]).stdout)


def copied(trip: Crossing, target: str) -> int:
    """Bytes of a disk that the record knows to be there."""
    moves = trip.line.unfinished()
    part = trip.line.record(moves[0]).get("parts", {}).get(target) if moves else None
    return int(part["size"]) if part else 0


@pytest.mark.usefixtures("whole")
def test_the_link_is_cut_while_disks_of_a_vm_that_is_off_go(
    crossing: Callable[..., Crossing], ssd: Datastore, kvm2: Host
) -> None:
    """Cut in the middle of each of two disks: what was copied is not copied again, but for the part under way."""
    trip = crossing(
        Disk("vda", ssd, size="256MiB", fill="192MiB"), Disk("vdb", ssd, size="128MiB", fill="96MiB", format="raw")
    )
    trip.guest.poweroff()
    before = received(kvm2)
    process = trip.line.start("move", trip.name, "--to-host", "kvm2", "--to", "kvm2-disks", "--bandwidth", "12MiB/s")
    for target, least in (("vda", 64 * MIB), ("vdb", 32 * MIB)):
        what = f"the middle of {target}"
        half = partial(lambda name, size: copied(trip, name) >= size, target, least)
        wait_until(half, what, timeout=LIMIT_S, step=0.2, report=trip.line.stories)
        kvm2.cut_network()
        time.sleep(50)
        kvm2.mend_network()
    said = trip.line.end(process)
    while trip.line.unfinished():
        said = trip.line.do("resume", trip.name)
    trip.assert_moved(said, "shut off")
    came = received(kvm2) - before
    print("bytes received", came, "of", sum(DATA.values()), "share", came / sum(DATA.values()))
    assert came < 1.12 * sum(DATA.values()), trip.line.stories()  # two breaks of at most 6 % each
    for disk in trip.guest.spec.disks:
        path = trip.guest.sources(inactive=True)[disk.target]
        assert trip.guest.judge.check_image(disk.target, Path(path), disk.format).ok


def test_owner_and_mode(crossing: Callable[..., Crossing], ssd: Datastore) -> None:
    """Also of a VM that is off, whose image no libvirt gives to anybody."""
    trip = crossing(Disk("vda", ssd, size="32MiB"))
    trip.guest.poweroff()
    old = Path(trip.guest.spec.disk("vda").path)
    os.chown(old, 12345, 54321)
    old.chmod(0o640)
    os.chown(old.parent, 12345, 54321)
    old.parent.chmod(0o751)
    trip.assert_moved(trip.move("--to", "kvm2-disks"), "shut off")
    new = Path(trip.guest.sources(inactive=True)["vda"])
    assert (new.stat().st_uid, new.stat().st_gid, new.stat().st_mode & 0o7777) == (12345, 54321, 0o640)
    home = new.parent.stat()
    assert (home.st_uid, home.st_gid, home.st_mode & 0o7777) == (12345, 54321, 0o751)
