"""The whole host loses its power: every process at once, and of the datastores and the journal all that was not yet
on the device. /etc/libvirt lies on the machine's own disk, so of that nothing is lost here.
"""

from __future__ import annotations

import os
import signal

from faults import places
from faults.case import Catalogue, Fault
from faults.ground import NEW, OLD
from faults.scene import Scene


def _power_loss(scene: Scene) -> None:
    ground = scene.ground
    stores = [ground.stores[OLD], ground.stores[NEW], ground.journal_store]
    if scene.process is not None and scene.process.poll() is None:
        # What stands in front of our process, outside the host. Stopped, it would keep the dead from being reaped.
        os.kill(scene.process.pid, signal.SIGKILL)
    scene.host.power_loss()
    for store in stores:
        store.lose_power()
        store.power_on()
    scene.over(20)
    scene.host.boot()
    scene.kills += 4 if scene.live else 3
    scene.note("power loss of the host; it is up again")
    scene.went_off()
    scene.states -= {"running"}


def _phases_and_random(method: str, _disks: int) -> tuple[str, ...]:
    return (*places.phases(method), places.AT_RANDOM)


def add_to(catalogue: Catalogue[Fault]) -> None:
    """The faults of this file."""
    catalogue.add(
        Fault(
            "power-loss",
            "power",
            "power loss of the whole host; what was not yet on the device is lost",
            _power_loss,
            at=_phases_and_random,
            kills=4,
        )
    )
