"""A manager that is frozen right before a call to a host, and wakes when another one has ended the move."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from lab import Datastore, Disk
from lab.namespaces import HostProcess
from lab.process import wait_until
from tests.system.test_host_move import LIMIT_S, Crossing, crossing, line

__all__ = ["crossing", "line"]

pytestmark = pytest.mark.lab

Make = Callable[..., Crossing]
TO = ("--to", "kvm2-disks")


def frozen_at(trip: Crossing, point: str, *words: str) -> HostProcess:
    process = trip.line.start("move", trip.name, "--to-host", "kvm2", *words, point=f"{point}:stop")
    trip.line.wait_stopped(process)
    return process


def cancelled_by_another(trip: Crossing) -> None:
    """Another manager takes the move over, once the lease of the frozen one is over, and cancels it."""

    def over() -> bool:
        trip.line.do("cancel", trip.name)
        trip.line.do("resume", trip.name)
        return not trip.line.unfinished()

    wait_until(over, "the other process to cancel the move", timeout=LIMIT_S, step=2, report=trip.line.stories)


def woken_late(trip: Crossing, process: HostProcess) -> None:
    process.send_signal(signal.SIGCONT)
    said = trip.line.end(process)
    assert said.status != 0, said


def definition(trip: Crossing) -> str:
    """Its definition at the source; libvirt leaves an empty element where our mark was."""
    return trip.source.virsh("dumpxml", trip.name, "--inactive").replace("  <metadata/>\n", "")


@pytest.mark.parametrize("point", ["calling-undefine", "calling-define"])
def test_off(crossing: Make, ssd: Datastore, point: str) -> None:
    """Neither is its definition removed at the source, nor does one come up at the destination."""
    trip = crossing(Disk("vda", ssd, size="48MiB"))
    trip.guest.poweroff()
    before = definition(trip)
    process = frozen_at(trip, point, *TO)
    cancelled_by_another(trip)
    assert trip.states() == ("shut off", "absent"), trip.line.stories()
    woken_late(trip, process)
    assert trip.states() == ("shut off", "absent"), trip.line.stories()
    trip.assert_back()
    assert definition(trip) == before
    trip.guest.start()


def test_running_with_all_shared(crossing: Make, old_san: Datastore) -> None:
    """No migration begins: the images are there, and would not stop it."""
    trip = crossing(Disk("vda", old_san, size="48MiB"))
    trip.write()
    process = frozen_at(trip, "calling-migrate")
    cancelled_by_another(trip)
    woken_late(trip, process)
    assert trip.states() == ("running", "absent"), trip.line.stories()
    trip.assert_back()
    trip.assert_alive()


def test_off_with_all_shared(crossing: Make, old_san: Datastore) -> None:
    """Two definitions for an instant, and only that at the source can be started."""
    trip = crossing(Disk("vda", old_san, size="48MiB"))
    trip.guest.poweroff()
    assert trip.move(point="defined:kill").killed
    assert trip.states() == ("shut off", "shut off")
    trip.dest.virsh("start", trip.name, check=False)
    assert trip.states() == ("shut off", "shut off")
    paths = trip.guest.sources(inactive=True)
    trip.assert_moved(trip.line.do("resume", trip.name), "shut off")
    assert trip.guest.sources(inactive=True) == paths
    trip.guest.start()
    trip.write()
    trip.assert_alive()


def test_images_of_the_next_move_stay(crossing: Make, ssd: Datastore) -> None:
    """Frozen right before it removes an image at the destination, where the next move has brought the VM by then."""
    trip = crossing(Disk("vda", ssd, size="48MiB"))
    trip.write()
    process = frozen_at(trip, "migrating:fail,calling-remove", *TO)
    cancelled_by_another(trip)
    trip.assert_moved(trip.move(*TO))
    process.send_signal(signal.SIGCONT)
    trip.line.end(process)
    trip.assert_alive()
    for path in trip.guest.sources().values():
        assert trip.dest.run(["test", "-e", str(path)], check=False).returncode == 0
