"""The start race of QEMU's mirror (upstream 3273): writes to never-written areas while the copy begins.

Between QEMU's look at what is allocated and the start of its tracking a write could be missed. So: thin disks of
which nothing is written yet, and writers that go flat out when the copy starts, on a fresh disk each round.
"""

from __future__ import annotations

import pytest

from lab import FLAT_OUT, Datastore, Disk
from lab.process import wait_until
from lab.pytest_plugin import MakeGuest
from tests.system.voyage import Line, Voyage

pytestmark = pytest.mark.lab

ROUNDS = 4


@pytest.mark.parametrize("suspended_start", [True, False], ids=["suspended", "running"])
@pytest.mark.parametrize("method", ["mirror", "changed-blocks", "snapshot"])
def test_no_write_is_lost_while_a_copy_begins(
    method: str, suspended_start: bool,
    make_guest: MakeGuest, line: Line, stores: tuple[Datastore, ...], ssd: Datastore, old_san: Datastore,
) -> None:  # fmt: skip
    """Without the suspension it is sound only for a QEMU before 8.0, which the lab's is."""
    disks = [Disk(f"vd{letter}", old_san, size="256MiB") for letter in "abcd"[:ROUNDS]]
    guest = make_guest(disks, start=True)
    voyage = Voyage(guest, line, stores)
    for disk in disks:
        process = line.start(
            "move", guest.name, "--disk", f"{disk.target}=ssd", "--method", method,
            point="image-made:sleep=1", suspended_start=suspended_start,
        )  # fmt: skip
        image = ssd.home(guest.name) / f"{disk.target}.qcow2"
        wait_until(image.exists, "the image at the destination", timeout=120, step=0.01, report=line.stories)
        guest.judge.start(disk.target, writers=4, rate=FLAT_OUT, most_kib=4, random_percent=100, flush_every=64)
        guest.judge.wait_writes(200)
        said = line.end(process)
        assert said.status == 0, f"{said}\n{line.stories()}"
        assert (said.move["report"]["start_stall_s"] is not None) is suspended_start
        guest.judge.stop()
        voyage.moved(disk.target, ssd)
        verdict = guest.judge.verify_live()
        assert verdict.ok, f"{verdict.text}\n{line.stories()}"
    voyage.assert_configured()
    voyage.assert_nothing_left(old_home=old_san.home(guest.name))
    guest.poweroff()
    voyage.assert_images()
