"""A host is emptied for an upgrade: from Debian 12 to Debian 13 while the VM runs, and what the way back demands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab import Datastore, Disk, Host, Lab
from lab.pytest_plugin import MakeGuest
from tests.system.test_host_move import Crossing, CrossingLine

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def upgraded_disks(lab_session: Lab) -> Datastore:
    return lab_session.datastore("upgraded-disks", fs="ext4", size="1GiB")


@pytest.fixture(scope="module")
def upgraded(lab_session: Lab, desk: Host, old_san: Datastore, upgraded_disks: Datastore) -> Host:
    """A host of the next Debian: libvirt 11, QEMU 10. It has `old-san`, too."""
    host = lab_session.host("upgraded", root="debian13", network=True)
    for store in (old_san, upgraded_disks):
        host.attach(store)
    return host


@pytest.fixture
def line(desk: Host, far: Host, upgraded: Host, tmp_path: Path) -> CrossingLine:
    return CrossingLine(desk, far, upgraded, tmp_path)


@pytest.fixture
def crossing(make_guest: MakeGuest, line: CrossingLine) -> Iterator[Callable[..., Crossing]]:
    made: list[Crossing] = []

    def make(*disks: Disk) -> Crossing:
        made.append(Crossing(make_guest(disks, host=line.host, start=True), line))
        return made[-1]

    yield make
    for crossing in made:
        for host in (line.host, line.dest):
            host.run(["virsh", "-q", "destroy", crossing.name], check=False)
            host.run(["virsh", "-q", "undefine", crossing.name], check=False)


def test_to_the_next_debian_and_back(
    crossing: Callable[..., Crossing], ssd: Datastore, upgraded: Host, far: Host
) -> None:
    """With its disk; it comes back, too, for its machine type is one of the older QEMU's."""
    one = crossing(Disk("vda", ssd, size="64MiB", fill="16MiB"))
    one.write()
    one.assert_moved(one.move("--to", "upgraded-disks"))
    assert "QEMU 10." in upgraded.virsh("version")
    one.assert_alive()
    machine = upgraded.virsh("dumpxml", one.name).split("machine='")[1].split("'")[0]
    assert machine.endswith("-7.2"), machine
    checked = one.line.do("check", one.name, "--to-host", "kvm1", "--to", "ssd")
    assert (checked.status, checked.document["refused"]) == (0, False), checked
    assert {"QEMU_OLDER", "LIBVIRT_OLDER"} <= {found["code"] for found in checked.document["check"]["findings"]}
    one.source, one.dest = upgraded, far
    one.assert_moved(one.line.do("move", one.name, "--to-host", "kvm1", "--to", "ssd"))
    one.assert_alive()


def test_a_machine_type_of_the_next_debian_does_not_come_back(
    lab_session: Lab, line: CrossingLine, upgraded: Host, upgraded_disks: Datastore
) -> None:
    """Refused with the reason; nothing is begun. The VM is off: a guest is not needed to say so."""
    guest = lab_session.guest(upgraded, "newer01", [Disk("vda", upgraded_disks, size="16MiB")])
    try:
        machine = upgraded.virsh("dumpxml", guest.name).split("machine='")[1].split("'")[0]
        assert machine.endswith("-10.0"), machine
        refused = line.do("move", guest.name, "--to-host", "kvm1", "--to", "ssd")
        assert (refused.code, "MACHINE_TYPE_MISSING" in refused.codes) == ("REFUSED", True), refused
        assert not line.unfinished()
    finally:
        lab_session.remove_guest(guest)
